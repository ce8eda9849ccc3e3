"""Dicts as indices: objects, and sets and numbers by key that vanish with the last of what they hold.

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


def count(numbers: dict[K, int], key: K, by: int) -> None:
    """A number that rises or falls. One that comes to 0 leaves no trace: every name that ever was would."""
    now = numbers.get(key, 0) + by
    if now:
        numbers[key] = now
    else:
        numbers.pop(key, None)


def add(index: dict[K, set[E]], key: K, value: E) -> None:
    """One value more under a key."""
    index.setdefault(key, set()).add(value)


def discard(index: dict[K, set[E]], key: K, value: E) -> None:
    """One value less under a key that is there."""
    found = index[key]
    found.discard(value)
    if not found:
        del index[key]
