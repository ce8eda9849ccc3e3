"""The weighted memo: it remembers, it forgets the least recently used, and it stays within its bound."""

from daemon.memo import memoize


class Counted:
    def __init__(self, most: int) -> None:
        self.calls: list[tuple[str, int]] = []

        @memoize(most, lambda name, weight: weight)
        def remember(name: str, weight: int) -> str:
            self.calls.append((name, weight))
            return name * weight

        self.remember = remember


def test_the_same_arguments_are_computed_once() -> None:
    counted = Counted(10)
    assert [counted.remember("a", 3), counted.remember("a", 3)] == ["aaa", "aaa"]
    assert counted.calls == [("a", 3)]


def test_the_least_recently_used_goes_when_the_weights_are_too_much() -> None:
    counted = Counted(6)
    for name in ("a", "b", "a", "c", "a", "b"):
        counted.remember(name, 3)
    assert counted.calls == [("a", 3), ("b", 3), ("c", 3), ("b", 3)]


def test_one_that_is_heavier_than_all_is_kept_alone() -> None:
    counted = Counted(5)
    for name, weight in (("a", 2), ("big", 50), ("big", 50), ("a", 2), ("a", 2)):
        counted.remember(name, weight)
    assert counted.calls == [("a", 2), ("big", 50), ("a", 2)]


def test_a_result_of_none_is_remembered_too() -> None:
    calls: list[int] = []
    remember = memoize(5, lambda _: 1)(calls.append)
    remember(7)
    remember(7)
    assert calls == [7]
