"""Desired and actual to a plan: which elements, chains and entries change, and what is stale. Pure.

In: the Program that shall be in a netns (desired.py makes it) and the one that was applied last, or None.
Out: a Plan, what leads from the one to the other at once, and a program's digest. A backend renders a Plan;
this module knows no backend. What 250 netns share is compared by identity, and a shared set's difference is
computed once for all.
"""

from hashlib import sha256

import msgspec

from daemon.memo import per_object
from daemon.model import Direction
from daemon.program import (
    DENIED,
    EMPTY,
    UNTOUCHED,
    ChainSpec,
    Elements,
    Gate,
    GateRequest,
    PartSpec,
    PortSpec,
    Program,
    RuleSpec,
    SetKind,
    SetSpec,
    chain_name,
    denied_gate,
)

__all__ = [
    "DENIED",
    "EMPTY",
    "UNTOUCHED",
    "ChainKey",
    "ChainSpec",
    "ChainWrite",
    "Dispatch",
    "Elements",
    "Gate",
    "GateRequest",
    "PartSpec",
    "Plan",
    "PortSpec",
    "Program",
    "RuleSpec",
    "SetChange",
    "SetKind",
    "SetSpec",
    "chain_name",
    "denied_gate",
    "digest",
    "dispatches",
    "in_commits",
    "make_plan",
]

_INTERVALS = (SetKind.SPANS, SetKind.PORTS)

_LAYOUT = b"4 "
"""Of what backends make of a program: another one with each version that makes something else of the same.

So that after an upgrade what the kernel holds is not believed, but written anew.
"""


class ChainKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A chain by what it is for; backends name it (`chain_name`)."""

    ifname: str
    direction: Direction


class ChainWrite(msgspec.Struct, frozen=True):
    """A chain whose rules are to be (re)written. exists: there is one; else it is made.

    replaced: there is one of another owner, whose comment can't be changed: deleted and made anew.
    """

    key: ChainKey
    owner: str
    spec: ChainSpec
    exists: bool
    replaced: bool = False


class Dispatch(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A device's packets in one direction go to an interface's chain. ifindex 0: matched by name.

    name: the device's, where it is not the interface's own; "": it is.
    """

    key: ChainKey
    ifindex: int
    name: str = ""

    @property
    def device(self) -> str:
        """The name of the device whose packets these are."""
        return self.name or self.key.ifname

    @property
    def interface(self) -> int | str:
        """What is matched: an index, or a name."""
        return self.ifindex or self.device


class SetChange(msgspec.Struct, frozen=True):
    """Elements of one set that go and that come; `spec` is the set as it shall be."""

    spec: SetSpec
    removed: Elements
    added: Elements


class Plan(msgspec.Struct, frozen=True):
    """The steps to `program`; one atomic transaction where the backend has such.

    reset: the actual state is not known. All of `program` is in the plan then, and whatever else of ours is
    found goes. track, imprints None: they stay as they are. Whatever is named in a `stale_…` or `dispatch_…`
    field exists. new_parts, stale_parts: each behind what it refers to, and before it.
    """

    program: Program
    reset: bool
    track: bool | None = None
    imprints: tuple[str, ...] | None = None
    new_sets: tuple[SetSpec, ...] = ()
    set_changes: tuple[SetChange, ...] = ()
    new_parts: tuple[PartSpec, ...] = ()
    chains: tuple[ChainWrite, ...] = ()
    dispatch_removed: tuple[Dispatch, ...] = ()
    dispatch_added: tuple[Dispatch, ...] = ()
    stale_chains: tuple[ChainKey, ...] = ()
    stale_parts: tuple[str, ...] = ()
    stale_sets: tuple[str, ...] = ()

    @property
    def commits(self) -> int:
        """In how many commits it is carried out."""
        return 0 if self.empty else len(in_commits(self))

    @property
    def empty(self) -> bool:
        """Nothing to do."""
        return not (
            self.reset
            or self.track is not None
            or self.imprints is not None
            or self.new_sets
            or self.set_changes
            or self.new_parts
            or self.chains
            or self.dispatch_removed
            or self.dispatch_added
            or self.stale_chains
            or self.stale_parts
            or self.stale_sets
        )


def make_plan(desired: Program, actual: Program | None) -> Plan:
    """The steps from `actual` to `desired`; actual None: unknown, so everything of ours is rewritten."""
    before = EMPTY if actual is None else actual
    new_sets, changes = _plan_sets(desired, before)
    chains, stale_chains = _plan_chains(desired, before)
    removed, added = _plan_dispatch(desired, before, {write.key for write in chains if write.replaced})
    return Plan(
        program=desired,
        reset=actual is None,
        track=desired.track if actual is None or desired.track != before.track else None,
        imprints=desired.imprints if actual is None or desired.imprints != before.imprints else None,
        new_sets=new_sets,
        set_changes=changes,
        new_parts=tuple(part for name, part in desired.parts.items() if name not in before.parts),
        chains=chains,
        dispatch_removed=removed,
        dispatch_added=added,
        stale_chains=stale_chains,
        stale_parts=tuple(name for name in reversed(before.parts) if name not in desired.parts),
        stale_sets=tuple(sorted(before.sets.keys() - desired.sets.keys())),
    )


def in_commits(plan: Plan) -> tuple[Plan, ...]:
    """A plan as the commits that it takes, each at least as strict as both ends (E5).

    A packet under way keeps the rules that it came in with, but sees elements as of now. Hence:
    - sets of spans, of addresses or of ports, come a commit before the rules that look them up, for their
      elements become visible late;
    - where rules and members of a set that stays change together, members that are added come a commit after
      the new rules: the old ones might permit them what neither end permits.
    """
    if plan.reset or not plan.chains:
        return (plan,)
    spans = tuple(spec for spec in plan.new_sets if spec.kind in _INTERVALS)
    growing = tuple(change for change in plan.set_changes if change.added)
    main = msgspec.structs.replace(
        plan,
        new_sets=tuple(spec for spec in plan.new_sets if spec.kind not in _INTERVALS),
        set_changes=tuple(
            msgspec.structs.replace(change, added=frozenset())
            for change in plan.set_changes
            if change.removed
        ),
    )
    additions = tuple(msgspec.structs.replace(change, removed=frozenset()) for change in growing)
    before = Plan(program=plan.program, reset=False, new_sets=spans)
    after = Plan(program=plan.program, reset=False, set_changes=additions)
    return tuple(step for step in (before, main, after) if not step.empty)


def _plan_sets(desired: Program, before: Program) -> tuple[tuple[SetSpec, ...], tuple[SetChange, ...]]:
    new: list[SetSpec] = []
    changes: list[SetChange] = []
    for name, spec in desired.sets.items():
        was = before.sets.get(name)
        if was is None:
            new.append(spec)
        elif was is not spec and was.elements is not spec.elements:
            removed, added = _difference(spec, was.elements)
            if removed or added:
                changes.append(SetChange(spec, removed, added))
    return tuple(new), tuple(changes)


@per_object
def _difference(spec: SetSpec, old: Elements) -> tuple[Elements, Elements]:
    """What goes and what comes when a set that held `old` becomes this one.

    Remembered until it is something else again: all netns that hold it ask for the same, and the two are the
    same objects then, whose messages are encoded once.
    """
    return old - spec.elements, spec.elements - old


def _plan_chains(desired: Program, before: Program) -> tuple[tuple[ChainWrite, ...], tuple[ChainKey, ...]]:
    writes: list[ChainWrite] = []
    stale: list[ChainKey] = []
    for ifname, gate in desired.gates.items():
        was = before.gates.get(ifname)
        if was == gate:
            continue
        writes += [write for direction in Direction if (write := _chain_write(gate, was, direction))]
    for ifname, was in before.gates.items():
        gone = desired.gates.get(ifname)
        if gone != was:
            stale += [ChainKey(ifname, d) for d in Direction if was.chain(d) and not (gone and gone.chain(d))]
    return tuple(writes), tuple(stale)


def _chain_write(gate: Gate, was: Gate | None, direction: Direction) -> ChainWrite | None:
    spec = gate.chain(direction)
    old = was.chain(direction) if was is not None else None
    if spec is None:
        return None
    replaced = was is not None and old is not None and was.owner != gate.owner
    if old is not None and not replaced and (old is spec or old == spec):
        return None
    return ChainWrite(
        ChainKey(gate.ifname, direction), gate.owner, spec, exists=old is not None, replaced=replaced
    )


def _plan_dispatch(
    desired: Program, before: Program, replaced: set[ChainKey]
) -> tuple[tuple[Dispatch, ...], tuple[Dispatch, ...]]:
    """Entries to take away and to add. An entry whose chain is deleted and made anew is both."""
    if not replaced and desired.gates == before.gates:
        return (), ()
    old, new = set(dispatches(before)), set(dispatches(desired))
    renewed = {entry for entry in old & new if entry.key in replaced}
    return tuple(sorted(old - new | renewed)), tuple(sorted(new - old | renewed))


def dispatches(program: Program) -> list[Dispatch]:
    """All that a program dispatches, sorted: one entry for each interface and direction that has a chain.

    Further ones for the names that a gate has beside. An interface meets one gate's index, and any number of
    gates that have its name: each must permit.
    """
    # Two gates may name one index when a device is gone and its number was given to another: the later one
    # counts.
    by_index: dict[tuple[Direction, int], Dispatch] = {}
    others: set[Dispatch] = set()
    for gate in program.gates.values():
        for direction in Direction:
            if gate.chain(direction) is None:
                continue
            key = ChainKey(gate.ifname, direction)
            if gate.ifindex:
                by_index[direction, gate.ifindex] = Dispatch(key, gate.ifindex)
            else:
                others.add(Dispatch(key, 0))
            others.update(Dispatch(key, 0, name if name != gate.ifname else "") for name in gate.names)
            others.update(Dispatch(key, carrier.ifindex, carrier.ifname) for carrier in gate.carriers)
    return sorted([*by_index.values(), *others])


# --- digest ----------------------------------------------------------------------------------------------


def digest(program: Program) -> str:
    """Of all that a program means.

    The same in every process, so that a record can be compared after a restart.
    """
    whole = sha256(_LAYOUT + (b"tracked" if program.track else b"untracked"))
    for line in program.imprints:
        whole.update(line.encode())
    for ifname in sorted(program.gates):
        whole.update(_gate_digest(program.gates[ifname]))
    for name in sorted(program.parts):
        whole.update(name.encode())
    for name in sorted(program.sets):
        spec = program.sets[name]
        whole.update(f"{name} {spec.kind} {spec.family} {spec.comment}".encode())
        whole.update(_elements_digest(spec.elements))
    return whole.hexdigest()


def _gate_digest(gate: Gate) -> bytes:
    ingress, egress = (b"-" if c is None else _chain_digest(c) for c in (gate.ingress, gate.egress))
    return f"{gate.ifname!r} {gate.ifindex} {gate.owner!r} ".encode() + ingress + egress


@per_object
def _chain_digest(chain: ChainSpec) -> bytes:
    """Remembered: a peer's change asks for it, and leaves the rules as they are."""
    return sha256(repr(chain).encode()).digest()


@per_object
def _elements_digest(elements: Elements) -> bytes:
    """Remembered: all netns that hold a shared set ask for the same."""
    return sha256(repr(sorted(elements)).encode()).digest()
