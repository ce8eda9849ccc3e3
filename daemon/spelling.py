"""What a word or a name that nobody knows was most likely meant to be. Pure.

In: the word and those that are known. Out: the known one that is most like it, or none. Both come from
outside: to compare takes time that grows with their length and no faster, and long and many ones are left.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

MAX_WORD = 100
"""Longer ones are nothing that a person has mistyped."""
MAX_KNOWN = 200
MAX_SLIP = 3
MAX_NAMED = 5
KEPT_FOR_EACH = 3
"""Letters that must be right for each one that is wrong."""

_MARKS = str.maketrans("", "", "-_. ")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word that is most like this one; "" where none is. Of too many only the first are compared.

    Alike are words that differ in one place by a few letters, or in case and marks only.
    """
    if len(word) > MAX_WORD:
        return ""
    plain = _plain(word)
    slips = [(slip, each) for each in islice(known, MAX_KNOWN) if (slip := _slip(plain, each)) is not None]
    return min(slips)[1] if slips else ""


def fits(wanted: str | None, namespace: str, name: str) -> bool:
    """Whether who asks for `wanted` means it: "namespace/name", or "name" in any namespace; None: all."""
    return wanted is None or wanted in (name, f"{namespace}/{name}")


def tell_missing(wanted: str, known: Iterable[str]) -> str:
    """Why nothing is shown: the known "namespace/name" that may be meant, to follow "no … {wanted}"."""
    everything = sorted(set(known))
    name = wanted.rpartition("/")[2]
    if same := [each for each in everything if each.rpartition("/")[2] == name]:
        return f"; with that name: {_some(same)}"
    close = did_you_mean(wanted, everything) or did_you_mean(name, [e.rpartition("/")[2] for e in everything])
    if meant := [each for each in everything if close in (each, each.rpartition("/")[2])]:
        return f"; did you mean {_some(meant)}?"
    return "" if everything else "; there are none"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _plain(word: str) -> str:
    """Without what people confuse first: case, and the marks between words."""
    return word.lower().translate(_MARKS)


def _slip(plain: str, candidate: str) -> int | None:
    """How many letters are wrong; None where these are two words."""
    if len(candidate) > MAX_WORD:
        return None
    other = _plain(candidate)
    if plain == other:
        return 0
    if abs(len(plain) - len(other)) > MAX_SLIP:
        return None
    start = _common(plain, other)
    end = _common(plain[start:][::-1], other[start:][::-1])
    here, there = plain[start : len(plain) - end], other[start : len(other) - end]
    swapped = len(here) == 2 and here == there[::-1]
    wrong = 1 if swapped else max(len(here), len(there))
    # `net1` and `net2`, `team-a` and `team-b` are names of a series.
    series = any(letter.isdigit() for letter in here + there) or (end == 0 and len(here) == len(there) == 1)
    return None if series or wrong > MAX_SLIP or start + end < KEPT_FOR_EACH * wrong else wrong


def _common(one: str, other: str) -> int:
    """How many letters both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
