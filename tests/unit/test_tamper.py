"""When the watch looks, what it restores, and what it leaves alone: against a packet filter in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from daemon import netns
from daemon.backends.base import Survey
from daemon.backends.fake import FakeBackend
from daemon.backends.nftables import next_generation
from daemon.errors import DataplaneError, NetnsGoneError
from daemon.model import CommonRules
from daemon.netns import NetnsIdentity
from daemon.planner import Plan, Program
from daemon.reconcile import Attachment, Reconciler, Sandbox
from daemon.slices import Pausing
from daemon.standing import REPAIR_SECONDS, REPAIRS, TOLD_SECONDS, State, Tampering
from daemon.store import Store
from daemon.tamper import COMPARE_SHARE, LOOK_SECONDS, SLICE_SECONDS, TICK_SECONDS, Watch
from tests.unit.test_records import make_record


class Kernel(FakeBackend):
    """A fake that costs what `price` says, in seconds of the thread's time."""

    def __init__(self, clock: "Clock") -> None:
        super().__init__()
        self.clock = clock
        self.price: dict[str, float] = {}
        self.spoiled: dict[str, str] = {}
        self.unreadable = False
        self.wall = 0.0
        self.surveys: list[str] = []
        self.pieces = 1
        self.broken_off = 0

    def _pay(self) -> None:
        self.clock.spent += self.price.get(self.netns, 0.0)
        self.clock.now += self.wall

    def untouched(self, program: Program, mark: int) -> bool:
        self._pay()
        self.asked[self.netns] += 1
        return super().untouched(program, mark)

    def surveying(self, program: Program) -> Pausing[Survey]:
        mark, said = self.generation(), self.spoiled.get(self.netns, "")
        self.surveys.append(self.netns)
        try:
            for _ in range(self.pieces):
                self._pay()
                yield
        except GeneratorExit:
            self.broken_off += 1
            raise
        if self.unreadable:
            raise DataplaneError("changed during each of 5 dumps")
        return Survey(mark, said)

    def apply(self, plan: Plan, since: int = 0) -> int:
        mark = super().apply(plan, since)
        self.spoiled.pop(self.netns, None)
        return mark

    def commit(self, name: str, difference: str = "") -> None:
        """Somebody else's commit."""
        self.generations[name] += 1
        if difference:
            self.spoiled[name] = difference


class Clock:
    """Seconds as the test has them, and what the thread spent of them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.spent = 0.0

    def __call__(self) -> float:
        return self.now


class Node:
    """Sandboxes by name, a watch over them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.kernel = Kernel(self.clock)
        self.gone: set[str] = set()
        self.reconciler = Reconciler(Store(CommonRules()), self.kernel, self.clock, lambda _: None)
        self.watch = Watch(self.reconciler, self.kernel, self.clock, lambda: self.clock.spent)
        monkeypatch.setattr(netns, "entered", self._entered)

    @contextmanager
    def _entered(self, path: str, expected: NetnsIdentity | None) -> Iterator[Any]:
        if path in self.gone:
            raise NetnsGoneError(path, "gone")
        self.kernel.netns = path
        yield expected

    def sandbox(self, name: str) -> Sandbox:
        found = self.reconciler.sandbox(NetnsIdentity(name, 1, len(self.reconciler.sandboxes) + 1, None))
        record = make_record(container_id=name, netns=name, guard=True)
        found.attachments[record.ifname] = Attachment(record)
        self.reconciler.mark([found])
        self.reconciler.reconcile(found)
        assert found.error == ""
        return found

    def pass_time(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.watch.step()
            self.clock.now += TICK_SECONDS

    def state(self, sandbox: Sandbox) -> State:
        (attachment,) = sandbox.attachments.values()
        return attachment.state

    def looks(self, name: str, seconds: float) -> int:
        """How often a namespace is looked at in some time, during which somebody commits without end."""
        before = self.kernel.asked[name]
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.kernel.commit(name)
            self.pass_time(TICK_SECONDS)
        return self.kernel.asked[name] - before


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(monkeypatch)


# --- what it finds ---------------------------------------------------------------------------------------


def test_what_is_as_it_was_is_left_alone(node: Node) -> None:
    one = node.sandbox("one")
    plans = len(node.kernel.plans)
    node.pass_time(10.0)
    assert len(node.kernel.plans) == plans
    assert node.kernel.asked["one"] == pytest.approx(10, abs=1)
    assert node.kernel.asked["differences"] == 0
    assert node.state(one) is State.APPLIED


def test_a_commit_that_leaves_ours_alone_costs_one_comparison(node: Node) -> None:
    one = node.sandbox("one")
    plans = len(node.kernel.plans)
    node.kernel.commit("one")
    node.pass_time(10.0)
    assert node.kernel.surveys == ["one"]
    assert (len(node.kernel.plans), node.reconciler.tampered_total) == (plans, 0)
    assert one.generation == node.kernel.generations["one"]


def test_a_long_comparison_lets_others_have_their_turns(node: Node) -> None:
    """20 ms a tick, whatever a namespace holds."""
    one = node.sandbox("one")
    node.kernel.pieces, node.kernel.wall = 50, 0.015
    node.kernel.commit("one", "set pods4-a: 1 elements missing, 0 too many")
    took = []
    while not node.reconciler.tampered_total:
        begun = node.clock.now
        node.watch.step()
        took.append(node.clock.now - begun)
        node.clock.now += 0.05
    assert max(took) <= 0.035
    assert len(took) >= 25
    assert node.kernel.plans[-1].reset
    assert one.generation == node.kernel.generations["one"]


def test_a_long_comparison_keeps_nobody_from_having_his_own(node: Node) -> None:
    """What others change is restored as soon as ever."""
    node.sandbox("one")
    two = node.sandbox("two")
    node.kernel.pieces, node.kernel.wall = 10_000, 0.001
    node.kernel.commit("one")
    node.pass_time(0.5)
    assert node.kernel.surveys == ["one"]
    node.kernel.pieces = 3
    node.kernel.commit("two", "chain input has 0 rules instead of 1")
    node.pass_time(2.0)
    assert two.tampering.times == 1
    assert two.generation == node.kernel.generations["two"]


def test_what_is_programmed_meanwhile_makes_a_comparison_worthless(node: Node) -> None:
    """What was read is neither the old program nor the new one; the next look tells."""
    one = node.sandbox("one")
    node.kernel.pieces, node.kernel.wall = 50, 0.015
    node.kernel.commit("one", "set pods4-a: 1 elements missing, 0 too many")
    node.pass_time(0.5)
    assert node.kernel.surveys == ["one"]
    one.actual = None
    node.reconciler.repair(one)
    plans = len(node.kernel.plans)
    node.pass_time(3.0)
    assert (len(node.kernel.plans), node.reconciler.tampered_total) == (plans, 0)


def test_a_comparison_ends_with_its_namespace(node: Node) -> None:
    one = node.sandbox("one")
    node.kernel.pieces, node.kernel.wall = 50, 0.015
    node.kernel.commit("one")
    node.pass_time(0.5)
    node.reconciler.forget(one)
    two = node.sandbox("two")
    node.kernel.commit("two", "gone")
    node.pass_time(3.0)
    assert node.kernel.broken_off == 1
    assert two.tampering.times == 1


def test_what_was_changed_is_written_anew_counted_and_told(node: Node) -> None:
    one = node.sandbox("one")
    node.kernel.commit("one", "chain input has 0 rules instead of 1\x1b[31m")
    node.pass_time(2.0)
    assert node.kernel.plans[-1].reset
    assert node.reconciler.tampered_total == 1
    assert one.generation == node.kernel.generations["one"]
    assert node.state(one) is State.APPLIED
    told = one.tampering.told(node.clock.now)
    assert "(chain input has 0 rules instead of 1?[31m); it was restored" in told
    assert one.tampering.told(node.clock.now + TOLD_SECONDS) == ""


def test_what_can_not_be_read_is_written_anew_and_is_no_tampering(node: Node) -> None:
    one = node.sandbox("one")
    node.kernel.commit("one")
    node.kernel.unreadable = True
    node.pass_time(2.0)
    assert node.kernel.plans[-1].reset
    assert (node.reconciler.tampered_total, one.tampering.told(node.clock.now)) == (0, "")


def test_all_is_read_back_now_and_then_though_nothing_seems_touched(node: Node) -> None:
    """A generation comes back after 4 billion commits."""
    one = node.sandbox("one")
    node.kernel.spoiled["one"] = "rule 1 of chain input is another one"
    node.pass_time(10.0)
    assert node.reconciler.tampered_total == 0
    one.tampering.look_at = node.clock.now = one.tampering.read_at
    node.pass_time(1.0)
    assert node.reconciler.tampered_total == 1


def test_what_must_stay_as_it_is_and_what_is_gone_is_not_touched(node: Node) -> None:
    held, gone = node.sandbox("held"), node.sandbox("gone")
    held.held = True
    node.gone.add("gone")
    for name in ("held", "gone"):
        node.kernel.commit(name, "chain input has 0 rules instead of 1")
    plans = len(node.kernel.plans)
    node.pass_time(3.0)
    assert len(node.kernel.plans) == plans
    assert gone.identity.token in node.reconciler.sandboxes  # the sweep's to drop


# --- what it costs ---------------------------------------------------------------------------------------


def test_who_changes_ours_without_end_is_shown_and_costs_a_repair_now_and_then(node: Node) -> None:
    one, other = node.sandbox("one"), node.sandbox("other")
    plans = len(node.kernel.plans)
    end = node.clock.now + 60.0
    while node.clock.now < end:
        node.kernel.commit("one", "chain input has 0 rules instead of 1")
        node.pass_time(TICK_SECONDS)
    repairs = len(node.kernel.plans) - plans
    assert REPAIRS < repairs <= REPAIRS + 60.0 / REPAIR_SECONDS + 1
    assert node.kernel.asked["other"] == pytest.approx(60, abs=3)
    assert (node.state(one), node.state(other)) == (State.TAMPERED, State.APPLIED)
    assert "changes all the time" in one.tampering.told(node.clock.now)
    node.pass_time(1.2 * REPAIR_SECONDS)
    assert node.state(one) is State.TAMPERED  # one look that finds all well may be chance
    node.pass_time(REPAIRS * REPAIR_SECONDS)
    assert node.state(one) is State.APPLIED
    assert "it was restored" in one.tampering.told(node.clock.now)


def test_an_edit_of_one_that_is_tampered_with_leaves_it_shown(node: Node) -> None:
    one = node.sandbox("one")
    one.tampering.endless = True
    node.reconciler.mark([one])
    node.reconciler.reconcile(one)
    assert node.state(one) is State.TAMPERED


def test_looks_that_cost_much_come_less_often_and_no_other_s(node: Node) -> None:
    node.sandbox("slow")
    node.sandbox("quick")
    node.kernel.price["slow"] = 0.5
    node.pass_time(60.0)
    assert node.kernel.asked["quick"] == pytest.approx(60, abs=3)
    share = node.kernel.watch_share
    assert node.kernel.asked["slow"] * 0.5 <= share * 60.0 + 1.0


def test_who_commits_without_end_gets_his_share_of_comparisons(node: Node) -> None:
    node.sandbox("busy")
    node.sandbox("quiet")
    node.kernel.price["busy"] = 0.05
    looks = node.looks("busy", 60.0)
    assert 10 <= looks <= COMPARE_SHARE * 60.0 / 0.05 + 2
    assert node.kernel.asked["quiet"] == pytest.approx(60, abs=3)
    assert node.reconciler.tampered_total == 0


def test_a_thousand_are_looked_at_in_slices(node: Node) -> None:
    """The dataplane thread has other work between: no step looks at more than a slice holds."""
    for number in range(1000):
        node.sandbox(f"one-{number}")
    node.kernel.wall = 0.0001
    node.pass_time(3.0)
    most = 0
    for _ in range(40):
        before = node.kernel.asked["generation"]
        node.watch.step()
        most = max(most, node.kernel.asked["generation"] - before)
        node.clock.now += TICK_SECONDS
    assert 0 < most <= SLICE_SECONDS / 0.0001 + 1
    asked = [node.kernel.asked[f"one-{number}"] for number in range(1000)]
    assert min(asked) >= 1
    assert max(asked) - min(asked) <= 2


def test_nothing_to_look_at_wakes_nobody(node: Node) -> None:
    assert node.watch.next_due() is None
    node.sandbox("one")
    node.watch.step()
    due = node.watch.next_due()
    assert due is not None
    assert due <= node.clock.now + LOOK_SECONDS


# --- its numbers -----------------------------------------------------------------------------------------


def test_a_bucket_of_repairs() -> None:
    bucket = Tampering()
    for _ in range(int(REPAIRS)):
        assert bucket.wait(100.0) == 0.0
        bucket.spend(100.0)
    assert bucket.endless
    assert bucket.wait(100.0) == pytest.approx(REPAIR_SECONDS)
    assert bucket.wait(100.0 + REPAIR_SECONDS) == 0.0


@pytest.mark.parametrize(("now", "then"), [(1, 2), (0xFFFFFFFE, 0xFFFFFFFF), (0xFFFFFFFF, 1)])
def test_generations_wrap_and_are_never_0(now: int, then: int) -> None:
    assert next_generation(now) == then
