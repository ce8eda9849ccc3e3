"""Addresses and blocks written out: united and met, in pieces. Pure.

In: hosts, which are single addresses of both families, and sorted disjoint spans of one. Out: the same.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import TypeAlias, cast

from daemon.intervals import common, holds, number, union
from daemon.memo import per_object
from daemon.model import Address, Span
from daemon.policy.bounds import Meter
from daemon.policy.ruleset import BlockSet, Members
from daemon.slices import Pausing

Hosts: TypeAlias = frozenset[Address]

_PIECE = 4096
"""Spans that are worked on at once."""
_LOOKS_A_SEARCH = 8
"""One among many spans takes as long as to look at so many one after the other."""
_SORTED_A_LOOK = 8
"""To sort two sorted lists into one takes an eighth of a look a span."""


def addresses(members: Members) -> Hosts:
    """Those of a set of pods, of both families."""
    v4, v6 = cast("tuple[Hosts, Hosts]", (members.v4, members.v6))
    return v4 | v6 if v4 and v6 else v4 or v6


def as_blocks(hosts: Hosts, meter: Meter) -> Pausing[BlockSet]:
    """One span for each address, adjacent or not: in a program that is a plain set of hosts."""
    spans: dict[int, tuple[Span, ...]] = {}
    for length in (4, 16):
        left = [host for host in hosts if len(host) == length]
        runs = []
        for start in range(0, len(left), _PIECE):
            runs.append(sorted((n, n) for n in map(number, left[start : start + _PIECE])))
            if meter.look(len(runs[-1])):
                yield
        spans[length] = tuple((yield from _sort(runs, meter)))
    return BlockSet(spans[4], spans[16])


def size(blocks: BlockSet) -> int:
    """How many elements it comes to."""
    return len(blocks.spans4) + len(blocks.spans6)


@per_object
def only_hosts(blocks: BlockSet) -> bool:
    """Whether it holds nothing but single addresses."""
    return all(first == last for first, last in (*blocks.spans4, *blocks.spans6))


def hosts_of(blocks: BlockSet) -> Hosts:
    """Of one that holds nothing else."""
    families = ((blocks.spans4, 4), (blocks.spans6, 16))
    return frozenset(first.to_bytes(length, "big") for spans, length in families for first, _ in spans)


def within(hosts: Hosts, blocks: BlockSet, meter: Meter) -> Pausing[Hosts]:
    """The hosts that lie in blocks."""
    found: set[Address] = set()
    for length, spans in ((4, blocks.spans4), (16, blocks.spans6)):
        candidates = [host for host in hosts if len(host) == length] if spans else []
        for start in range(0, len(candidates), _PIECE):
            piece = candidates[start : start + _PIECE]
            found.update(host for host in piece if holds(spans, number(host)))
            if meter.look(_LOOKS_A_SEARCH * len(piece)):
                yield
    return frozenset(found)


def unite(runs: Sequence[Sequence[Span]], meter: Meter) -> Pausing[tuple[Span, ...]]:
    """What is in any of several runs of spans."""
    if len(runs) <= 1:
        return tuple(runs[0]) if runs else ()
    spans = yield from _sort([list(run) for run in runs], meter)
    found: list[Span] = []
    for start in range(0, len(spans), _PIECE):
        last = [found.pop()] if found else []
        piece = spans[start : start + _PIECE]
        found += union([*last, *piece])
        if meter.look(len(piece)):
            yield
    return tuple(found)


def _sort(runs: list[list[Span]], meter: Meter) -> Pausing[list[Span]]:
    # Two by two: many sorted runs at once take long in one piece.
    while len(runs) > 1:
        pairs = [(runs[n], runs[n + 1] if n + 1 < len(runs) else []) for n in range(0, len(runs), 2)]
        runs = []
        for one, two in pairs:
            runs.append(sorted(one + two))
            if meter.look(1 + len(runs[-1]) // _SORTED_A_LOOK):
                yield
    return runs[0] if runs else []


def meet_spans(one: Sequence[Span], two: Sequence[Span], meter: Meter) -> Pausing[tuple[Span, ...]]:
    """What is in both; where one is much shorter, it takes searches for each of its spans."""
    if len(one) > len(two):
        one, two = two, one
    found: list[Span] = []
    at_once = max(1, _PIECE * len(one) // (len(two) + 1))
    for start in range(0, len(one), at_once):
        piece = one[start : start + at_once]
        low = bisect_left(two, piece[0][0], key=_last)
        high = bisect_right(two, piece[-1][1], lo=low, key=_first)
        found += common(piece, two[low:high])
        if meter.look(_LOOKS_A_SEARCH + len(piece) + high - low):
            yield
    return tuple(found)


def _first(span: Span) -> int:
    return span[0]


def _last(span: Span) -> int:
    return span[1]
