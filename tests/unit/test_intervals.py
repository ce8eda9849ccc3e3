"""Span arithmetic against sets of integers.

proves: C6, C8
"""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.intervals import common, holds, minus, number, prefix_count, union
from daemon.model import Span

pytestmark = pytest.mark.unit

TOP = 40
spans = st.tuples(st.integers(0, TOP), st.integers(0, TOP))  # last < first: an empty one
many = st.lists(spans, max_size=8)


def members(found: tuple[Span, ...] | list[Span]) -> set[int]:
    return {n for first, last in found for n in range(first, last + 1)}


def assert_canonical(found: tuple[Span, ...]) -> None:
    """Sorted, disjoint, not adjacent, none empty: what one interval set of the kernel takes."""
    assert all(first <= last for first, last in found)
    assert all(a[1] + 1 < b[0] for a, b in pairwise(found))


@given(many)
def test_union(given_spans: list[Span]) -> None:
    found = union(given_spans)
    assert_canonical(found)
    assert members(found) == members(given_spans)


@given(many, many)
def test_minus(given_spans: list[Span], holes: list[Span]) -> None:
    found = minus(given_spans, holes)
    assert_canonical(found)
    assert members(found) == members(given_spans) - members(holes)


@given(many, many)
def test_common(given_spans: list[Span], others: list[Span]) -> None:
    found = common(union(given_spans), union(others))
    assert_canonical(found)
    assert members(found) == members(given_spans) & members(others)


def test_common_keeps_adjacent_spans_apart() -> None:
    assert common(((1, 1), (2, 2), (3, 3)), ((2, 9),)) == ((2, 2), (3, 3))


@given(many, st.integers(-1, TOP + 1))
def test_holds(given_spans: list[Span], value: int) -> None:
    assert holds(union(given_spans), value) is (value in members(given_spans))


@pytest.mark.parametrize("top", [2**32 - 1, 2**128 - 1], ids=["IPv4", "IPv6"])
def test_whole_family(top: int) -> None:
    assert union([(0, top)]) == ((0, top),)
    assert minus([(0, top)], [(0, 0), (top, top)]) == ((1, top - 1),)
    assert minus([(0, top)], [(0, top)]) == ()


def test_number() -> None:
    assert number(bytes([10, 0, 0, 1])) == 0x0A000001
    assert number(bytes(15) + b"\x01") == 1


PREFIXES = [
    ("one address", (5, 5), 8, 1),
    ("the first and the last", (0, 0), 8, 1),
    ("a block", (16, 31), 8, 1),
    ("half of all", (128, 255), 8, 1),
    ("all: no /0", (0, 255), 8, 2),
    ("not aligned", (8, 23), 8, 2),
    ("all but the first", (1, 255), 8, 8),
    ("all but the ends", (1, 254), 8, 14),
    ("an IPv6 /16 up to a host within", (1 << 112, (1 << 112) + 0x5555), 128, 8),
]


@pytest.mark.parametrize(
    ("span", "bits", "want"), [row[1:] for row in PREFIXES], ids=[r[0] for r in PREFIXES]
)
def test_prefixes_of_a_span(span: Span, bits: int, want: int) -> None:
    assert prefix_count(span, bits) == want
