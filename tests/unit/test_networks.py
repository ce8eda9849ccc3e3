"""Which net-attach-def made an attachment: the order of evidence (A3, A9; DESIGN: life of an attachment)."""

import json
from pathlib import Path

import pytest

from daemon.model import NetAttachDef, NetworkRequest, NetworkStatus, Pod
from daemon.networks import Candidates, confirm_networks, find_networks, read_multus_cache

A = NetAttachDef("default", "a", "mac", chained=True)
B = NetAttachDef("other", "b", "mac", chained=True)
UNCHAINED = NetAttachDef("default", "c", "mac", chained=False)


def pod(*requests: NetworkRequest, statuses: tuple[NetworkStatus, ...] = ()) -> Pod:
    return Pod("default", "web", "u", {}, requests=requests, statuses=statuses)


EXPLICIT = pod(NetworkRequest("default/a", "net1"), NetworkRequest("other/b", "net2"))
OTHER = pod(NetworkRequest("other/x", None))
NAMELESS = pod(NetworkRequest("other/b", None))
CASES = [
    ("configuration", "ns/x", "ns/y", EXPLICIT, [A], ("ns/x",), "config"),
    ("multus' cache", None, "ns/y", EXPLICIT, [A], ("ns/y",), "multus-cache"),
    ("the pod's request", None, None, EXPLICIT, [A, B], ("default/a",), "pod-networks"),
    ("the only one that chains us", None, None, pod(), [A, UNCHAINED], ("default/a",), "net-attach-defs"),
    ("several: the union", None, None, pod(), [A, B], ("default/a", "other/b"), "net-attach-defs"),
    ("several, one asked for", None, None, NAMELESS, [A, B], ("other/b",), "net-attach-defs"),
    ("asked for one, another fits", None, None, OTHER, [A], ("default/a", "other/x"), "net-attach-defs"),
    ("asked for one, none fits", None, None, OTHER, [UNCHAINED], ("default/mac", "other/x"), "name"),
    ("nothing but the name", None, None, pod(), [UNCHAINED], ("default/mac",), "name"),
]


@pytest.mark.parametrize(
    ("name", "configured", "cached", "asking", "definitions", "wanted", "evidence"),
    CASES,
    ids=[c[0] for c in CASES],
)
def test_evidence(
    name: str,
    configured: str | None,
    cached: str | None,
    asking: Pod,
    definitions: list[NetAttachDef],
    wanted: tuple[str, ...],
    evidence: str,
) -> None:
    found = find_networks(configured, cached, "mac", "net1", asking, definitions)
    assert found == Candidates(wanted, evidence)


def test_the_same_network_twice_in_one_pod_is_told_apart_by_interface() -> None:
    """A9."""
    twice = pod(NetworkRequest("default/a", "net1"), NetworkRequest("default/a", "net2"))
    assert find_networks(None, None, "mac", "net2", twice, []).networks == ("default/a",)


def test_network_status_confirms_once_it_is_there() -> None:
    status = NetworkStatus("default/a", "net1", ())
    assert confirm_networks(pod(), "net1") is None
    assert confirm_networks(pod(statuses=(status,)), "net1") == Candidates(("default/a",), "status")
    assert confirm_networks(pod(statuses=(status,)), "net2") is None


DELEGATES = [
    {"Name": "kube-system/default"},
    {"Name": "default/a"},
    {"Name": "other/b", "ifnameRequest": "mgmt"},
]
CACHE = [
    ("numbered", DELEGATES, "net1", "default/a"),
    ("by request", DELEGATES, "mgmt", "other/b"),
    ("a requested one has no number", DELEGATES, "net2", None),
    ("the default network", DELEGATES, "eth0", "kube-system/default"),
    ("not an object", [1, None], "net1", None),
    ("not a list", {"Name": "x/y"}, "net1", None),
    ("no namespace", [{}, {"Name": "cbr0"}], "net1", None),
]


@pytest.mark.parametrize(("name", "content", "ifname", "wanted"), CACHE, ids=[c[0] for c in CACHE])
def test_multus_cache(name: str, content: object, ifname: str, wanted: str | None, tmp_path: Path) -> None:
    (tmp_path / "abc").write_text(json.dumps(content))
    assert read_multus_cache(tmp_path, "abc", ifname) == wanted


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"x" * (2 << 20)], ids=["empty", "cut", "deep", "large"]
)
def test_a_damaged_cache_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(content)
    assert read_multus_cache(tmp_path, "abc", "net1") is None
    assert read_multus_cache(tmp_path, "absent", "net1") is None
