"""What every backend makes of a program alike, whatever its language. Pure.

In: parts of a Program. Out: which hooks dispatch which direction, and the words that stand in comments and in
what is told to people.
"""

import socket

from daemon.model import Address, Direction
from daemon.planner import ChainSpec, Gate, PortSpec, Program, RuleSpec, SetKind, SetSpec

# Which direction each hook dispatches (E4: in through an interface is ingress, out through it egress). Here
# the packet is as the wire has it (D6): not translated yet, or already. At `output` not even the interface is
# the one that a packet leaves by, when it has just been translated or marked.
DISPATCHES = {"prerouting": Direction.INGRESS, "postrouting": Direction.EGRESS}

PRIORITY = -150
"""Of both hooks: behind connection tracking (-200), before translation (-100 coming in, 100 going out)."""

FORMER_DISPATCHES = {
    "input": (Direction.INGRESS,),
    "forward": (Direction.INGRESS, Direction.EGRESS),
    "output": (Direction.EGRESS,),
}
"""The hooks of versions that judged at priority 0, in the table `filter`: what they left is taken over."""

ESSENTIAL_ICMPV6 = (2, 130, 131, 132, 133, 134, 135, 136, 143)
"""Packet too big, MLD, neighbour discovery (E3); 137, redirect, is not among them."""

OURS_COMMENT = "made by multi-networkpolicyd: leave it to that"
TRACKING_COMMENT = "nothing jumps here: a rule with ct keeps connection tracking on"
IMPRINT_COMMENT = "nothing jumps here: what these rules are about, for a daemon that lost its records"
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


_SETS = (
    SetSpec("pods6-probe", SetKind.HOSTS, 6, frozenset({bytes(15) + b"\1"}), "probe"),
    SetSpec("blocks4-probe", SetKind.SPANS, 4, frozenset({(1, 2)}), "probe"),
    SetSpec("ports6-probe", SetKind.ENDPOINTS, 6, frozenset({(bytes(15) + b"\1", 6, 80)}), "probe"),
    SetSpec("dports-probe", SetKind.PORTS, 0, frozenset({(80, 80), (90, 99)}), "probe"),
)
_RULES = (
    RuleSpec(4, "blocks4-probe", SetKind.SPANS, PortSpec(6, set_name="dports-probe"), "probe"),
    RuleSpec(4, "blocks4-probe", SetKind.SPANS, PortSpec(17, span=(90, 99)), "probe"),
    RuleSpec(6, "pods6-probe", SetKind.HOSTS, PortSpec(132, span=(5000, 5000)), "probe"),
    RuleSpec(6, "ports6-probe", SetKind.ENDPOINTS, None, "probe"),
)
_GATE = Gate("lo", 1, "probe", ChainSpec(True, _RULES), ChainSpec(True, _RULES))

REHEARSAL = Program({"lo": _GATE}, {spec.name: spec for spec in _SETS}, True, ("lo 1/1 probe",))
"""A bit of everything that we use, for a probe."""
