"""What policies do not permit for want of room (F1, F2), as problems of each.

In: the policies, and the sets of peers. Out: problems of one policy, and which policies' may have changed.
"""

from daemon.model import Problem
from daemon.policy.budget import Budget, PolicyRef
from daemon.policy.governing import Policies
from daemon.policy.peerset import MOST_OF_A_POD
from daemon.policy.peersets import PeerSets
from daemon.slices import Pausing


class Closures:
    """Not shared between threads."""

    def __init__(self, policies: Policies, peers: PeerSets, budget: Budget) -> None:
        self._policies = policies
        self._peers = peers
        self._budget = budget
        self._overflown: set[PolicyRef] = set()

    def look(self) -> Pausing[set[PolicyRef]]:
        """Which policies' selectors have come to select more pods than there is room for, or do no more."""
        now: set[PolicyRef] = set()
        for namespace, refs in self._peers.overflown().items():
            now.update(self._policies.selecting(namespace, refs))
            yield
        changed, self._overflown = self._overflown ^ now, now
        return changed

    def of(self, ref: PolicyRef) -> tuple[Problem, ...]:
        """What one policy does not permit."""
        found = self._policies.closed(ref)
        return (*found, too_many_pods(ref[0], self._budget.elements)) if ref in self._overflown else found


def too_many_pods(namespace: str, most: int) -> Problem:
    """Of a policy whose selectors select more pods than there is room for (F2)."""
    return Problem(
        "spec",
        "it selects more pods than there is room for, and the largest of its sets permit nobody: all "
        f"policies of namespace {namespace} together may have {most} addresses in their sets, times the "
        f"named ports that each has, and one pod {MOST_OF_A_POD} in a set. Select fewer, or have "
        "namespaceElements raised",
    )
