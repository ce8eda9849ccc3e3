"""What a start refuses before anything is touched.

proves: D4, E6
"""

import argparse

import pytest

from daemon.app import RESERVED_DESCRIPTORS, most_clients, unsupported, wide_open
from daemon.config import Settings, add_arguments, load_settings
from daemon.server import MAX_CONNECTIONS

pytestmark = pytest.mark.unit

NAMED = "egress: [{}, {ports: [{port: 53, protocol: UDP}]}, {ports: [{port: 53}, {port: dns}]}]"


def load(source: str, common: str = "{}", *flags: str) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    line = ["--source", source, "--config", "c.yaml", *flags]
    return load_settings(vars(parser.parse_args(line)), {}, lambda _: f"commonRules: {common}".encode())


def test_a_named_port_that_no_source_resolves() -> None:
    (problem,) = unsupported(load("kubernetes", f"{{{NAMED}}}"))
    assert problem.startswith("commonRules.egress[2]: port 'dns': ")
    assert "write the number" in problem
    assert unsupported(load("manifests:/x", f"{{{NAMED}}}")) == []


def test_names_on_ingress_are_the_subjects_own() -> None:
    assert unsupported(load("kubernetes", "{ingress: [{ports: [{port: dns}]}], egress: [{}]}")) == []


def test_all_of_it_is_told() -> None:
    found = unsupported(load("kubernetes", f"{{{NAMED}}}"))
    assert [problem.split(":")[0] for problem in found] == ["commonRules.egress[2]"]


@pytest.mark.parametrize(
    ("limit", "most"),
    [
        (64, 1),
        (RESERVED_DESCRIPTORS + 1, 1),
        (RESERVED_DESCRIPTORS + 2, 2),
        (1024, 1024 - RESERVED_DESCRIPTORS),
        (RESERVED_DESCRIPTORS + MAX_CONNECTIONS - 1, MAX_CONNECTIONS - 1),
        (65536, MAX_CONNECTIONS),
    ],
)
def test_clients_never_take_the_last_descriptors(limit: int, most: int) -> None:
    assert most_clients(limit) == most


def test_common_rules_that_permit_everything_are_named() -> None:
    closed = "{ingress: [{ports: [{port: 53}]}, {from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}"
    assert wide_open(load("manifests:/x", closed, "--accept-icmp")) == []
    found = wide_open(load("manifests:/x", "{ingress: [{ports: [{port: 53}]}, {}], egress: [{to: []}]}"))
    assert [rule for rule, _ in found] == ["commonRules.ingress[1]", "commonRules.egress[0]"]
    assert "everything may go in at every interface" in found[0][1]
