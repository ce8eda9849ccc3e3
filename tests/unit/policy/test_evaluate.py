"""The oracle's frame round the rules: states, own addresses, essentials, forwarding. And the tracer's.

proves: A6, B2, C10, C11, D2, D4, D5, E1, E2, E3, E4
"""

import msgspec
import pytest

from daemon.model import (
    Block,
    CommonRules,
    ContainerPort,
    Direction,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.compile import compile_ruleset
from daemon.policy.evaluate import ConnectionState, Located, Packet, World, evaluate, evaluate_forwarded
from daemon.policy.ruleset import Members
from tests.unit.policy.tracer import trace

pytestmark = pytest.mark.unit

NET = ("ns/net1",)
SUBJECT = Subject("ns", {}, (), NET)
OWN, OTHER, SECOND = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 0, 0, 9])
OWN6, OTHER6 = b"\xfd" + bytes(14) + b"\x01", b"\xfd" + bytes(14) + b"\x02"
UNSPECIFIED6, LINK_LOCAL6 = bytes(16), b"\xfe\x80" + bytes(13) + b"\x02"
IN, OUT = Direction.INGRESS, Direction.EGRESS

DENY_IN = Policy("ns", "in", NET, Selector(), (), None)
DENY_OUT = Policy("ns", "out", NET, Selector(), None, ())
ALL_IN = Policy("ns", "all", NET, Selector(), (Rule(None, None),), None)
TCP_IN = Policy("ns", "tcp", NET, Selector(), (Rule(None, (Port(6),)),), None)

SYN = Packet(OTHER, OWN, 6, 80)
MID = Packet(OTHER, OWN, 6, 80, mid_stream=True)
REPLY = Packet(OTHER, OWN, 6, 80, state=ConnectionState.ESTABLISHED, mid_stream=True)
ERROR = Packet(OTHER, OWN, 1, icmp_type=3, state=ConnectionState.RELATED)
PING = Packet(OTHER, OWN, 1, icmp_type=8)
SPOOFED = Packet(OWN, OWN, 17, 53)
SPOOFED_SECOND = Packet(SECOND, OWN, 17, 53, pod_addresses=frozenset({OWN, SECOND}))
SPOOFED_REPLY = Packet(OWN, OWN, 17, 53, state=ConnectionState.ESTABLISHED)


def icmpv6(kind: int, peer: bytes = OTHER6) -> Packet:
    return Packet(peer, OWN6, 58, icmp_type=kind)


CASES = [
    ("open", [], IN, SYN, True),
    ("open, mid-stream", [], IN, MID, True),
    ("open, own source", [], IN, SPOOFED, True),
    ("denied", [DENY_IN], IN, SYN, False),
    ("the other direction", [DENY_IN], OUT, SYN, True),
    ("mid-stream is cut where permitted", [ALL_IN], IN, MID, False),
    ("mid-stream is cut the other way too", [DENY_IN], OUT, MID, False),
    ("reply to the subject", [DENY_IN], IN, REPLY, True),
    ("reply of the subject", [DENY_OUT], OUT, REPLY, True),
    ("related error", [DENY_IN], IN, ERROR, True),
    ("ping", [DENY_IN], IN, PING, False),
    ("ping where all may", [ALL_IN], IN, PING, True),
    ("ping where TCP may", [TCP_IN], IN, PING, False),
    ("own source where all may", [ALL_IN], IN, SPOOFED, False),
    ("own source on a reply", [ALL_IN], IN, SPOOFED_REPLY, False),
    ("another own source", [ALL_IN], IN, SPOOFED_SECOND, False),
    ("own source, not isolated", [DENY_OUT], IN, SPOOFED, True),
    ("to itself", [DENY_OUT], OUT, SPOOFED, True),
    ("to itself, another address", [DENY_OUT], OUT, SPOOFED_SECOND, True),
    *[(f"ICMPv6 {kind}", [DENY_IN, DENY_OUT], IN, icmpv6(kind), True) for kind in (2, 130, 131, 132, 143)],
    *[(f"discovery {kind}", [DENY_IN, DENY_OUT], OUT, icmpv6(kind), True) for kind in (133, 134, 135, 136)],
    ("redirect", [DENY_IN], IN, icmpv6(137), False),
    ("echo", [DENY_IN], IN, icmpv6(128), False),
    ("DAD", [DENY_IN], IN, icmpv6(135, UNSPECIFIED6), True),
    ("discovery from a link-local address", [DENY_IN], IN, icmpv6(135, LINK_LOCAL6), True),
    ("the same number in ICMP", [DENY_IN], IN, Packet(OTHER, OWN, 1, icmp_type=135), False),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_frame(case: tuple[str, list[Policy], Direction, Packet, bool]) -> None:
    """Oracle and tracer say the same; no address is an exception, be it a node's or a kubelet's (C11)."""
    _, policies, direction, packet, want = case
    verdict = evaluate(World(tuple(policies), (), {}), SUBJECT, direction, packet)
    assert verdict.allowed is want
    assert verdict.reasons
    ruleset = compile_ruleset(SUBJECT, policies, World((), (), {}).common)
    assert trace(ruleset, direction, packet, lambda _: Members())[0] is want


@pytest.mark.parametrize(
    ("policies", "isolated"), [([], False), ([DENY_IN], True), ([DENY_OUT], False), ([DENY_IN, ALL_IN], True)]
)
def test_isolated(policies: list[Policy], isolated: bool) -> None:
    assert evaluate(World(tuple(policies), (), {}), SUBJECT, IN, SYN).isolated is isolated


@pytest.mark.parametrize(("protocol", "want"), [(132, True), (6, False), (17, False), (1, False)])
def test_sctp(protocol: int, want: bool) -> None:
    """Not every kernel has it, so it is here and not among the real packets (D2)."""
    sctp = Policy("ns", "sctp", NET, Selector(), (Rule(None, (Port(132, (80, 90)),)),), None)
    packet = Packet(OTHER, OWN, protocol, 85 if protocol != 1 else None)
    assert evaluate(World((sctp,), (), {}), SUBJECT, IN, packet).allowed is want
    ruleset = compile_ruleset(SUBJECT, [sctp], CommonRules())
    assert trace(ruleset, IN, packet, lambda _: Members())[0] is want


def test_a_name_counts_only_at_selected_pods() -> None:
    """Two pods with one address: the one that is selected has no such port (D4)."""
    wanted = Selector((Requirement("app", Operator.IN, ("web",)),))
    rule = Rule((PodPeer(None, wanted),), (Port(6, name="web"),))
    to_web = Policy("ns", "web", NET, Selector(), None, (rule,))
    selected = Located(Pod("ns", "a", "u", {"app": "web"}), {NET[0]: (OTHER,)})
    other = Located(Pod("ns", "b", "u", {}, (ContainerPort("web", 6, 80),)), {NET[0]: (OTHER,)})
    assert not evaluate(World((to_web,), (selected, other), {}), SUBJECT, OUT, SYN).allowed
    named = msgspec.structs.replace(other, pod=msgspec.structs.replace(other.pod, labels={"app": "web"}))
    assert evaluate(World((to_web,), (selected, named), {}), SUBJECT, OUT, SYN).allowed


def test_reasons_name_policy_and_rule() -> None:
    world = World((TCP_IN, ALL_IN, DENY_IN), (), {})
    assert evaluate(world, SUBJECT, IN, SYN).reasons == ("ns/all ingress[0]", "ns/tcp ingress[0]")
    assert evaluate(World((DENY_IN,), (), {}), SUBJECT, IN, SYN).reasons == ("no rule permits it (B2)",)


TO_SECOND = Policy(
    "ns", "to", ("ns/net2",), Selector(), None, (Rule((Block("10.0.0.9", 4, ((0x0A000009,) * 2,)),), None),)
)


@pytest.mark.parametrize(
    ("policies", "want"),
    [
        ((), True),
        ((ALL_IN,), True),
        ((DENY_IN,), False),
        ((ALL_IN, TO_SECOND), True),
        ((DENY_IN, TO_SECOND), False),
        ((Policy("ns", "out", ("ns/net2",), Selector(), None, ()),), False),
        ((DENY_OUT,), True),  # what comes in through net1 does not go out through it
    ],
)
def test_forwarded(policies: tuple[Policy, ...], want: bool) -> None:
    """In through net1, out through net2: ingress of the one, egress of the other; both must permit (E4)."""
    way_in = SUBJECT, Packet(peer=OTHER, own=SECOND, protocol=6, port=80)
    way_out = Subject("ns", {}, (), ("ns/net2",)), Packet(peer=SECOND, own=OTHER, protocol=6, port=80)
    assert evaluate_forwarded(World(policies, (), {}), way_in, way_out).allowed is want
