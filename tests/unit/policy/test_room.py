"""F2 over random courses: what sets hold is within the budget, exact, and there again when there is room.

proves: F2
"""

import random

import pytest

from daemon.model import AttachmentKey, ContainerPort, Operator, Requirement, Selector
from daemon.policy.peerset import MOST_OF_A_POD, PeerPod, PodRef
from daemon.policy.peersets import PeerSets
from daemon.policy.ruleset import EndpointSet, Members, PodSet, SharedRef
from daemon.policy.selectors import matches

pytestmark = pytest.mark.unit

NET = "ns/net1"
TCP = 6
MOST = 60
HOLDERS = {AttachmentKey(f"c{number}", "net1"): f"ns{number % 2}" for number in range(4)}


def selecting(value: str) -> PodSet:
    return PodSet((NET,), "ns", None, Selector((Requirement("app", Operator.IN, (value,)),)))


REFS: tuple[SharedRef, ...] = (
    *(selecting(value) for value in "abc"),
    *(EndpointSet((NET,), selecting(value), ((TCP, "n0"), (TCP, "n1"), (TCP, "n2"))) for value in "ab"),
    EndpointSet((NET,), None, tuple((TCP, f"n{number}") for number in range(100))),
)


class Course:
    """Pods and holders that come, change and go."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.sets = PeerSets(MOST)
        self.pods: dict[PodRef, PeerPod] = {}
        self.held: dict[AttachmentKey, frozenset[SharedRef]] = {}

    def step(self) -> None:
        dice = self.dice
        if dice.random() < 0.3:
            holder = dice.choice(list(HOLDERS))
            self.hold(holder, frozenset(dice.sample(REFS, dice.randint(0, 3))))
        else:
            ref = ("ns", f"p{dice.randint(0, 9)}")
            self.put(ref, None if dice.random() < 0.3 else self.pod())

    def hold(self, holder: AttachmentKey, refs: frozenset[SharedRef]) -> None:
        self.held[holder] = refs
        self.sets.hold(holder, refs, HOLDERS[holder])
        self.sets.settle()

    def put(self, ref: PodRef, pod: PeerPod | None) -> None:
        self.sets.put_pod(ref, pod)
        if pod is None:
            self.pods.pop(ref, None)
        else:
            self.pods[ref] = pod

    def pod(self) -> PeerPod:
        dice = self.dice
        addresses = dice.sample(range(256), dice.choice([0, 1, 2, 9, 100]))
        ports = tuple(ContainerPort(f"n{n}", TCP, 80 + n) for n in range(dice.choice([0, 1, 3, 60])))
        labels = {"app": dice.choice("abcd")}
        return PeerPod("ns", labels, ports, {NET: tuple(bytes([10, 0, 0, n]) for n in addresses)})

    def want(self, ref: SharedRef) -> tuple[frozenset[object], int]:
        """What a set holds if there is room, by a look at all pods; and what it weighs."""
        elements: set[object] = set()
        weight = 0
        for pod in self.pods.values():
            pods = ref.scope if isinstance(ref, EndpointSet) else ref
            if isinstance(pods, PodSet) and not matches(pods.pods, pod.labels):
                continue
            some: set[object] = set(pod.addresses[NET])
            if isinstance(ref, EndpointSet):
                ports = [port for port in pod.ports if (TCP, port.name) in ref.ports]
                some = {(a, TCP, port.port) for a in pod.addresses[NET] for port in ports}
            few = len(some) <= MOST_OF_A_POD
            elements |= some if few else set()
            weight += len(some) if few else 1
        return frozenset(elements), weight


@pytest.mark.parametrize("seed", range(10))
def test_within_the_budget_exact_and_back_when_there_is_room(seed: int) -> None:
    course = Course(seed)
    overflows = 0
    for _ in range(200):
        course.step()
        refs = {ref for held in course.held.values() for ref in held}
        # What is looked at only now may make another one full.
        for ref in refs:
            course.sets.members(ref)
        held = {ref: course.sets.members(ref) for ref in refs}
        full = {ref for some in course.sets.overflown().values() for ref in some}
        total = 0
        for ref, members in held.items():
            elements, weight = course.want(ref)
            if members == Members() and ref in full:
                overflows += 1
                continue
            assert (members.v4, members.v6) == (elements, frozenset())
            total += weight
        assert total <= MOST * len(set(HOLDERS.values()))
    assert overflows > 0
    for pod in list(course.pods):
        course.put(pod, None)
    assert course.sets.overflown() == {}
    course.put(("ns", "p"), PeerPod("ns", {"app": "a"}, (), {NET: (bytes([10, 0, 0, 1]),)}))
    course.hold(next(iter(HOLDERS)), frozenset(REFS[:1]))
    assert course.sets.members(REFS[0]) == Members(frozenset({bytes([10, 0, 0, 1])}))
