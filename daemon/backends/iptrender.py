"""A Program to the chains of the `mangle` table, one family at a time. Pure.

In: a Program, or a Plan. Out: chains as Lines in the order in which a packet meets them, and which of them a
plan touches. It knows no kernel: xtables.py compiles Lines, ipset.py fills the sets that they name.

Each hook's first rule jumps to a chain of ours that dispatches by interface name to one chain an attachment
and direction (by several names, where the interface was given another one since). What is permitted returns
from there, so that a forwarded packet meets both interfaces and others' rules still count. What is refused
goes to a chain that only counts and drops: it is left alone when rules change, and so are its counters.
A long chain stands in one piece, whatever its parts: each commit puts the whole table anyway.
"""

from collections.abc import Iterator

import msgspec

from daemon.backends.shape import (
    DISPATCHES,
    ESSENTIAL_ICMPV6,
    FORMER_DISPATCHES,
    IMPRINT_COMMENT,
    MIDSTREAM_COMMENT,
    OURS_COMMENT,
    OWN_SOURCE_COMMENT,
    TRACKING_COMMENT,
)
from daemon.memo import memoize
from daemon.model import Direction
from daemon.planner import ChainKey, ChainSpec, Plan, PortSpec, Program, RuleSpec, SetKind
from daemon.program import chain_name, label
from daemon.wording import clean

PREFIX = "MNP-"
"""Of all our names. A chain's has 28 characters at most, a set's 31."""

FAMILIES = (4, 6)

HOOKS = {hook.upper(): PREFIX + hook.upper() for hook in DISPATCHES}
"""The chain that a hook's first rule jumps to."""

FORMER_HOOKS = {hook.upper(): PREFIX + hook.upper() for hook in FORMER_DISPATCHES}
"""The same, of versions that wrote the table `filter`."""

TRACKING = PREFIX + "tracking"

IMPRINTS = PREFIX + "about"
"""In the IPv4 table only."""

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
    """One rule. protocol None: any; interfaces "": any; comment "": none.

    sets: the names of those that it looks up, in the order of its matches.
    """

    target: str
    protocol: int | None = None
    in_interface: str = ""
    out_interface: str = ""
    matches: tuple[MatchSpec, ...] = ()
    comment: str = ""
    sets: tuple[str, ...] = ()


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
    """The first rule of a hook, or of one that an older version used."""
    return Line(PREFIX + hook, comment=OURS_COMMENT)


def content(program: Program, family: int) -> Chains:
    """All chains of ours."""
    chains = {HOOKS[hook]: tuple(_dispatch(program, hook)) for hook in HOOKS}
    if program.track:
        chains[TRACKING] = _TRACKING_LINES
    if program.imprints and family == FAMILIES[0]:
        chains[IMPRINTS] = _imprint_lines(program.imprints)
    for gate in program.gates.values():
        for direction in Direction:
            spec = gate.chain(direction)
            if spec is not None:
                key = ChainKey(gate.ifname, direction)
                chains[gate_chain(key)] = chain_lines(key, program.whole(spec), family)
                chains[drop_chain(key)] = _drop_lines(gate.owner)
    return chains


def edits(plan: Plan, family: int) -> Edits:
    """What a plan that does not reset does to the chains; nothing where it only changes elements."""
    written: Chains = {}
    made = any(write.replaced or not write.exists for write in plan.chains)
    if made or plan.stale_chains or plan.dispatch_removed or plan.dispatch_added:
        written |= {HOOKS[hook]: tuple(_dispatch(plan.program, hook)) for hook in HOOKS}
    for write in plan.chains:
        written[gate_chain(write.key)] = chain_lines(write.key, plan.program.whole(write.spec), family)
        if write.replaced or not write.exists:
            written[drop_chain(write.key)] = _drop_lines(write.owner)
    if plan.track:
        written[TRACKING] = _TRACKING_LINES
    if plan.imprints and family == FAMILIES[0]:
        written[IMPRINTS] = _imprint_lines(plan.imprints)
    gone = [chain(key) for key in plan.stale_chains for chain in (gate_chain, drop_chain)]
    gone += [TRACKING] if plan.track is False else []
    gone += [IMPRINTS] if plan.imprints == () else []
    return Edits(written, tuple(gone))


def _dispatch(program: Program, hook: str) -> Iterator[Line]:
    direction = DISPATCHES[hook.lower()]
    # In an order that does not depend on which attachment came first.
    for _, gate in sorted(program.gates.items()):
        if gate.chain(direction) is None:
            continue
        chain = gate_chain(ChainKey(gate.ifname, direction))
        for device in dict.fromkeys((gate.ifname, *gate.names, *(c.ifname for c in gate.carriers))):
            if direction is Direction.INGRESS:
                yield Line(chain, in_interface=device)
            else:
                yield Line(chain, out_interface=device)


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


def _imprint_lines(lines: tuple[str, ...]) -> tuple[Line, ...]:
    return tuple(Line("RETURN", comment=clean(line)) for line in (IMPRINT_COMMENT, *lines))


def _drop_lines(owner: str) -> tuple[Line, ...]:
    return (Line("DROP", comment=clean(owner)),)


_LINE_BYTES = 2500
"""A line, its matches and its RuleSpec."""


@memoize(8 << 20, lambda lines, key, spec, family: _LINE_BYTES * len(lines))
def chain_lines(key: ChainKey, spec: ChainSpec, family: int) -> tuple[Line, ...]:
    """One attachment's rules in one direction, in the order that ChainSpec tells.

    Many pods have the same policies on the same interface name: what they share is written out once.
    """
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
            yield _permit(rule, key.direction)
    yield Line(refuse)


def _permit(rule: RuleSpec, direction: Direction) -> Line:
    protocol = None if rule.ports is None else rule.ports.protocol
    matches = (*_peer(rule, direction), *_ports(rule.ports))
    return Line(
        "RETURN", protocol, matches=matches, comment=rule.comment, sets=tuple(map(set_name, rule.sets))
    )


def _peer(rule: RuleSpec, direction: Direction) -> Iterator[MatchSpec]:
    if rule.peer is not None:
        # Address, protocol and port at once are always the receiver's (D4).
        endpoint = rule.peer_kind is SetKind.ENDPOINTS
        yield _in_set(rule.peer, "dst,dst" if endpoint else _PEER_FIELD[direction])


def _ports(ports: PortSpec | None) -> Iterator[MatchSpec]:
    if ports is None:
        return
    if ports.set_name is not None:
        yield _in_set(ports.set_name, "dst")
    elif ports.span is not None:
        first, last = ports.span
        yield MatchSpec("multiport", (("dports", (f"{first}" if first == last else f"{first}:{last}",)),))


def _in_set(name: str, field: str) -> MatchSpec:
    return MatchSpec("set", (("match-set", (set_name(name), field)),))
