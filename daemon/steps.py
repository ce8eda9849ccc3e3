"""The way to a large program: steps, of which no one takes the kernel long. Pure.

In: the Program that shall be in a netns, and the one that is. Out: the Program to plan next. Each is as
strict as both ends at least (E5), and small ones are reached in one step.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, islice
from typing import TypeVar, cast
from weakref import WeakValueDictionary

import msgspec

from daemon.intervals import prefix_count
from daemon.memo import per_object
from daemon.model import Direction, Span
from daemon.program import (
    EMPTY,
    UNTOUCHED,
    ChainSpec,
    Elements,
    Gate,
    PartSpec,
    Program,
    SetKind,
    SetSpec,
    closed,
    closed_chain,
)

T = TypeVar("T")

MOST_AT_ONCE = 2000
"""Elements that one commit adds to sets which nothing refers to yet: 10 ms. A span counts as its prefixes."""
MOST_ANEW = 20_000
"""The same of what a commit writes anew as a whole: 100 ms."""
_EFFORT_OF_A_SET = 20
"""To make one takes as long as so many elements; to take one away, too."""
_EFFORT_OF_A_RULE = 10
_MOST_ROOM = 1 << 18
"""Of which a set knows from the first: to become so large bit by bit holds a kernel up, 140 ms in the end."""
_SETS_AT_ONCE = MOST_AT_ONCE // _EFFORT_OF_A_SET
RULES_AT_ONCE = MOST_AT_ONCE // _EFFORT_OF_A_RULE
_NOBODY: Elements = frozenset()


def first_step(desired: Program, new: bool) -> Program:
    """Where to go first from an actual state that is not known.

    That is `desired` itself, for all in it counts, unless it takes long: then what is isolated is closed
    first. new: nothing was ever there, so that this breaks nothing.
    """
    rules = sum(len(list(desired.rules_of(c))) for gate in desired.gates.values() for c in _chains(gate))
    most = MOST_AT_ONCE if new else MOST_ANEW
    effort = _effort(_lacking(desired, EMPTY), most) + _EFFORT_OF_A_RULE * rules
    return desired if effort <= most else closed(desired, None)


def next_step(desired: Program, actual: Program) -> Program:
    """Where to go first from `actual` on the way to `desired`, so that no commit takes long.

    That is `desired` itself where it is near. Else what no rule refers to yet is made first, some of it at a
    time, then the gates are changed, some at a time, then members of sets; what no rule refers to any more
    goes likewise.
    """
    lacking = _lacking(desired, actual)
    if _effort(lacking, MOST_AT_ONCE) > MOST_AT_ONCE:
        return _with_more_elements(actual, lacking)
    if actual.parts and (left := _left_by_gates(desired, actual)):
        return left
    if parts := [part for name, part in desired.parts.items() if name not in actual.parts]:
        return _with_chains_of(parts, desired, actual) or _with_more_parts(actual, lacking, parts)
    if actual.gates == desired.gates and (moved := _with_more_members(desired, actual)):
        return moved
    return _with_more_gates(desired, actual)


def _left_by_gates(desired: Program, actual: Program) -> Program | None:
    """Without some of the parts of chains that go or are given to others: a chain goes after its parts.

    Where rules still refer to them, these are closed, or open where they shall be. None: no such parts.
    """
    parts = [part for part in actual.parts.values() if not _has_chain(desired, part)]
    if not parts:
        return None
    gates = dict(actual.gates)
    for part in parts:
        chain = gates[part.ifname].chain(part.direction)
        if chain is not None and chain.rest:
            stays = _owner(desired, part.ifname) == part.owner
            bare = UNTOUCHED if stays else closed_chain(gates[part.ifname], part.direction)
            gates[part.ifname] = msgspec.structs.replace(gates[part.ifname], **{part.direction: bare})
    if gates != actual.gates:
        return msgspec.structs.replace(actual, gates=gates)
    gone = {part.name for part in _some(parts[::-1], _rules_in)}
    return msgspec.structs.replace(actual, parts={n: p for n, p in actual.parts.items() if n not in gone})


def _with_chains_of(parts: list[PartSpec], desired: Program, actual: Program) -> Program | None:
    """With the chains of these parts, closed as yet: a part counts there what it refuses.

    None: they are there.
    """
    lacking = {part.ifname for part in parts if not _has_chain(actual, part)}
    if not lacking:
        return None
    gates = {name: _closed_but(desired.gates[name], actual.gates.get(name)) for name in lacking}
    track = actual.track or desired.track
    return msgspec.structs.replace(actual, gates={**actual.gates, **gates}, track=track)


def _closed_but(wanted: Gate, there: Gate | None) -> Gate:
    """A gate that is closed, but for the chains that it has already."""
    old = there if there is not None and there.owner == wanted.owner else None
    chains = {d: (old.chain(d) if old is not None else None) or closed_chain(wanted, d) for d in Direction}
    return msgspec.structs.replace(wanted, ingress=chains[Direction.INGRESS], egress=chains[Direction.EGRESS])


def _has_chain(program: Program, part: PartSpec) -> bool:
    """Whether the chain is there, by its owner, that a part is of."""
    there = _owner(program, part.ifname) == part.owner
    return there and program.gates[part.ifname].chain(part.direction) is not None


def _owner(program: Program, ifname: str) -> str | None:
    gate = program.gates.get(ifname)
    return None if gate is None else gate.owner


def _with_more_elements(actual: Program, lacking: list[tuple[SetSpec, Elements]]) -> Program:
    sets, room = dict(actual.sets), MOST_AT_ONCE
    for spec, elements in lacking:
        room -= _EFFORT_OF_A_SET
        if room <= 0:
            break
        first, weight = _first(spec, elements, room)
        if first < len(elements):
            sets[spec.name] = _with_some(actual.sets.get(spec.name), spec, room)
            break
        sets[spec.name] = spec
        room -= weight
    return msgspec.structs.replace(actual, sets=sets)


@per_object
def _parts_behind(_: SetSpec) -> WeakValueDictionary[tuple[Elements, int], SetSpec]:
    """What comes next of a set that is there in part, or not at all: as long as a netns has it."""
    return WeakValueDictionary()


def _with_some(there: SetSpec | None, spec: SetSpec, most: int) -> SetSpec:
    """A set with some more of its elements: one object for all netns that are at this place on the way."""
    behind, key = _parts_behind(there or spec), (spec.elements, most)
    found = behind.get(key)
    if found is None:
        lacking = spec.elements if there is None else spec.elements - there.elements
        first, weight = _first(spec, lacking, most)
        part = cast("Elements", (spec.elements - lacking) | frozenset(islice(lacking, first)))
        room = min(len(spec.elements) * weight // max(first, 1), _MOST_ROOM)
        found = behind[key] = msgspec.structs.replace(spec, elements=part, room=room)
    return found


def _with_more_parts(
    actual: Program, lacking: list[tuple[SetSpec, Elements]], parts: list[PartSpec]
) -> Program:
    """The sets that they look up are complete before."""
    sets = {**actual.sets, **{spec.name: spec for spec, _ in lacking}}
    some = {part.name: part for part in _some(parts, _rules_in)}
    return msgspec.structs.replace(actual, sets=sets, parts={**actual.parts, **some})


def _with_more_gates(desired: Program, actual: Program) -> Program:
    """Some gates as desired. What other gates look up gains no member before they, too, are as desired."""
    changed = [gate for name, gate in desired.gates.items() if actual.gates.get(name) != gate]
    some = {gate.ifname: gate for gate in _some(changed, _length)}
    if len(some) == len(changed) and not (changed and _growth(desired, actual) > MOST_AT_ONCE):
        return _with_some_stale(desired, actual)
    sets = {**actual.sets, **desired.sets}
    for name in actual.sets_used() & desired.sets.keys():
        sets[name] = _without(actual.sets[name], desired.sets[name])
    track = actual.track or desired.track
    gates, parts = {**actual.gates, **some}, {**actual.parts, **desired.parts}
    return Program(gates, sets, track, actual.imprints, parts)


def _growth(desired: Program, actual: Program) -> int:
    """How many members come to sets that rules of `actual` look up."""
    used = actual.sets_used()
    changes = [change for change in _changed(desired, actual) if change[0].name in used]
    return sum(len(_further(*change, comes=True)) for change in changes)


def _changed(desired: Program, actual: Program) -> list[tuple[SetSpec, SetSpec]]:
    """The sets that stay and may hold others: as they are, and as they shall be."""
    both = ((there, desired.sets.get(name)) for name, there in sorted(actual.sets.items()))
    return [(there, one) for there, one in both if one is not None and one.elements is not there.elements]


def _moves(changes: list[tuple[SetSpec, SetSpec]]) -> int:
    """How many members come or go."""
    return sum(len(some) for there, wanted in changes for some in _moving(there, wanted.elements))


def _with_more_members(desired: Program, actual: Program) -> Program | None:
    """Where the rules stay, and many members of their sets change: some of them.

    First those go that come to no other set, then those come that do, then the rest goes: so what both ends
    permit passes all the time, also who goes from one set to another, and nobody else does. None: few change.
    """
    changes = _changed(desired, actual)
    # Which sets rules look up takes longer to find out than that few members change, as a rule.
    if _moves(changes) <= MOST_AT_ONCE:
        return None
    used = actual.sets_used()
    changes = [change for change in changes if change[0].name in used]
    if _moves(changes) <= MOST_AT_ONCE:
        return None
    coming = cast("Elements", frozenset().union(*(_further(*change, comes=True) for change in changes)))
    sets, room = dict(actual.sets), MOST_AT_ONCE
    for comes, but in ((False, coming), (True, _NOBODY), (False, _NOBODY)):
        for there, wanted in changes:
            further = _further(there, wanted, comes=comes) - but
            if further and room > 0:
                sets[there.name] = _on_the_way(there, further, comes, room)
                room -= len(further)
        if room < MOST_AT_ONCE:
            break
    return msgspec.structs.replace(actual, sets=sets)


def _further(there: SetSpec, wanted: SetSpec, *, comes: bool) -> Elements:
    gone, come = _moving(there, wanted.elements)
    return come if comes else gone


@per_object
def _moving(there: SetSpec, wanted: Elements) -> tuple[Elements, Elements]:
    """Who goes and who comes. Remembered while the set is so: all netns that hold it ask for the same."""
    return there.elements - wanted, wanted - there.elements


def _on_the_way(there: SetSpec, further: Elements, comes: bool, most: int) -> SetSpec:
    """A set with some members more or less: one object for all netns that are at this place on the way."""
    behind, key = _parts_behind(there), (further, most if comes else -most)
    found = behind.get(key)
    if found is None:
        some = frozenset(islice(further, most))
        elements = there.elements | some if comes else there.elements - some
        found = behind[key] = msgspec.structs.replace(there, elements=cast("Elements", elements))
    return found


def _without(there: SetSpec, wanted: SetSpec) -> SetSpec:
    """A set without what it shall not hold any more."""
    kept = there.elements & wanted.elements
    return there if len(kept) == len(there.elements) else msgspec.structs.replace(there, elements=kept)


def _with_some_stale(desired: Program, actual: Program) -> Program:
    """As desired, but where much goes, it does so after the rules that refer to it, some at a time."""
    parts = [part for name, part in actual.parts.items() if name not in desired.parts]
    sets = [spec for name, spec in actual.sets.items() if name not in desired.sets]
    if sum(map(_rules_in, parts)) <= RULES_AT_ONCE and len(sets) <= _SETS_AT_ONCE:
        return desired
    if actual.gates == desired.gates:
        # From the end: the parts before refer to none behind them.
        gone = _some(parts[::-1], _rules_in)
        if not parts:
            sets = sets[_SETS_AT_ONCE:]
        parts = parts[: len(parts) - len(gone)]
    return msgspec.structs.replace(
        desired,
        sets={**desired.sets, **{spec.name: spec for spec in sets}},
        parts={**desired.parts, **{part.name: part for part in parts}},
    )


def _some(items: Sequence[T], rules: Callable[[T], int]) -> Sequence[T]:
    """As many of the first items as one commit takes the rules of; one at least, if there is one."""
    totals = accumulate(map(rules, items))
    return items[: max(1, sum(total <= RULES_AT_ONCE for total in totals))]


def _chains(gate: Gate) -> tuple[ChainSpec, ...]:
    return tuple(chain for chain in (gate.ingress, gate.egress) if chain is not None)


def _rules_in(part: PartSpec) -> int:
    return len(part.rules)


def _length(gate: Gate) -> int:
    """How many rules its chains hold themselves."""
    return sum(len(chain.rules) for chain in _chains(gate))


def _lacking(desired: Program, actual: Program) -> list[tuple[SetSpec, Elements]]:
    """What the sets lack that no rule of `actual` looks up."""
    used = actual.sets_used()
    found: list[tuple[SetSpec, Elements]] = []
    for name, spec in desired.sets.items():
        there = actual.sets.get(name)
        if name in used or there is spec:
            continue
        if there is None:
            found.append((spec, spec.elements))
        elif missing := spec.elements - there.elements:
            found.append((spec, missing))
    return found


def _effort(lacking: list[tuple[SetSpec, Elements]], most: int) -> int:
    """What it takes to make them; beyond `most` it is not worked out how much more."""
    effort = 0
    for spec, elements in lacking:
        first, weight = _first(spec, elements, most - effort)
        effort += _EFFORT_OF_A_SET + weight
        if first < len(elements) or effort > most:
            return most + 1
    return effort


def _first(spec: SetSpec, elements: Elements, most: int) -> tuple[int, int]:
    """How many of these elements of a set, as they come, weigh no more than that; and what they weigh.

    A span weighs the prefixes that ipset makes of it; with nftables it counts alike, so that all nodes take
    the same steps.
    """
    if spec.kind is not SetKind.SPANS:
        number = min(len(elements), max(most, 0))
        return number, number
    bits = 32 if spec.family == 4 else 128
    number = weight = 0
    for total in accumulate(prefix_count(span, bits) for span in cast("frozenset[Span]", elements)):
        if total > most:
            break
        number, weight = number + 1, total
    return number, weight
