"""What the API server had and has no more leaves nothing in what this node knows of the cluster."""

import pytest

from daemon.sources.kubernetes.watched import NAMESPACES, POLICIES
from tests.unit.kubernetes.stated import NAMED, OWN, PEERS, Told, pod, policy, space
from tests.unit.test_leftovers import reachable

pytestmark = pytest.mark.unit

FAR_FUTURE = 1e12


def one_of_each(told: Told, number: int) -> None:
    here, there = pod(f"here-{number}", collection=OWN, ports=80), pod(f"there-{number}")
    wanting = policy(f"p-{number}", NAMED)
    told.put(NAMESPACES, space(f"ns-{number}"))
    told.put(POLICIES, wanting)
    told.put(OWN, here)
    told.put(PEERS, there)
    told.delete(OWN, here)
    told.delete(PEERS, there)
    told.delete(POLICIES, wanting)
    told.state.resolve_leaving(False, (), FAR_FUTURE)
    told.delete(NAMESPACES, space(f"ns-{number}"))
    told.updates.clear()
    told.calls.clear()


def test_a_state_of_the_cluster() -> None:
    told = Told().complete()
    told.listed(PEERS)
    for number in range(5):
        one_of_each(told, number)
    before = reachable(told.state)
    for number in range(100, 200):
        one_of_each(told, number)
    assert told.names == []
    assert reachable(told.state) <= before + 5
