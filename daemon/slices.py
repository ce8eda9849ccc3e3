"""Work that pauses, so that others have their turn: a generator that yields where it may. Pure.

In: a generator. Out: what it returns. And how long such work goes on before it pauses.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeAlias, TypeVar

R = TypeVar("R")
T = TypeVar("T")

Pausing: TypeAlias = Generator[None, None, R]
"""Work that returns an R; between two of its pauses it takes 20 ms at most."""


SLICE_SECONDS = 0.02
"""Of work for one, then others have their turn."""


class Slice:
    """The time that there is until work has to pause. clock: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """It begins now."""
        self._until = self._clock() + SLICE_SECONDS

    def over(self) -> bool:
        """Whether it is used up."""
        return self._clock() >= self._until


def in_slices(
    items: Sequence[T], at_once: int, work: Callable[[Sequence[T]], None], clock: Callable[[], float]
) -> Iterator[None]:
    """Do work on all items, `at_once` of them together, and pause when a slice is used up."""
    pause = Slice(clock)
    for start in range(0, len(items), at_once):
        if pause.over():
            yield
            pause.renew()
        work(items[start : start + at_once])


def ended(work: Pausing[R]) -> R:
    """Do all of it at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: R = end.value
            return found
