"""The steps to a large program: each commit is small, and none lets in what the last does not."""

import pytest

from daemon.backends.fake import FakeBackend, table_of
from daemon.planner import MOST_AT_ONCE, make_plan, next_step
from daemon.policy.ruleset import BlockSet, Match, Ruleset
from daemon.program import closed
from tests.unit.backends.walk import TCP
from tests.unit.test_planner import FROM_CLIENTS, gate, program


def many(sets: int, elements: int) -> Ruleset:
    """So many sets of hosts, and so many elements in each."""

    def match(number: int) -> Match:
        hosts = tuple((1_000_000 * number + 2 * i, 1_000_000 * number + 2 * i) for i in range(elements))
        return Match(BlockSet(hosts, ()), ((TCP, (number, number)),), (f"p{number}",))

    return Ruleset(tuple(match(number) for number in range(1, sets + 1)), None)


@pytest.mark.parametrize("new", [True, False], ids=["first", "edit"])
@pytest.mark.parametrize(("sets", "elements"), [(1, 50), (1, 7000), (3, 3000), (500, 1), (500, 11), (120, 0)])
def test_what_is_large_comes_in_steps(sets: int, elements: int, new: bool) -> None:
    """Each adds little, none lets in what is not to be at the end, and rules change last."""
    desired = program(gate(many(sets, elements)))
    actual = None if new else program(gate(FROM_CLIENTS))
    backend, before = FakeBackend(), actual
    if actual is not None:
        backend.apply(make_plan(actual, None))
    for _ in range(100):
        step = next_step(desired, actual)
        plan = make_plan(step, actual)
        backend.apply(plan)
        added = [spec.elements for spec in plan.new_sets] + [change.added for change in plan.set_changes]
        assert sum(map(len, added)) <= MOST_AT_ONCE or step is desired
        actual = step
        if step is desired:
            break
        shall = closed(desired, None) if before is None else before
        assert step.gates == shall.gates
    assert actual is desired
    assert backend.tables[""] == table_of(desired)
    assert next_step(desired, desired) is desired


@pytest.mark.parametrize("after", [FROM_CLIENTS, many(400, 2)], ids=["small", "large"])
def test_many_sets_go_after_the_rules_and_some_at_a_time(after: Ruleset) -> None:
    actual, desired = program(gate(many(500, 1))), program(gate(after))
    backend = FakeBackend()
    backend.apply(make_plan(actual, None))
    for _ in range(100):
        step = next_step(desired, actual)
        plan = make_plan(step, actual)
        backend.apply(plan)
        assert len(plan.stale_sets) <= 100
        actual = step
        if step is desired:
            break
    assert actual is desired
    assert backend.tables[""] == table_of(desired)
