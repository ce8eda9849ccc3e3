"""Namespaces by their labels, and which of the selectors of namespaces select each.

In: namespaces' labels as they come, change and go; selectors of namespaces, and the sets that have them. Out:
where sets look for pods that are in a namespace (`Scope`). Not shared between threads.
"""

from collections.abc import Mapping, Set
from typing import TypeAlias

from daemon.model import Selector
from daemon.policy.peerset import PeerSet, Scope
from daemon.policy.selectors import SelectorIndex

NAME_LABEL = "kubernetes.io/metadata.name"

Scopes: TypeAlias = frozenset[Scope]

_MOST_KEPT = 200_000
"""Scopes of all namespaces that are remembered: thousands of selectors may select each of them."""


class Spaces:
    """Namespaces need no object: there is one of any name, with its name for a label."""

    def __init__(self) -> None:
        self._labels: dict[str, Mapping[str, str]] = {}
        self._selectors: SelectorIndex[PeerSet] = SelectorIndex()
        # A namespace is matched with all selectors once, and not for each of its pods.
        self._scopes: dict[str, Scopes] = {}
        self._kept = 0

    def put(self, name: str, labels: Mapping[str, str] | None) -> Set[Selector]:
        """A namespace's labels as they are now (None: no such object); what selects it newly or no more."""
        if labels == self._labels.get(name):
            return frozenset()
        before = self.scopes(name)
        if labels is None:
            self._labels.pop(name, None)
        else:
            self._labels[name] = labels
        self._kept -= len(self._scopes.pop(name, ()))
        return {where for where in before ^ self.scopes(name) if not isinstance(where, str)}

    def labels(self, name: str) -> Mapping[str, str]:
        """A namespace's labels; its name is among them even where an object lacks it, or there is none."""
        known = self._labels.get(name, {})
        return known if known.get(NAME_LABEL) == name else {**known, NAME_LABEL: name}

    def scopes(self, name: str) -> Scopes:
        """Where sets look that look for pods in this namespace: in it by name, or by selectors."""
        found = self._scopes.get(name)
        if found is None:
            found = frozenset((name, *self._selectors.selecting(self.labels(name))))
            if self._kept + len(found) > _MOST_KEPT:
                self._forget()
            self._scopes[name] = found
            self._kept += len(found)
        return found

    def add(self, selector: Selector, peers: PeerSet) -> None:
        """A set looks for pods in the namespaces that this selects."""
        if self._selectors.add(selector, peers):
            self._forget()

    def discard(self, selector: Selector, peers: PeerSet) -> None:
        """It does so no more, if it did."""
        if self._selectors.discard(selector, peers):
            self._forget()

    def looking(self, selector: Selector) -> Set[PeerSet]:
        """The sets that look for pods in the namespaces that this selects."""
        return self._selectors.users_of(selector)

    def _forget(self) -> None:
        self._scopes.clear()
        self._kept = 0
