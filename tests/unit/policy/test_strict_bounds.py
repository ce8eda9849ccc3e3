"""What both of two large rulesets permit: how much is looked at for it, and what there is no room for.

proves: E8, F4
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.intervals import union
from daemon.model import Direction, Selector
from daemon.policy.bounds import Meter, Room, TooMuchError
from daemon.policy.budget import DEFAULT
from daemon.policy.evaluate import Packet
from daemon.policy.literals import meet_spans, unite
from daemon.policy.portspans import common_ports, united
from daemon.policy.ruleset import (
    BlockSet,
    EndpointSet,
    Match,
    Members,
    PeerRef,
    PodSet,
    Ports,
    Ruleset,
    SharedRef,
)
from daemon.policy.strict import Combined, Drift, DriftOf, combining, make_drift
from daemon.slices import ended
from tests.unit.policy import worlds
from tests.unit.policy.tracer import trace

pytestmark = pytest.mark.unit

NET = ("ns/net1",)
MANY = 400
LOOKS = 10 * DEFAULT.elements
AMPLE = Room(DEFAULT.rules, DEFAULT.elements, LOOKS)
PIECE = 50_000
"""Looks that one piece may take at the most: 15 ms."""


def no_sets(ref: SharedRef) -> Drift:
    raise AssertionError(f"{ref} stands in no match")


def tcp(first: int, last: int) -> Ports:
    return ((6, (first, last)),)


def blocks(*spans: tuple[int, int]) -> BlockSet:
    return BlockSet(spans, ())


def pods(number: int) -> PodSet:
    return PodSet(NET, str(number), None, Selector())


def ingress(*matches: tuple[PeerRef | None, Ports | None]) -> Ruleset:
    return Ruleset(ingress=tuple(Match(peer, ports, (f"{n}",)) for n, (peer, ports) in enumerate(matches)))


def probed(peer: int, port: int) -> Packet:
    return Packet(peer=peer.to_bytes(4, "big"), own=bytes(4), protocol=6, port=port)


# --- how much is looked at -------------------------------------------------------------------------------

Kind = Callable[[int], tuple[Ruleset, Ruleset, DriftOf]]


def _overlapping(n: int, by: int = 0) -> Ports:
    return tcp(1 + n + by, 20_000 + 3 * n)


def ranges_of_one_block(many: int) -> tuple[Ruleset, Ruleset, DriftOf]:
    """Each range of ports overlaps all the others."""
    then = ingress(*((blocks((0, 1 << 24)), _overlapping(n)) for n in range(many)))
    now = ingress(*((blocks((0, 1 << 23)), _overlapping(n, 7)) for n in range(many)))
    return then, now, no_sets


def ranges_of_blocks_apart(many: int) -> tuple[Ruleset, Ruleset, DriftOf]:
    then = ingress(*((blocks((n << 16, (n << 16) + 99)), _overlapping(n)) for n in range(many)))
    now = ingress(*((blocks((n << 16, (n << 16) + 50)), _overlapping(n, 7)) for n in range(many)))
    return then, now, no_sets


def a_port_of_each_block(many: int) -> tuple[Ruleset, Ruleset, DriftOf]:
    then = ingress(*((blocks((n << 16, (n << 16) + 99)), tcp(n + 1, n + 1)) for n in range(many)))
    now = ingress(*((blocks((n << 16, (n << 16) + 50)), tcp(n + 1, n + 1)) for n in range(many)))
    return then, now, no_sets


def ranges_of_pods(many: int) -> tuple[Ruleset, Ruleset, DriftOf]:
    """Other selectors then and now, and all of them select the same pods."""
    everybody = [Members(frozenset(n.to_bytes(4, "big") for n in range(200))) for _ in range(2 * many)]
    then = ingress(*((pods(n), _overlapping(n)) for n in range(many)))
    now = ingress(*((pods(many + n), _overlapping(n, 7)) for n in range(many)))
    return then, now, lambda ref: _still(everybody[int(getattr(ref, "namespace", ""))])


def one_port_of_many_pods(many: int) -> tuple[Ruleset, Ruleset, DriftOf]:
    """Policies for one more network: each set is another, and holds what it held."""
    members = [Members(frozenset({n.to_bytes(4, "big")})) for n in range(many)]
    then = ingress(*((pods(n), tcp(80, 80)) for n in range(many)))
    now = ingress(*((pods(many + n), tcp(80, 80)) for n in range(many)))
    return then, now, lambda ref: _still(members[int(getattr(ref, "namespace", "")) % many])


def _still(members: Members) -> Drift:
    return make_drift(members, members)


LINEAR = [ranges_of_one_block, a_port_of_each_block, one_port_of_many_pods, ranges_of_pods]


@pytest.mark.parametrize("kind", LINEAR)
def test_no_pair_of_all_is_looked_at(kind: Kind) -> None:
    """400 rules by 400 were 160,000 pairs, and each a rule in the kernel."""
    found = ended(combining(*kind(MANY), AMPLE))
    assert not found.closed
    assert found.looked < 50_000 if kind is not ranges_of_one_block else found.looked < 500_000
    assert 1 <= len(found.ruleset.ingress or ()) <= MANY


@pytest.mark.parametrize("kind", [a_port_of_each_block, one_port_of_many_pods])
def test_twice_the_rules_take_twice_the_looks(kind: Kind) -> None:
    one, two = (ended(combining(*kind(many), AMPLE)).looked for many in (200, 400))
    assert two < 3 * one


@pytest.mark.parametrize("kind", [*LINEAR, ranges_of_blocks_apart])
def test_it_is_exact(kind: Kind) -> None:
    many = 60
    then, now, drift = kind(many)
    found = ended(combining(then, now, drift, AMPLE))
    assert not found.closed
    for peer in (0, 1, 50, 51, 99, 100, 199, 1 << 16, (1 << 16) + 51, 59 << 16, 60 << 16, 1 << 23, 1 << 24):
        for port in (1, 2, 7, 8, 9, 59, 60, 61, 67, 80, 19_999, 20_000, 20_001, 20_177, 20_178):
            asked = [
                trace(each, Direction.INGRESS, probed(peer, port), lambda ref: drift(ref).common)[0]
                for each in (then, now, found.ruleset)
            ]
            assert asked[2] is (asked[0] and asked[1]), (peer, port)


def test_many_policies_of_many_blocks_in_pieces() -> None:
    """485 policies of 450 blocks, each of them edited."""
    spans = [tuple((n << 8, (n << 8) + 9) for n in range(k, 485 * 450, 485)) for k in range(485)]
    then = ingress(*((BlockSet(each[:-1], ()), tcp(80, 80)) for each in spans))
    now = ingress(*((BlockSet(each[1:], ()), tcp(80, 80)) for each in spans))
    work = combining(then, now, no_sets, AMPLE)
    pieces = 0
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Combined = end.value
            break
        pieces += 1
    (match,) = found.ruleset.ingress or ()
    assert match.peer == BlockSet(tuple(sorted(s for each in spans for s in each[1:-1])), ())
    assert pieces > found.looked // PIECE


# --- what there is no room for ---------------------------------------------------------------------------

FEW_RULES, FEW_ELEMENTS, FEW_LOOKS = Room(9, 10_000, LOOKS), Room(1000, 9, LOOKS), Room(1000, 10_000, 99)


@pytest.mark.parametrize("room", [FEW_RULES, FEW_ELEMENTS, FEW_LOOKS])
def test_what_both_have_unchanged_stays_where_there_is_no_room_for_more(room: Room) -> None:
    then, now, drift = a_port_of_each_block(20)
    same = Match(blocks((7, 7)), None, ("same",))
    floor, current = (Ruleset((*(each.ingress or ()), same), (same,)) for each in (then, now))
    if room is FEW_RULES:
        # As many as now is always room for: what was edited may have to be cut in pieces.
        now = ingress((blocks((0, 1 << 24)), tcp(1, 99)))
        current = Ruleset((*(now.ingress or ()), same), (same,))
    found = ended(combining(floor, current, drift, room))
    assert found.ruleset == Ruleset((same,), (same,))
    assert found.closed == (Direction.INGRESS,)
    assert found.literals == ()


def test_each_direction_by_itself() -> None:
    then, now, _ = ranges_of_blocks_apart(20)
    small = a_port_of_each_block(2)
    floor = Ruleset(then.ingress, small[0].ingress)
    found = ended(combining(floor, Ruleset(now.ingress, small[1].ingress), no_sets, FEW_RULES))
    assert found.closed == (Direction.INGRESS,)
    assert found.ruleset.ingress == ()
    assert len(found.ruleset.egress or ()) == 2


def test_as_many_rules_as_there_are_now_may_be() -> None:
    """The operator's count in no budget."""
    then, now, drift = a_port_of_each_block(20)
    found = ended(combining(then, now, drift, Room(1, 1000, LOOKS)))
    assert not found.closed
    assert len(found.ruleset.ingress or ()) == 20


def test_blocks_that_are_known_take_no_room() -> None:
    then, now, drift = a_port_of_each_block(20)
    first = ended(combining(then, now, drift, AMPLE))
    known = {each: each for each in first.literals}
    again = ended(combining(then, now, drift, Room(1000, 20, LOOKS, known)))
    assert again.ruleset == first.ruleset
    assert all(one is two for one, two in zip(again.literals, first.literals, strict=True))
    # 20 ports are elements as well.
    assert ended(combining(then, now, drift, Room(1000, 39, LOOKS))).closed


@pytest.mark.parametrize(("floor", "current"), [(True, False), (False, True)])
def test_who_came_or_left_where_one_side_alone_isolates(floor: bool, current: bool) -> None:
    """A set beside which there is no room for those stands for the common members."""
    everybody, nobody = Members(frozenset(n.to_bytes(4, "big") for n in range(20))), Members()
    one = ingress((pods(1), None))
    drift = make_drift(everybody, nobody) if floor else make_drift(nobody, everybody)
    args = (one if floor else Ruleset(), one if current else Ruleset(), lambda ref: drift)
    full = ended(combining(*args, AMPLE)).ruleset.ingress or ()
    assert [isinstance(match.peer, BlockSet) for match in full] == [False, True]
    closed = ended(combining(*args, FEW_ELEMENTS))
    assert closed.ruleset == one
    assert closed.closed == (Direction.INGRESS,)


# --- random pairs ----------------------------------------------------------------------------------------

PODS = [pods(n) for n in range(3)]
ENDS = [EndpointSet(NET, None, ((6, name),)) for name in worlds.PORT_NAMES]
peers: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.sampled_from([*PODS, *ENDS]),
    st.lists(worlds.blocks(), min_size=1, max_size=2).map(
        lambda found: BlockSet(
            *(union(s for one in found if one.family == family for s in one.spans) for family in (4, 6))
        )
    ),
)
some_ports = st.none() | st.lists(
    st.tuples(worlds.protocols, st.none() | worlds.spans), min_size=1, max_size=3
).map(lambda found: united([(one,) for one in found] * 2))
some_matches = st.lists(
    st.tuples(peers, some_ports).map(
        lambda pair: Match(pair[0], None if isinstance(pair[0], EndpointSet) else pair[1], ("x",))
    ),
    max_size=8,
).map(tuple)
addresses = st.sets(st.sampled_from(worlds.ADDRESSES))
hosts = addresses.map(
    lambda found: Members(*(frozenset(a for a in found if len(a) == size) for size in (4, 16)))
)
ends = st.sets(st.tuples(st.sampled_from(worlds.ADDRESSES[:3]), worlds.protocols, st.integers(1, 6))).map(
    lambda found: Members(frozenset(found))
)
worldly = st.tuples(*[hosts] * len(PODS), *[ends] * len(ENDS))
rooms = st.builds(Room, st.integers(0, 8), st.integers(0, 20), st.sampled_from([0, 30, 100, 1000])) | st.just(
    AMPLE
)
PROBES = [
    Packet(peer=peer, own=bytes(len(peer)), protocol=protocol, port=port)
    for peer in worlds.ADDRESSES
    for protocol, port in ((6, 1), (6, 3), (6, 6), (17, 2), (17, 5), (1, None))
]


@settings(max_examples=400, deadline=None)
@given(
    then=some_matches,
    now=some_matches,
    members=st.tuples(worldly, worldly),
    room=rooms,
    same=st.integers(0, 3),
)
def test_only_what_both_permit_and_all_of_it_where_there_is_room(
    then: tuple[Match, ...],
    now: tuple[Match, ...],
    members: tuple[Sequence[Members], Sequence[Members]],
    room: Room,
    same: int,
) -> None:
    was, is_now = (dict(zip([*PODS, *ENDS], each, strict=True)) for each in members)
    floor, current = Ruleset(ingress=then), Ruleset(ingress=(*now, *then[:same]))
    found = ended(combining(floor, current, lambda ref: make_drift(was[ref], is_now[ref]), room))
    for packet in PROBES:
        got, _ = trace(
            found.ruleset, Direction.INGRESS, packet, lambda ref: make_drift(was[ref], is_now[ref]).common
        )
        both = (
            trace(floor, Direction.INGRESS, packet, was.__getitem__)[0]
            and (trace(current, Direction.INGRESS, packet, is_now.__getitem__)[0])
        )
        assert got is both or (found.closed and not got), packet
    assert found.looked <= room.looks or found.closed
    assert not (room is AMPLE and found.closed)


# --- spans and ports in pieces ---------------------------------------------------------------------------

small_spans = st.sets(st.integers(0, 60)).map(
    lambda found: tuple((2 * n, 2 * n + n % 2) for n in sorted(found))
)


@given(st.lists(small_spans, max_size=5), small_spans)
def test_spans_that_are_united_and_met(
    runs: list[tuple[tuple[int, int], ...]], other: tuple[tuple[int, int], ...]
) -> None:
    whole = ended(unite(runs, Meter(AMPLE)))
    inside = {n for run in runs for first, last in run for n in range(first, last + 1)}
    assert {n for first, last in whole for n in range(first, last + 1)} == inside
    met = ended(meet_spans(whole, other, Meter(AMPLE)))
    others = {n for first, last in other for n in range(first, last + 1)}
    assert {n for first, last in met for n in range(first, last + 1)} == inside & others


def test_one_span_among_many_is_searched_for() -> None:
    meter = Meter(AMPLE)
    many = tuple((10 * n, 10 * n + 5) for n in range(100_000))
    assert ended(meet_spans(many, ((500_000, 500_007),), meter)) == ((500_000, 500_005),)
    assert meter.looked < 20


def test_ports_of_whole_protocols_are_met() -> None:
    assert common_ports(((6, None), (17, (5, 9))), ((6, (1, 3)), (17, None))) == ((6, (1, 3)), (17, (5, 9)))
    assert united([((6, (1, 3)),), ((6, None),), ((17, (1, 2)),)]) == ((6, None), (17, (1, 2)))
    assert united([None, ((6, None),)]) is None


def test_a_meter_stops() -> None:
    meter = Meter(Room(1, 1, 10))
    assert not meter.look(10)
    with pytest.raises(TooMuchError):
        meter.look(1)
