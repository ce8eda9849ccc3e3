"""Memos that are bounded by what they hold, not by how many entries they have. Pure.

In: a function of hashable arguments. Out: the same function, remembering its latest results. One result may
stand for one address or for ten thousand, so entries have weights.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


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
