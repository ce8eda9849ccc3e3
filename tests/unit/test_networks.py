"""Which net-attach-def made an attachment: the order of evidence (A3, A9; DESIGN: life of an attachment)."""

import json
from pathlib import Path

import pytest

from daemon.model import NetAttachDef, NetworkRequest, NetworkStatus, Pod
from daemon.networks import (
    MAX_CACHE_BYTES,
    Candidates,
    find_networks,
    read_multus_cache,
    reconsider,
    told_addresses,
    told_networks,
)

A = NetAttachDef("default", "a", "mac", chained=True)
B = NetAttachDef("other", "b", "mac", chained=True)
UNCHAINED = NetAttachDef("default", "c", "mac", chained=False)


def pod(*requests: NetworkRequest, statuses: tuple[NetworkStatus, ...] = ()) -> Pod:
    return Pod("default", "web", "u", {}, requests=requests, statuses=statuses)


EXPLICIT = pod(NetworkRequest("default/a", "net1"), NetworkRequest("other/b", "net2"))
OTHER = pod(NetworkRequest("other/x", None))
NAMELESS = pod(NetworkRequest("other/b", None))
CASES = [
    ("configuration", "ns/x", None, EXPLICIT, [A], ("ns/x",), "config"),
    ("configuration, and Multus says so", "ns/x", ("ns/x",), EXPLICIT, [A], ("ns/x",), "config"),
    ("multus' cache", None, ("ns/y",), EXPLICIT, [A], ("ns/y",), "multus-cache"),
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
    cached: tuple[str, ...] | None,
    asking: Pod,
    definitions: list[NetAttachDef],
    wanted: tuple[str, ...],
    evidence: str,
) -> None:
    found = find_networks(configured, cached, "mac", "net1", asking, definitions)
    assert found == Candidates(wanted, evidence)
    assert found.holding == wanted


# What is said, what Multus' cache has, and what that comes to: governed by, a peer on, addresses taken on.
CONTRADICTED = [
    ("configuration, Multus another", "ns/x", ("ns/a",), ("ns/a", "ns/x"), ("ns/a",)),
    ("Multus has two of that name", None, ("ns/a", "ns/b"), ("ns/a", "ns/b"), ()),
    ("and configuration one of them", "ns/b", ("ns/a", "ns/b"), ("ns/a", "ns/b"), ()),
    ("and configuration a third", "ns/x", ("ns/a", "ns/b"), ("ns/a", "ns/b", "ns/x"), ()),
    ("Multus has more than is read", "ns/x", (), ("ns/x",), ()),
    ("the same, and the pod asks for one", None, (), ("default/a",), ()),
]


@pytest.mark.parametrize(
    ("name", "configured", "cached", "governing", "holding"), CONTRADICTED, ids=[c[0] for c in CONTRADICTED]
)
def test_what_multus_contradicts_only_restricts(
    name: str,
    configured: str | None,
    cached: tuple[str, ...],
    governing: tuple[str, ...],
    holding: tuple[str, ...],
) -> None:
    found = find_networks(configured, cached, "mac", "net1", EXPLICIT, [A])
    assert (found.governing, found.peering, found.holding) == (governing, (), holding)
    # Neither does what network-status says of it make it a peer.
    later = reconsider(found, "mac", governing[:1], True, [A])
    assert (later.peering, later.holding) == ((), holding)


def test_the_same_network_twice_in_one_pod_is_told_apart_by_interface() -> None:
    """A9."""
    twice = pod(NetworkRequest("default/a", "net1"), NetworkRequest("default/a", "net2"))
    assert find_networks(None, None, "mac", "net2", twice, []).networks == ("default/a",)


def test_what_network_status_says_of_an_interface() -> None:
    one, two = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2])
    entries = (NetworkStatus("default/a", "net1", (one,)), NetworkStatus("default/a", "net1", (two,)))
    told = pod(statuses=(*entries, NetworkStatus("other/b", "net2", ())))
    assert told_networks(pod(), "net1") == ()
    assert told_networks(told, "net1") == ("default/a",)
    assert told_addresses(told, "net1") == {one, two}
    assert told_addresses(told, "net2") == set()


A1, BOTH, X = ("default/a",), ("default/a", "other/b"), ("other/x",)
SURE = [
    Candidates(A1, evidence) for evidence in ("config", "multus-cache", "pod-networks", "net-attach-defs")
]
C = Candidates
LATER = [
    *((f"{one.evidence}: nothing new", one, (), True, one) for one in SURE),
    *((f"{one.evidence}: the same", one, A1, True, one) for one in SURE),
    *((f"{one.evidence}: another restricts", one, X, True, C(A1, one.evidence, X)) for one in SURE),
    ("a claim that is no more", C(A1, "config", X), A1, True, SURE[0]),
    ("one of two by what Multus says", C(BOTH, "pod-networks"), A1, True, C(BOTH, "pod-networks", (), A1[0])),
    ("other addresses than ADD's", C(BOTH, "pod-networks"), A1, False, C(BOTH, "pod-networks")),
    ("none of two", C(BOTH, "pod-networks"), X, True, C(BOTH, "pod-networks", X)),
    ("both of two", C(BOTH, "pod-networks"), BOTH, True, C(BOTH, "pod-networks")),
    (
        "chosen once",
        C(BOTH, "net-attach-defs", (), A1[0]),
        BOTH[1:],
        True,
        C(BOTH, "net-attach-defs", (), A1[0]),
    ),
    ("a lie is no choice", C(BOTH, "config", claimed=A1), A1, True, C(BOTH, "config", claimed=A1)),
]


@pytest.mark.parametrize(("name", "present", "told", "agrees", "wanted"), LATER, ids=[c[0] for c in LATER])
def test_later_evidence(
    name: str, present: Candidates, told: tuple[str, ...], agrees: bool, wanted: Candidates
) -> None:
    assert reconsider(present, "mac", told, agrees, [A]) == wanted


GUESS = C(("default/mac", "other/b"), "name")
DEFINITIONS = [
    ("nobody yet", GUESS, [UNCHAINED], GUESS),
    ("one of the names", GUESS, [B], C(("other/b",), "net-attach-defs")),
    ("another one: all may be", GUESS, [A], C(("default/a", "default/mac", "other/b"), "net-attach-defs")),
    ("one more that fits", C(A1, "net-attach-defs"), [A, B], C(A1, "net-attach-defs")),
    ("it fits no more", C(A1, "net-attach-defs"), [B], C(A1, "net-attach-defs", ("other/b",))),
    ("what is sure stays so", C(A1, "config"), [B], C(A1, "config")),
]


@pytest.mark.parametrize(
    ("name", "present", "definitions", "wanted"), DEFINITIONS, ids=[c[0] for c in DEFINITIONS]
)
def test_later_net_attach_defs(
    name: str, present: Candidates, definitions: list[NetAttachDef], wanted: Candidates
) -> None:
    assert reconsider(present, "mac", (), False, definitions) == wanted


DELEGATES = [
    {"Name": "kube-system/default"},
    {"Name": "default/a"},
    {"Name": "other/b", "ifnameRequest": "mgmt"},
]
CACHE = [
    ("numbered", DELEGATES, "net1", ("default/a",)),
    ("by request", DELEGATES, "mgmt", ("other/b",)),
    ("two of one name", [*DELEGATES, {"Name": "o/c", "ifnameRequest": "net1"}], "net1", ("default/a", "o/c")),
    ("a requested one has no number", DELEGATES, "net2", None),
    ("the default network", DELEGATES, "eth0", ("kube-system/default",)),
    ("not an object", [1, None], "net1", None),
    ("not a list", {"Name": "x/y"}, "net1", None),
    ("no namespace", [{}, {"Name": "cbr0"}], "net1", None),
]


@pytest.mark.parametrize(("name", "content", "ifname", "wanted"), CACHE, ids=[c[0] for c in CACHE])
def test_multus_cache(
    name: str, content: object, ifname: str, wanted: tuple[str, ...] | None, tmp_path: Path
) -> None:
    (tmp_path / "abc").write_text(json.dumps(content))
    assert read_multus_cache(tmp_path, "abc", ifname) == wanted


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b"x" * (2 << 20)], ids=["empty", "cut", "deep", "no JSON"]
)
def test_a_damaged_cache_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(content)
    assert read_multus_cache(tmp_path, "abc", "net1") is None
    assert read_multus_cache(tmp_path, "absent", "net1") is None


def test_no_author_hides_the_cache_by_its_size(tmp_path: Path) -> None:
    """Every net-attach-def is in it as a whole."""
    file = tmp_path / "abc"
    for size, wanted in [(4 << 20, ("default/a",)), (MAX_CACHE_BYTES, ())]:
        file.write_text(json.dumps([*DELEGATES, {"Name": "tenant/own", "Bytes": "x" * size}]))
        assert read_multus_cache(tmp_path, "abc", "net1") == wanted
