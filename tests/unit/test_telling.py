"""What is wrong with objects is told a slice at a time, once, and again as long as it is the same."""

from collections.abc import Callable, Mapping
from typing import cast

import msgspec
import pytest

from daemon.model import ObjectKey, Problem
from daemon.report import Report
from daemon.sources.base import Finding
from daemon.store import Store
from daemon.telling import FINDINGS_SECONDS, SLICE_SECONDS, SPARING, Telling
from tests.unit.policy.stored import change, gone, make_store, policy

pytestmark = pytest.mark.unit

Findings = Mapping[ObjectKey, tuple[Finding, ...]]
TICK = 0.001


class Reported:
    """The report, as far as telling asks it: of one attachment something is wrong."""

    def __init__(self) -> None:
        self.attachments: dict[ObjectKey, tuple[Finding, ...]] = {}

    def findings_of(self, key: ObjectKey, problems: tuple[Problem, ...]) -> tuple[Finding, ...]:
        return tuple(Finding("Wrong", problem.message) for problem in problems)

    def findings(self) -> dict[ObjectKey, tuple[Finding, ...]]:
        return dict(self.attachments)


class Scene:
    """A store, and what was told of it. Each look at the clock takes a millisecond."""

    def __init__(self, store: Store) -> None:
        self.now = 0.0
        self.told: list[Findings] = []
        self.report = Reported()
        tell: Callable[[Findings], None] = self.told.append
        self.telling = Telling(store.faults, cast("Report", self.report), tell, self.clock)

    def clock(self) -> float:
        self.now += TICK
        return self.now

    def round(self) -> int:
        """Until something is told; in how many slices."""
        before, slices = len(self.told), 0
        while len(self.told) == before:
            slices += 1
            begun = self.now
            self.telling.step()
            assert self.now - begun <= SLICE_SECONDS + 25 * TICK
            due = self.telling.next_due()
            self.now = max(self.now, due or 0.0)
        return slices


def test_much_takes_many_slices_and_others_have_the_time_between() -> None:
    store = make_store(*(policy(name=f"p{n}", networks=(f"ns/x{n}",)) for n in range(200)))
    scene = Scene(store)
    scene.telling.step()
    due = scene.telling.next_due()
    assert due is not None
    assert due - scene.now >= SPARING * SLICE_SECONDS - TICK
    assert scene.told == []
    assert scene.round() > 200 * TICK / SLICE_SECONDS
    assert scene.telling.next_due() is None
    assert len(scene.told[0]) == 200


def test_what_is_the_same_is_the_same_object() -> None:
    """So that whoever is told need not look at all of it again."""
    bad = Problem("spec", "bad")
    wrong = [msgspec.structs.replace(policy(name=name), problems=(bad,)) for name in "ab"]
    store = make_store(*wrong)
    scene = Scene(store)
    scene.round()
    scene.now += FINDINGS_SECONDS
    scene.round()
    assert scene.told[1] is scene.told[0]
    store.apply([gone(wrong[0])])
    scene.now += FINDINGS_SECONDS
    scene.round()
    assert [*scene.told[2]] == [wrong[1].key]
    assert scene.told[2][wrong[1].key] is scene.told[0][wrong[1].key]
    scene.report.attachments = {wrong[1].key: (Finding("NotEnforced", "net1: no"),)}
    scene.now += FINDINGS_SECONDS
    scene.round()
    assert [found.reason for found in scene.told[3][wrong[1].key]][-1] == "NotEnforced"
    store.apply([change(wrong[0])])
    scene.now += FINDINGS_SECONDS
    scene.round()
    assert {*scene.told[4]} == {one.key for one in wrong}
