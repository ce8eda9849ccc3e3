"""What every backend makes of a program alike, whatever its language. Pure.

In: parts of a Program. Out: which hooks dispatch which direction, ports by the kind of match that they take,
and the words that stand in comments and in what is told to people.
"""

import socket

import msgspec

from daemon.model import Address, Direction, Span
from daemon.planner import ChainSpec, Gate, Program, RuleSpec, SetKind, SetSpec
from daemon.policy.ruleset import Ports

# Which directions each hook dispatches (E4: in through an interface is ingress, out through it egress).
DISPATCHES = {
    "input": (Direction.INGRESS,),
    "forward": (Direction.INGRESS, Direction.EGRESS),
    "output": (Direction.EGRESS,),
}

ESSENTIAL_ICMPV6 = (2, 130, 131, 132, 133, 134, 135, 136, 143)
"""Packet too big, MLD, neighbour discovery (E3); 137, redirect, is not among them."""

OURS_COMMENT = "made by multi-networkpolicyd: leave it to that"
TRACKING_COMMENT = "nothing jumps here: a rule with ct keeps connection tracking on"
OWN_SOURCE_COMMENT = "own address as source"
MIDSTREAM_COMMENT = "new without SYN"

_DIFFERENCES_SHOWN = 5


def shown(said: list[str]) -> str:
    """The first few differences in one line; "": there are none."""
    more = f" and {len(said) - _DIFFERENCES_SHOWN} more" if len(said) > _DIFFERENCES_SHOWN else ""
    return "; ".join(said[:_DIFFERENCES_SHOWN]) + more


def packed_text(packed: Address) -> str:
    """An address as the packet filters' own programs list it."""
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


class SplitPorts(msgspec.Struct, frozen=True):
    """A rule's ports by kind of match: whole protocols; single ports; ranges, each with its protocol."""

    whole: list[int]
    single: list[tuple[int, int]]
    ranges: list[tuple[int, Span]]


def split_ports(ports: Ports) -> SplitPorts:
    """Whole protocols, single ports and ranges of ports, each with its protocol."""
    whole = sorted(protocol for protocol, span in ports if span is None)
    spans = [(protocol, span) for protocol, span in ports if span is not None]
    single = sorted((protocol, first) for protocol, (first, last) in spans if first == last)
    return SplitPorts(whole, single, [(p, span) for p, span in spans if span[0] != span[1]])


_SETS = (
    SetSpec("pods6-probe", SetKind.HOSTS, 6, frozenset({bytes(15) + b"\1"}), "probe"),
    SetSpec("blocks4-probe", SetKind.SPANS, 4, frozenset({(1, 2)}), "probe"),
    SetSpec("ports6-probe", SetKind.ENDPOINTS, 6, frozenset({(bytes(15) + b"\1", 6, 80)}), "probe"),
)
_RULES = (
    RuleSpec(4, "blocks4-probe", SetKind.SPANS, ((6, (80, 80)), (6, (90, 99)), (17, (53, 53))), "probe"),
    RuleSpec(6, "pods6-probe", SetKind.HOSTS, ((132, (5000, 5000)),), "probe"),
    RuleSpec(6, "ports6-probe", SetKind.ENDPOINTS, None, "probe"),
)
_GATE = Gate("lo", 1, "probe", ChainSpec(True, _RULES), ChainSpec(True, _RULES))

REHEARSAL = Program({"lo": _GATE}, {spec.name: spec for spec in _SETS}, track=True)
"""A bit of everything that we use, for a probe."""
