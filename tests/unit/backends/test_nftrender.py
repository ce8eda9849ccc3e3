"""Rendered batches, byte for byte: golden files show each message's subject, flags and body.

A changed file is a changed wire format: look at it, prove it on the real kernel (tests/netns/test_backend_*),
then write it anew by running this module: `python -m tests.unit.backends.test_nftrender`.
"""

import socket
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from daemon.backends import nfttext
from daemon.backends.nftrender import HOOKS, Found, FoundSet, render
from daemon.desired import make_program
from daemon.netlink import attributes
from daemon.planner import GateRequest, Plan, Program, denied_gate, make_plan
from daemon.policy.ruleset import OPEN, BlockSet, EndpointSet, Match, Members, Ruleset
from tests.unit.backends.walk import NETWORKS, TCP, UDP, pods

GOLDEN = Path(__file__).parents[1] / "golden"
SCTP = 132

FRIENDS = pods("friend")
WEB = EndpointSet(NETWORKS, FRIENDS, ((TCP, "web"),))
V4 = frozenset(socket.inet_pton(socket.AF_INET, f"10.1.0.{number}") for number in (1, 2, 3))
V6 = frozenset({socket.inet_pton(socket.AF_INET6, "fd00::1")})
SPANS = (((10 << 24), (10 << 24) + 255), ((11 << 24), (11 << 24) + 6))
PORTS = ((TCP, (80, 80)), (TCP, (443, 443)), (TCP, (5000, 5900)), (UDP, (53, 53)), (SCTP, None))
SEVERAL = ((TCP, (80, 80)), (UDP, (53, 53)))


@cache
def held(ref: object, v4: frozenset[bytes]) -> Members:
    """The same object for the same set, as the store gives them."""
    if isinstance(ref, EndpointSet):
        return Members(frozenset((a, TCP, 8080) for a in v4), frozenset((a, TCP, 8080) for a in V6))
    return Members(v4, V6)


def program(ruleset: Ruleset | None, ifindex: int | None = 7, v4: frozenset[bytes] = V4) -> Program:
    request = GateRequest("net1", ifindex, "c0ffee net1", ruleset)
    return make_program([request], lambda ref: held(ref, v4), True)


RICH = Ruleset(
    (
        Match(FRIENDS, PORTS, ("default/p ingress[0]", "default/q ingress[1]")),
        Match(BlockSet(SPANS, ()), SEVERAL, ("default/p ingress[1]",)),
        Match(None, ((TCP, None), (UDP, None)), ("commonRules ingress[0]",)),
    ),
    (Match(WEB, None, ("default/p egress[0]",)),),
)
GUARD = make_program([denied_gate("net1", None, "c0ffee net1")], lambda _: Members(), True)

PLANS = {
    "first": make_plan(program(RICH), None),
    "open": make_plan(program(OPEN), None),
    "guard": make_plan(GUARD, None),
    "guard-to-final": make_plan(program(RICH), GUARD),
    "one-peer-more": make_plan(program(RICH), program(RICH, v4=V4 - {min(V4)})),
    "other-owner": make_plan(
        program(Ruleset((), None)),
        make_program([GateRequest("net1", 7, "decade net1", Ruleset((), None))], lambda _: Members(), True),
    ),
    "opened": make_plan(program(OPEN), program(RICH)),
}


def listing(plan: Plan) -> str:
    lines = []
    for message in render(plan):
        lines.append(f"{message.type:#06x} {message.flags:#06x} {message.subject}")
        digits = message.body.hex()
        lines += [f"    {digits[at : at + 96]}" for at in range(0, len(digits), 96)]
    return "\n".join(lines) + "\n"


def golden() -> Iterator[tuple[str, str]]:
    """Each golden file's name and what it shall hold."""
    for name, plan in PLANS.items():
        yield f"{name}.batch", listing(plan)
    yield "rich.nft", nfttext.text(program(RICH))


@pytest.mark.skipif(
    sys.byteorder != "little", reason="interface indices and ct states are in the machine's order"
)
@pytest.mark.parametrize(("name", "text"), list(golden()), ids=[name for name, _ in golden()])
def test_golden(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


def test_no_golden_file_is_left_over() -> None:
    # The others are those of test_iptrender.
    assert {path.name for path in GOLDEN.iterdir() if path.suffix != ".ipt"} == {name for name, _ in golden()}


def subjects(plan: Plan, found: Found | None = None) -> list[str]:
    return [message.subject for message in (render(plan, found) if found else render(plan))]


@pytest.mark.parametrize("name", PLANS)
def test_base_chains_are_never_deleted(name: str) -> None:
    """E5: between a deletion and what comes after it a packet would pass."""
    found = Found(3, True, {"prerouting": "", "postrouting": "", "old": ""}, {"old": FoundSet(7, 4, 0)})
    said = subjects(PLANS[name], found)
    assert not [s for s in said if s.startswith("delete table")]
    assert not [s for s in said if s in [f"delete chain {hook}" for hook in HOOKS]]
    # The control: what is stale does go.
    assert ("delete chain old" in said) == PLANS[name].reset


def test_one_peer_is_one_message() -> None:
    assert len(PLANS["one-peer-more"].set_changes) == 2
    names = [change.spec.name for change in PLANS["one-peer-more"].set_changes]
    assert subjects(PLANS["one-peer-more"]) == [f"add elements to set {name}" for name in names]


def test_the_same_change_is_encoded_once() -> None:
    first, second = (render(make_plan(program(RICH), program(RICH, v4=V4 - {min(V4)}))) for _ in range(2))
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_reset_keeps_kernel_objects_that_stay() -> None:
    """A chain made anew looks empty to a packet under way; one of another owner can't be kept."""
    chains = {
        "prerouting": "",
        "postrouting": "",
        "ingress-net1": "c0ffee net1",
        "egress-net1": "someone",
    }
    said = subjects(PLANS["first"], Found(3, True, chains, {}, frozenset({"drop-ingress-net1", "drop-gone"})))
    assert "flush all rules" in said
    assert "delete chain egress-net1" in said
    assert "add chain egress-net1" in said
    assert "delete counter drop-gone" in said
    assert not [s for s in said if "chain ingress-net1" in s or s.endswith("counter drop-ingress-net1")]


def test_hooks_of_an_older_version_go_after_ours_are_in_force() -> None:
    """E5: a packet under way may be past our hooks when they come, and meets the others."""
    former = {"input": "", "forward": "", "output": ""}
    said = subjects(PLANS["first"], Found(3, True, former))
    assert [s for s in said if s.startswith("delete chain")] == []
    jumps = [s.removeprefix("add rule to ") for s in said if "jump" in s]
    assert sorted(jumps) == [
        "forward: jump egress-net1",
        "forward: jump ingress-net1",
        "input: jump ingress-net1",
        "output: jump egress-net1",
        "postrouting: jump egress-net1",
        "prerouting: jump ingress-net1",
    ]
    said = subjects(PLANS["first"], Found(4, True, former | {"prerouting": "", "postrouting": ""}))
    gone = [s for s in said if s.startswith("delete chain")]
    assert gone == ["delete chain forward", "delete chain input", "delete chain output"]
    assert len([s for s in said if "jump" in s]) == 2


@pytest.mark.parametrize("name", PLANS)
def test_set_numbers_are_unique(name: str) -> None:
    numbers = [attributes(m.body, 4)[10] for m in render(PLANS[name]) if m.type & 0xFF == 9]
    assert len(numbers) == len(set(numbers))


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for file, content in golden():
        (GOLDEN / file).write_text(content)
