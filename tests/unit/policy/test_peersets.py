"""Peer sets: who is in them, that they are shared, and that a change concerns only those who hold them.

proves: A7, C3, C4, C5, D4
"""

from collections.abc import Mapping

import pytest

from daemon.model import Address, AttachmentKey, ContainerPort, Operator, Requirement, Selector
from daemon.policy.peerset import PeerPod
from daemon.policy.peersets import PeerSets
from daemon.policy.ruleset import BlockSet, EndpointSet, Members, PodSet
from daemon.policy.selectors import EVERYTHING

pytestmark = pytest.mark.unit

NET = ("ns/net1",)
ONE, TWO, SIX = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), b"\xfd" + bytes(15)
HERE, THERE = AttachmentKey("c1", "net1"), AttachmentKey("c2", "net1")
WEB = ContainerPort("web", 6, 8080)


def label(key: str, value: str) -> Selector:
    return Selector((Requirement(key, Operator.IN, (value,)),))


ALL = PodSet(NET, "ns", None, EVERYTHING)
APPS = PodSet(NET, "ns", None, label("app", "x"))
BLUE = PodSet(NET, "", label("team", "blue"), EVERYTHING)


def peer(*addresses: Address, labels: Mapping[str, str] | None = None, namespace: str = "ns") -> PeerPod:
    return PeerPod(namespace, labels or {}, (WEB,), {"ns/net1": addresses})


def held(*refs: PodSet | EndpointSet) -> PeerSets:
    sets = PeerSets(1000)
    sets.hold(HERE, refs)
    return sets


def v4(sets: PeerSets, ref: PodSet | EndpointSet) -> set[object]:
    return set(sets.members(ref).v4)


def test_families_apart() -> None:
    sets = held(ALL)
    sets.put_pod(("ns", "p"), peer(ONE, SIX))
    assert sets.members(ALL) == Members(frozenset({ONE}), frozenset({SIX}))


def test_address_of_two_pods_stays_until_the_last_is_gone() -> None:
    sets = held(ALL)
    assert sets.put_pod(("ns", "p"), peer(ONE)) == {HERE}
    assert sets.put_pod(("ns", "q"), peer(ONE)) == set()
    assert sets.put_pod(("ns", "p"), None) == set()
    assert v4(sets, ALL) == {ONE}
    assert sets.put_pod(("ns", "q"), None) == {HERE}
    assert v4(sets, ALL) == set()


def test_same_address_on_two_networks_of_one_pod() -> None:
    both = PodSet(("ns/net1", "ns/net2"), "ns", None, EVERYTHING)
    sets = held(both)
    pod = PeerPod("ns", {}, (), {"ns/net1": (ONE,), "ns/net2": (ONE, TWO)})
    sets.put_pod(("ns", "p"), pod)
    assert v4(sets, both) == {ONE, TWO}
    sets.put_pod(("ns", "p"), PeerPod("ns", {}, (), {"ns/net2": (ONE,)}))
    assert v4(sets, both) == {ONE}


def test_only_holders_of_what_changed() -> None:
    sets = held(APPS)
    sets.hold(THERE, [ALL])
    assert sets.put_pod(("ns", "p"), peer(ONE)) == {THERE}
    assert sets.put_pod(("ns", "p"), peer(ONE, labels={"app": "x"})) == {HERE}
    assert sets.put_pod(("ns", "p"), peer(TWO, labels={"app": "x"})) == {HERE, THERE}


def test_equal_pod_changes_nothing() -> None:
    sets = held(ALL)
    sets.put_pod(("ns", "p"), peer(ONE))
    before = sets.members(ALL)
    assert sets.put_pod(("ns", "p"), peer(ONE)) == set()
    assert sets.put_pod(("ns", "p"), peer(ONE, labels={"any": "thing"})) == set()
    assert sets.members(ALL) is before


def test_other_family_stays_the_same_object() -> None:
    """A diff of two equal frozensets that are one object costs nothing."""
    sets = held(ALL)
    sets.put_pod(("ns", "p"), peer(ONE, SIX))
    before = sets.members(ALL)
    sets.put_pod(("ns", "p"), peer(TWO, SIX))
    assert sets.members(ALL).v6 is before.v6
    assert sets.members(ALL).v4 is not before.v4


def test_shared_by_all_holders() -> None:
    sets = held(ALL)
    sets.hold(THERE, [PodSet(NET, "ns", None, Selector())])
    sets.put_pod(("ns", "p"), peer(ONE))
    assert sets.members(ALL) is sets.members(PodSet(NET, "ns", None, Selector()))


def test_a_set_held_late_has_all_that_was_before() -> None:
    sets = PeerSets(1000)
    sets.put_namespace("ns", {"team": "blue"})
    sets.put_pod(("ns", "p"), peer(ONE, labels={"app": "x"}))
    sets.put_pod(("other", "p"), peer(TWO, namespace="other"))
    sets.hold(HERE, [APPS, BLUE])
    assert v4(sets, APPS) == {ONE}
    assert v4(sets, BLUE) == {ONE}


def test_nobody_holds_it() -> None:
    sets = held(ALL)
    sets.hold(HERE, [])
    assert sets.put_pod(("ns", "p"), peer(ONE)) == set()
    assert v4(sets, ALL) == {ONE}
    sets.hold(THERE, [ALL])
    assert v4(sets, ALL) == {ONE}


def test_release_leaves_the_others() -> None:
    sets = held(ALL, BLUE)
    sets.hold(THERE, [ALL])
    sets.hold(HERE, [APPS])
    assert sets.put_pod(("ns", "p"), peer(ONE)) == {THERE}


def test_only_what_is_held_is_kept() -> None:
    sets = held(ALL, BLUE)
    sets.hold(THERE, [ALL])
    assert len(sets) == 2
    sets.hold(HERE, [])
    assert len(sets) == 1
    sets.hold(THERE, [])
    assert len(sets) == 0


def test_selector_that_is_new_to_a_known_namespace() -> None:
    sets = PeerSets(1000)
    sets.put_namespace("ns", {"team": "blue"})
    sets.put_pod(("ns", "p"), peer(ONE))
    sets.hold(HERE, [BLUE])
    assert sets.put_pod(("ns", "q"), peer(TWO)) == {HERE}
    assert v4(sets, BLUE) == {ONE, TWO}


def test_namespace_that_gains_and_loses_the_label() -> None:
    sets = held(BLUE)
    sets.put_pod(("ns", "p"), peer(ONE))
    sets.put_pod(("other", "q"), peer(TWO, namespace="other"))
    assert v4(sets, BLUE) == set()
    assert sets.put_namespace("ns", {"team": "blue"}) == {HERE}
    assert v4(sets, BLUE) == {ONE}
    assert sets.put_namespace("ns", {"team": "blue", "more": "labels"}) == set()
    assert sets.put_namespace("other", {"team": "blue"}) == {HERE}
    assert sets.put_namespace("ns", None) == {HERE}
    assert v4(sets, BLUE) == {TWO}


def test_namespace_has_its_name_as_label_whatever_its_object_says() -> None:
    named = PodSet(NET, "", label("kubernetes.io/metadata.name", "ns"), EVERYTHING)
    sets = held(named)
    sets.put_pod(("ns", "p"), peer(ONE))
    assert v4(sets, named) == {ONE}
    assert sets.put_namespace("ns", {"kubernetes.io/metadata.name": "lie"}) == set()
    assert v4(sets, named) == {ONE}


@pytest.mark.parametrize(
    ("scope", "want"),
    [
        (None, {(ONE, 6, 8080), (TWO, 6, 8080)}),
        (APPS, {(ONE, 6, 8080)}),
        (BlockSet(((0x0A000002, 0x0A0000FF),), ()), {(TWO, 6, 8080)}),
        (BlockSet((), ((0, 2**128 - 1),)), set()),
    ],
    ids=["any", "pods", "blocks", "other family"],
)
def test_endpoints(scope: PodSet | BlockSet | None, want: set[object]) -> None:
    ref = EndpointSet(NET, scope, ((6, "web"), (17, "web")))
    sets = held(ref)
    sets.put_pod(("ns", "p"), peer(ONE, labels={"app": "x"}))
    sets.put_pod(("other", "q"), peer(TWO, namespace="other"))
    assert v4(sets, ref) == want


def test_endpoints_follow_the_ports() -> None:
    ref = EndpointSet(NET, None, ((6, "web"),))
    sets = held(ref)
    sets.put_pod(("ns", "p"), peer(ONE))
    moved = PeerPod("ns", {}, (ContainerPort("web", 6, 9090),), {"ns/net1": (ONE,)})
    assert sets.put_pod(("ns", "p"), moved) == {HERE}
    assert v4(sets, ref) == {(ONE, 6, 9090)}
