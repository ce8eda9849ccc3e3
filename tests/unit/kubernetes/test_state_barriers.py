"""ClusterState: which container ports it asks for, and when a barrier has settled."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from daemon.model import ContainerPort, ObjectKey, Pod
from daemon.sources.kubernetes.watched import NAMESPACES, NET_ATTACH_DEFS, POLICIES, Collection, Seen
from tests.lab import objects
from tests.unit.kubernetes.stated import (
    ALWAYS,
    NAMED,
    OWN,
    PEERS,
    SELECTING,
    Told,
    bad_policy,
    decode,
    pod,
    policy,
)

WEB = (ContainerPort("web", 6, 80),)


def far_future() -> float:
    return threading.TIMEOUT_MAX


def resolve(told: Told, kind_goes: bool = False) -> None:
    """As the chores do it, once all that leave are due."""
    told.state.resolve_leaving(kind_goes, (), far_future())


# --- container ports -------------------------------------------------------------------------------------


def wanting_ports() -> Told:
    told = Told().complete()
    told.put(POLICIES, policy("p", NAMED))
    told.listed(PEERS, pod("x", 2, "u1"))
    return told


def test_ports_are_wanted_where_a_policy_names_some() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.listed(PEERS, pod("x", 2, "u1"))
    assert told.state.next_portless() is None
    told.put(POLICIES, policy("q", NAMED, 3))
    key = ObjectKey("Pod", "default", "x")
    assert told.state.next_portless() == (key, "u1")
    told.state.put_ports(key, "u1", WEB)
    assert told.state.next_portless() is None
    found = told.model[key]
    assert isinstance(found, Pod)
    assert found.ports == WEB
    # They cannot change while it lives; what else does leaves them.
    told.put(PEERS, pod("x", 4, "u1", address="10.1.0.2"))
    found = told.model[key]
    assert isinstance(found, Pod)
    assert (found.ports, told.state.next_portless()) == (WEB, None)


def test_ports_that_can_not_be_had_now_hold_up_no_others() -> None:
    told = wanting_ports()
    told.put(PEERS, pod("y", 3, "u2"))
    stuck, other = (ObjectKey("Pod", "default", name) for name in ("x", "y"))
    assert told.state.next_portless() == (stuck, "u1")
    told.state.put_off_ports(stuck)
    assert told.state.next_portless() == (other, "u2")
    told.state.put_ports(other, "u2", WEB)
    assert told.state.next_portless() == (stuck, "u1")


def test_leaving_policies_of_another_history_are_no_part_of_what_is_synced() -> None:
    """Their versions are later than the list's; the list was made when they were gone all the same."""
    told = Told().complete()
    told.put(POLICIES, policy("kept", SELECTING, 90), policy("forgotten", SELECTING, 95))
    told.state.history_changed()
    told.listed(POLICIES, policy("kept", SELECTING, 7))
    for collection in (OWN, NET_ATTACH_DEFS, NAMESPACES):
        told.listed(collection)
    told.listed(PEERS)
    told.state.begin_round()
    assert told.state.expect(POLICIES, entries(policy("kept", SELECTING, 7)), "8", "7")
    assert not settles(told)
    resolve(told)
    assert settles(told)


@pytest.mark.parametrize("status", [True, False])
def test_ports_of_pods_on_other_networks_are_not_wanted(status: bool) -> None:
    told = Told().complete()
    told.put(POLICIES, decode(POLICIES, objects.policy("p", NAMED, networks="net2"), 1))
    told.listed(PEERS, pod("x", 2) if status else pod("x", 2, address=""))
    assert told.state.next_portless() is None


def test_ports_of_a_pod_that_was_replaced_meanwhile() -> None:
    told = wanting_ports()
    key = ObjectKey("Pod", "default", "x")
    told.delete(PEERS, pod("x", 3, "u1"))
    assert told.state.next_portless() is None
    told.put(PEERS, pod("x", 4, "u2"))
    told.state.put_ports(key, "u1", WEB)  # late
    found = told.model[key]
    assert isinstance(found, Pod)
    assert (found.ports, told.state.next_portless()) == ((), (key, "u2"))


@pytest.mark.parametrize("fetched", ["before", "after"])
def test_ports_of_a_pod_that_moved_here_from_this_node(fetched: str) -> None:
    """A StatefulSet's pod gets its old name elsewhere; the two watches bring it in any order."""
    told = wanting_ports()
    key = ObjectKey("Pod", "default", "y")
    told.put(OWN, pod("y", 3, "here", OWN))
    told.put(PEERS, pod("y", 5, "there"))
    told.state.put_ports(ObjectKey("Pod", "default", "x"), "u1", ())
    assert told.state.next_portless() == (key, "there")
    if fetched == "before":
        told.state.put_ports(key, "there", WEB)
    told.delete(OWN, pod("y", 4, "here", OWN))
    assert told.state.next_portless() == (key, "there"), "its name is free only now"
    told.state.put_ports(key, "there", WEB)
    found = told.model[key]
    assert isinstance(found, Pod)
    assert found.ports == WEB


# --- barriers --------------------------------------------------------------------------------------------


def entries(*seen: Seen) -> dict[ObjectKey, tuple[str, str]]:
    return {one.key: (one.uid, one.version) for one in seen}


def settles(told: Told) -> bool:
    return told.state.wait_settled(0.0)


ARRIVALS: list[tuple[str, list[Seen], list[Seen], Callable[[Told], Any]]] = [
    ("one more", [], [policy("p", version=5)], lambda told: told.put(POLICIES, policy("p", version=5))),
    ("a newer one", [], [policy("p", version=5)], lambda told: told.put(POLICIES, policy("p", version=7))),
    (
        "an edit",
        [policy("p")],
        [policy("p", SELECTING, 5)],
        lambda told: told.put(POLICIES, policy("p", SELECTING, 5)),
    ),
    (
        "one that can't be decoded",
        [],
        [policy("p", version=5)],
        lambda told: told.put(POLICIES, bad_policy("p", 5)),
    ),
    (
        "created, then deleted",
        [],
        [policy("p", version=5)],
        lambda told: told.state.changed(
            POLICIES, [(False, policy("p", version=5)), (True, policy("p", version=6))]
        ),
    ),
    (
        "a deletion",
        [policy("p")],
        [],
        lambda told: told.delete(POLICIES, policy("p", version=5)),
    ),
    (
        "replaced",
        [policy("p", uid="u1")],
        [policy("p", version=5, uid="u2")],
        lambda told: told.put(POLICIES, policy("p", version=5, uid="u2")),
    ),
    (
        "a relist",
        [policy("p")],
        [policy("q", version=5)],
        lambda told: told.listed(POLICIES, policy("q", version=5)),
    ),
]


@pytest.mark.parametrize(
    ("held", "listed", "arrive"), [case[1:] for case in ARRIVALS], ids=[case[0] for case in ARRIVALS]
)
def test_a_barrier_waits_for_what_was_listed(
    held: list[Seen], listed: list[Seen], arrive: Callable[[Told], Any]
) -> None:
    told = Told().complete()
    told.put(POLICIES, *held)
    told.state.begin_round()
    newest = told.state.newest(POLICIES)
    assert told.state.expect(POLICIES, entries(*listed), "6", newest)
    assert not settles(told)
    arrive(told)
    resolve(told)
    told.listed(PEERS)
    assert settles(told)


@pytest.mark.parametrize("late", [*ALWAYS, PEERS], ids=lambda collection: collection.name)
def test_a_barrier_waits_for_every_first_list(late: Collection) -> None:
    """An empty collection holds all that it should before it was ever listed."""
    told = Told()
    told.put(POLICIES, policy("p", SELECTING, 5))
    told.state.begin_round()
    for collection in (*ALWAYS, PEERS):
        seen = [policy("p", SELECTING, 5)] if collection is POLICIES else []
        assert told.state.expect(collection, entries(*seen), "6", "")
        if collection is not late:
            told.listed(collection, *seen)
    assert not settles(told)
    told.listed(late, *([policy("p", SELECTING, 5)] if late is POLICIES else []))
    assert settles(told)


def test_a_barrier_has_nothing_to_wait_for() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p"))
    told.state.begin_round()
    assert told.state.expect(POLICIES, entries(policy("p")), "6", "1")
    assert settles(told)
    # What comes or goes after the list does not matter.
    told.put(POLICIES, policy("q", version=8))
    told.delete(POLICIES, policy("p", version=9))
    assert settles(told)
    told.state.answer((3, 4))
    assert told.last.tokens == (3, 4)
    assert told.updates[-2].tokens == ()


def test_what_came_after_the_list_is_not_expected_to_go() -> None:
    told = Told().complete()
    told.state.begin_round()
    told.put(POLICIES, policy("late", version=7))
    assert told.state.expect(POLICIES, {}, "6", "")
    assert settles(told)


def test_what_went_after_the_list_is_not_expected_to_come() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p"))
    told.state.begin_round()
    told.delete(POLICIES, policy("p", version=7))
    resolve(told)
    assert told.state.expect(POLICIES, entries(policy("p")), "6", "1")
    assert settles(told)


def test_a_barrier_waits_for_ports_but_not_for_those_of_later_pods() -> None:
    told = wanting_ports()
    told.state.begin_round()
    assert told.state.expect(PEERS, entries(pod("x", 2, "u1")), "6", "2")
    assert not settles(told)
    done = threading.Event()

    def wait() -> None:
        if told.state.wait_settled(5.0):
            done.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    # There is always one under way.
    for number in range(20):
        told.put(PEERS, pod(f"later{number}", 10 + number))
    assert not done.wait(0.05)
    told.state.put_ports(ObjectKey("Pod", "default", "x"), "u1", WEB)
    assert done.wait(1.0)
    waiting.join()


@pytest.mark.parametrize(
    ("held", "listed", "version"),
    [
        ([policy("p", version=900)], [policy("p", version=500)], "500"),
        ([policy("p", version=900)], [], "500"),
        ([policy("p", version=900)], [policy("p", version=500)], "950"),
    ],
    ids=["older by far", "created since", "overtaken"],
)
def test_a_list_of_another_history_is_noticed(held: list[Seen], listed: list[Seen], version: str) -> None:
    told = Told().complete()
    told.put(POLICIES, *held)
    told.calls.clear()
    told.state.begin_round()
    newest = told.state.newest(POLICIES)
    assert not told.state.expect(POLICIES, entries(*listed), version, newest)
    assert told.calls == ["history"]
    told.calls.clear()
    # No barrier is answered before all is listed again, and none asks for that once more.
    told.state.begin_round()
    assert told.state.expect(POLICIES, entries(*listed), version, told.state.newest(POLICIES))
    assert not settles(told)
    told.listed(POLICIES, *listed)
    resolve(told)
    assert not settles(told)
    for collection in ALWAYS:
        told.listed(collection, *(listed if collection is POLICIES else []))
    # Then it is one history, and the versions of before do not count.
    told.state.begin_round()
    assert told.state.expect(POLICIES, entries(*listed), version, told.state.newest(POLICIES))
    assert settles(told)
    assert told.calls == []


def test_every_wait_ends_with_the_source() -> None:
    told = Told().complete()
    told.state.begin_round()
    told.state.expect(POLICIES, entries(policy("p")), "6", "")
    threads = [
        threading.Thread(target=told.state.wait_chore),
        threading.Thread(target=told.state.wait_settled, args=(60.0,)),
    ]
    for thread in threads:
        thread.start()
    told.state.end()
    # And one that begins to wait only then.
    told.state.wait_chore()
    assert not told.state.wait_settled(60.0)
    for thread in threads:
        thread.join(2.0)
        assert not thread.is_alive()


@pytest.mark.parametrize("first", ["list", "event"])
def test_a_peer_of_which_nothing_is_kept_any_more(first: str) -> None:
    """Such an event answers for its own version, and not for what comes after it."""
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.listed(PEERS, pod("x", 2))
    told.state.begin_round()
    if first == "event":
        told.put(PEERS, pod("x", 4, address=""))
    assert told.state.expect(PEERS, entries(pod("x", 5)), "6", "2")
    if first == "list":
        told.put(PEERS, pod("x", 4, address=""))
    assert not settles(told)
    told.put(PEERS, pod("x", 7, address="") if first == "list" else pod("x", 5))
    assert settles(told)


def test_a_peer_of_which_nothing_is_kept_since_before_the_list() -> None:
    told = Told().complete()
    told.put(POLICIES, policy("p", SELECTING))
    told.listed(PEERS, pod("x", 2))
    told.state.begin_round()
    told.put(PEERS, pod("x", 7, address=""))
    assert told.state.expect(PEERS, entries(pod("x", 5)), "6", "2")
    assert settles(told)
