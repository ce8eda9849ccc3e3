"""A policy for every network of its namespace, as closures are: whom it governs, and what it leaves alone.

proves: F3
"""

import pytest

from daemon.model import (
    EVERYWHERE,
    AttachmentKey,
    CommonRules,
    Direction,
    Pod,
    Policy,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.compile import compile_ruleset, governs
from daemon.policy.evaluate import Packet, World, evaluate
from daemon.policy.ruleset import OPEN, Ruleset
from daemon.store import Store
from tests.unit.policy.stored import KEY, NET1, NET2, attach, change, gone, make_store, pod, policy

pytestmark = pytest.mark.unit

SHUT = Policy("ns", "(not kept)", (EVERYWHERE,), Selector(), (), ())
ALL = Policy("ns", "all", (NET1,), Selector(), (Rule(None, None),), None)
CLOSED = Ruleset((), ())
SYN = Packet(bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1]), 6, 80)


@pytest.mark.parametrize("networks", [(NET1,), (NET2,), (NET1, NET2), ("other/net", "x/y"), ()])
def test_it_governs_every_network_of_its_namespace(networks: tuple[str, ...]) -> None:
    """Also an interface of which nobody knows the network; and the oracle says the same."""
    for namespace, governed in (("ns", True), ("other", False)):
        subject = Subject(namespace, {"any": "label"}, (), networks)
        assert governs(SHUT, namespace, subject.labels, networks) is governed
        for direction in Direction:
            verdict = evaluate(World((SHUT,), (), {}), subject, direction, SYN)
            assert (verdict.allowed, verdict.isolated) == (not governed, governed)
    assert compile_ruleset(Subject("ns", {}, (), networks), [SHUT], CommonRules()) == CLOSED


def test_what_others_permit_passes() -> None:
    """Less than if all policies were there: each of those could only permit more."""
    subject = Subject("ns", {}, (), (NET1,))
    world = World((SHUT, ALL), (), {})
    assert evaluate(world, subject, Direction.INGRESS, SYN).allowed
    assert not evaluate(world, subject, Direction.EGRESS, SYN).allowed


def test_it_comes_and_goes_like_any_other() -> None:
    store = make_store(pod())
    attach(store)
    attach(store, SECOND, networks=(NET2,))
    attach(store, UNKNOWN, networks=())
    here = {KEY, SECOND, UNKNOWN}
    for _ in range(2):
        assert store.apply([change(SHUT)]) == here
        assert {key: store.ruleset(key) for key in here} == dict.fromkeys(here, CLOSED)
        assert store.governing(UNKNOWN) == (SHUT,)
        assert store.apply([gone(SHUT)]) == here
        assert {key: store.ruleset(key) for key in here} == dict.fromkeys(here, OPEN)


SECOND, UNKNOWN = AttachmentKey("c1", "net2"), AttachmentKey("c1", "net3")


def test_what_comes_and_changes_while_it_is_there_is_governed() -> None:
    store = make_store(pod(), SHUT)
    attach(store)
    assert store.ruleset(KEY) == CLOSED
    store.update_networks(KEY, (NET2,), (NET2,))
    assert store.ruleset(KEY) == CLOSED
    store.detach(KEY)
    assert store.apply([gone(SHUT)]) == set()


def test_other_namespaces_and_who_has_no_identity_are_left_alone() -> None:
    store = make_store(Pod("other", "p", "u1", {}), SHUT)
    attach(store, ref=None)
    store.attach(SECOND, ("other", "p"), "u1", Subject("other", {}, (), (NET1,)), ())
    assert store.ruleset(KEY) == store.ruleset(SECOND) == OPEN


def test_it_names_nothing_that_could_be_missing() -> None:
    store = make_store(SHUT, policy())
    assert [key.name for key in store.problems()] == ["deny"]


def test_while_behind_nothing_opens_by_its_end() -> None:
    """E8."""
    store: Store = make_store(pod(), SHUT)
    attach(store)
    store.hold()
    store.apply([gone(SHUT)])
    assert (store.ruleset(KEY).ingress, store.ruleset(KEY).egress) == ((), ())
    assert store.release() == {KEY}
    assert store.ruleset(KEY) == OPEN
