"""What is still to be looked at, by whose it is: each gets its turn, however much another has waiting. Pure.

In: things, each of somebody. Out: one after the other, of each one's in turn, in order of arrival.
"""

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """A thing that is put in again while it waits keeps its place. Not shared between threads."""

    def __init__(self) -> None:
        # Of a dict the first is found by a look at all that were taken before it.
        self._waiting: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, whose: str, what: T) -> None:
        """Let it wait."""
        self._waiting.setdefault(whose, OrderedDict())[what] = None

    def drop(self, whose: str, what: T) -> None:
        """It needs no turn any more, if it waited for one."""
        waiting = self._waiting.get(whose, OrderedDict())
        waiting.pop(what, None)
        if not waiting:
            self._waiting.pop(whose, None)

    def take(self) -> T:
        """The next one. Raises KeyError where nothing waits."""
        whose, waiting = self._waiting.popitem(last=False)
        what, _ = waiting.popitem(last=False)
        if waiting:
            self._waiting[whose] = waiting
        return what
