"""Memos that are bounded by what they hold, not by how many entries they have. Pure.

In: a function of hashable arguments. Out: the same function, remembering its latest results. One result may
stand for one address or for ten thousand, so entries have weights.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar, cast
from weakref import ref

A = TypeVar("A")
P = ParamSpec("P")
R = TypeVar("R")


def per_object(function: Callable[Concatenate[A, P], R]) -> Callable[Concatenate[A, P], R]:
    """Remember results for as long as the first argument lives, which is told by identity.

    For large immutable objects that are shared, and whose hash would cost more than what is remembered.
    Further arguments are compared by value. A result must not refer to its object: both would live for ever.
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
        return results[key]

    return remembering


def memoize(most: int, weigh: Callable[P, int]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Remember results until their weights sum up to more than `most`; the least recently used go first.

    weigh: of the same arguments. Arguments are compared by value; what is the same object compares at once,
    and a frozenset computes its hash once.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        known: OrderedDict[Hashable, tuple[R, int]] = OrderedDict()
        total = 0

        @wraps(function)
        def remembering(*args: P.args, **kwargs: P.kwargs) -> R:
            nonlocal total
            assert not kwargs, "positional arguments only: they are the key"
            key = cast("Hashable", args)
            found = known.get(key)
            if found is not None:
                known.move_to_end(key)
                return found[0]
            result = function(*args, **kwargs)
            weight = weigh(*args, **kwargs)
            known[key] = (result, weight)
            total += weight
            while total > most and len(known) > 1:
                total -= known.popitem(last=False)[1][1]
            return result

        return remembering

    return decorate
