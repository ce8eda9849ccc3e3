"""Deleted policies, and when the first list of policies can be believed; the clock is an argument.

proves: E8
"""

from daemon.model import ObjectKey
from daemon.sources.kubernetes.departures import (
    DELETION_SECONDS,
    KIND_SECONDS,
    REINSTALLED_SECONDS,
    Departures,
)
from daemon.sources.kubernetes.sink import LIVE, Standing
from daemon.sources.kubernetes.summary import summarize

P, Q = (ObjectKey("MultiNetworkPolicy", "default", name) for name in "pq")


def started(now: float = 100.0) -> Departures:
    """Listed once, and the kind is in order."""
    made = Departures()
    made.listed([], now)
    made.resolve(kind_goes=False, asked=now, now=now)
    made.settle(now)
    return made


def settled(departures: Departures, now: float) -> bool:
    departures.settle(now)
    return departures.settled


def test_a_first_list_is_believed_when_discovery_has_been_asked() -> None:
    departures = Departures()
    assert not departures.is_due(100.0)
    departures.listed([], 100.0)
    assert departures.is_due(100.0)
    assert not settled(departures, 1000.0)
    departures.resolve(kind_goes=False, asked=100.0, now=100.5)
    assert settled(departures, 100.5)
    assert (departures.next, departures.is_due(1000.0)) == (None, False)


def test_a_first_list_after_the_kind_was_missing_is_believed_later() -> None:
    """Until then its policies can be created again, and what an earlier run has programmed stays."""
    departures = Departures()
    departures.kind_missing()
    departures.listed([], 100.0)
    assert departures.next == 100.0 + REINSTALLED_SECONDS
    assert not settled(departures, 100.0 + REINSTALLED_SECONDS - 0.1)
    assert settled(departures, 100.0 + REINSTALLED_SECONDS)


def test_a_first_list_while_the_kind_is_being_removed_is_not_believed() -> None:
    """The server lists what is left; that is asked again and again, but not all the time."""
    departures = Departures()
    departures.listed([], 100.0)
    departures.resolve(kind_goes=True, asked=100.0, now=100.0)
    assert (departures.is_due(100.1), departures.next) == (False, 100.0 + KIND_SECONDS)
    assert departures.is_due(100.0 + KIND_SECONDS)
    departures.resolve(kind_goes=False, asked=110.0, now=110.0)
    assert not settled(departures, 110.0)
    assert settled(departures, 110.0 + REINSTALLED_SECONDS)


def test_what_was_believed_once_stays_so() -> None:
    departures = started()
    departures.kind_missing()
    departures.listed([P], 200.0)
    assert settled(departures, 200.0)
    assert departures.next == 200.0 + REINSTALLED_SECONDS


def test_a_deleted_policy_has_a_moment() -> None:
    departures = started()
    departures.deleted(P, 200.0)
    departures.deleted(Q, 201.0)
    assert not departures.is_due(200.0 + DELETION_SECONDS / 2)
    assert departures.due(200.0 + DELETION_SECONDS) == [P]
    assert departures.resolve(kind_goes=False, asked=200.5, now=200.6) == [P]
    assert list(departures.keys) == [Q]
    departures.stay(Q)
    assert len(departures) == 0


# --- how far policies are known --------------------------------------------------------------------------

RESTING = Standing(False, False, False, "503")
ABSENT = Standing(False, True, True, "not installed", absent=True)
EVERYTHING = {"own pods", "policies"}


def lag(pods: Standing, policies: Standing) -> str:
    return summarize({"own pods": pods, "policies": policies}, EVERYTHING, True).policies_lag


def test_policies_lag_where_the_server_answers_others() -> None:
    assert lag(LIVE, LIVE) == ""
    assert lag(LIVE, RESTING) == "policies: 503"
    assert lag(Standing(False, False, True, "403"), RESTING) == "policies: 503"
    # Nobody is answered: what is known is all that there is to go by.
    assert lag(RESTING, RESTING) == ""
    # No kind, no new policies.
    assert lag(LIVE, ABSENT) == ""
    assert lag(RESTING, LIVE) == ""
