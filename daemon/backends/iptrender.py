"""A Program to the chains of the `filter` table, one family at a time. Pure.

In: a Program, or a Plan. Out: chains as Lines in the order in which a packet meets them, and which of them a
plan touches. It knows no kernel: xtables.py compiles Lines, ipset.py fills the sets that they name.

Each hook's first rule jumps to a chain of ours that dispatches by interface name to one chain an attachment
and direction. What is permitted returns from there, so that a forwarded packet meets both interfaces and
others' rules still count. What is refused goes to a chain that only counts and drops: it is left alone when
rules change, and so are its counters.
"""

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from daemon.backends.shape import (
    DISPATCHES,
    ESSENTIAL_ICMPV6,
    MIDSTREAM_COMMENT,
    OURS_COMMENT,
    OWN_SOURCE_COMMENT,
    TRACKING_COMMENT,
    split_ports,
)
from daemon.model import Direction
from daemon.planner import ChainKey, ChainSpec, Plan, Program, RuleSpec, SetKind
from daemon.policy.ruleset import Ports
from daemon.program import chain_name, label
from daemon.wording import clean

PREFIX = "MNP-"
"""Of all our names. A chain's has 28 characters at most, a set's 31."""

FAMILIES = (4, 6)

HOOKS = {hook.upper(): PREFIX + hook.upper() for hook in DISPATCHES}
"""The chain that a hook's first rule jumps to."""

TRACKING = PREFIX + "tracking"

MAX_MULTIPORT_SLOTS = 15
"""A range takes two (iptables-extensions(8))."""

_DROP_LABEL = {Direction.INGRESS: PREFIX + "drop-in-", Direction.EGRESS: PREFIX + "drop-out-"}
_PEER_FIELD = {Direction.INGRESS: "src", Direction.EGRESS: "dst"}

_TCP = 6
_ICMPV6 = 58

Options = tuple[tuple[str, tuple[str, ...]], ...]


class MatchSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """One match extension with its options, as iptables' command line has them; "!" first negates."""

    name: str
    options: Options


class Line(msgspec.Struct, frozen=True, cache_hash=True):
    """One rule. protocol None: any; interfaces "": any; comment "": none; set_name: the set it looks up."""

    target: str
    protocol: int | None = None
    in_interface: str = ""
    out_interface: str = ""
    matches: tuple[MatchSpec, ...] = ()
    comment: str = ""
    set_name: str = ""


Chains = dict[str, tuple[Line, ...]]


class Edits(msgspec.Struct, frozen=True):
    """What a plan does to the chains of one family: those written anew as wholes, and those that go."""

    written: Chains
    gone: tuple[str, ...]


def gate_chain(key: ChainKey) -> str:
    """The chain of one attachment and direction: "MNP-ingress-net1"."""
    return PREFIX + chain_name(key.direction, key.ifname)


def drop_chain(key: ChainKey) -> str:
    """The chain that counts and drops for it: "MNP-drop-in-net1"."""
    return _DROP_LABEL[key.direction] + label(key.ifname)


def counted_by(chain: str) -> str | None:
    """Whose drops a chain counts: "ingress-net1"; None: it is none of those."""
    for direction, prefix in _DROP_LABEL.items():
        if chain.startswith(prefix):
            return f"{direction}-{chain.removeprefix(prefix)}"
    return None


def gate_of(chain: str) -> str | None:
    """Which attachment's chain it is: "ingress-net1"; None: it is none."""
    name = chain.removeprefix(PREFIX)
    return name if name != chain and name.startswith(tuple(f"{d}-" for d in Direction)) else None


def set_name(name: str) -> str:
    """A set's name in the kernel; of a program's sets, or of what others ask for."""
    return PREFIX + name


def hook_line(hook: str) -> Line:
    """The first rule of a hook."""
    return Line(HOOKS[hook], comment=OURS_COMMENT)


def content(program: Program, family: int) -> Chains:
    """All chains of ours."""
    chains = {HOOKS[hook]: tuple(_dispatch(program, hook)) for hook in HOOKS}
    if program.track:
        chains[TRACKING] = _TRACKING_LINES
    for gate in program.gates.values():
        for direction in Direction:
            spec = gate.chain(direction)
            if spec is not None:
                key = ChainKey(gate.ifname, direction)
                chains[gate_chain(key)] = chain_lines(key, spec, family)
                chains[drop_chain(key)] = _drop_lines(gate.owner)
    return chains


def edits(plan: Plan, family: int) -> Edits:
    """What a plan that does not reset does to the chains; nothing where it only changes elements."""
    written: Chains = {}
    made = any(write.replaced or not write.exists for write in plan.chains)
    if made or plan.stale_chains or plan.dispatch_removed or plan.dispatch_added:
        written |= {HOOKS[hook]: tuple(_dispatch(plan.program, hook)) for hook in HOOKS}
    for write in plan.chains:
        written[gate_chain(write.key)] = chain_lines(write.key, write.spec, family)
        if write.replaced or not write.exists:
            written[drop_chain(write.key)] = _drop_lines(write.owner)
    if plan.track:
        written[TRACKING] = _TRACKING_LINES
    gone = [chain(key) for key in plan.stale_chains for chain in (gate_chain, drop_chain)]
    return Edits(written, (*gone, TRACKING) if plan.track is False else tuple(gone))


def _dispatch(program: Program, hook: str) -> Iterator[Line]:
    for direction in DISPATCHES[hook.lower()]:
        # In an order that does not depend on which attachment came first.
        for _, gate in sorted(program.gates.items()):
            if gate.chain(direction) is None:
                continue
            chain = gate_chain(ChainKey(gate.ifname, direction))
            if direction is Direction.INGRESS:
                yield Line(chain, in_interface=gate.ifname)
            else:
                yield Line(chain, out_interface=gate.ifname)


# --- one attachment and direction ------------------------------------------------------------------------


_RELATED = MatchSpec("conntrack", (("ctstate", ("RELATED,ESTABLISHED",)),))
_ESTABLISHED = Line("RETURN", matches=(_RELATED,))
_TRACKING_LINES = (Line("RETURN", matches=(_RELATED,), comment=TRACKING_COMMENT),)
_NOT_BARE_SYN = (
    MatchSpec("conntrack", (("ctstate", ("NEW",)),)),
    MatchSpec("tcp", (("tcp-flags", ("!", "FIN,SYN,RST,ACK", "SYN")),)),
)
_OWN_SOURCE = (MatchSpec("addrtype", (("src-type", ("LOCAL",)),)),)
_ESSENTIALS = tuple(
    Line("RETURN", _ICMPV6, matches=(MatchSpec("icmp6", (("icmpv6-type", (str(kind),)),)),))
    for kind in ESSENTIAL_ICMPV6
)


def _drop_lines(owner: str) -> tuple[Line, ...]:
    return (Line("DROP", comment=clean(owner)),)


@lru_cache(maxsize=512)
def chain_lines(key: ChainKey, spec: ChainSpec, family: int) -> tuple[Line, ...]:
    """One attachment's rules in one direction, in the order that ChainSpec tells."""
    return tuple(_chain_lines(key, spec, family))


def _chain_lines(key: ChainKey, spec: ChainSpec, family: int) -> Iterator[Line]:
    refuse = drop_chain(key)
    if spec.established:
        yield _ESTABLISHED
    if spec.isolated and key.direction is Direction.INGRESS:
        yield Line(refuse, matches=_OWN_SOURCE, comment=OWN_SOURCE_COMMENT)
    yield Line(refuse, _TCP, matches=_NOT_BARE_SYN, comment=MIDSTREAM_COMMENT)
    if not spec.isolated:
        return
    if family == 6:
        yield from _ESSENTIALS
    for rule in spec.rules:
        if rule.family in (None, family):
            yield from _permit(rule, key.direction)
    yield Line(refuse)


def _permit(rule: RuleSpec, direction: Direction) -> Iterator[Line]:
    """One RuleSpec; several lines where its ports need several matches."""
    name, peer = _peer(rule, direction)
    for protocol, ports in _ports(rule.ports):
        matches = peer if ports is None else (*peer, MatchSpec("multiport", (("dports", (ports,)),)))
        yield Line("RETURN", protocol, matches=matches, comment=rule.comment, set_name=name)


def _peer(rule: RuleSpec, direction: Direction) -> tuple[str, tuple[MatchSpec, ...]]:
    if rule.peer is None:
        return "", ()
    # Address, protocol and port at once are always the receiver's (D4).
    field = "dst,dst" if rule.peer_kind is SetKind.ENDPOINTS else _PEER_FIELD[direction]
    name = set_name(rule.peer)
    return name, (MatchSpec("set", (("match-set", (name, field)),)),)


def _ports(ports: Ports | None) -> Iterator[tuple[int | None, str | None]]:
    """Pairs of a protocol and what multiport takes; None: any."""
    if ports is None:
        yield None, None
        return
    split = split_ports(ports)
    for protocol in split.whole:
        yield protocol, None
    by_protocol: dict[int, list[tuple[int, str]]] = {}
    for protocol, port in split.single:
        by_protocol.setdefault(protocol, []).append((1, str(port)))
    for protocol, (first, last) in split.ranges:
        by_protocol.setdefault(protocol, []).append((2, f"{first}:{last}"))
    for protocol, items in sorted(by_protocol.items()):
        for chunk in _slots(items):
            yield protocol, chunk


def _slots(items: list[tuple[int, str]]) -> Iterator[str]:
    taken: list[str] = []
    used = 0
    for size, text in items:
        if used + size > MAX_MULTIPORT_SLOTS:
            yield ",".join(taken)
            taken, used = [], 0
        taken.append(text)
        used += size
    yield ",".join(taken)
