"""One scenario on one backend: all that a backend promises about it, gathered once.

In: a scenario, a backend. Out: an Outcome, which tests look at and which counts as executed. It judges
nothing.
"""

from dataclasses import dataclass, field

from daemon import netns
from daemon.backends.base import Backend
from daemon.planner import EMPTY, Plan, Program, make_plan
from tests.contract import readers
from tests.contract.backends import Seams, Subject
from tests.contract.readers import State
from tests.contract.rows import Scenario


@dataclass
class Outcome:
    """What was asked for and what came of it, in the order in which it was done."""

    plan: Plan
    state_before: State
    state: State
    scratch: State
    differences: str
    unlike_before: str
    gates: frozenset[str]
    counters: dict[str, tuple[int, int]]
    text: str
    marks: tuple[int, int, int]
    idle_plan: Plan
    state_idle: State
    unlike_after_empty: str
    state_reset: State
    empty: State
    removed: State
    gates_removed: frozenset[str]
    present: tuple[bool, bool, bool]
    touched: list[str] = field(default_factory=list)


class Runs:
    """Outcomes, each made at the first question for it."""

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], Outcome] = {}

    def outcome(self, scenario: Scenario, subject: Subject) -> Outcome:
        """The outcome of a scenario on a backend."""
        key = (scenario.name, subject.name)
        if key not in self._outcomes:
            self._outcomes[key] = netns.in_scratch(lambda: _run(scenario, subject))
        return self._outcomes[key]


class _Foreign:
    """What others have in this netns, watched over the steps."""

    def __init__(self, subject: Subject) -> None:
        self._real = subject.real
        self.touched: list[str] = []
        if self._real:
            readers.install_foreign()
            self._before = readers.read_foreign()

    def check(self, step: str) -> None:
        if self._real:
            changed = set(readers.read_foreign()) ^ set(self._before)
            self.touched += [f"{step}: {line}" for line in sorted(changed)]


def _run(scenario: Scenario, subject: Subject) -> Outcome:
    foreign = _Foreign(subject)
    backend = subject.make(Seams())
    empty, absent = subject.read(backend), backend.present()
    before = 0
    if scenario.before is not None:
        before = backend.apply(make_plan(scenario.before, None))
        foreign.check("before")
    before, state_before = before or backend.generation(), subject.read(backend)
    plan = make_plan(scenario.after, None if scenario.reset else scenario.before)
    after = backend.apply(plan, before)
    foreign.check("apply")
    present, idle_plan = backend.present(), make_plan(scenario.after, scenario.after)
    outcome = Outcome(
        plan=plan,
        state_before=state_before,
        state=subject.read(backend),
        scratch=subject.from_scratch(scenario.after),
        differences=backend.differences(scenario.after),
        unlike_before=_unlike(backend, scenario.before),
        gates=backend.gates(),
        counters=backend.counters(),
        text=backend.text(scenario.after),
        marks=(before, after, backend.apply(idle_plan, after)),
        idle_plan=idle_plan,
        state_idle=subject.read(backend),
        unlike_after_empty=_after_empty(backend, scenario.after),
        state_reset=_reset(backend, subject, scenario.after),
        empty=empty,
        removed=_remove(backend, subject),
        gates_removed=backend.gates(),
        present=(absent, present, backend.present()),
        touched=foreign.touched,
    )
    foreign.check("reset and remove")
    return outcome


def _unlike(backend: Backend, program: Program | None) -> str:
    return "" if program is None else backend.differences(program)


def _after_empty(backend: Backend, program: Program) -> str:
    """What differs once somebody took everything out of our chains and sets."""
    backend.apply(make_plan(EMPTY, None))
    return backend.differences(program)


def _reset(backend: Backend, subject: Subject, program: Program) -> State:
    backend.apply(make_plan(program, None))
    return subject.read(backend)


def _remove(backend: Backend, subject: Subject) -> State:
    backend.remove()
    backend.remove()
    return subject.read(backend)
