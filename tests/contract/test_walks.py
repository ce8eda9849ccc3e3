"""Random policy walks: after each step a namespace holds what it would hold from scratch.

The daemon's store, compiler, planner and reconciler lead from one cluster to the next; a store that knows
nothing but the cluster as it is, and an empty namespace, say where to. At the end of each walk packets
through the fake's table have the oracle's verdicts; through the kernel: test_walk_packets.py.

The seeds are in the tests' names:
MNP_TEST_WALKS=3000 tries that many walks instead of 300, MNP_TEST_SEED=7000 begins at that seed.

proves: A4, A7, A11, B1, B2, B3, C2, C3, C4, C5, C6, D4
"""

from collections.abc import Iterator

import msgspec
import pytest

from daemon import netns
from daemon.backends.fake import FakeBackend
from daemon.model import AttachmentKey
from daemon.planner import Program, make_plan
from tests.contract.backends import BACKENDS, FAKE, Seams, Subject
from tests.contract.node import Node
from tests.contract.tracer import passes
from tests.contract.walks import BATCHES, STEPS, Course, Walk, interfaces, placement, verdicts
from tests.lab import Lab, namespaces
from tests.semantics import Case
from tests.unit.backends.walk import Walk as ProgramWalk
from tests.unit.policy.table import changes

_FIRST_INDEX = 10


class Pool:
    """Empty namespaces, one for each pod of a placement, used by one walk after the other."""

    def __init__(self, lab: Lab) -> None:
        names = [pod.key for pod in placement(0).pods]
        self.paths = {name: str(namespaces.create_namespace(f"{lab.tag}.{name}")) for name in names}

    def clear(self, subject: Subject) -> None:
        backend = subject.make(Seams())
        for path in self.paths.values():
            with netns.entered(path, None):
                backend.remove()


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Lab(()) as lab:
        yield Pool(lab)


def indices(walk: Walk) -> dict[AttachmentKey, int]:
    return {one.key: _FIRST_INDEX + number for number, one in enumerate(interfaces(walk))}


@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
@pytest.mark.parametrize("subject", BACKENDS, ids=str)
def test_each_step_leads_where_a_program_from_scratch_does(
    pool: Pool, subject: Subject, seeds: range
) -> None:
    wrong = {}
    for seed in seeds:
        if found := _strayed(pool, subject, Walk(seed)):
            wrong[seed] = found
        pool.clear(subject)
    assert wrong == {}


def _strayed(pool: Pool, subject: Subject, walk: Walk) -> list[str]:
    """Where a walk's namespaces are not as from scratch."""
    backend = subject.make(Seams())
    course = Course(walk, Node(backend), pool.paths, indices(walk))
    seen: dict[str, Program] = {}
    for step, case in enumerate(walk.cases()):
        said = changes(case, walk.first_family)
        course.step(said)
        for pod, wanted in course.from_scratch(said).items():
            sandbox = course.sandboxes[pod]
            # What is written there about attachments has tests of its own (tests/unit/test_imprint.py).
            wanted = msgspec.structs.replace(wanted, imprints=course.node.imprints(sandbox))
            if sandbox.actual != wanted or sandbox.error:
                return [f"step {step}, {pod}: another program: {sandbox.error}"]
            if seen.get(pod) is sandbox.actual:
                continue  # nothing was done in this namespace
            seen[pod] = sandbox.actual
            with netns.entered(pool.paths[pod], None):
                state = subject.read(backend)
            if unlike := state.differences(subject.from_scratch(wanted)):
                return [f"step {step}, {pod}: {line}" for line in unlike]
    if isinstance(backend, FakeBackend):
        return list(_misjudged(pool, backend, walk, case))
    return []


def _misjudged(pool: Pool, fake: FakeBackend, walk: Walk, case: Case) -> Iterator[str]:
    """Where the fake lets pass what the oracle does not, or the other way round, once the walk has ended."""
    for want, key, direction, packet in verdicts(walk, case, walk.first_family):
        with netns.entered(pool.paths[key.container_id], None):
            table = fake.tables[fake.netns]
        if passes(table, (key.ifname, indices(walk)[key]), direction, packet) is not want:
            yield f"{key} {direction} {packet}"


def test_walks_go_somewhere(pool: Pool) -> None:
    """Most steps change what some pod is allowed, most walks permit and deny."""
    moved = steps = 0
    wants = []
    for seed in BATCHES[0]:
        walk = Walk(seed)
        course = Course(walk, Node(FAKE.make(Seams())), pool.paths, indices(walk))
        for case in walk.cases():
            before = course.node.reconciler.applied_total
            course.step(changes(case, walk.first_family))
            moved += course.node.reconciler.applied_total > before
            steps += 1
        wants += [want for want, *_ in verdicts(walk, case, walk.first_family)]
    assert steps == len(BATCHES[0]) * (STEPS + 1)
    assert moved > 0.4 * steps
    assert 0.2 < sum(wants) / len(wants) < 0.9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("subject", BACKENDS, ids=str)
def test_programs_of_all_kinds_lead_there_too(subject: Subject, seed: int) -> None:
    """Guards, owners, odd names, SCTP: what no policy of the walks above has."""

    def walked() -> None:
        backend = subject.make(Seams())
        actual: Program | None = None
        for step, desired in enumerate(ProgramWalk(seed).programs(30)):
            backend.apply(make_plan(desired, None if step % 13 == 0 else actual))
            assert subject.read(backend).differences(subject.from_scratch(desired)) == [], f"step {step}"
            assert backend.differences(desired) == "", f"step {step}"
            actual = desired

    netns.in_scratch(walked)
