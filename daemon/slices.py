"""Work that pauses, so that others have their turn: a generator that yields where it may. Pure.

In: a generator. Out: what it returns.
"""

from collections.abc import Generator
from typing import TypeAlias, TypeVar

R = TypeVar("R")

Pausing: TypeAlias = Generator[None, None, R]
"""Work that returns an R; between two of its pauses it takes 20 ms at most."""


def ended(work: Pausing[R]) -> R:
    """Do all of it at once."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: R = end.value
            return found
