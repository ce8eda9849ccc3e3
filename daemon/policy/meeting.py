"""What two lists of permissions have in common: exactly, in pieces, and within bounds. Pure.

In: the permissions of both sides, who is in the sets that they refer to. Out: the permissions of both, by as
few sets of peers as it takes; TooMuchError where there is no room for them.

How: equal peers meet by themselves, whoever is in them, and anyone meets each peer of the other side. What
else has something in common is found by one sweep over all ports: on each class of ports, all peers of one
side are united and meet all of the other. So it costs the sum of both sides for each class, never a product.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from daemon.policy.bounds import Meter
from daemon.policy.literals import (
    Hosts,
    addresses,
    as_blocks,
    hosts_of,
    meet_spans,
    only_hosts,
    size,
    unite,
    within,
)
from daemon.policy.portspans import Numbers, classes, common_ports, joined, members_of, rules_of, united
from daemon.policy.ruleset import BlockSet, Match, Members, PeerRef, PodSet, PodUnion, Ports
from daemon.slices import Pausing

Peer: TypeAlias = PodSet | PodUnion | BlockSet | Hosts | None
"""None: anyone."""

MembersOf: TypeAlias = Callable[[PodSet | PodUnion], Members]

MOST_ORIGINS = 64
"""Named for one permission: they are for people, and the comment of a rule has room for fewer."""

_REMEMBERED = 8
"""Unions of one side; most classes of ports share the same few."""
_REMEMBERED_ELEMENTS = 300_000
"""In them."""
_PORTS_A_LOOK = 4
_HOSTS_A_LOOK = 8
"""Sets of them are united in C."""


class Part(msgspec.Struct, frozen=True):
    """A permission of one side; or, of the same peer, all of them. origins as of a Match."""

    peer: Peer
    ports: Ports | None
    origins: tuple[str, ...]


class Outcome(msgspec.Struct, frozen=True):
    """literals: the blocks in it that stand in no policy."""

    matches: tuple[Match, ...] = ()
    literals: tuple[BlockSet, ...] = ()


def meet(was: Iterable[Part], now: Iterable[Part], members: MembersOf, meter: Meter) -> Pausing[Outcome]:
    """What both sides permit, one match a peer; origins are those of `now`."""
    one = yield from _by_peer(was, meter)
    two = yield from _by_peer(now, meter)
    found = _Found(meter)
    for part in two.values() if None in one else ():
        yield from found.add_common(one[None], part)
    for part in one.values() if None in two else ():
        yield from found.add_common(part, msgspec.structs.replace(two[None], peer=part.peer))
    both = {peer for peer in one if peer in two}
    left = yield from _by_peer(_written_out(one, both, members), meter)
    right = yield from _by_peer(_written_out(two, both, members), meter)
    for peer in left:
        if peer in right:
            yield from found.add_common(left[peer], right[peer])
    yield from _sweep(_Side(left, members, meter), _Side(right, members, meter), found)
    return found.outcome()


def gather(matches: tuple[Match, ...], literals: Iterable[Part], meter: Meter) -> Pausing[Outcome]:
    """Matches as they stand, and literals beside them, as few as it takes."""
    meter.take(sum(rules_of(match.ports) for match in matches), 0)
    groups: dict[Ports | None, list[tuple[Hosts, Part]]] = {}
    for part in literals:
        if isinstance(part.peer, frozenset):
            groups.setdefault(part.ports, []).append((part.peer, part))
            if meter.look(1 + len(part.peer) // _HOSTS_A_LOOK):
                yield
    found = _Found(meter)
    for ports, group in groups.items():
        hosts = group[0][0].union(*(hosts for hosts, _ in group[1:]))
        yield from found.add(hosts, ports, _origins(part for _, part in group))
    outcome = found.outcome()
    return msgspec.structs.replace(outcome, matches=matches + outcome.matches)


def _by_peer(parts: Iterable[Part], meter: Meter) -> Pausing[dict[Peer, Part]]:
    """One for each peer, in the order in which they come."""
    groups: dict[Peer, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.peer, []).append(part)
        if meter.look(1 + len(part.ports or ())):
            yield
    return {
        peer: parts[0] if len(parts) == 1 else Part(peer, united([p.ports for p in parts]), _origins(parts))
        for peer, parts in groups.items()
    }


def _origins(parts: Iterable[Part]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for part in parts:
        found.update(dict.fromkeys(part.origins))
        if len(found) >= MOST_ORIGINS:
            break
    return tuple(found)[:MOST_ORIGINS]


def _written_out(parts: Mapping[Peer, Part], both: set[Peer], members: MembersOf) -> Iterator[Part]:
    """References as the addresses in them, but for those that stand on both sides; then anyone is no peer.

    Different selectors may well select the same pods: then they are one peer from here on.
    """
    for peer, part in parts.items():
        if isinstance(peer, PodSet | PodUnion) and peer not in both:
            yield msgspec.structs.replace(part, peer=addresses(members(peer)))
        elif peer is not None:
            yield part


class _Found:
    """What both permit, as it is found."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._ports: dict[PeerRef | None, list[Ports | None]] = {}
        self._origins: dict[PeerRef | None, dict[str, None]] = {}
        self._literals: dict[BlockSet, None] = {}
        self._counted: Counter[object] = Counter()  # ports of it, as elements

    def add(self, peer: Peer, ports: Ports | None, origins: Sequence[str]) -> Pausing[None]:
        """A permission; () as ports: none. Hosts are written as blocks."""
        if ports == () or peer == frozenset():
            return
        if isinstance(peer, frozenset):
            self.add_literal((yield from as_blocks(peer, self.meter)), ports, origins)
        else:
            self._add(peer, ports, origins)
        if self.meter.look(1 + len(ports or ())):
            yield

    def add_literal(self, blocks: BlockSet, ports: Ports | None, origins: Sequence[str]) -> None:
        """One of blocks that stand in no policy."""
        known = self.meter.room.known.get(blocks)
        if blocks not in self._literals:
            self.meter.take(0, 0 if known is not None else size(blocks))
        blocks = known or blocks
        self._literals[blocks] = None
        self._add(blocks, ports, origins)

    def _add(self, peer: PeerRef | None, ports: Ports | None, origins: Sequence[str]) -> None:
        if peer not in self._ports:
            self._ports[peer], self._origins[peer] = [], {}
            self.meter.take(1, 0)
        self._ports[peer].append(ports)
        known = self._origins[peer]
        if len(known) < MOST_ORIGINS:
            known.update(dict.fromkeys(origins))

    def add_common(self, was: Part, now: Part) -> Pausing[None]:
        """The peer of now, on the ports of both."""
        if self.meter.look(1 + (len(was.ports or ()) + len(now.ports or ())) // _PORTS_A_LOOK):
            yield
        ports = common_ports(was.ports, now.ports)
        # At once: with as many for each peer they would fill the memory before all are there.
        self._count(now.peer, len(ports or ()))
        yield from self.add(now.peer, ports, now.origins)

    def _count(self, peer: object, ports: int) -> None:
        self.meter.take(0, max(0, ports - self._counted[peer]))
        self._counted[peer] = max(ports, self._counted[peer])

    def outcome(self) -> Outcome:
        """All of it."""
        matches = []
        for peer, many in self._ports.items():
            ports = united(many)
            self.meter.take(rules_of(ports) - 1, 0)
            self._count(peer, len(ports or ()))
            matches.append(Match(peer, ports, tuple(self._origins[peer])[:MOST_ORIGINS]))
        return Outcome(tuple(matches), tuple(self._literals))


# --- the sweep -------------------------------------------------------------------------------------------


class _Whole(msgspec.Struct, frozen=True):
    """Several peers of one side together.

    Single addresses stay apart from wider blocks: they follow the pods, and what hundreds of blocks have in
    common is not to be worked out and written anew for each of them.
    """

    hosts: Hosts
    wide: BlockSet


class _Side:
    """The peers of one side, each a number."""

    def __init__(self, parts: Mapping[Peer, Part], members: MembersOf, meter: Meter) -> None:
        self.parts = tuple(parts.values())
        self.numbers = {peer: number for number, peer in enumerate(parts)}
        self.ports = [part.ports for part in self.parts]
        self._members = members
        self._meter = meter
        self._wholes: dict[Numbers, _Whole] = {}
        self._elements = 0

    def origins(self, numbers: Numbers) -> tuple[str, ...]:
        """Those of several parts."""
        return _origins(self.parts[number] for number in members_of(numbers))

    def whole(self, numbers: Numbers) -> Pausing[_Whole]:
        """Several peers together."""
        known = self._wholes.get(numbers)
        if known is None:
            known = yield from self._unite(members_of(numbers))
            self._remember(numbers, known)
        return known

    def _remember(self, numbers: Numbers, whole: _Whole) -> None:
        if len(self._wholes) == _REMEMBERED or self._elements > _REMEMBERED_ELEMENTS:
            self._wholes.clear()
            self._elements = 0
        self._wholes[numbers] = whole
        self._elements += len(whole.hosts) + size(whole.wide)

    def _unite(self, numbers: Sequence[int]) -> Pausing[_Whole]:
        hosts: list[Hosts] = []
        wide: list[BlockSet] = []
        for each in numbers:
            peer = self.parts[each].peer
            if isinstance(peer, PodSet | PodUnion):
                peer = addresses(self._members(peer))
            if isinstance(peer, BlockSet) and not only_hosts(peer):
                wide.append(peer)
            elif peer is not None:
                hosts.append(hosts_of(peer) if isinstance(peer, BlockSet) else peer)
                if self._meter.look(1 + len(hosts[-1]) // _HOSTS_A_LOOK):
                    yield
        spans4 = yield from unite([blocks.spans4 for blocks in wide], self._meter)
        spans6 = yield from unite([blocks.spans6 for blocks in wide], self._meter)
        return _Whole(hosts[0].union(*hosts[1:]) if hosts else frozenset(), BlockSet(spans4, spans6))


def _sweep(left: _Side, right: _Side, found: _Found) -> Pausing[None]:
    meter = found.meter
    # On common ports the same peer has met itself, and so all that it has in common with others.
    twins = {n: right.numbers[peer] for peer, n in left.numbers.items() if peer in right.numbers}
    met_by = yield from classes(left.ports, right.ports, meter)
    for (ours, theirs), ports in met_by.items():
        mine, others = _without_twins(ours, theirs, twins)
        if meter.look(1 + ours.bit_count() + theirs.bit_count()):
            yield
        if not mine or not others:
            continue
        was, now = (yield from left.whole(mine)), (yield from right.whole(others))
        on, origins = None if ports is None else joined(ports), right.origins(others)
        for hosts in (yield from _hosts_in_both(was, now, meter)):
            yield from found.add(hosts, on, origins)
        spans4 = yield from meet_spans(was.wide.spans4, now.wide.spans4, meter)
        spans6 = yield from meet_spans(was.wide.spans6, now.wide.spans6, meter)
        if spans4 or spans6:
            found.add_literal(BlockSet(spans4, spans6), on, origins)


def _without_twins(mine: Numbers, others: Numbers, twins: Mapping[int, int]) -> tuple[Numbers, Numbers]:
    for each in members_of(mine) if twins else ():
        twin = twins.get(each)
        if twin is not None and others >> twin & 1:
            mine ^= 1 << each
            others ^= 1 << twin
    return mine, others


def _hosts_in_both(was: _Whole, now: _Whole, meter: Meter) -> Pausing[tuple[Hosts, Hosts]]:
    """Addresses of now, and further ones of then."""
    ours = (yield from within(now.hosts, was.wide, meter)) | (was.hosts & now.hosts)
    if meter.look((len(was.hosts) + len(now.hosts)) // _HOSTS_A_LOOK):
        yield
    return ours, (yield from within(was.hosts, now.wide, meter)) - ours
