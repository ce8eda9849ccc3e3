"""Random policy walks by real packets: at the end of each walk, every probe goes as the oracle says.

A batch of walks goes on at the same time, each among pods of its own, so that it pays for one timeout. At the
end come the same policies with the other family's blocks, as one more step, and are probed in that family.
The control, once for all walks of a place: without policies all probes pass.

proves: A4, A7, B1, B2, B3, C1, C2, C3, C4, C5, C6, D1, D2, D3, D4, D5
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest

from daemon import netns
from daemon.model import AttachmentKey
from tests.contract.backends import REAL, Seams, Subject
from tests.contract.node import Node
from tests.contract.walks import BATCHES, SLOTS, WALKS, Course, Walk, judged, placement
from tests.lab import Lab
from tests.netns.crowd import Crowd, Placed, place, serve
from tests.semantics import FAMILIES, Case, Probe
from tests.unit.policy.table import changes


class Town:
    """The pods of all placements, with nothing programmed between two batches."""

    def __init__(self, lab: Lab) -> None:
        self.placed = [place(lab, placement(slot), slot) for slot in range(min(SLOTS, WALKS))]
        for placed in self.placed:
            serve(placed.pods, placed.case.tries(FAMILIES[0]))
        everything = {
            placed: [replace(one, want=True) for n in FAMILIES for one in placed.case.tries(n)]
            for placed in self.placed
        }
        assert wrong(everything) == {}

    def course(self, number: int, walk: Walk, subject: Subject) -> Course:
        """A walk among the pods of one placement."""
        placed = self.placed[number]
        indices = {
            AttachmentKey(key, made.ifname): made.ifindex for (key, _), made in placed.attachments.items()
        }
        paths = {key: str(pod.netns) for key, pod in placed.pods.items()}
        return Course(walk, Node(subject.make(Seams())), paths, indices)

    def clear(self, subject: Subject) -> None:
        """Take all rules away."""
        backend = subject.make(Seams())
        for placed in self.placed:
            for pod in placed.pods.values():
                with netns.entered(str(pod.netns), None):
                    backend.remove()


def wrong(tries: Mapping[Placed, Sequence[Probe]]) -> dict[str, list[str]]:
    """By placement, the first few probes that went otherwise than wanted.

    Those that should have been answered are done once more: what is blocked stays so, and a busy machine
    drops a packet now and then.
    """
    first = Crowd.probe(tries)
    again = {
        placed: [one for one in probes if one.want]
        for placed, probes in tries.items()
        if first[str(placed.case)]
    }
    second = Crowd.probe(again)
    found = {
        name: [line for line in lines if " no: " in line] + second.get(name, [])
        for name, lines in first.items()
    }
    return {name: lines[:5] for name, lines in found.items() if lines}


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    with Lab(()) as lab:
        yield Town(lab)


@cache
def probes(seed: int, family: int) -> list[Probe]:
    """What the oracle wants at the end of a walk; asked once for all backends."""
    walk = Walk(seed)
    return judged(walk, list(walk.cases())[-1], family)


@pytest.mark.parametrize("subject", REAL, ids=str)
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_packets_go_as_the_oracle_says(town: Town, subject: Subject, seeds: range) -> None:
    walks = [Walk(seed) for seed in seeds]
    courses = [town.course(number, walk, subject) for number, walk in enumerate(walks)]
    last: list[Case] = []
    for walk, course in zip(walks, courses, strict=True):
        for case in walk.cases():
            course.step(changes(case, walk.first_family))
        last.append(case)
    found = {}
    for turn in FAMILIES:
        # In its first family each walk came here step by step; the other one is a step more.
        families = [walk.first_family if turn == FAMILIES[0] else 10 - walk.first_family for walk in walks]
        for case, course, family in zip(last, courses, families, strict=True):
            if family != course.walk.first_family:
                course.step(changes(case, family))
        tries = {
            placed: probes(seed, family)
            for placed, seed, family in zip(town.placed, seeds, families, strict=False)
        }
        found[turn] = wrong(tries)
    town.clear(subject)
    assert found == {4: {}, 6: {}}
