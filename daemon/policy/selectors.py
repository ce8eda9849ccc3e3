"""Whether a label selector selects, and which of many selectors do.

In: Selectors and labels. Out: yes or no, or those that select. A malformed selector never comes this far:
decode.py reports it.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Generic, TypeAlias, TypeVar

from daemon.model import Operator, Selector
from daemon.policy.dicts import add, count, discard

U = TypeVar("U")

LabelPair: TypeAlias = tuple[str, str]

_MANY = 16
"""So many values are searched, and not gone through."""

_FEW = 4
"""So many selectors are tried rather than looked for: most sets have one."""

EVERYTHING = Selector()
"""`{}`: no requirement, selects all (A4, C3)."""


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """All requirements hold (A4)."""
    # A loop, and no function for each requirement: thousands of selectors may be tried for a pod.
    for requirement in selector.requirements:
        operator, value, values = requirement.operator, labels.get(requirement.key), requirement.values
        # None is no label value, so a missing key is in no list: In fails and NotIn holds (A4).
        if operator is Operator.IN:
            holds = value in values if len(values) < _MANY else _among(value, values)
        elif operator is Operator.NOT_IN:
            holds = value not in values if len(values) < _MANY else not _among(value, values)
        else:
            holds = (value is not None) is (operator is Operator.EXISTS)
        if not holds:
            return False
    return True


def _among(value: str | None, values: tuple[str, ...]) -> bool:
    """Whether it is one of these, which are sorted; they may be tens of thousands."""
    if value is None:
        return False
    place = bisect_left(values, value)
    return place < len(values) and values[place] == value


class Selectors:
    """Many selectors: to ask which of them select costs little, however many there are.

    A selector that asks for a label's value stands under that label and value, so that only those are tried
    which a set of labels may satisfy; of several such labels, under the one with the fewest others.
    What asks for no value (`Exists`, `NotIn`, `DoesNotExist`) is tried each time.
    """

    __slots__ = ("_anchors", "_at", "_elsewhere", "_keys")

    def __init__(self) -> None:
        self._anchors: dict[Selector, tuple[LabelPair, ...]] = {}
        self._at: dict[LabelPair, set[Selector]] = {}
        self._keys: dict[str, int] = {}  # of those labels, and how many pairs have each
        self._elsewhere: dict[Selector, None] = {}

    def __len__(self) -> int:
        return len(self._anchors)

    def add(self, selector: Selector) -> bool:
        """One more; whether it is new."""
        if selector in self._anchors:
            return False
        self._anchors[selector] = anchor = self._anchor(selector)
        for pair in anchor:
            add(self._at, pair, selector)
            count(self._keys, pair[0], 1)
        if not anchor:
            self._elsewhere[selector] = None
        return True

    def discard(self, selector: Selector) -> None:
        """One less, if it is there."""
        for pair in self._anchors.pop(selector, ()):
            discard(self._at, pair, selector)
            count(self._keys, pair[0], -1)
        self._elsewhere.pop(selector, None)

    def selecting(self, labels: Mapping[str, str]) -> Iterator[Selector]:
        """Those that select what has these labels, each once."""
        return (selector for selector in self.candidates(labels) if matches(selector, labels))

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether any of them does."""
        return any(matches(selector, labels) for selector in self.candidates(labels))

    def candidates(self, labels: Mapping[str, str]) -> Iterable[Selector]:
        """Those that may select what has these labels, each once.

        Costs as much as there are labels, or keys that selectors ask for, whichever is less: a pod may have
        tens of thousands of labels.
        """
        return self._anchors if len(self._anchors) <= _FEW else self._search(labels)

    def _search(self, labels: Mapping[str, str]) -> Iterator[Selector]:
        if len(labels) <= len(self._keys):
            for pair in labels.items():
                yield from self._at.get(pair, ())
        else:
            for key in self._keys:
                if (value := labels.get(key)) is not None:
                    yield from self._at.get((key, value), ())
        yield from self._elsewhere

    def _anchor(self, selector: Selector) -> tuple[LabelPair, ...]:
        """The labels under which a selector stands: those of one requirement, none of which has a better."""
        candidates = [
            tuple((requirement.key, value) for value in requirement.values)
            for requirement in selector.requirements
            if requirement.operator is Operator.IN
        ]
        return min(candidates, key=self._crowd, default=())

    def _crowd(self, pairs: Iterable[LabelPair]) -> int:
        return sum(1 + len(self._at.get(pair, ())) for pair in pairs)


class SelectorIndex(Generic[U]):
    """Selectors, and who uses each."""

    __slots__ = ("_selectors", "_users")

    def __init__(self) -> None:
        self._selectors = Selectors()
        self._users: dict[Selector, set[U]] = {}

    def __len__(self) -> int:
        return len(self._users)

    def add(self, selector: Selector, user: U) -> bool:
        """Somebody uses a selector; whether nobody did before."""
        add(self._users, selector, user)
        return self._selectors.add(selector)

    def discard(self, selector: Selector, user: U) -> bool:
        """Somebody uses a selector no more, if it did; whether nobody does any more."""
        if user not in self._users.get(selector, ()):
            return False
        discard(self._users, selector, user)
        if selector in self._users:
            return False
        self._selectors.discard(selector)
        return True

    def selecting(self, labels: Mapping[str, str]) -> Iterator[Selector]:
        """Those that select what has these labels, each once."""
        return self._selectors.selecting(labels)

    def users_of(self, selector: Selector) -> Set[U]:
        """Who uses this one."""
        return self._users.get(selector, frozenset())

    def users(self, labels: Mapping[str, str]) -> set[U]:
        """Who uses any of those that select."""
        found: set[U] = set()
        for selector in self._selectors.candidates(labels):
            users = self._users[selector]
            # Whoever has thousands of them needs one that selects.
            if not users <= found and matches(selector, labels):
                found |= users
        return found
