"""What both of two rulesets permit: shapes, random pairs against the oracle, and walks of a store that holds.

proves: E2, E5, E8
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from daemon.model import (
    AttachmentKey,
    Change,
    CommonRules,
    Direction,
    Namespace,
    ObjectKey,
    Pod,
    Policy,
    Selector,
    Subject,
)
from daemon.policy.bounds import Room
from daemon.policy.budget import DEFAULT, Budget
from daemon.policy.compile import compile_ruleset, governs
from daemon.policy.evaluate import Located, Packet, World, evaluate
from daemon.policy.ruleset import (
    OPEN,
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
from daemon.store import Store
from tests.unit.policy import worlds
from tests.unit.policy.test_walks import PROBES, Attached, Walk
from tests.unit.policy.tracer import trace

pytestmark = pytest.mark.unit

# --- shapes ----------------------------------------------------------------------------------------------

NET = ("ns/net1",)
ONE, TWO, THREE = (bytes([10, 0, 0, n]) for n in (1, 2, 3))
SIX = b"\xfd" + bytes(15)
A, B = PodSet(NET, "a", None, Selector()), PodSet(NET, "b", None, Selector())
WEB, DNS = EndpointSet(NET, None, ((6, "web"),)), EndpointSet(NET, A, ((6, "dns"),))
MEMBERS = {
    A: Members(frozenset({ONE, TWO}), frozenset({SIX})),
    B: Members(frozenset({TWO, THREE}), frozenset({SIX})),
    WEB: Members(frozenset({(ONE, 6, 80), (TWO, 6, 80), (TWO, 6, 81)})),
    DNS: Members(frozenset({(ONE, 6, 80), (TWO, 6, 81), (THREE, 6, 81)})),
}
TCP, UDP = (6, None), (17, None)
HTTP = (6, (80, 80))


def combined(floor: Ruleset, current: Ruleset, drift: DriftOf, budget: Budget = DEFAULT) -> Combined:
    room = Room(budget.rules, budget.elements, 10 * budget.elements)
    return ended(combining(floor, current, drift, room))


def strict(floor: Ruleset, current: Ruleset, drift: DriftOf) -> Ruleset:
    return combined(floor, current, drift).ruleset


def hosts(*addresses: bytes) -> BlockSet:
    numbers = [sorted(int.from_bytes(a, "big") for a in addresses if len(a) == size) for size in (4, 16)]
    return BlockSet(*(tuple((n, n) for n in of_family) for of_family in numbers))


def span(first: bytes, last: bytes) -> BlockSet:
    return BlockSet(((int.from_bytes(first, "big"), int.from_bytes(last, "big")),), ())


def only(peer: PeerRef | None, ports: Ports | None = None, origin: str = "now") -> Ruleset:
    return Ruleset(ingress=(Match(peer, ports, (origin,)),))


def unchanged(ref: SharedRef) -> Drift:
    return make_drift(MEMBERS[ref], MEMBERS[ref])


def changed(**then: Members) -> Callable[[SharedRef], Drift]:
    before = {A: then.get("a", MEMBERS[A]), B: then.get("b", MEMBERS[B])}
    return lambda ref: make_drift(before[ref], MEMBERS[ref]) if isinstance(ref, PodSet) else unchanged(ref)


def permissions(ruleset: Ruleset) -> set[tuple[Any, Any]] | None:
    return None if ruleset.ingress is None else {(match.peer, match.ports) for match in ruleset.ingress}


SHAPES = [
    ("ports", (None, (HTTP, UDP)), (None, (TCP,)), [(None, (HTTP,))]),
    ("port ranges", (None, ((6, (1, 9)), (6, (20, 30)))), (None, ((6, (5, 25)),)), [
        (None, ((6, (5, 9)), (6, (20, 25))))
    ]),
    ("no common port", (None, (TCP,)), (None, (UDP,)), []),
    ("everything and some ports", (None, None), (None, (HTTP,)), [(None, (HTTP,))]),
    ("anyone and a set", (None, (TCP,)), (A, (HTTP,)), [(A, (HTTP,))]),
    ("a set and anyone", (A, None), (None, (HTTP,)), [(A, (HTTP,))]),
    ("one set on two ports", (A, ((6, (1, 99)),)), (A, (HTTP,)), [(A, (HTTP,))]),
    ("two sets", (A, (TCP,)), (B, (HTTP,)), [(hosts(TWO, SIX), (HTTP,))]),
    ("a set and a block", (span(TWO, THREE), None), (A, (HTTP,)), [(hosts(TWO), (HTTP,))]),
    ("two blocks", (span(ONE, TWO), None), (span(TWO, THREE), None), [(hosts(TWO), None)]),
    ("blocks apart", (span(ONE, ONE), None), (span(TWO, TWO), None), []),
    ("endpoints and everything", (None, None), (WEB, None), [(WEB, None)]),
    ("endpoints and a port", (WEB, None), (None, (HTTP,)), [(hosts(ONE, TWO), (HTTP,))]),
    ("endpoints and a protocol", (WEB, None), (None, (UDP,)), []),
    ("endpoints and a set", (WEB, None), (B, None), [
        (hosts(TWO), ((6, (80, 81)),))
    ]),
    ("endpoints and a block on a port", (span(ONE, ONE), (HTTP,)), (WEB, None), [(hosts(ONE), (HTTP,))]),
    ("endpoints and others", (WEB, None), (DNS, None), [
        (hosts(ONE), (HTTP,)), (hosts(TWO), ((6, (81, 81)),))
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "floor", "current", "want"), SHAPES, ids=[shape[0] for shape in SHAPES])
def test_two_matches(
    name: str,
    floor: tuple[PeerRef | None, Ports | None],
    current: tuple[PeerRef | None, Ports | None],
    want: list[tuple[PeerRef | None, Ports | None]],
) -> None:
    found = strict(only(*floor, "then"), only(*current), unchanged)
    assert permissions(found) == set(want)
    assert all(match.origins == ("now",) for match in found.ingress or ())


def test_directions() -> None:
    """B2: isolated by either is isolated, and one direction says nothing of the other."""
    both = strict(only(A, None, "then"), Ruleset(egress=(Match(B, None, ("now",)),)), unchanged)
    assert both == Ruleset((Match(A, None, ("then",)),), (Match(B, None, ("now",)),))
    assert strict(OPEN, OPEN, unchanged) is OPEN
    assert strict(Ruleset(ingress=()), only(None), unchanged) == Ruleset(ingress=())


@pytest.mark.parametrize("floor", [OPEN, only(A)])
def test_what_is_not_held_back_is_the_same_object(floor: Ruleset) -> None:
    current = only(A)
    assert strict(floor, current, unchanged) is current


def test_a_set_that_grew_stays_a_reference() -> None:
    """A gained member is in no rule and in no ruleset, so a program stays as it is."""
    floor = only(A)
    grown = changed(a=Members(frozenset({ONE}), frozenset({SIX})))
    assert strict(floor, floor, grown) is floor
    assert grown(A).common == Members(frozenset({ONE}), frozenset({SIX}))


def test_a_pod_that_changed_from_one_permitted_set_to_another_stays_permitted() -> None:
    """E2: connections that are still allowed never stall."""
    floor = Ruleset(ingress=(Match(A, (HTTP,), ("a",)), Match(B, (HTTP,), ("b",))))
    moved = changed(a=Members(frozenset({ONE, TWO, THREE})), b=Members(frozenset({TWO})))
    found = strict(floor, floor, moved)
    assert permissions(found) == {(A, (HTTP,)), (B, (HTTP,)), (hosts(THREE), (HTTP,))}
    assert (found.ingress or ())[:2] == floor.ingress


def test_what_one_set_lost_and_another_gained_may_be_the_same() -> None:
    floor = Ruleset(ingress=(Match(A, None, ("a",)), Match(B, None, ("b",))))
    moved = changed(
        a=Members(frozenset({ONE, TWO, THREE}), frozenset({SIX})),
        b=Members(frozenset({TWO}), frozenset({SIX})),
    )
    assert permissions(strict(floor, floor, moved)) == {(A, None), (B, None), (hosts(THREE), None)}


def test_a_set_that_grew_under_a_floor_of_anyone() -> None:
    found = strict(only(None, None, "then"), only(A, (HTTP,)), changed(a=Members(frozenset({ONE}))))
    assert permissions(found) == {(A, (HTTP,)), (hosts(TWO, SIX), (HTTP,))}


def test_many_equal_matches_cost_no_product() -> None:
    many = tuple(Match(hosts(n.to_bytes(4, "big")), (HTTP,), ("many",)) for n in range(20_000))
    asked: list[SharedRef] = []

    def drift(ref: SharedRef) -> Drift:
        asked.append(ref)
        return unchanged(ref)

    floor = Ruleset(ingress=(*many, Match(A, None, ("then",))))
    found = strict(floor, Ruleset(ingress=(*many[:-1], Match(B, None, ("now",)))), drift)
    assert (found.ingress or ())[:-1] == many[:-1]
    assert (found.ingress or ())[-1].peer == hosts(TWO, SIX)
    assert len(asked) < 10


def test_many_edited_matches_cost_no_product() -> None:
    """54 policies of 450 blocks each, every one of them edited: blocks on the same ports add up."""
    blocks = [[(n << 8, (n << 8) + 9) for n in range(k * 1000, k * 1000 + 450)] for k in range(54)]
    floor, current = (
        Ruleset(
            ingress=tuple(
                Match(BlockSet(tuple(spans[part]), ()), (HTTP,), (f"{label}{k}",))
                for k, spans in enumerate(blocks)
            )
        )
        for label, part in (("then", slice(0, -1)), ("now", slice(1, None)))
    )
    (match,) = strict(floor, current, unchanged).ingress or ()
    assert match.peer == BlockSet(tuple(span for spans in blocks for span in spans[1:-1]), ())
    assert match.origins == tuple(f"now{k}" for k in range(54))


def test_hosts_stay_apart_from_wider_blocks() -> None:
    """They are another kind of set, and follow the pods: with others, wide blocks need no rewriting."""
    wide, other = span(ONE, THREE), span(bytes([10, 1, 0, 0]), bytes([10, 1, 0, 9]))
    floor = Ruleset(ingress=(Match(wide, None, ("a",)), Match(hosts(bytes([10, 1, 0, 3])), None, ("b",))))
    now = Ruleset(ingress=tuple(Match(p, None, ("c",)) for p in (other, hosts(ONE), hosts(TWO), hosts(SIX))))
    found = strict(floor, now, unchanged)
    assert permissions(found) == {(hosts(ONE, TWO), None), (hosts(bytes([10, 1, 0, 3])), None)}


# --- random pairs ----------------------------------------------------------------------------------------


def _members_in(pods: list[Pod], namespaces: list[Namespace]) -> Callable[[SharedRef], Members]:
    store = Store(CommonRules())
    store.apply([Change(ObjectKey("Pod", *pod.ref), pod) for pod in pods])
    store.apply([Change(ObjectKey("Namespace", "", one.name), one) for one in namespaces])
    return store.members


def _compile(policies: list[Policy], subject: Subject, common: CommonRules) -> Ruleset:
    ordered = sorted(policies, key=lambda policy: policy.key)
    governing = [p for p in ordered if governs(p, subject.namespace, subject.labels, subject.networks)]
    return compile_ruleset(subject, governing, common)


def _world(
    pods: list[Pod], policies: list[Policy], namespaces: list[Namespace], common: CommonRules
) -> World:
    located = []
    for pod in pods:
        addresses: dict[str, tuple[bytes, ...]] = {}
        for status in pod.statuses:
            addresses[status.network] = addresses.get(status.network, ()) + status.addresses
        located.append(Located(pod, addresses))
    return World(tuple(policies), tuple(located), {one.name: one.labels for one in namespaces}, common)


some_pods = st.lists(worlds.pods, max_size=4, unique_by=lambda pod: pod.ref)
some_policies = st.lists(worlds.policies, max_size=3, unique_by=lambda policy: policy.key)
some_namespaces = st.lists(worlds.namespaces, max_size=2, unique_by=lambda namespace: namespace.name)


@settings(max_examples=600, deadline=None)
@given(
    pods=st.tuples(some_pods, some_pods),
    namespaces=st.tuples(some_namespaces, some_namespaces),
    policies=some_policies,
    edited=some_policies,
    subjects=st.tuples(worlds.subjects, worlds.subjects),
    same=st.sets(st.sampled_from(["pods", "namespaces", "subject"])),
    common=worlds.common,
    packets=st.lists(worlds.packets(), min_size=1, max_size=6),
)
def test_permits_what_both_permit(
    pods: tuple[list[Pod], list[Pod]],
    namespaces: tuple[list[Namespace], list[Namespace]],
    policies: list[Policy],
    edited: list[Policy],
    subjects: tuple[Subject, Subject],
    same: set[str],
    common: CommonRules,
    packets: list[Packet],
) -> None:
    """Two clusters that have some of it in common: exactly what the oracle permits in both."""
    now_policies = [*edited, *(p for p in policies if p.key not in {e.key for e in edited})]
    now_pods = pods[0] if "pods" in same else pods[1]
    now_namespaces = namespaces[0] if "namespaces" in same else namespaces[1]
    subject = subjects[0] if "subject" in same else subjects[1]
    then_members, now_members = _members_in(pods[0], namespaces[0]), _members_in(now_pods, now_namespaces)

    def drift(ref: SharedRef) -> Drift:
        return make_drift(then_members(ref), now_members(ref))

    floor, current = _compile(policies, subjects[0], common), _compile(now_policies, subject, common)
    found = strict(floor, current, drift)
    then_world = _world(pods[0], policies, namespaces[0], common)
    now_world = _world(now_pods, now_policies, now_namespaces, common)
    for packet in (*packets, *PROBES):
        for direction in Direction:
            got, _ = trace(found, direction, packet, lambda ref: drift(ref).common)
            then, _ = trace(floor, direction, packet, then_members)
            now, _ = trace(current, direction, packet, now_members)
            assert got is (then and now), (direction, packet)
            assert then is evaluate(then_world, subjects[0], direction, packet).allowed
            assert now is evaluate(now_world, subject, direction, packet).allowed
    for direction in Direction:
        if (matches := current.matches(direction)) is not None:
            allowed = {origin for match in matches for origin in match.origins}
            assert {o for match in found.matches(direction) or () for o in match.origins} <= allowed


# --- a store that holds ----------------------------------------------------------------------------------

Verdicts = dict[tuple[Direction, Packet], bool]


class HeldWalk(Walk):
    """The source falls behind and catches up at any moment: what counts is what was and is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.floors: dict[AttachmentKey, tuple[Attached, Verdicts]] | None = None

    @rule()
    def hold(self) -> None:
        self.store.hold()
        if self.floors is None:
            world = self._world()
            self.floors = {
                key: (replace(attached), _oracle(world, attached)) for key, attached in self.attached.items()
            }

    @rule()
    def release(self) -> None:
        self.dirty |= self.store.release()
        self.floors = None

    @invariant()
    def verdicts_are_the_oracles(self) -> None:
        world = self._world()
        for key, attached in self.attached.items():
            assert self.store.subject(key) == attached.subject
            floor = self._floor_of(key, attached)
            ruleset = self.store.ruleset(key)
            for (direction, packet), now in _oracle(world, attached).items():
                want = now and floor.get((direction, packet), True)
                got, _ = trace(ruleset, direction, packet, self.store.members)
                assert got is want, (key, direction, packet)

    def _floor_of(self, key: AttachmentKey, attached: Attached) -> Verdicts:
        if self.floors is None or key not in self.floors:
            return {}
        then, verdicts = self.floors[key]
        if then.ref == attached.ref and (then.uid == attached.uid or "" in (then.uid, attached.uid)):
            return verdicts
        del self.floors[key]
        return {}


def _oracle(world: World, attached: Attached) -> Verdicts:
    governed = attached.ref is not None and not attached.host_network
    return {
        (direction, packet): not governed or evaluate(world, attached.subject, direction, packet).allowed
        for packet in PROBES
        for direction in Direction
    }


TestHeldWalk = pytest.mark.unit(HeldWalk.TestCase)
TestHeldWalk.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
