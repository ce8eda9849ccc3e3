"""The weighted memo: it remembers, it forgets the least recently used, and it stays within its bound."""

import gc
import weakref

import pytest

from daemon.memo import ENTRY_BYTES, memoize, per_object


class Counted:
    """Weights are in ENTRY_BYTES, and each entry weighs one of these more than it says."""

    def __init__(self, most: int) -> None:
        self.calls: list[tuple[str, int]] = []

        @memoize(most * ENTRY_BYTES, lambda result, name, weight: weight * ENTRY_BYTES)
        def remember(name: str, weight: int) -> str:
            self.calls.append((name, weight))
            return name * weight

        self.remember = remember


def test_the_same_arguments_are_computed_once() -> None:
    counted = Counted(10)
    assert [counted.remember("a", 3), counted.remember("a", 3)] == ["aaa", "aaa"]
    assert counted.calls == [("a", 3)]


def test_the_least_recently_used_goes_when_the_weights_are_too_much() -> None:
    counted = Counted(8)
    for name in ("a", "b", "a", "c", "a", "b"):
        counted.remember(name, 3)
    assert counted.calls == [("a", 3), ("b", 3), ("c", 3), ("b", 3)]


def test_one_that_is_heavier_than_all_is_kept_alone() -> None:
    counted = Counted(5)
    for name, weight in (("a", 2), ("big", 50), ("big", 50), ("a", 2), ("a", 2)):
        counted.remember(name, weight)
    assert counted.calls == [("a", 2), ("big", 50), ("a", 2)]


def test_entries_that_hold_nothing_are_bounded_too() -> None:
    counted = Counted(100)
    for number in range(1000):
        counted.remember(str(number), 0)
    for number in (*range(900, 1000), 899):
        counted.remember(str(number), 0)
    assert counted.calls[1000:] == [("899", 0)]


def test_what_is_over_is_forgotten() -> None:
    counted = Counted(10)
    counted.remember("a", 3)
    counted.remember.forget()
    counted.remember("a", 3)
    assert counted.calls == [("a", 3), ("a", 3)]


def test_a_result_of_none_is_remembered_too() -> None:
    calls: list[int] = []

    @memoize(5, lambda result, number: 1)
    def remember(number: int) -> None:
        calls.append(number)

    remember(7)
    remember(7)
    assert calls == [7]


class TestPerObject:
    def test_an_object_is_computed_once_for_each_of_the_further_arguments(self) -> None:
        calls: list[int] = []

        @per_object
        def summed(numbers: frozenset[int], plus: int) -> int:
            calls.append(plus)
            return sum(numbers) + plus

        numbers = frozenset({1, 2})
        assert [summed(numbers, 1), summed(numbers, 2), summed(numbers, 1)] == [4, 5, 4]
        assert calls == [1, 2]

    def test_equal_objects_are_two(self) -> None:
        calls: list[int] = []

        @per_object
        def remember(numbers: frozenset[int]) -> None:
            calls.append(len(numbers))

        one, other = frozenset(range(3)), frozenset(range(3))
        remember(one)
        remember(other)
        assert calls == [3, 3]

    def test_a_result_goes_with_its_object(self) -> None:
        @per_object
        def remember(numbers: frozenset[int]) -> frozenset[int]:
            return frozenset(number + 1 for number in numbers)

        numbers = frozenset(range(3))
        result = weakref.ref(remember(frozenset({*numbers, 7})))
        gc.collect()
        assert result() is None

    def test_a_result_that_is_its_object_would_keep_itself(self) -> None:
        @per_object
        def remember(numbers: frozenset[int]) -> frozenset[int]:
            return numbers

        with pytest.raises(AssertionError):
            remember(frozenset(range(3)))
