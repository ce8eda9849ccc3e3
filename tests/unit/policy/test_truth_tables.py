"""The truth tables, by the oracle and by the compiler: both say what the table says.

proves: A1, A2, A3, A4, A5, A6, A7, A9, A10, B1, B2, B3, B4, C1, C2, C3, C4, C5, C6, C7, C8, C9
proves: D1, D2, D3, D4, D5, E6
"""

from dataclasses import replace

import pytest

from daemon.model import Direction, Subject
from daemon.policy.evaluate import World, evaluate
from daemon.store import Store
from tests.semantics import CASES, FAMILIES, Case, Pod, Probe
from tests.unit.policy.table import attachment_key, ends_of, make_store, make_world, packet_of
from tests.unit.policy.tracer import trace

pytestmark = pytest.mark.unit


def by_oracle(world: World, case: Case, probe: Probe) -> bool:
    allowed = []
    for pod, index, direction in ends_of(case, probe):
        if pod.listed:
            subject = _subject(world, pod, pod.interfaces[index].network)
            allowed.append(evaluate(world, subject, direction, packet_of(probe, direction)).allowed)
    return all(allowed)


def _subject(world: World, pod: Pod, network: str) -> Subject:
    found = next(one.pod for one in world.pods if one.pod.ref == (pod.namespace, pod.name))
    return Subject(pod.namespace, found.labels, found.ports, (network,))


def by_compiler(store: Store, case: Case, probe: Probe) -> bool:
    allowed = []
    for pod, index, direction in ends_of(case, probe):
        if pod.listed:
            ruleset = store.ruleset(attachment_key(pod, index))
            allowed.append(trace(ruleset, direction, packet_of(probe, direction), store.members)[0])
    return all(allowed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_oracle(case: Case, family: int) -> None:
    world = make_world(case, family)
    wrong = [str(probe) for probe in case.tries(family) if by_oracle(world, case, probe) is not probe.want]
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_compiler(case: Case, family: int) -> None:
    store = make_store(case, family)
    wrong = [str(probe) for probe in case.tries(family) if by_compiler(store, case, probe) is not probe.want]
    assert not wrong


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_policies_all_reach_all(case: Case, family: int) -> None:
    """The positive control: each "no" of a table is the doing of its policies."""
    open_case = replace(case, policies=lambda _: [])
    world = make_world(open_case, family)
    assert all(by_oracle(world, open_case, probe) for probe in open_case.tries(family))


def test_names_are_unique() -> None:
    names = [str(case) for case in CASES]
    assert sorted(set(names)) == sorted(names)


def test_most_cases_say_yes_and_no() -> None:
    """A table that only ever says one thing would be passed by a constant."""
    wants = [probe.want for case in CASES for probe in case.tries(4)]
    assert wants.count(True) > 100
    assert wants.count(False) > 100


def test_directions_are_both_probed() -> None:
    found = {direction for case in CASES[:1] for _, _, direction in ends_of(case, case.tries(4)[0])}
    assert found == set(Direction)
