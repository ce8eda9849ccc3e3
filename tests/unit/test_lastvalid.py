"""The bytes of a kept version: all of it comes back, and any damage is seen.

proves: A4
"""

import json
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from daemon.decode.policy import decode_policy
from daemon.model import Policy, Problem
from daemon.sources.lastvalid import Version, decode, encode
from tests.unit.keptpolicies import RULES, make_policy

MOST = 1 << 20


def encoded(version: Version, most: int = MOST) -> bytes:
    found = encode(version, most)
    assert found is not None
    return found


def without_problems(policy: Policy) -> Policy:
    return msgspec.structs.replace(policy, problems=())


@pytest.mark.parametrize("rules", [[], *([rule] for rule in RULES), RULES])
def test_all_of_it_comes_back_but_its_problems(rules: list[dict[str, Any]]) -> None:
    policy = make_policy(rules=rules, networks="net1, other/net2")
    version = Version(policy, "uid", b"a\xff.yaml")
    found = decode(encoded(version))
    assert found.policy == without_problems(policy)
    assert (found.uid, found.file, found.cut) == ("uid", b"a\xff.yaml", False)
    assert encoded(found) == encoded(version)


def test_directions_and_nothing_at_all_stay_apart() -> None:
    metadata = {"annotations": {"k8s.v1.cni.cncf.io/policy-for": "n"}}
    specs: list[dict[str, Any]] = [{}, {"policyTypes": ["Egress"]}, {"egress": [{"to": []}]}]
    for spec in (*specs, {"ingress": [{"from": [{}]}]}):
        policy = decode_policy("ns", "p", {"metadata": metadata, "spec": spec})
        assert decode(encoded(Version(policy))).policy == without_problems(policy)


def test_a_byte_that_is_another_one_is_seen() -> None:
    good = encoded(Version(make_policy(rules=RULES[:1]), "uid", b"a.yaml"))
    for index in range(len(good)):
        for flip in (0x01, 0x10, 0x80):
            damaged = bytes([*good[:index], good[index] ^ flip, *good[index + 1 :]])
            with pytest.raises(ValueError, match=r"damaged|format"):
                decode(damaged)


def test_a_part_of_it_is_seen() -> None:
    good = encoded(Version(make_policy(rules=RULES[:1])))
    for end in range(len(good)):
        with pytest.raises(ValueError, match="damaged"):
            decode(good[:end])
    with pytest.raises(ValueError, match="damaged"):
        decode(good + good)


def sealed(body: object, **more: Any) -> bytes:
    """As encode() would, of whatever somebody made up."""
    raw = json.dumps(body).encode()
    digest = sha256(raw).hexdigest()
    return b'{"format":1,"digest":"%s","version":%s%s}' % (
        digest.encode(),
        raw,
        b"".join(b',"%s":%s' % (name.encode(), json.dumps(value).encode()) for name, value in more.items()),
    )


GOOD: dict[str, Any] = {
    "namespace": "ns",
    "name": "p",
    "networks": ["ns/net1"],
    "pod_selector": {},
    "ingress": [],
    "egress": None,
}


def rule(**changes: Any) -> dict[str, Any]:
    return {"ingress": [{"peers": None, "ports": None, **changes}]}


def block(family: int, *spans: list[int]) -> dict[str, Any]:
    return rule(peers=[{"type": "block", "text": "x", "family": family, "spans": list(spans)}])


STRANGE: dict[str, dict[str, Any]] = {
    "no selector": {"pod_selector": None},
    "a path": {"name": "../../etc/passwd"},
    "no namespace": {"namespace": ""},
    "no network": {"networks": ["net1"]},
    "a span that ends before it begins": block(4, [5, 4]),
    "spans that touch": block(4, [1, 2], [3, 4]),
    "spans in disorder": block(6, [9, 9], [1, 2]),
    "a span beyond IPv4": block(4, [0, 1 << 32]),
    "a span beyond IPv6": block(6, [0, 1 << 128]),
    "a span below": block(4, [-1, 3]),
    "no family": block(5, [1, 2]),
    "a port": rule(ports=[{"protocol": 6, "span": [1, 65536]}]),
    "a protocol": rule(ports=[{"protocol": 256}]),
    "of another type": {"networks": "ns/net1"},
    "a peer of another kind": rule(peers=[{"type": "service"}]),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_none_of_ours_can_be_is_not_read(name: str) -> None:
    assert decode(sealed({"policy": GOOD})).policy.name == "p"
    with pytest.raises(ValueError, match=r"no version of ours|damaged"):
        decode(sealed({"policy": {**GOOD, **STRANGE[name]}}))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"null", b"[" * 100_000, b'{"format":2,"digest":"","version":{}}', sealed({}), b"\xff\xfe"],
)
def test_what_is_none_at_all(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"damaged|format"):
        decode(content)
    with pytest.raises(ValueError, match="damaged"):
        decode(sealed({"policy": GOOD}, more=1))


def test_more_than_there_is_room_for_is_kept_without_its_rules() -> None:
    blocks = [{"ipBlock": {"cidr": f"10.{n >> 8}.{n & 255}.0/24"}} for n in range(500)]
    policy = make_policy(rules=[{"from": blocks}], selector={"matchLabels": {"a": "b"}})
    whole = encoded(Version(policy))
    assert not decode(encoded(Version(policy), len(whole))).cut
    found = decode(encoded(Version(policy), len(whole) - 1))
    assert found.cut
    assert (found.policy.ingress, found.policy.egress) == ((), None)
    assert (found.policy.pod_selector, found.policy.networks) == (policy.pod_selector, policy.networks)
    (problem,) = found.shown.problems
    assert isinstance(problem, Problem)
    assert "permits nothing" in problem.message
    least = len(encoded(found))
    assert encode(Version(policy), 0, least) is not None
    assert encode(Version(policy), 0, least - 1) is None


def test_a_huge_one_is_not_encoded_to_see_that() -> None:
    rules = make_policy(rules=RULES[:1]).ingress
    assert rules is not None
    huge = msgspec.structs.replace(make_policy(), ingress=rules * 100_000)
    assert decode(encoded(Version(huge), 100_000)).cut
