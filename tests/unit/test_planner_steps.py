"""The steps to a large program: each commit is small, and none lets in what the last does not."""

import gc
import random
from collections.abc import Iterator
from weakref import WeakSet

import pytest

from daemon.backends import ipset
from daemon.backends.fake import FakeBackend, table_of
from daemon.desired import make_program
from daemon.model import Direction
from daemon.planner import Plan, make_plan
from daemon.policy.ruleset import OPEN, BlockSet, Match, Members, Ruleset, SharedRef
from daemon.program import UNTOUCHED, GateRequest, Program, SetSpec, closed
from daemon.steps import MOST_AT_ONCE, RULES_AT_ONCE, first_step, next_step
from tests.unit.backends.walk import TCP, pods
from tests.unit.test_planner import FROM_CLIENTS, gate, program

MOST_STEPS = 200


def many(sets: int, elements: int) -> Ruleset:
    """So many sets of hosts, and so many elements in each."""

    def match(number: int) -> Match:
        hosts = tuple((1_000_000 * number + 2 * i, 1_000_000 * number + 2 * i) for i in range(elements))
        return Match(BlockSet(hosts, ()), ((TCP, (number, number)),), (f"p{number}",))

    return Ruleset(tuple(match(number) for number in range(1, sets + 1)), None)


def crooked(blocks: int) -> Ruleset:
    """So many IPv6 blocks, each but one address in it: 111 or 112 prefixes."""
    size = 1 << 112
    spans = [(n * size, n * size + size // 3 - 1) for n in range(1, blocks + 1)]
    spans += [(n * size + size // 3 + 1, (n + 1) * size - 2) for n in range(1, blocks + 1)]
    return Ruleset((Match(BlockSet((), tuple(sorted(spans))), None, ("p",)),), None)


def members(_: SharedRef) -> Members:
    return Members()


def way(backend: FakeBackend, desired: Program, actual: Program | None) -> Iterator[tuple[Program, Plan]]:
    """The steps to a program, each carried out, and its plan."""
    for _ in range(MOST_STEPS):
        step = first_step(desired, new=True) if actual is None else next_step(desired, actual)
        plan = make_plan(step, actual)
        backend.apply(plan)
        yield step, plan
        if step is desired:
            break
        actual = step
    assert step is desired
    assert backend.tables[""] == table_of(desired)
    assert next_step(desired, desired) is desired


@pytest.mark.parametrize("new", [True, False], ids=["first", "edit"])
@pytest.mark.parametrize(("sets", "elements"), [(1, 50), (1, 7000), (3, 3000), (500, 1), (500, 11), (120, 0)])
def test_what_is_large_comes_in_steps(sets: int, elements: int, new: bool) -> None:
    """Each adds little, none lets in what is not to be at the end, and rules change last."""
    desired = program(gate(many(sets, elements)))
    before = None if new else program(gate(FROM_CLIENTS))
    backend = FakeBackend()
    if before is not None:
        backend.apply(make_plan(before, None))
    shall = closed(desired, None) if before is None else before
    for step, plan in way(backend, desired, before):
        added = [spec.elements for spec in plan.new_sets] + [change.added for change in plan.set_changes]
        assert sum(map(len, added)) <= MOST_AT_ONCE or step is desired
        assert step is desired or step.gates == shall.gates


def test_a_span_counts_as_the_prefixes_that_ipset_makes_of_it() -> None:
    desired, before = program(gate(crooked(100))), program(gate(FROM_CLIENTS))
    backend = FakeBackend()
    backend.apply(make_plan(before, None))
    added: list[int] = []
    rooms: list[int] = []
    for _, plan in way(backend, desired, before):
        some = [(spec, spec.elements) for spec in plan.new_sets]
        some += [(change.spec, change.added) for change in plan.set_changes]
        added.append(sum(len(ipset.entries(e, spec.kind, spec.family)) for spec, e in some))
        rooms += [spec.room for spec in plan.new_sets]
    assert max(added) <= MOST_AT_ONCE
    assert sum(added) > 100 * 220
    assert rooms == [pytest.approx(sum(added), rel=0.1)]
    assert len(added) < 2 * sum(added) / MOST_AT_ONCE
    assert first_step(desired, new=False) == closed(desired, None)


def test_what_many_netns_are_on_the_way_to_is_in_memory_once() -> None:
    """Else 250 pods that one policy of 43,000 blocks governs take 2 MB each, and each encodes its own."""
    ruleset = many(2, 5000)
    ways = [
        way(FakeBackend(), make_program([GateRequest("net1", 7, owner, ruleset)], members, True), None)
        for owner in ("c0ffee net1", "decade net1")
    ]
    compared, passed = 0, WeakSet[SetSpec]()
    for (one, plan), (other, _) in zip(*ways, strict=True):
        for name, spec in one.sets.items():
            assert other.sets[name] is spec
            compared += 1
            passed.add(spec)
        assert plan.commits
    assert compared > 6
    del spec, other, plan, ways
    gc.collect()
    assert set(passed) <= set(one.sets.values()), "what all have left behind is forgotten"


@pytest.mark.parametrize("after", [FROM_CLIENTS, many(400, 2)], ids=["small", "large"])
def test_many_sets_go_after_the_rules_and_some_at_a_time(after: Ruleset) -> None:
    actual, desired = program(gate(many(500, 1))), program(gate(after))
    backend = FakeBackend()
    backend.apply(make_plan(actual, None))
    for _, plan in way(backend, desired, actual):
        assert len(plan.stale_sets) <= 100


def test_what_is_not_known_is_written_anew_at_once_unless_it_is_large() -> None:
    for sets, elements, new in [(100, 1, False), (1, 1900, True), (1, 2100, False)]:
        small = program(gate(many(sets, elements)))
        assert first_step(small, new) is small
    for sets, elements, new in [(1000, 1, False), (1, 2100, True)]:
        large = program(gate(many(sets, elements)))
        assert first_step(large, new) == closed(large, None)


# --- chains in parts -------------------------------------------------------------------------------------


class LongWalk:
    """Random but repeatable: interfaces come, go, pass on to others; their rules are few or many."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        pool = many(1200, 1).ingress or ()
        self._pool = {length: pool[-length:] for length in (1, 3, 150, 201, 420, 700, 1100)}
        self._gates: dict[str, GateRequest] = {}

    def programs(self, steps: int) -> Iterator[Program]:
        """What shall be after each step."""
        for _ in range(steps):
            ifname = self._random.choice(["net1", "net2", "net3"])
            if self._gates and self._random.random() < 0.2:
                self._gates.pop(ifname, None)
            else:
                owner = self._random.choice(["c0ffee", "decade"])
                rules = Ruleset(self._some(), self._some())
                self._gates[ifname] = GateRequest(ifname, 7 + int(ifname[-1]), f"{owner} {ifname}", rules)
            yield make_program(self._gates.values(), lambda _: Members(), True)

    def _some(self) -> tuple[Match, ...] | None:
        """A few, or many; often with the same end as others, of which the parts are the same."""
        kind = self._random.random()
        if kind < 0.25:
            return None
        rules = list(self._pool[self._random.choice(list(self._pool))])
        if kind < 0.6:
            del rules[self._random.randrange(len(rules))]
        return tuple(rules)


@pytest.mark.parametrize("seed", range(8))
def test_long_chains_come_and_go_in_parts(seed: int) -> None:
    """Each commit writes few rules; each chain is the old one, the new one, or closed."""
    backend, actual = FakeBackend(), program(gate(FROM_CLIENTS))
    backend.apply(make_plan(actual, None))
    for desired in LongWalk(seed).programs(12):
        both_ends = (actual, desired)
        for step, plan in way(backend, desired, actual):
            # One interface at least is changed at a time, with what of both its chains is in no part.
            in_parts = sum(len(part.rules) for part in plan.new_parts)
            in_chains = sum(len(write.spec.rules) for write in plan.chains)
            assert max(in_parts, in_chains) <= 2 * RULES_AT_ONCE
            assert sum(len(actual.parts[name].rules) for name in plan.stale_parts) <= RULES_AT_ONCE
            assert all(is_one_of(step, ifname, both_ends) for ifname in step.gates)
            actual = step


def is_one_of(step: Program, ifname: str, ends: tuple[Program, Program]) -> bool:
    """Whether each of an interface's chains is as it was, as it shall be, or permits nothing.

    Or everything, where it shall be none.
    """
    gate = step.gates[ifname]
    known = [end.gates[ifname] for end in ends if ifname in end.gates]
    final = ends[1].gates.get(ifname)
    for direction in Direction:
        chain = gate.chain(direction)
        opens = final is not None and final.owner == gate.owner and final.chain(direction) is None
        bare = chain is not None and chain.isolated and not chain.rules and not chain.rest
        if not (chain in [one.chain(direction) for one in known] or bare or (opens and chain == UNTOUCHED)):
            return False
    return True


def test_what_opens_is_never_closed_on_the_way() -> None:
    """E5: what both ends permit passes at each step."""
    backend, actual = FakeBackend(), program(gate(many(700, 1)))
    backend.apply(make_plan(actual, None))
    for step, _ in way(backend, program(gate(OPEN)), actual):
        ingress = step.gates["net1"].ingress
        assert ingress in (None, UNTOUCHED, actual.gates["net1"].ingress)


# --- members of sets that rules look up --------------------------------------------------------------------


def peopled(hosts: dict[str, range], *further: str) -> Program:
    """Peers by role, each with the hosts that have it; `further`: roles that may come in, too."""
    rules = Ruleset(tuple(Match(pods(role), None, (role,)) for role in (*hosts, *further)), None)
    held: dict[SharedRef, Members] = {
        pods(role): Members(frozenset(n.to_bytes(4, "big") for n in some)) for role, some in hosts.items()
    }
    return make_program([gate(rules)], lambda ref: held.get(ref, Members()), True)


def permitted(program: Program) -> set[object]:
    return {address for spec in program.sets.values() for address in spec.elements}


@pytest.mark.parametrize("rules_change", [False, True])
def test_many_members_change_some_at_a_time(rules_change: bool) -> None:
    """E5: what both ends permit passes at each step, also who goes from one set to another; nobody else."""
    before = peopled({"a": range(1, 5000), "b": range(5000, 9000), "c": range(9000, 9010)})
    after = peopled(
        {"a": range(4000, 9005), "b": range(1, 4000), "c": range(20_000, 26_000)}, *["d"] * rules_change
    )
    backend = FakeBackend()
    backend.apply(make_plan(before, None))
    steps = 0
    for step, plan in way(backend, after, before):
        steps += 1
        came, went = (sum(len(getattr(c, which)) for c in plan.set_changes) for which in ("added", "removed"))
        if not (rules_change and plan.chains):
            assert came + went <= MOST_AT_ONCE
            assert permitted(step) >= permitted(before) & permitted(after) or rules_change
        assert permitted(step) <= permitted(before) | permitted(after)
    assert steps > 5


def test_the_last_of_many_parts_is_within_what_a_kernel_follows() -> None:
    made = program(gate(many(4000, 1)))
    chain = made.gates["net1"].ingress
    assert len(list(made.parts_of(chain))) <= 10
    assert [rule.comment for rule in made.rules_of(chain)] == [f"p{n}" for n in range(1, 4001)]
