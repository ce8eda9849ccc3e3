"""Which net-attach-def an attachment is of, and so which policies govern it: every evidence, end to end.

proves: A6
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cni.node import ALLOWED, Node, addresses_of, plain
from tests.lab import Attachment, objects

A, B, FOREIGN = "default/nad-a", "default/nad-b", "other/nad-a"
NAME = "shared"
BOTH = {A: NAME, B: NAME}


@dataclass(frozen=True)
class Case:
    """governing, ignored: the networks whose policies must govern the interface, or must not.

    definitions: net-attach-defs, with the name in their configuration. keys: of the plugin's configuration.
    """

    name: str
    definitions: dict[str, str]
    annotation: Any
    governing: tuple[str, ...]
    ignored: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)


CONFIGURED = {"netAttachDef": A}
REQUEST = [{"name": "nad-a", "namespace": "default", "interface": "net1"}]
CASES = [
    Case("by its configuration", BOTH, "", (A,), (B, FOREIGN), CONFIGURED),
    Case("the configuration counts before the pod", BOTH, "nad-b@net1", (A,), (B,), CONFIGURED),
    Case("by the pod's request for this interface", BOTH, "nad-a@net1, nad-b@net2", (A,), (B,)),
    Case("by a request in JSON", BOTH, REQUEST, (A,), (B, FOREIGN)),
    Case("by a request in another namespace", BOTH, "other/nad-a@net1", (FOREIGN,), (A, B)),
    Case("by the only definition of this name", {A: NAME, B: "else"}, "", (A,), (B, FOREIGN)),
    Case("by the definition that the pod asked for", BOTH, "nad-b", (B,), (A,)),
    Case("two that fit: the union", BOTH, "nad-a, nad-b", (A, B), (FOREIGN,)),
    Case("two that fit, none asked for", BOTH, "", (A, B), (FOREIGN,)),
    Case("the same name in two namespaces", {A: NAME, FOREIGN: NAME}, "", (A, FOREIGN), (B,)),
    Case("nothing but its name", {}, "", (f"default/{NAME}",), (A, B)),
]
ROWS = [
    pytest.param(case, network, governs, id=f"{case.name}: {'' if governs else 'not '}{network}")
    for case in CASES
    for networks, governs in ((case.governing, True), (case.ignored, False))
    for network in networks
]


def definition(network: str, name: str) -> objects.Object:
    namespace, own = network.split("/")
    return objects.network(own, namespace, {**objects.conflist(name, "net1")})


def policy_for(network: str) -> objects.Object:
    """In the pods' namespace, whatever the network's."""
    spec = {
        "podSelector": {"matchLabels": {"role": "asking"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": ALLOWED}]}],
    }
    return objects.policy("by-network", spec, networks=network)


@pytest.fixture
def asking(node: Node) -> Iterator[Node]:
    yield node
    node.daemon.remove("asking")


@pytest.mark.parametrize(("case", "network", "governs"), ROWS)
def test_governed_by_the_policies_of(case: Case, network: str, governs: bool, asking: Node) -> None:
    attachment = asking.lab.attach(asking.lab.pod("asking", suffix=f"-{next(asking.numbers)}"))
    pod = objects.pod("asking", labels={"role": "asking"}, networks=case.annotation)
    made = [definition(*item) for item in case.definitions.items()]
    asking.daemon.apply("asking", [pod, policy_for(network), *made])
    asking.wait_synced()
    done = asking.plugin("ADD", attachment, name=NAME, **case.keys)
    assert done.code == 0, done
    if governs:
        asking.assert_governed(plain(attachment))
    else:
        asking.assert_open(plain(attachment))


def notes(node: Node, attachment: Attachment) -> list[str]:
    """Earlier tests' attachments of that pod go with their namespaces."""
    listed = node.daemon.ctl("attachments", "asking")
    (found,) = (item["notes"] for item in listed if item["containerID"] == attachment.pod.container_id)
    return list(found)


def test_a_misspelt_name_is_told_of_with_what_was_meant(asking: Node) -> None:
    """It is open, for no policy is for it: so its author must hear of it."""
    attachment = asking.lab.attach(asking.lab.pod("asking", suffix=f"-{next(asking.numbers)}"))
    pod = objects.pod("asking", labels={"role": "asking"}, networks="nad-a@net1")
    asking.daemon.apply("asking", [pod, policy_for(A), definition(A, NAME)])
    asking.wait_synced()
    done = asking.plugin("ADD", attachment, name=NAME, netAttachDef="default/nda-a")
    assert done.code == 0, done
    asking.assert_open(plain(attachment))
    missing, asked = notes(asking, attachment)
    assert "default/nda-a, and there is no such net-attach-def; did you mean default/nad-a?" in missing
    assert "its pod asks for default/nad-a" in asked
    status = "\n".join(asking.daemon.ctl("status")["problems"])
    assert f"default/asking net1: {missing}" in status
    assert asking.daemon.log.count(missing) == asking.daemon.log.count(asked) == 1
    # Once it is mended where it was meant, by another net-attach-def of that name here, that is over.
    asking.daemon.apply(
        "asking", [pod, policy_for(A), definition(A, NAME), definition("default/nda-a", NAME)]
    )
    asking.wait_synced()
    assert notes(asking, attachment) == [asked]


CACHE = [
    {"Name": "cbr0", "MasterPlugin": True, "ifnameRequest": ""},
    {"Name": "default/nad-a", "ifnameRequest": "net1"},
]
UNUSABLE = [
    pytest.param(b"", id="empty"),
    pytest.param(b"[{", id="cut off"),
    pytest.param(b'[{}, {"Name": "default/nad-\xff", "ifnameRequest": "net1"}]', id="no UTF-8"),
    pytest.param(b'{"Name": "default/nad-b"}', id="a map"),
    pytest.param(b'[{}, {"Name": "nad-b", "ifnameRequest": "net1"}]', id="a name without namespace"),
    pytest.param(b'[{}, {"Name": ["default/nad-b"], "ifnameRequest": 1}]', id="other types"),
    pytest.param(b"[" * 100_000, id="100,000 lists"),
    pytest.param(b'["' + b"x" * (1 << 20) + b'"]', id="more than 1 MiB"),
]


def assert_governed_by(network: str, definitions: dict[str, str], cache: bytes, node: Node) -> None:
    """ADD of a pod whose requests say nothing, with what Multus has noted for its container."""
    attachment = node.lab.attach(node.lab.pod("asking", suffix=f"-{next(node.numbers)}"))
    (node.multus_cache / attachment.pod.container_id).write_bytes(cache)
    made = [definition(*item) for item in definitions.items()]
    node.daemon.apply(
        "asking", [objects.pod("asking", labels={"role": "asking"}), policy_for(network), *made]
    )
    node.wait_synced()
    done = node.plugin("ADD", attachment, name=NAME)
    assert done.code == 0, done
    node.assert_governed(plain(attachment))


def test_by_what_multus_noted(asking: Node) -> None:
    """The definitions alone would say nad-b."""
    assert_governed_by(A, {A: "else", B: NAME}, json.dumps(CACHE).encode(), asking)


@pytest.mark.parametrize("cache", UNUSABLE)
def test_notes_of_multus_that_make_no_sense_count_as_absent(cache: bytes, asking: Node) -> None:
    assert_governed_by(A, {A: NAME, B: "else"}, cache, asking)


def test_the_same_under_cnitool(asking: Node) -> None:
    """Two candidates; a policy for the second of them."""
    pod = asking.lab.pod("asking", suffix=f"-{next(asking.numbers)}")
    chain = {**asking.chain(), "name": NAME}
    made = [definition(*item) for item in BOTH.items()]
    wants = objects.pod("asking", labels={"role": "asking"}, networks="nad-a, nad-b")
    asking.daemon.apply("asking", [wants, policy_for(B), *made])
    asking.wait_synced()
    run = asking.lab.cnitool("add", chain, pod)
    assert run.code == 0, run
    asking.assert_governed(addresses_of(run.result))
    listed = {item["containerID"]: item["networks"] for item in asking.daemon.ctl("attachments")}
    assert listed[pod.container_id] == [A, B]
    assert asking.lab.cnitool("del", chain, pod).code == 0
    asking.assert_nothing_left(pod)
