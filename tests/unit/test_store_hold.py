"""The store: nothing relaxes while held.

proves: A11, E5, E8
"""

import pytest

from daemon.desired import make_program
from daemon.model import (
    AttachmentKey,
    Namespace,
    Pod,
    PodPeer,
    Policy,
    Rule,
    Selector,
)
from daemon.planner import GateRequest, Program
from daemon.policy.ruleset import OPEN, BlockSet
from daemon.store import Store
from tests.unit.policy.stored import (
    ALL_PODS,
    FROM_PODS,
    KEY,
    NET1,
    NET2,
    ONE,
    PEER_KEY,
    STALE,
    TWO,
    attach,
    change,
    gone,
    make_store,
    peers,
    pod,
    policy,
    status,
)

pytestmark = pytest.mark.unit

ANYONE = Rule(None, None)
PEER = pod("q", statuses=status(TWO))


def programmed(store: Store) -> Program:
    return make_program([GateRequest("net1", 7, str(KEY), store.ruleset(KEY))], store.members, True)


def held_store(*objects: Namespace | Pod | Policy) -> Store:
    store = make_store(*objects)
    attach(store)
    store.hold()
    return store


# --- nothing relaxes -------------------------------------------------------------------------------------


def test_a_policy_that_goes_stays_and_one_that_comes_counts() -> None:
    store = held_store(policy(FROM_PODS), PEER)
    before = store.ruleset(KEY)
    assert store.apply([gone(policy())]) == {KEY}
    assert store.ruleset(KEY) == before
    assert store.apply([change(policy())]) == {KEY}
    assert store.ruleset(KEY).ingress == ()
    assert store.apply([change(policy(ANYONE))]) == {KEY}
    assert store.ruleset(KEY).ingress == before.ingress
    assert store.release() == {KEY}
    assert [match.peer for match in store.ruleset(KEY).ingress or ()] == [None]


def test_a_peer_that_comes_waits_and_one_that_goes_is_gone() -> None:
    store = held_store(policy(FROM_PODS), PEER)
    before = programmed(store)
    assert store.apply([change(pod("r", statuses=status(STALE)))]) == {KEY}
    assert programmed(store) == before
    assert peers(store) == {TWO}
    store.apply([gone(PEER)])
    assert peers(store) == set()
    assert store.release() == {KEY}
    assert peers(store) == {STALE}


def test_a_subject_that_changes_its_labels() -> None:
    store = held_store(pod(labels={"app": "a"}), policy(app="a"))
    store.apply([change(pod(labels={"app": "b"}))])
    assert store.ruleset(KEY).ingress == ()
    assert store.release() == {KEY}
    assert store.ruleset(KEY) == OPEN


def test_other_networks() -> None:
    store = held_store(pod(), policy())
    store.update_networks(KEY, (NET2,), (NET2,))
    assert store.ruleset(KEY).ingress == ()
    store.release()
    assert store.ruleset(KEY) == OPEN


def test_a_policy_that_nobody_had_asked_for_yet_is_part_of_the_floor() -> None:
    store = make_store(pod())
    attach(store)
    store.ruleset(KEY)
    store.apply([change(policy())])
    store.hold()
    store.apply([gone(policy())])
    assert store.ruleset(KEY).ingress == ()


def test_hold_around_nothing_costs_nothing() -> None:
    store = make_store(policy(FROM_PODS), PEER)
    attach(store)
    before, members = programmed(store), store.members(next(store.ruleset(KEY).sets()))
    ruleset = store.ruleset(KEY)
    store.hold()
    assert store.ruleset(KEY) is ruleset
    assert store.members(next(ruleset.sets())) is members
    assert programmed(store) == before
    assert store.release() == set()
    assert store.ruleset(KEY) is ruleset
    assert store.release() == set()


def test_what_only_tightened_costs_nothing_at_the_release() -> None:
    store = held_store(policy(FROM_PODS), PEER)
    store.apply([gone(PEER), change(policy(FROM_PODS, name="other"))])
    before = programmed(store)
    assert store.release() == set()
    assert programmed(store) == before


def test_a_second_hold_keeps_the_first_floor() -> None:
    store = held_store(policy(), pod())
    store.apply([gone(policy())])
    store.hold()
    assert store.ruleset(KEY).ingress == ()


def test_a_later_hold_has_a_new_floor() -> None:
    store = held_store(policy(), pod())
    store.release()
    store.apply([gone(policy())])
    store.hold()
    assert store.ruleset(KEY) == OPEN


def test_literals_follow_the_members_of_both_sides() -> None:
    """Another selector while held: literals, which are dirty with either set."""
    one = Policy("ns", "deny", (NET1,), Selector(), (FROM_PODS,), None)
    everywhere = Rule((PodPeer(Selector(), Selector()),), None)
    store = held_store(one, PEER, pod("r", statuses=status(STALE)))
    store.apply([change(policy(everywhere))])
    (match,) = store.ruleset(KEY).ingress or ()
    number = int.from_bytes(TWO, "big")
    assert (number, number) in getattr(match.peer, "spans4", ())
    assert store.apply([gone(PEER)]) == {KEY}
    (match,) = store.ruleset(KEY).ingress or ()
    assert (number, number) not in getattr(match.peer, "spans4", ())


def test_a_set_of_the_floor_alone_dirties() -> None:
    store = held_store(policy(FROM_PODS), pod(), PEER)
    store.apply([change(policy(ANYONE))])
    assert [match.peer for match in store.ruleset(KEY).ingress or ()] == [ALL_PODS]
    assert store.apply([change(pod(labels={"any": "label"}))]) == {KEY}
    store.ruleset(KEY)
    assert store.apply([gone(PEER)]) == {KEY}
    store.ruleset(KEY)
    store.release()
    assert store.apply([change(PEER)]) == set()


def test_the_same_objects_as_long_as_what_they_mean_is_the_same() -> None:
    store = held_store(policy(FROM_PODS), PEER)
    store.apply([gone(policy()), gone(PEER)])
    ruleset, members = store.ruleset(KEY), store.members(ALL_PODS)
    assert store.apply([change(pod("r", statuses=status(b"new4")))]) == {KEY}
    assert store.ruleset(KEY) is ruleset
    assert store.members(ALL_PODS) is members


def test_an_attachment_that_comes_later_has_no_floor() -> None:
    store = held_store(policy(FROM_PODS), pod())
    late = pod("q")
    store.apply([change(late), change(policy(FROM_PODS, ANYONE))])
    attach(store, PEER_KEY, ("ns", "q"), addresses=(TWO,))
    assert None in [match.peer for match in store.ruleset(PEER_KEY).ingress or ()]
    assert [match.peer for match in store.ruleset(KEY).ingress or ()] == [ALL_PODS]
    assert store.release() == {KEY, PEER_KEY}


def test_of_a_shared_set_an_attachment_that_comes_later_gets_all_members() -> None:
    """For it nothing relaxed: who came since the hold stands beside the set, which others share."""
    store = held_store(policy(FROM_PODS), pod())
    store.apply([change(PEER)])
    attach(store, AttachmentKey("c3", "net1"), ("ns", "r"), addresses=(STALE,))
    literal = (store.ruleset(AttachmentKey("c3", "net1")).ingress or ())[-1].peer
    assert isinstance(literal, BlockSet)
    assert literal.spans4 == ((int.from_bytes(TWO, "big"),) * 2,)
    assert peers(store) == {ONE}
    assert [match.peer for match in store.ruleset(KEY).ingress or ()] == [ALL_PODS]


@pytest.mark.parametrize("uid", ["u1", ""])
def test_attached_again_it_keeps_its_floor(uid: str) -> None:
    store = held_store(policy(), pod())
    store.apply([gone(policy())])
    attach(store, uid=uid)
    assert store.ruleset(KEY).ingress == ()
    store.detach(KEY)
    attach(store, uid=uid)
    assert store.ruleset(KEY).ingress == ()


@pytest.mark.parametrize(("ref", "uid"), [(("ns", "p"), "u2"), (("ns", "q"), "u1"), (None, "u1")])
def test_attached_again_as_another_pod_it_has_none(ref: tuple[str, str] | None, uid: str) -> None:
    """A12"""
    store = held_store(policy(), pod())
    store.apply([gone(policy())])
    store.detach(KEY)
    attach(store, ref=ref, uid=uid)
    assert store.ruleset(KEY) == OPEN


def test_not_ready_attachments_have_a_floor_that_takes_nothing() -> None:
    """Without networks nothing governs: what it converges to while held is what its policies say."""
    store = make_store(policy(FROM_PODS), PEER)
    attach(store, uid="", networks=())
    store.hold()
    store.apply([change(pod())])
    store.detach(KEY)
    attach(store)
    assert [match.peer for match in store.ruleset(KEY).ingress or ()] == [ALL_PODS]
    assert peers(store) == {ONE, TWO}
