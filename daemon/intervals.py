"""Arithmetic with spans: inclusive ranges of integers, be they addresses or ports.

In: spans in any order, overlapping or not. Out: sorted, disjoint, not adjacent ones, which every kernel
accepts in one interval set. Knows no family but where it writes text; never parses any.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from daemon.model import Address, Span


def union(spans: Iterable[Span]) -> tuple[Span, ...]:
    """All that is in any of the spans; an empty span (last < first) holds nothing."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if last < first:
            continue
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def minus(spans: Iterable[Span], holes: Iterable[Span]) -> tuple[Span, ...]:
    """What is in `spans` and in no hole: plain set difference, wherever the holes lie (C6, C8)."""
    gaps = union(holes)
    left: list[Span] = []
    start = 0
    for first, last in union(spans):
        while start < len(gaps) and gaps[start][1] < first:
            start += 1
        for hole_first, hole_last in gaps[start:]:
            if hole_first > last:
                break
            if first < hole_first:
                left.append((first, hole_first - 1))
            first = hole_last + 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


def common(spans: Sequence[Span], others: Sequence[Span]) -> tuple[Span, ...]:
    """What is in both of two sorted, disjoint sequences: sorted, disjoint, adjacent only where they are."""
    found: list[Span] = []
    i = j = 0
    while i < len(spans) and j < len(others):
        first, last = max(spans[i][0], others[j][0]), min(spans[i][1], others[j][1])
        if first <= last:
            found.append((first, last))
        if spans[i][1] < others[j][1]:
            i += 1
        else:
            j += 1
    return tuple(found)


def holds(spans: Sequence[Span], number: int) -> bool:
    """Whether a number lies in one of sorted, disjoint spans."""
    place = bisect_right(spans, number, key=lambda span: span[0])
    return place > 0 and number <= spans[place - 1][1]


def prefix_count(span: Span, bits: int) -> int:
    """How many prefixes of addresses of so many bits make up a span; of all addresses there are two, no /0.

    That is what a span is to a set without ranges: one for a block, up to 2 * bits - 2 for a block but one
    address in it.
    """
    first, last = span
    mask = first ^ last
    if mask & (mask + 1) == 0 and first & mask == 0 and mask >> bits - 1 == 0:
        return 1
    after = last + 1
    if after - first == 1 << bits:
        return 2
    # One a bit set on the way from one end to where both part, and from there to the other.
    parting = (first ^ after).bit_length() - 1
    middle = after >> parting << parting
    return (middle - first).bit_count() + (after - middle).bit_count()


def number(address: Address) -> int:
    """An address as the integer that spans are made of."""
    return int.from_bytes(address, "big")
