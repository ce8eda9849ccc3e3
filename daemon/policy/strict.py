"""What both of two rulesets permit: one that was, one that is, and the sets that they refer to then and now.

In: the ruleset of then (the floor), the current one, and for each shared set how it changed in between. Out:
a Ruleset that permits exactly what both permit, the floor with the members of then, the current one with
those of now. In it a reference stands for what is common to then and now.

How: both sides are written with references that mean the common members, and literals beside them for what
only that side's set held. Matches that then stand on both sides are kept. What is left of one side meets what
is left of the other (meeting.py); a kept match need not, for whatever it has in common with another one it
permits itself. Where there is no room for what is found, the kept matches are all that is permitted (F4).
"""

from collections.abc import Callable
from typing import TypeAlias, cast

import msgspec

from daemon.model import Address, Direction
from daemon.policy.bounds import Meter, Room, TooMuchError
from daemon.policy.literals import addresses, size
from daemon.policy.meeting import Outcome, Part, gather, meet
from daemon.policy.portspans import common_ports, rules_of
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
from daemon.slices import Pausing

_ENDPOINTS = 4000
"""That are looked at in one piece."""

_NOBODY = Members()


class Drift(msgspec.Struct, frozen=True):
    """A shared set then and now: whom both have, who came and who left."""

    common: Members
    gained: Members
    lost: Members


DriftOf: TypeAlias = Callable[[SharedRef], Drift]
Elements: TypeAlias = frozenset[Address] | frozenset[Endpoint]
Matches: TypeAlias = tuple[Match, ...]


class Combined(msgspec.Struct, frozen=True):
    """What both permit, or where there was no room for all of that, in `closed` directions, a part of it.

    literals: the blocks in it that stand in no policy. looked: the pairs, spans and addresses that it took.
    """

    ruleset: Ruleset
    closed: tuple[Direction, ...]
    literals: tuple[BlockSet, ...]
    looked: int


class _Side(msgspec.Struct, frozen=True):
    """One direction of it."""

    matches: Matches | None
    closed: bool = False
    literals: tuple[BlockSet, ...] = ()
    looked: int = 0


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
    return Members(_less(members.v4, others.v4), _less(members.v6, others.v6))


def _less(elements: Elements, others: Elements) -> Elements:
    return elements if elements.isdisjoint(others) else elements - others


def combining(floor: Ruleset, current: Ruleset, drift: DriftOf, room: Room) -> Pausing[Combined]:
    """What both permit; `current` itself where the floor takes nothing from it.

    drift: of every set that either ruleset refers to. room: its rules are those of a direction, kept ones
    among them, its elements those of both. Origins are those of the current match, and the floor's where
    only the floor isolates the direction.
    """
    ingress = yield from _both(floor.ingress, current.ingress, drift, room)
    taken = sum(size(blocks) for blocks in ingress.literals if blocks not in room.known)
    left = msgspec.structs.replace(room, elements=room.elements - taken)
    egress = yield from _both(floor.egress, current.egress, drift, left)
    same = ingress.matches is current.ingress and egress.matches is current.egress
    sides = {Direction.INGRESS: ingress, Direction.EGRESS: egress}
    return Combined(
        current if same else Ruleset(ingress.matches, egress.matches),
        tuple(direction for direction, side in sides.items() if side.closed),
        tuple(dict.fromkeys((*ingress.literals, *egress.literals))),
        ingress.looked + egress.looked,
    )


def _both(floor: Matches | None, current: Matches | None, drift: DriftOf, room: Room) -> Pausing[_Side]:
    kept = _kept(floor, current)
    if kept is None:
        return _Side(None)
    # The operator's rules, which no budget counts, take no room: as many as there are now may be at least.
    most = max(room.rules, _rules(kept if current is None else current))
    meter = Meter(msgspec.structs.replace(room, rules=most - _rules(kept)))
    try:
        found = yield from _beside(floor, current, kept, drift, meter)
    except TooMuchError:
        return _Side(kept, closed=True, looked=meter.looked)
    matches = kept + found.matches if found.matches else kept
    return _Side(matches, literals=found.literals, looked=meter.looked)


def _rules(matches: Matches) -> int:
    return sum(rules_of(match.ports) for match in matches)


def _kept(floor: Matches | None, current: Matches | None) -> Matches | None:
    """What stands on both sides unchanged: the same object as `current` where that is all of it."""
    if floor is None or current is None or floor is current:
        return floor if current is None else current
    known = {(match.peer, match.ports) for match in floor}
    kept = tuple(match for match in current if (match.peer, match.ports) in known)
    return current if len(kept) == len(current) else kept


def _beside(
    floor: Matches | None, current: Matches | None, kept: Matches, drift: DriftOf, meter: Meter
) -> Pausing[Outcome]:
    """What both permit beside what is kept. TooMuchError."""
    lost = yield from _written_out(floor or (), drift, lambda change: change.lost, meter)
    gained = yield from _written_out(current or (), drift, lambda change: change.gained, meter)
    if floor is None or current is None:
        return (yield from gather((), gained if current is not None else lost, meter))
    known = {(match.peer, match.ports) for match in kept}
    was, now = _without(floor, known), _without(current, known)
    if not (was or lost) or not (now or gained):
        return Outcome()
    if any(map(_permits_all, was)):
        return (yield from gather(now, gained, meter))
    if (everything := next(filter(_permits_all, now), None)) is not None:
        renamed = tuple(msgspec.structs.replace(match, origins=everything.origins) for match in was)
        parts = [msgspec.structs.replace(part, origins=everything.origins) for part in lost]
        return (yield from gather(renamed, parts, meter))
    then = lost + (yield from _parts(was, drift, meter))
    today = gained + (yield from _parts(now, drift, meter))
    found = yield from meet(then, today, lambda ref: drift(ref).common, meter)
    return msgspec.structs.replace(found, matches=_without(found.matches, known))


def _without(matches: Matches, known: set[tuple[PeerRef | None, Ports | None]]) -> Matches:
    if not known:
        return matches
    return tuple(match for match in matches if (match.peer, match.ports) not in known)


def _permits_all(match: Match) -> bool:
    return match.peer is None and match.ports is None


def _written_out(
    matches: Matches, drift: DriftOf, only_here: Callable[[Drift], Members], meter: Meter
) -> Pausing[list[Part]]:
    """What these matches permit beyond what they do when references mean the common members."""
    found: list[Part] = []
    for match in matches:
        if match.peer is not None and not isinstance(match.peer, BlockSet):
            yield from _write_out(match, match.peer, only_here(drift(match.peer)), found, meter)
    return found


def _parts(matches: Matches, drift: DriftOf, meter: Meter) -> Pausing[list[Part]]:
    """Matches as they stand, but for sets of endpoints: those have their ports in themselves."""
    found: list[Part] = []
    for match in matches:
        if isinstance(match.peer, EndpointSet):
            yield from _write_out(match, match.peer, drift(match.peer).common, found, meter)
        else:
            found.append(Part(match.peer, match.ports, match.origins))
    return found


def _write_out(
    match: Match, ref: SharedRef, members: Members, found: list[Part], meter: Meter
) -> Pausing[None]:
    """These members of a match's set."""
    if meter.look(1):
        yield
    if not members.v4 and not members.v6:
        return
    if not isinstance(ref, EndpointSet):
        found.append(Part(addresses(members), match.ports, match.origins))
        return
    # All elements of a set are of one kind, which their type can't say.
    endpoints = cast("tuple[frozenset[Endpoint], frozenset[Endpoint]]", (members.v4, members.v6))
    by_port = yield from _by_port((*endpoints[0], *endpoints[1]), meter)
    for port in sorted(by_port):
        ports = common_ports(match.ports, (port,))
        if ports != ():
            found.append(Part(frozenset(by_port[port]), ports, match.origins))


def _by_port(endpoints: tuple[Endpoint, ...], meter: Meter) -> Pausing[dict[PortMatch, list[Address]]]:
    found: dict[PortMatch, list[Address]] = {}
    for number, (address, protocol, port) in enumerate(endpoints):
        found.setdefault((protocol, (port, port)), []).append(address)
        if number % _ENDPOINTS == 0 and meter.look(_ENDPOINTS):
            yield
    return found
