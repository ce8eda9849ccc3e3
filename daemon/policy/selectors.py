"""Whether a label selector selects, and which of many selectors do.

In: Selectors and labels. Out: yes or no, or those that select. A malformed selector never comes this far:
decode.py reports it.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from daemon.model import Operator, Selector
from daemon.policy.dicts import add, discard

U = TypeVar("U")

LabelPair: TypeAlias = tuple[str, str]

EVERYTHING = Selector()
"""`{}`: no requirement, selects all (A4, C3)."""


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """All requirements hold (A4)."""
    # A loop, and no function for each requirement: thousands of selectors may be tried for a pod.
    for requirement in selector.requirements:
        operator, value = requirement.operator, labels.get(requirement.key)
        # None is no label value, so a missing key is in no list: In fails and NotIn holds (A4).
        if operator is Operator.IN:
            holds = value in requirement.values
        elif operator is Operator.NOT_IN:
            holds = value not in requirement.values
        else:
            holds = (value is not None) is (operator is Operator.EXISTS)
        if not holds:
            return False
    return True


class SelectorIndex(Generic[U]):
    """Selectors, and who uses each: to ask which select costs little, however many there are.

    A selector that asks for a label's value stands under that label and value, so that only those are tried
    which a set of labels may satisfy; of several such labels, under the one with the fewest others.
    What asks for no value (`Exists`, `NotIn`, `DoesNotExist`) is tried each time.
    """

    def __init__(self) -> None:
        self._users: dict[Selector, set[U]] = {}
        self._anchors: dict[Selector, tuple[LabelPair, ...]] = {}
        self._at: dict[LabelPair, set[Selector]] = {}
        self._elsewhere: dict[Selector, None] = {}

    def __len__(self) -> int:
        return len(self._users)

    def add(self, selector: Selector, user: U) -> bool:
        """Somebody uses a selector; whether nobody did before."""
        users = self._users.get(selector)
        if users is not None:
            users.add(user)
            return False
        self._users[selector] = {user}
        self._anchors[selector] = anchor = self._anchor(selector)
        for pair in anchor:
            add(self._at, pair, selector)
        if not anchor:
            self._elsewhere[selector] = None
        return True

    def discard(self, selector: Selector, user: U) -> bool:
        """Somebody uses a selector no more, if it did; whether nobody does any more."""
        users = self._users.get(selector)
        if users is None:
            return False
        users.discard(user)
        if users:
            return False
        del self._users[selector]
        for pair in self._anchors.pop(selector):
            discard(self._at, pair, selector)
        self._elsewhere.pop(selector, None)
        return True

    def selecting(self, labels: Mapping[str, str]) -> Iterator[Selector]:
        """Those that select what has these labels, each once."""
        return (selector for selector in self._candidates(labels) if matches(selector, labels))

    def _candidates(self, labels: Mapping[str, str]) -> Iterator[Selector]:
        for pair in labels.items():
            yield from self._at.get(pair, ())
        yield from self._elsewhere

    def users(self, labels: Mapping[str, str]) -> set[U]:
        """Who uses any of those that select."""
        found: set[U] = set()
        for selector in self._candidates(labels):
            users = self._users[selector]
            # Whoever has thousands of them needs one that selects.
            if not users <= found and matches(selector, labels):
                found |= users
        return found

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
