"""Memos that can't grow: of an object, and gone with it; or bounded by the bytes that they hold. Pure.

In: a function of hashable arguments. Out: the same function, remembering results. What an attachment, a pod
or a policy determines is new with each of them, so a memo of that is sooner or later as large as its bound
says. Hence, in this order: `per_object`, where there is one whose end makes the result worthless; `memoize`,
where equal arguments come from many; and nothing, where working it out again costs next to nothing.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import update_wrapper, wraps
from typing import Concatenate, Generic, ParamSpec, TypeVar, cast
from weakref import ref

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")

ENTRY_BYTES = 600
"""What an entry takes whatever is in it: its place, key, weight and a small result. Measured: 330 and up."""


def per_object(function: Callable[Concatenate[A, P], R]) -> Callable[Concatenate[A, P], R]:
    """Remember results for as long as the first argument lives, which is told by identity.

    For large immutable objects that are shared, and whose hash would cost more than what is remembered.
    Further arguments are compared by value. A result must not refer to its object, nor must they: both would
    live for ever.
    """
    known: dict[int, tuple[ref[A], dict[Hashable, R]]] = {}

    @wraps(function)
    def remembering(owner: A, /, *args: P.args, **kwargs: P.kwargs) -> R:
        assert not kwargs, "positional arguments only: they are the key"
        number = id(owner)
        found = known.get(number)
        if found is None:
            # The entry goes with its owner, so its id can't become another's.
            found = known[number] = (ref(owner, lambda _: known.pop(number, None)), {})
        results, key = found[1], cast("Hashable", args)
        if key not in results:
            results[key] = function(owner, *args, **kwargs)
            assert results[key] is not owner, "it would keep itself alive"
        return results[key]

    return remembering


class Memo(Generic[P, R]):
    """A function that remembers; see `memoize`."""

    def __init__(self, function: Callable[P, R], most: int, weigh: Callable[..., int]) -> None:
        self._function = function
        self._most = most
        self._weigh = weigh
        self._known: OrderedDict[Hashable, tuple[R, int]] = OrderedDict()
        self._total = 0
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The function's result, worked out or remembered."""
        assert not kwargs, "positional arguments only: they are the key"
        key = cast("Hashable", args)
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found[0]
        result = self._function(*args, **kwargs)
        weight = ENTRY_BYTES + self._weigh(result, *args, **kwargs)
        self._known[key] = (result, weight)
        self._total += weight
        while self._total > self._most and len(self._known) > 1:
            self._total -= self._known.popitem(last=False)[1][1]
        return result

    def forget(self) -> None:
        """Let go of everything: what it was about is over."""
        self._known.clear()
        self._total = 0


def memoize(most: int, weigh: Callable[..., int]) -> Callable[[Callable[P, R]], Memo[P, R]]:
    """Remember results until they take more than `most` bytes; the least recently used go first.

    weigh: the bytes that a result and the arguments hold on to, of the result and the arguments; ENTRY_BYTES
    are added. Arguments are compared by value; what is the same object compares at once, and a frozenset
    computes its hash once.
    """
    return lambda function: Memo(function, most, weigh)
