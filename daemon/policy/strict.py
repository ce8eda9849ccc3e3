"""What both of two rulesets permit: one that was, one that is, and the sets that they refer to then and now.

In: the ruleset of then (the floor), the current one, and for each shared set how it changed in between. Out:
a Ruleset that permits exactly what both permit, the floor with the members of then, the current one with
those of now. In it a reference stands for what is common to then and now.

How: both sides are written with references that mean the common members, and literals beside them for what
only that side's set held. Matches that then stand on both sides are kept. What is left of one side is
combined with what is left of the other; a kept match need not be, for whatever it has in common with another
one it permits itself. So the cost is the number of equal matches plus the product of the different ones.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, cast

import msgspec

from daemon.intervals import common, number, union
from daemon.memo import memoize, per_object
from daemon.model import Address, Span
from daemon.policy.ruleset import (
    BlockSet,
    Endpoint,
    EndpointSet,
    Match,
    Members,
    PeerRef,
    PortMatch,
    Ports,
    Ruleset,
    SharedRef,
)

_MEMO_BYTES = 16 << 20
"""Of literals that are remembered: all attachments of one policy ask for the same."""
_SPAN_BYTES = 150
"""A span, or an address and the span that is made of it."""

_NOBODY = Members()


class Drift(msgspec.Struct, frozen=True):
    """A shared set then and now: whom both have, who came and who left."""

    common: Members
    gained: Members
    lost: Members


DriftOf: TypeAlias = Callable[[SharedRef], Drift]
Elements: TypeAlias = frozenset[Address] | frozenset[Endpoint]
Matches: TypeAlias = tuple[Match, ...]
Permission: TypeAlias = tuple[PeerRef | None, Ports | None]
Area: TypeAlias = tuple[BlockSet | None, Ports | None]


def make_drift(then: Members, now: Members) -> Drift:
    """The difference of two states of one set. Where nobody came or left, parts are the same objects."""
    if then is now:
        return Drift(now, _NOBODY, _NOBODY)
    gained, lost = _minus(now, then), _minus(then, now)
    if gained == _NOBODY:
        return Drift(now, gained, lost)
    if lost == _NOBODY:
        return Drift(then, gained, lost)
    return Drift(_minus(now, gained), gained, lost)


def _minus(members: Members, others: Members) -> Members:
    return Members(_without(members.v4, others.v4), _without(members.v6, others.v6))


def _without(elements: Elements, others: Elements) -> Elements:
    return elements if elements.isdisjoint(others) else elements - others


def strict(floor: Ruleset, current: Ruleset, drift: DriftOf) -> Ruleset:
    """What both permit; `current` itself where the floor takes nothing from it.

    drift: of every set that either ruleset refers to. Origins are those of the current match, and the floor's
    where only the floor isolates the direction.
    """
    ingress = _both(floor.ingress, current.ingress, drift)
    egress = _both(floor.egress, current.egress, drift)
    if ingress is current.ingress and egress is current.egress:
        return current
    return Ruleset(ingress, egress)


def _both(floor: Matches | None, current: Matches | None, drift: DriftOf) -> Matches | None:
    lost = _written_out(floor or (), drift, lambda change: change.lost)
    gained = _written_out(current or (), drift, lambda change: change.gained)
    if current is None:
        return None if floor is None else floor + lost
    if floor is None:
        return current + gained if gained else current
    if floor is current and not (lost and gained):
        return current
    was, now = floor + lost, current + gained
    equal = {(match.peer, match.ports) for match in was} & {(match.peer, match.ports) for match in now}
    kept = tuple(match for match in now if (match.peer, match.ports) in equal)
    others = _united(match for match in was if (match.peer, match.ports) not in equal)
    found: dict[Permission, dict[str, None]] = {}
    for match in _united(match for match in now if (match.peer, match.ports) not in equal):
        for other in others:
            for permission in _permitted(match, other, drift):
                if permission not in equal:
                    found.setdefault(permission, {}).update(dict.fromkeys(match.origins))
    if not found and kept == current:
        return current
    return kept + tuple(Match(peer, ports, tuple(origins)) for (peer, ports), origins in found.items())


def _written_out(matches: Matches, drift: DriftOf, only_here: Callable[[Drift], Members]) -> Matches:
    """What these matches permit beyond what they do when references mean the common members."""
    beside: list[Match] = []
    for match in matches:
        if match.peer is not None and not isinstance(match.peer, BlockSet):
            literals = _literals(match.peer, match.ports, only_here(drift(match.peer)))
            beside += [Match(blocks, ports, match.origins) for blocks, ports in literals]
    return tuple(beside)


def _united(matches: Iterable[Match]) -> list[Match]:
    """The same permissions with as few sets of blocks as they take.

    Single addresses stay apart from wider blocks: they follow the pods, and what hundreds of blocks have in
    common is not to be worked out and written anew for each of them.
    """
    found: list[Match] = []
    groups: dict[tuple[Ports | None, bool], tuple[list[BlockSet], dict[str, None]]] = {}
    for match in matches:
        if isinstance(match.peer, BlockSet):
            blocks, origins = groups.setdefault((match.ports, _only_hosts(match.peer)), ([], {}))
            blocks.append(match.peer)
            origins.update(dict.fromkeys(match.origins))
        else:
            found.append(match)
    for (ports, hosts), (blocks, origins) in groups.items():
        found.append(Match(_union(tuple(blocks), hosts), ports, tuple(origins)))
    return found


def _permitted(match: Match, other: Match, drift: DriftOf) -> Iterator[Permission]:
    ports = _common_ports(match.ports, other.ports)
    if ports == ():
        return
    if match.peer == other.peer or (other.peer is None and _takes(match.peer, ports)):
        yield match.peer, ports
    elif match.peer is None and _takes(other.peer, ports):
        yield other.peer, ports
    else:
        for peer, ports_in in _areas(match, drift):
            for other_peer, other_ports in _areas(other, drift):
                blocks, ports = _common_blocks(peer, other_peer), _common_ports(ports_in, other_ports)
                if ports != () and (blocks.spans4 or blocks.spans6):
                    yield blocks, ports


def _takes(peer: PeerRef | None, ports: Ports | None) -> bool:
    # An EndpointSet carries its ports in itself: with others beside it, it can't stand as a reference.
    return ports is None or not isinstance(peer, EndpointSet)


def _areas(match: Match, drift: DriftOf) -> Sequence[Area]:
    if match.peer is None or isinstance(match.peer, BlockSet):
        return [(match.peer, match.ports)]
    return _literals(match.peer, match.ports, drift(match.peer).common)


def forget() -> None:
    """Nothing is held any more: let go of the literals of that time."""
    for memo in (_hosts, _by_port, _union, _intersected):
        memo.forget()


# --- literals --------------------------------------------------------------------------------------------


def _literals(ref: SharedRef, ports: Ports | None, members: Members) -> list[tuple[BlockSet, Ports | None]]:
    """These members of a set, written out."""
    if not members.v4 and not members.v6:
        return []
    # All elements of a set are of one kind, which their type can't say.
    if not isinstance(ref, EndpointSet):
        addresses = cast("tuple[frozenset[Address], frozenset[Address]]", (members.v4, members.v6))
        return [(_hosts(*addresses), ports)]
    endpoints = cast("tuple[frozenset[Endpoint], frozenset[Endpoint]]", (members.v4, members.v6))
    return [(blocks, (port,)) for port, blocks in _by_port(*endpoints)]


@memoize(_MEMO_BYTES, lambda hosts, v4, v6: _SPAN_BYTES * (len(v4) + len(v6)))
def _hosts(v4: frozenset[Address], v6: frozenset[Address]) -> BlockSet:
    # One span for each address, adjacent or not: in a program that is a plain set of hosts.
    def spans(addresses: frozenset[Address]) -> tuple[Span, ...]:
        return tuple((n, n) for n in sorted(map(number, addresses)))

    return BlockSet(spans(v4), spans(v6))


@memoize(_MEMO_BYTES, lambda ports, v4, v6: 2 * _SPAN_BYTES * (len(v4) + len(v6) + len(ports)))
def _by_port(v4: frozenset[Endpoint], v6: frozenset[Endpoint]) -> tuple[tuple[PortMatch, BlockSet], ...]:
    """Endpoints by protocol and port, sorted."""
    found: dict[tuple[int, int], tuple[set[Address], set[Address]]] = {}
    for family, endpoints in enumerate((v4, v6)):
        for address, protocol, port in endpoints:
            found.setdefault((protocol, port), (set(), set()))[family].add(address)
    return tuple(
        ((protocol, (port, port)), _hosts(frozenset(v4_hosts), frozenset(v6_hosts)))
        for (protocol, port), (v4_hosts, v6_hosts) in sorted(found.items())
    )


@per_object
def _only_hosts(blocks: BlockSet) -> bool:
    return all(first == last for first, last in (*blocks.spans4, *blocks.spans6))


@memoize(_MEMO_BYTES, lambda united, blocks, hosts: _SPAN_BYTES * (_size(united) + sum(map(_size, blocks))))
def _union(blocks: tuple[BlockSet, ...], hosts: bool) -> BlockSet:
    """hosts: single addresses all of them, which stay such where they are adjacent."""
    if len(blocks) == 1:
        return blocks[0]
    spans4 = [span for each in blocks for span in each.spans4]
    spans6 = [span for each in blocks for span in each.spans6]
    if hosts:
        return BlockSet(tuple(sorted(set(spans4))), tuple(sorted(set(spans6))))
    return BlockSet(union(spans4), union(spans6))


def _common_blocks(one: BlockSet | None, two: BlockSet | None) -> BlockSet:
    if one is None or two is None:
        # Not both: then the peers would be equal.
        return cast("BlockSet", one or two)
    return _intersected(one, two)


@memoize(_MEMO_BYTES, lambda both, one, two: _SPAN_BYTES * (_size(both) + _size(one) + _size(two)))
def _intersected(one: BlockSet, two: BlockSet) -> BlockSet:
    # Families never mix (C9).
    return BlockSet(common(one.spans4, two.spans4), common(one.spans6, two.spans6))


def _size(blocks: BlockSet) -> int:
    return len(blocks.spans4) + len(blocks.spans6)


def _common_ports(one: Ports | None, two: Ports | None) -> Ports | None:
    """Ports in both; (): there are none. A span of a whole protocol is that span (D2, D5)."""
    if one is None or one == two:
        return two
    if two is None:
        return one
    found: list[PortMatch] = []
    for protocol in sorted({protocol for protocol, _ in one} & {protocol for protocol, _ in two}):
        mine, others = _of_protocol(one, protocol), _of_protocol(two, protocol)
        if mine is None or others is None:
            spans = others if mine is None else mine
            found += [(protocol, None)] if spans is None else [(protocol, span) for span in spans]
        else:
            found += [(protocol, span) for span in common(mine, others)]
    return tuple(found)


def _of_protocol(ports: Ports, protocol: int) -> tuple[Span, ...] | None:
    """The spans of one protocol, None: it as a whole."""
    spans = [span for known, span in ports if known == protocol]
    return None if None in spans else tuple(span for span in spans if span is not None)
