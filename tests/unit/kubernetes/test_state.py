"""ClusterState: what follows from what the reflectors tell, and in which order it is published."""

import threading

import pytest

from daemon.model import Namespace, ObjectKey, Pod
from daemon.sources.base import Finding, Found
from daemon.sources.kubernetes import departures, state
from daemon.sources.kubernetes.departures import Departures
from daemon.sources.kubernetes.sink import Standing
from daemon.sources.kubernetes.watched import NAMESPACES, NET_ATTACH_DEFS, POLICIES
from tests.lab.polling import poll
from tests.unit.kubernetes.stated import (
    ALWAYS,
    BROKEN,
    FORBIDDEN,
    LOST,
    MISSING,
    OWN,
    PEERS,
    SELECTING,
    Told,
    bad_policy,
    live,
    pod,
    policy,
    space,
)

KEY = ObjectKey("MultiNetworkPolicy", "default", "p")


def far_future() -> float:
    return threading.TIMEOUT_MAX


def resolve(told: Told, kind_goes: bool = False) -> None:
    """As the chores do it, once all that leave are due."""
    told.state.resolve_leaving(kind_goes, (), far_future())


# --- how far it is to be trusted -------------------------------------------------------------------------


def test_complete_when_all_are_listed() -> None:
    told = Told()
    told.state.stands(POLICIES, Standing(False, True, False, "connection refused"))
    for number, collection in enumerate(ALWAYS):
        told.listed(collection)
        waiting = [one.name for one in ALWAYS[number + 1 :]]
        assert told.last.complete is (not waiting)
        assert [part.partition(":")[0] for part in told.last.because.split("; ") if part] == waiting
        if POLICIES.name in waiting:
            assert "policies: connection refused" in told.last.because
    assert (told.last.complete, told.last.because, told.last.behind) == (True, "", "")


def test_once_complete_always_complete() -> None:
    told = Told().complete()
    for standing in (LOST, MISSING, FORBIDDEN):
        told.state.stands(POLICIES, standing)
        assert told.last.complete


@pytest.mark.parametrize(
    ("standing", "behind", "refused"),
    [(BROKEN, False, False), (LOST, True, False), (FORBIDDEN, True, True), (MISSING, True, True)],
    ids=["broken", "lost", "forbidden", "missing"],
)
def test_behind_and_refused(standing: Standing, behind: bool, refused: bool) -> None:
    told = Told().complete()
    told.state.stands(NET_ATTACH_DEFS, standing)
    text = f"net-attach-defs: {standing.reason}"
    assert told.last.behind == (text if behind else "")
    assert told.last.refused == ((text,) if refused else ())
    (problem,) = told.last.problems["net-attach-defs"]
    assert problem.message == f"{standing.reason}; what was known stays in force"
    told.listed(NET_ATTACH_DEFS) if standing.owes_list else live(told, NET_ATTACH_DEFS)
    assert (told.last.behind, told.last.refused, told.last.problems) == ("", (), {})


def test_not_behind_before_all_was_listed() -> None:
    """Then it is not complete, which says more."""
    told = Told()
    told.listed(OWN)
    told.state.stands(OWN, LOST)
    assert (told.last.behind, told.last.complete) == ("", False)
    told.state.stands(POLICIES, MISSING)
    assert told.last.refused == (f"policies: {MISSING.reason}",)
    assert told.last.problems["policies"][0].message == MISSING.reason


def test_a_relist_is_behind_until_everything_is_handed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(state, "MOST_CHANGES", 10)
    told = Told().complete()
    told.listed(OWN, *(pod(f"old{n}", collection=OWN) for n in range(25)))
    told.state.stands(OWN, LOST)
    count = len(told.updates)
    told.listed(OWN, *(pod(f"new{n}", 5, collection=OWN) for n in range(25)))
    parts = told.updates[count:]
    assert [len(part.changes) for part in parts] == [10, 10, 10, 10, 10]
    assert [bool(part.behind) for part in parts] == [True] * 4 + [False]
    assert told.names == sorted(f"new{n}" for n in range(25))


def test_a_large_first_list_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST_CHANGES", 10)
    told = Told()
    for collection in ALWAYS[1:]:
        told.listed(collection)
    count = len(told.updates)
    told.listed(OWN, *(pod(f"a{n}", collection=OWN) for n in range(21)))
    parts = told.updates[count:]
    assert [(len(part.changes), part.complete) for part in parts] == [(10, False), (10, False), (1, True)]


def test_peers_are_never_listed_before_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the parts before the last: what they hold refers to pods already."""
    monkeypatch.setattr(state, "MOST_CHANGES", 2)
    told = Told().complete()
    count = len(told.updates)
    told.listed(POLICIES, *(policy(f"p{n}", SELECTING) for n in range(7)))
    assert [part.peers_listed for part in told.updates[count:]] == [False] * 4
    told.listed(PEERS, pod("x"), pod("y"), pod("z"))
    assert [part.peers_listed for part in told.updates[count + 4 :]] == [False, True]


def test_nothing_is_published_when_nothing_changed() -> None:
    told = Told().complete()
    told.listed(OWN, pod("a", collection=OWN))
    count = len(told.updates)
    told.put(OWN, pod("a", 2, collection=OWN))  # only its version is another
    told.delete(OWN, pod("b", collection=OWN))
    told.listed(OWN, pod("a", 3, collection=OWN))
    live(told, OWN)
    told.put(PEERS, pod("c"))  # nobody wants peers
    assert told.updates[count:] == []


def test_each_standing_is_published_once() -> None:
    told = Told().complete()
    count = len(told.updates)
    for _ in range(3):
        told.state.stands(OWN, LOST)
    assert len(told.updates) == count + 1


def test_objects_that_cannot_be_decoded() -> None:
    told = Told().complete()
    told.listed(POLICIES, policy("p"), bad_policy("q"))
    assert told.names == ["p"]
    told.put(POLICIES, bad_policy("p", 2))
    assert told.names == ["p"], "its last version stays"
    assert sorted(told.last.problems) == ["MultiNetworkPolicy default/p", "MultiNetworkPolicy default/q"]
    assert told.state.undecodable()[KEY].reason == "Undecodable"
    told.put(POLICIES, policy("p", version=3))
    assert sorted(told.last.problems) == ["MultiNetworkPolicy default/q"]
    told.delete(POLICIES, bad_policy("q", 4))
    resolve(told)
    assert not told.last.problems


def test_who_is_nudged_and_when() -> None:
    told = Told()
    told.listed(OWN)
    told.state.stands(OWN, BROKEN)
    live(told, OWN)
    live(told, OWN)
    told.state.history_changed()
    assert told.calls == ["answered", "answered", "history"]


# --- deleted policies ------------------------------------------------------------------------------------


def test_a_deleted_policy_stays_until_its_kind_was_looked_at() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p"), policy("q"))
    told.delete(POLICIES, policy("p", version=2))
    assert told.names == ["p", "q"]
    told.state.resolve_leaving(False, (), 0.0)
    assert told.names == ["p", "q"], "it was not due when discovery was asked"
    assert not told.state.is_leaving_due()
    poll(told.state.is_leaving_due, bool, 1.0)
    resolve(told)
    assert told.names == ["q"]
    assert not told.state.is_leaving_due()


def test_one_that_is_created_again_never_goes() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p", uid="u1"))
    count = len(told.updates)
    told.delete(POLICIES, policy("p", version=2, uid="u1"))
    told.put(POLICIES, policy("p", SELECTING, version=3, uid="u2"))
    resolve(told)
    assert [change.object is None for change in told.changes_since(count)] == [False]


def test_policies_are_kept_while_their_kind_goes() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p"), policy("q"))
    told.delete(POLICIES, policy("p", version=2), policy("q", version=3))
    resolve(told, kind_goes=True)
    assert told.names == ["p", "q"]
    assert "is being removed" in told.last.problems["kind"][0].message
    # It is back, without them: they get time to be created again.
    resolve(told)
    assert told.names == ["p", "q"]
    assert not told.last.problems
    told.put(POLICIES, policy("p", version=9, uid="u9"))
    resolve(told)
    assert told.names == ["p"]


def test_after_a_missing_kind_policies_get_time() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p"), policy("q"))
    told.state.stands(POLICIES, MISSING)
    assert told.names == ["p", "q"]
    told.listed(POLICIES, policy("p", version=9, uid="u9"))
    assert told.last.behind == ""
    assert not told.state.is_leaving_due()
    assert told.names == ["p", "q"]
    resolve(told)
    assert told.names == ["p"]


def test_what_a_list_lacks_is_due_at_once() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p"))
    told.state.stands(POLICIES, LOST)
    told.listed(POLICIES)
    assert told.state.is_leaving_due()
    resolve(told)
    assert told.names == []


A, B = (ObjectKey("MultiNetworkPolicy", "default", name) for name in "ab")


def test_departures_of_a_removed_kind_wait_for_its_return() -> None:
    leaving = Departures()
    leaving.deleted(A, 100.0)
    assert leaving.next == 100.0 + departures.DELETION_SECONDS
    assert leaving.resolve(True, 101.0, 101.0) == []
    assert leaving.next == 101.0 + departures.KIND_SECONDS
    # While it goes on being removed they are looked at again and again.
    assert leaving.resolve(True, 106.0, 106.0) == []
    # And their relist after it is back, even where nobody saw it missing, gives them time.
    leaving.listed([A, B], 108.0)
    assert leaving.next == 108.0 + departures.REINSTALLED_SECONDS
    assert leaving.resolve(False, 137.0, 137.0) == []
    assert set(leaving.resolve(False, 138.0, 138.0)) == {A, B}
    assert len(leaving) == 0


def test_departures_that_were_not_due_when_their_kind_came_back_wait_too() -> None:
    leaving = Departures()
    leaving.deleted(A, 100.0)
    leaving.deleted(B, 100.1)
    assert leaving.resolve(True, 101.0, 101.0) == []
    leaving.deleted(B, 105.9)
    assert leaving.resolve(False, 106.0, 106.05) == []
    assert leaving.resolve(False, 120.0, 120.0) == []
    assert leaving.next == 106.05 + departures.REINSTALLED_SECONDS


def test_departures_are_not_shortened_by_a_list() -> None:
    leaving = Departures()
    leaving.kind_missing()
    leaving.listed([A], 0.0)
    leaving.listed([A, B], 1.0)
    assert leaving.resolve(False, 2.0, 2.0) == [B]
    leaving.stay(A)
    assert leaving.resolve(False, 99.0, 99.0) == []


@pytest.mark.parametrize(("before", "ends"), [(True, True), (False, True), (False, False)])
def test_a_policy_whose_namespace_ends_says_so(before: bool, ends: bool) -> None:
    """Whoever takes the policy away must see that its namespace ends, whatever the order of the watches."""
    told = Told().complete()
    told.put(NAMESPACES, space("s", 2))
    told.put(POLICIES, policy("p", namespace="s", version=3))
    count = len(told.updates)
    if before:
        told.delete(NAMESPACES, space("s", 5))
    told.delete(POLICIES, policy("p", namespace="s", version=4))
    assert told.state.ending_places(far_future()) == {"s"}
    told.state.resolve_leaving(False, {"s"} if ends else (), far_future())
    kinds = [
        (change.key.kind[0], "ends" if isinstance(change.object, Namespace) else change.object is None)
        for change in told.changes_since(count)
    ]
    if before:
        assert kinds == [("N", True), ("N", "ends"), ("M", True), ("N", True)]
    else:
        assert kinds == [("N", "ends"), ("M", True)] if ends else [("M", True)]


# --- peers -----------------------------------------------------------------------------------------------


def test_peers_are_needed_while_a_policy_refers_to_pods() -> None:
    told = Told().complete()
    told.calls.clear()
    told.put(POLICIES, policy("p"))
    assert (told.calls, told.last.peers_listed) == ([], True)
    told.put(POLICIES, policy("p", SELECTING, 2), policy("q", SELECTING, 3))
    assert (told.calls, told.last.peers_listed) == (["needs True"], False)
    told.listed(PEERS, pod("x"))
    assert told.last.peers_listed
    told.put(POLICIES, policy("p", version=4))
    told.delete(POLICIES, policy("q", version=5))
    assert told.calls[1:] == ["answered"]
    resolve(told)
    assert told.calls[2:] == ["needs False"]


def test_peers_that_are_behind_are_said_to_be() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.state.stands(PEERS, FORBIDDEN)
    assert (told.last.peers_listed, told.last.refused) == (False, (f"peer pods: {FORBIDDEN.reason}",))
    told.listed(PEERS)
    told.state.stands(PEERS, LOST)
    assert told.last.behind == f"peer pods: {LOST.reason}"


def test_peers_are_followed_until_they_are_forgotten() -> None:
    """An edit may be two steps: for a moment no policy needs peers, but nothing of them may be missed."""
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.listed(PEERS, pod("x"))
    told.put(POLICIES, policy("p", version=2))
    assert not told.state.needs_peers
    told.put(PEERS, pod("y", 3))
    told.delete(PEERS, pod("x", 4))
    told.put(POLICIES, policy("p", SELECTING, 5))
    assert told.names == ["p", "y"]
    assert told.last.peers_listed


def test_peers_forgotten_are_gone_and_their_last_words_do_not_count() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.listed(PEERS, pod("x"))
    assert not told.state.forget_peers(), "they are needed"
    assert told.names == ["p", "x"]
    told.put(POLICIES, policy("p", version=2))
    assert told.state.forget_peers()
    assert told.names == ["p"]
    told.put(PEERS, pod("y", 3))
    told.listed(PEERS, pod("z", 4))
    assert told.names == ["p"]
    told.put(POLICIES, policy("p", SELECTING, 5))
    assert not told.last.peers_listed
    told.listed(PEERS, pod("z", 4))
    assert (told.names, told.last.peers_listed) == (["p", "z"], True)


def test_of_two_views_of_a_pod_our_own_counts() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.listed(PEERS)
    told.put(OWN, pod("x", 2, "here", OWN))
    told.put(PEERS, pod("x", 3, "there"))
    key = ObjectKey("Pod", "default", "x")
    assert told.state.reference(key) == "here"
    told.delete(OWN, pod("x", 4, "here", OWN))
    found = told.model[key]
    assert isinstance(found, Pod)
    assert found.uid == "there"


# --- answers to others -----------------------------------------------------------------------------------


def test_what_others_ask() -> None:
    told = Told().complete()
    told.put(OWN, pod("a", collection=OWN))
    told.put(POLICIES, policy("p", uid="u-p"))
    uid = told.state.reference(ObjectKey("Pod", "default", "a"))
    assert told.state.has_pod("default", "a", "")
    assert told.state.has_pod("default", "a", uid)
    assert not told.state.has_pod("default", "a", "another")
    assert not told.state.has_pod("default", "b", "")
    assert told.state.reference(KEY) == "u-p"
    assert told.state.reference(ObjectKey("Pod", "default", "zz")) == ""
    assert told.state.is_concerned(KEY)
    assert not told.state.is_concerned(ObjectKey("MultiNetworkPolicy", "elsewhere", "p"))
    assert told.state.undecodable() == {}
    told.state.found(Found("default", "b", None, "no"))
    told.put(POLICIES, bad_policy("q", 9))
    assert [update.found for update in told.updates[-2:]] == [(Found("default", "b", None, "no"),), ()]
    (finding,) = told.state.undecodable().values()
    assert isinstance(finding, Finding)
