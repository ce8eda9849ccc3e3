"""How much an answer about all objects says: all of it, up to what no answer needs to hold. Pure.

In: texts and problems, as many as authors have made. Out: lists of a bounded size, which say how many more
there are.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from daemon.model import ObjectKey, Problem

MOST_ENTRIES = 200_000
"""Of lists in one answer: 485 policies that govern 250 interfaces each have 121,250."""
FEW = 8
"""Of each list that is left when there is no room for more."""
MOST_LINES = 5000
MOST_OF_ONE = 100
"""Lines about objects, and about those of one namespace."""


FoundIn: TypeAlias = Mapping[str, Mapping[ObjectKey, tuple[Problem, ...]]]
"""Problems by namespace, and then by object."""


class Room:
    """What the lists of one answer may still hold."""

    def __init__(self, most: int = MOST_ENTRIES) -> None:
        self._left = most

    def cut(self, texts: Sequence[str]) -> list[str]:
        """Texts, and how many more there are where there is no room."""
        kept = self._keep(len(texts))
        return [*texts[:kept], *([f"and {len(texts) - kept} more"] if kept < len(texts) else [])]

    def cut_problems(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems, likewise."""
        found = list(problems)
        kept = self._keep(len(found))
        more = Problem("", f"{len(found) - kept} more: ask for this policy alone")
        return [*found[:kept], *([more] if kept < len(found) else [])]

    def _keep(self, size: int) -> int:
        kept = size if size <= self._left else min(size, FEW)
        self._left -= kept
        return kept


def lines_of_objects(found: FoundIn, faults: Mapping[str, int]) -> list[str]:
    """A line for each problem that is no hint, by namespace; of none so many that others are not seen.

    faults: how many there are, by namespace.
    """
    lines: list[str] = []
    said = 0
    for namespace, objects in found.items():
        some = list(islice(_lines(objects), min(MOST_OF_ONE, MOST_LINES - said)))
        said += len(some)
        lines += some
        if (more := faults.get(namespace, 0) - len(some)) > 0 and some:
            lines.append(f"{more} more problems in namespace {namespace}: see mnpctl policies")
        if said >= MOST_LINES:
            lines.append("and those of more namespaces: see mnpctl policies")
            break
    return lines


def count_faults(found: FoundIn) -> dict[str, int]:
    """How many problems that are no hints there are, by namespace."""
    return {
        namespace: sum(not problem.hint for problems in objects.values() for problem in problems)
        for namespace, objects in found.items()
    }


def _lines(objects: Mapping[ObjectKey, tuple[Problem, ...]]) -> Iterator[str]:
    for key, problems in objects.items():
        yield from (f"{key}: {found.field}: {found.message}" for found in problems if not found.hint)
