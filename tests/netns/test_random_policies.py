"""Random clusters by real packets: each probe goes as the oracle says.

The seeds are in the tests' names. MNP_TEST_WORLDS=400 tries that many clusters instead of 40, and
MNP_TEST_SEED=7000 begins at that seed.

proves: A4, B1, B2, B3, C1, C2, C3, C4, C5, C6, D1, D2, D3, D4, D5
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from daemon.model import Subject
from daemon.policy.evaluate import World, evaluate
from tests.lab import Daemon, Lab
from tests.netns.chance import make_case
from tests.netns.crowd import Placed, crowd
from tests.semantics import FAMILIES, Case, Probe
from tests.unit.policy.table import ends_of, make_world, packet_of

WORLDS = int(os.environ.get("MNP_TEST_WORLDS", "40"))
FIRST_SEED = int(os.environ.get("MNP_TEST_SEED", "1"))
BATCH = 20
SEEDS = range(FIRST_SEED, FIRST_SEED + WORLDS)
BATCHES = [SEEDS[start : start + BATCH] for start in range(0, WORLDS, BATCH)]


@pytest.fixture(scope="module")
def node(backend: str) -> Iterator[tuple[Lab, Daemon, Iterator[int]]]:
    with Lab(()) as lab:
        yield lab, lab.daemon(backend=backend), itertools.count()


@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_packets_go_as_the_oracle_says(node: tuple[Lab, Daemon, Iterator[int]], seeds: range) -> None:
    lab, daemon, numbers = node
    cases = [make_case(seed) for seed in seeds]
    with crowd(lab, daemon, cases, numbers) as made:
        made.apply(4, with_policies=False)
        made.enroll(lambda placed: placed.enrolled)
        wrong = made.probe({placed: _all_open(placed) for placed in made.placed})
        assert _only_wrong(wrong) == {}, "without a policy"
        for family in FAMILIES:
            made.apply(family)
            wrong = made.probe({placed: judged(placed, family) for placed in made.placed})
            assert _only_wrong(wrong) == {}, f"IPv{family}"


def test_seeds_make_worlds_that_allow_and_deny() -> None:
    """Worlds in which all is open, or nothing, would prove little."""
    wants = [
        by_oracle(make_world(case, 4), case, probe)
        for case in map(make_case, SEEDS)
        for probe in case.tries(4)
    ]
    assert 0.2 < sum(wants) / len(wants) < 0.8


def judged(placed: Placed, family: int) -> list[Probe]:
    """The probes of a case with what the oracle wants of them."""
    world = make_world(placed.case, family)
    tries = placed.case.tries(family)
    return [replace(probe, want=by_oracle(world, placed.case, probe)) for probe in tries]


def by_oracle(world: World, case: Case, probe: Probe) -> bool:
    """Whether both ends permit it; ends that no runtime enrolled here permit all."""
    for pod, index, direction in ends_of(case, probe):
        if not pod.listed or pod.host_network or pod.phase != "Running":
            continue
        found = next(one.pod for one in world.pods if one.pod.ref == (pod.namespace, pod.name))
        subject = Subject(pod.namespace, found.labels, found.ports, (pod.interfaces[index].network,))
        if not evaluate(world, subject, direction, packet_of(probe, direction)).allowed:
            return False
    return True


def _all_open(placed: Placed) -> list[Probe]:
    return [replace(probe, want=True) for family in FAMILIES for probe in placed.case.tries(family)]


def _only_wrong(wrong: dict[str, list[str]]) -> dict[str, list[str]]:
    return {name: lines[:5] for name, lines in wrong.items() if lines}
