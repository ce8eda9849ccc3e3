"""A packet filter in memory: atomic, and as strict about references as the kernel.

In: Plans. Out: a model of each netns, and a count of what was asked. Its `netns` says which namespace calls
are about; its user sets it, as netns.entered would. It touches no kernel.
"""

import errno
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import cast

from daemon.backends import nfttext
from daemon.backends.base import Survey
from daemon.errors import BackendUnavailableError, OvertakenError, TransactionError
from daemon.linkkinds import Forward
from daemon.model import Direction
from daemon.planner import (
    ChainKey,
    ChainSpec,
    Dispatch,
    Elements,
    PartSpec,
    Plan,
    Program,
    RuleSpec,
    SetSpec,
    dispatches,
)
from daemon.program import Seal, chain_name
from daemon.slices import Pausing


@dataclass(slots=True)
class FakeTable:
    """What a netns holds: chains with owners, rules and parts, sets with elements, dispatch."""

    chains: dict[ChainKey, tuple[str, ChainSpec]] = field(default_factory=dict)
    sets: dict[str, Elements] = field(default_factory=dict)
    dispatch: set[Dispatch] = field(default_factory=set)
    track: bool = False
    imprints: tuple[str, ...] = ()
    parts: dict[str, PartSpec] = field(default_factory=dict)

    def copy(self) -> "FakeTable":
        """One that can change without this one."""
        return FakeTable(
            dict(self.chains),
            dict(self.sets),
            set(self.dispatch),
            self.track,
            self.imprints,
            dict(self.parts),
        )


class FakeBackend:
    """Backend in memory (see base.Backend).

    netns: the one that calls are about. refuse: names of sets and chains ("ingress-net1") that apply refuses.
    asked: how often each method was called, and "elements": how many elements plans added or removed.
    """

    name = "fake"
    follows_renames = True
    exact = True
    survey_seconds = 3600.0
    watch_share = 0.1

    def __init__(self) -> None:
        self.netns = ""
        self.available = True
        self.tables: dict[str, FakeTable] = {}
        self.seals: dict[str, frozenset[Seal]] = {}
        self.generations: Counter[str] = Counter()
        self.refuse: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.plans: list[Plan] = []

    def probe(self) -> None:
        """As `available` says."""
        if not self.available:
            raise BackendUnavailableError("this fake is not available: set `available`")

    def apply(self, plan: Plan, since: int = 0) -> int:
        """All of the plan or nothing of it."""
        self.asked["apply"] += 1
        if since and not plan.reset and since != self.generations[self.netns]:
            raise OvertakenError(errno.ERESTART, 0)
        self.plans.append(plan)
        table = FakeTable() if plan.reset else self._table().copy()
        _dismantle(table, plan)
        self._build(table, plan)
        _check_references(table)
        self.tables[self.netns] = table
        self.generations[self.netns] += plan.commits
        return self.generations[self.netns]

    def untouched(self, program: Program, mark: int) -> bool:
        """Whether the mark is the generation."""
        return bool(mark) and self.generation() == mark

    def surveying(self, program: Program) -> Pausing[Survey]:
        """The generation, then what differs."""
        generation = self.generation()
        yield
        return Survey(generation, self.differences(program))

    def generation(self) -> int:
        """Rises with each apply that changes something; a test raises it to play a foreign commit."""
        self.asked["generation"] += 1
        return self.generations[self.netns]

    def present(self) -> bool:
        """Whether this netns has been programmed."""
        return self.netns in self.tables

    def gates(self) -> frozenset[str]:
        """Every chain."""
        return frozenset(chain_name(key.direction, key.ifname) for key in self._table().chains)

    def differences(self, program: Program) -> str:
        """The parts that differ."""
        self.asked["differences"] += 1
        table, wanted = self._table(), table_of(program)
        parts = ("chains", "parts", "sets", "dispatch", "track", "imprints")
        return "; ".join(f"{part} differ" for part in parts if getattr(table, part) != getattr(wanted, part))

    def imprints(self) -> tuple[str, ...]:
        """As the last program had them."""
        return self._table().imprints

    def counters(self) -> dict[str, tuple[int, int]]:
        """Zeros."""
        return {chain_name(key.direction, key.ifname): (0, 0) for key in self._table().chains}

    def text(self, program: Program) -> str:
        """As nftables would have it."""
        return nfttext.text(program)

    def seal(self, seals: Collection[Seal]) -> str:
        """Remembered, by netns."""
        self.seals[self.netns] = frozenset(seals)
        return ""

    def sealed(self, seals: Collection[Seal]) -> bool:
        """As remembered."""
        return self.seals.get(self.netns, frozenset()) >= frozenset(seals)

    def forwards(self) -> tuple[Forward, ...] | None:
        """None at all."""
        return ()

    def remove(self) -> None:
        """Nothing of ours is in this netns any more."""
        self.tables.pop(self.netns, None)

    def _table(self) -> FakeTable:
        return self.tables.get(self.netns, FakeTable())

    def _build(self, table: FakeTable, plan: Plan) -> None:
        for spec in plan.new_sets:
            self._may(spec.name)
            _require(spec.name not in table.sets, errno.EEXIST, f"set {spec.name}")
            table.sets[spec.name] = spec.elements
        for change in plan.set_changes:
            self._may(change.spec.name)
            self._change(table, change.spec, change.removed, change.added)
        for write in plan.chains:
            name = chain_name(write.key.direction, write.key.ifname)
            self._may(name)
            kept = write.exists and not write.replaced
            _require((write.key in table.chains) == kept, errno.EEXIST, f"chain {name}")
            table.chains[write.key] = (write.owner, write.spec)
        for part in plan.new_parts:
            self._may(part.name)
            _require(part.name not in table.parts, errno.EEXIST, f"part {part.name}")
            table.parts[part.name] = part
        for stale in plan.stale_parts:
            _require(table.parts.pop(stale, None) is not None, errno.ENOENT, f"part {stale}")
        for entry in plan.dispatch_added:
            _require(entry not in table.dispatch, errno.EEXIST, f"dispatch of {entry.key.ifname}")
            table.dispatch.add(entry)
        for stale in plan.stale_sets:
            _require(table.sets.pop(stale, None) is not None, errno.ENOENT, f"set {stale}")
        if plan.track is not None:
            table.track = plan.track
        if plan.imprints is not None:
            table.imprints = plan.imprints

    def _may(self, name: str) -> None:
        _require(name not in self.refuse, errno.ENOMEM, name)

    def _change(self, table: FakeTable, spec: SetSpec, removed: Elements, added: Elements) -> None:
        held = table.sets.get(spec.name)
        if held is None:
            raise TransactionError(errno.ENOENT, "no such set", f"set {spec.name}")
        _require(removed <= held, errno.ENOENT, f"elements of set {spec.name}")
        _require(not added & (held - removed), errno.EEXIST, f"elements of set {spec.name}")
        table.sets[spec.name] = cast("Elements", frozenset((*(held - removed), *added)))
        self.asked["elements"] += len(removed) + len(added)


def table_of(program: Program) -> FakeTable:
    """What a netns holds when it is as a program says, made without any plan."""
    table = FakeTable(track=program.track, imprints=program.imprints, parts=dict(program.parts))
    table.sets = {name: spec.elements for name, spec in program.sets.items()}
    for gate in program.gates.values():
        for direction in Direction:
            chain = gate.chain(direction)
            if chain is not None:
                key = ChainKey(gate.ifname, direction)
                table.chains[key] = (gate.owner, chain)
    table.dispatch = set(dispatches(program))
    return table


def _dismantle(table: FakeTable, plan: Plan) -> None:
    for entry in plan.dispatch_removed:
        _require(entry in table.dispatch, errno.ENOENT, f"dispatch of {entry.key.ifname}")
        table.dispatch.remove(entry)
    for key in [*plan.stale_chains, *(write.key for write in plan.chains if write.replaced)]:
        used = any(entry.key == key for entry in table.dispatch)
        _require(not used, errno.EBUSY, f"chain of {key.ifname}")
        _require(table.chains.pop(key, None) is not None, errno.ENOENT, f"chain of {key.ifname}")


def _check_references(table: FakeTable) -> None:
    for entry in table.dispatch:
        _require(entry.key in table.chains, errno.ENOENT, f"dispatch of {entry.key.ifname}: its chain")
    for key, (_, spec) in table.chains.items():
        _check_rules(table, f"of {key.ifname}", spec.rules, spec.rest)
    for part in table.parts.values():
        owner, _ = table.chains.get(ChainKey(part.ifname, part.direction), (None, None))
        _require(owner == part.owner, errno.ENOENT, f"part {part.name}: its chain")
        _check_rules(table, f"of part {part.name}", part.rules, part.rest)


def _check_rules(table: FakeTable, where: str, rules: tuple[RuleSpec, ...], rest: str) -> None:
    for rule in rules:
        known = rule.peer is None or rule.peer in table.sets
        _require(known, errno.ENOENT, f"rule {where}: set {rule.peer}")
    _require(not rest or rest in table.parts, errno.ENOENT, f"rule {where}: part {rest}")


def _require(condition: bool, number: int, refused: str) -> None:
    if not condition:
        raise TransactionError(number, errno.errorcode[number], refused)
