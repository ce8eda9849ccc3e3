"""Every kind of rule and change on every backend, each beside others' rules; and that none is missing.

proves: A5, A6, B4, C4, C6, C9, D2, D5
"""

import pytest

from daemon import netns
from daemon.model import Direction
from daemon.planner import Plan, Program, RuleSpec, chain_name, make_plan
from tests.contract.backends import BACKENDS, Seams, Subject
from tests.contract.counting import CLASSES, met, unclassified, wanted
from tests.contract.readers import NOTHING, State
from tests.contract.rows import Scenario
from tests.contract.runs import Runs
from tests.contract.scenarios import SCENARIOS, UNGOVERNED, A, B, ingress
from tests.contract.words import permit, tcp
from tests.lab.programs import run

on_each_backend = pytest.mark.parametrize("subject", BACKENDS, ids=str)
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=str)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs()


def same_state(actual: State, expected: State) -> list[str]:
    return actual.differences(expected)


@on_each_backend
@each_scenario
class TestScenario:
    """One row of the table."""

    def test_it_leads_where_a_program_from_scratch_does(
        self, runs: Runs, scenario: Scenario, subject: Subject
    ) -> None:
        outcome = runs.outcome(scenario, subject)
        assert same_state(outcome.state, outcome.scratch) == []
        assert outcome.differences == ""

    def test_it_says_what_is_there(self, runs: Runs, scenario: Scenario, subject: Subject) -> None:
        outcome = runs.outcome(scenario, subject)
        chains = chains_of(scenario.after)
        assert outcome.gates == chains
        assert outcome.counters == dict.fromkeys(chains, (0, 0))
        comments, said = [rule.comment for rule in rules_of(scenario.after)], outcome.text.replace("\\", "")
        assert [comment for comment in comments if comment not in said] == []

    def test_it_tells_one_program_from_another(
        self, runs: Runs, scenario: Scenario, subject: Subject
    ) -> None:
        outcome = runs.outcome(scenario, subject)
        if scenario.before is not None and outcome.state != outcome.state_before:
            assert outcome.unlike_before != ""
        if chains_of(scenario.after):
            assert outcome.unlike_after_empty != ""

    def test_once_more_changes_nothing(self, runs: Runs, scenario: Scenario, subject: Subject) -> None:
        outcome = runs.outcome(scenario, subject)
        assert outcome.idle_plan.empty
        assert same_state(outcome.state_idle, outcome.state) == []
        before, after, idle = outcome.marks
        assert idle == after
        if subject.name == "nftables":  # whose mark is a generation
            assert after - before == outcome.plan.commits

    def test_it_is_rewritten_and_removed(self, runs: Runs, scenario: Scenario, subject: Subject) -> None:
        outcome = runs.outcome(scenario, subject)
        assert same_state(outcome.state_reset, outcome.scratch) == []
        assert same_state(outcome.removed, outcome.empty) == []
        assert outcome.empty == NOTHING
        assert outcome.gates_removed == frozenset()
        assert outcome.present == (False, True, False)

    def test_nothing_foreign_is_touched(self, runs: Runs, scenario: Scenario, subject: Subject) -> None:
        assert runs.outcome(scenario, subject).touched == []


def chains_of(program: Program) -> set[str]:
    return {chain_name(d, gate.ifname) for gate in program.gates.values() for d in Direction if gate.chain(d)}


def rules_of(program: Program) -> list[RuleSpec]:
    chains = [gate.chain(d) for gate in program.gates.values() for d in Direction]
    return [rule for chain in chains for rule in program.rules_of(chain)]


# --- that none is missing -------------------------------------------------------------------------------


@on_each_backend
def test_every_field_and_kind_of_value_was_executed(runs: Runs, subject: Subject) -> None:
    plans = [runs.outcome(scenario, subject).plan for scenario in SCENARIOS]
    assert sorted(wanted() - met(plans)) == []


def test_every_field_has_its_kinds_of_values() -> None:
    assert unclassified() == []


def test_a_missing_scenario_is_found() -> None:
    """Without the scenarios that have it, each kind of value is missed, and is said by name."""
    having = [met([make_plan(s.after, None if s.reset else s.before)]) for s in SCENARIOS]
    for one in wanted():
        left = [names for names in having if one not in names]
        assert len(left) < len(SCENARIOS), one
        assert one in wanted() - set().union(*left)


def test_a_new_field_is_found() -> None:
    class Extended(Plan, frozen=True):
        quota: int = 0

    assert unclassified({Extended: CLASSES[Plan]}) == ["Extended.quota"]
    with pytest.raises(KeyError):
        met([Extended(UNGOVERNED, reset=True)])


def test_names_are_unique() -> None:
    names = [str(scenario) for scenario in SCENARIOS]
    assert len(set(names)) == len(names)


# --- the rest of what a backend promises ----------------------------------------------------------------


@on_each_backend
def test_probe(subject: Subject) -> None:
    subject.make(Seams()).probe()


TAMPERED = ingress(permit(A, tcp(80)), permit(B), sets=(*A, *B))
TAMPERINGS = [(subject, line) for subject in BACKENDS for line in subject.tamper]


@pytest.mark.parametrize(("subject", "line"), TAMPERINGS, ids=[f"{s}-{line}" for s, line in TAMPERINGS])
def test_what_others_change_is_found_and_repaired(subject: Subject, line: str) -> None:
    def tampered() -> None:
        backend = subject.make(Seams())
        backend.apply(make_plan(TAMPERED, None))
        assert backend.differences(TAMPERED) == ""
        run("sh", "-c", line)
        assert backend.differences(TAMPERED) != ""
        backend.apply(make_plan(TAMPERED, None))
        assert same_state(subject.read(backend), subject.from_scratch(TAMPERED)) == []

    netns.in_scratch(tampered)


def test_each_real_backend_has_its_tamperings() -> None:
    assert all(subject.tamper for subject in BACKENDS if subject.real)
