"""The fake is as strict as the kernel: what the planner never does is refused, and nothing of it applied."""

import errno

import pytest

from daemon.backends.fake import FakeBackend, FakeTable, table_of
from daemon.errors import BackendUnavailableError, TransactionError
from daemon.model import Direction
from daemon.planner import (
    DENIED,
    ChainKey,
    ChainSpec,
    ChainWrite,
    Dispatch,
    Gate,
    Plan,
    Program,
    RuleSpec,
    SetChange,
    SetKind,
    SetSpec,
    make_plan,
)

KEY = ChainKey("net1", Direction.INGRESS)
SET = SetSpec("pods4-a", SetKind.HOSTS, 4, frozenset({b"abcd"}), "a")
RULE = RuleSpec(4, SET.name, SetKind.HOSTS, None, "p")
CHAIN = ChainSpec(True, (RULE,))
PROGRAM = Program({"net1": Gate("net1", 7, "o", CHAIN, None)}, {SET.name: SET}, track=True)
OTHER = frozenset({b"wxyz"})


@pytest.fixture
def fake() -> FakeBackend:
    made = FakeBackend()
    made.apply(make_plan(PROGRAM, None))
    return made


REFUSED = [
    ("set in use", Plan(PROGRAM, False, stale_sets=(SET.name,)), errno.ENOENT),
    ("chain in use", Plan(PROGRAM, False, stale_chains=(KEY,)), errno.EBUSY),
    ("set twice", Plan(PROGRAM, False, new_sets=(SET,)), errno.EEXIST),
    ("chain twice", Plan(PROGRAM, False, chains=(ChainWrite(KEY, "o", DENIED, exists=False),)), errno.EEXIST),
    ("dispatch twice", Plan(PROGRAM, False, dispatch_added=(Dispatch(KEY, 7),)), errno.EEXIST),
    ("unknown dispatch", Plan(PROGRAM, False, dispatch_removed=(Dispatch(KEY, 8),)), errno.ENOENT),
    (
        "dangling jump",
        Plan(PROGRAM, False, dispatch_added=(Dispatch(ChainKey("net2", Direction.INGRESS), 8),)),
        errno.ENOENT,
    ),
    (
        "element twice",
        Plan(PROGRAM, False, set_changes=(SetChange(SET, frozenset(), SET.elements),)),
        errno.EEXIST,
    ),
    (
        "unknown element",
        Plan(PROGRAM, False, set_changes=(SetChange(SET, OTHER, frozenset()),)),
        errno.ENOENT,
    ),
    (
        "dangling lookup",
        Plan(
            PROGRAM,
            False,
            chains=(
                ChainWrite(
                    KEY, "o", ChainSpec(True, (RuleSpec(4, "x", SetKind.HOSTS, None, ""),)), exists=True
                ),
            ),
        ),
        errno.ENOENT,
    ),
]


@pytest.mark.parametrize(("plan", "number"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refusals_change_nothing(fake: FakeBackend, plan: Plan, number: int) -> None:
    before = fake.generation()
    with pytest.raises(TransactionError) as refused:
        fake.apply(plan)
    assert refused.value.errno == number
    assert fake.tables[""] == table_of(PROGRAM)
    assert fake.generation() == before


def test_injected_refusal_names_its_object(fake: FakeBackend) -> None:
    fake.refuse.add("ingress-net1")
    with pytest.raises(TransactionError, match="ingress-net1"):
        fake.apply(make_plan(PROGRAM, None))
    assert fake.tables[""] == table_of(PROGRAM)


def test_namespaces_are_apart(fake: FakeBackend) -> None:
    fake.netns = "other"
    assert fake.differences(PROGRAM) != ""
    fake.apply(make_plan(Program({}, {}, track=False), None))
    assert fake.tables["other"] == FakeTable()
    assert fake.tables[""] == table_of(PROGRAM)


def test_empty_plans_make_no_generation(fake: FakeBackend) -> None:
    before = fake.generation()
    assert fake.apply(make_plan(PROGRAM, PROGRAM)) == before
    assert fake.apply(make_plan(PROGRAM, None)) == before + 1
    assert fake.differences(PROGRAM) == ""


def test_it_counts_what_it_was_asked(fake: FakeBackend) -> None:
    grown = SetSpec(SET.name, SET.kind, 4, SET.elements | OTHER, "a")  # type: ignore[operator]
    fake.apply(make_plan(Program(PROGRAM.gates, {SET.name: grown}, track=True), PROGRAM))
    assert (fake.asked["apply"], fake.asked["elements"]) == (2, 1)


def test_removal_and_availability(fake: FakeBackend) -> None:
    fake.remove()
    assert fake.tables == {}
    fake.probe()
    fake.available = False
    with pytest.raises(BackendUnavailableError):
        fake.probe()
