"""Dicts as indices: objects by key, and sets by key that vanish with the last value in them.

In: a dict and what is to change in it. Out: the dict, changed in its place.
"""

from typing import TypeVar

K = TypeVar("K")
E = TypeVar("E")


def put(objects: dict[K, E], key: K, new: E | None) -> None:
    """An object as it is now; None: it is gone, if it was there."""
    if new is None:
        objects.pop(key, None)
    else:
        objects[key] = new


def add(index: dict[K, set[E]], key: K, value: E) -> None:
    """One value more under a key."""
    index.setdefault(key, set()).add(value)


def discard(index: dict[K, set[E]], key: K, value: E) -> None:
    """One value less under a key that is there."""
    found = index[key]
    found.discard(value)
    if not found:
        del index[key]
