"""The policies that there are, and which of them govern an interface.

In: policies as they come, change and go. Out: those that govern an interface, by index and never by a look at
all, and what they come to. Each policy is worked out once, however many interfaces it governs.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from daemon.model import CommonRules, Direction, Network, Policy, Subject
from daemon.policy.compile import Terms, combine, governs, make_common_terms, make_terms, needs_pods
from daemon.policy.dicts import add, discard, put
from daemon.policy.ruleset import Ruleset

PolicyRef: TypeAlias = tuple[str, str]
"""(namespace, name)."""


class Policies:
    """All policies, and the operator's common rules. Not shared between threads."""

    def __init__(self, common: CommonRules) -> None:
        self._common = make_common_terms(common)
        self._objects: dict[PolicyRef, Policy] = {}
        self._at: dict[tuple[str, Network], set[PolicyRef]] = {}
        self._terms: dict[PolicyRef, Terms] = {}  # only of policies that govern something here

    def __contains__(self, ref: PolicyRef) -> bool:
        return ref in self._objects

    def __iter__(self) -> Iterator[PolicyRef]:
        return iter(self._objects)

    def put(self, ref: PolicyRef, policy: Policy | None) -> tuple[Policy, ...]:
        """A policy as it is now (None: gone); the versions of it whose subjects that concerns.

        None of them where it still means the same.
        """
        before = self._objects.get(ref)
        put(self._objects, ref, policy)
        if before is not None and policy is not None and _meaning(before) == _meaning(policy):
            return ()
        self._terms.pop(ref, None)
        for network in before.networks if before else ():
            discard(self._at, (ref[0], network), ref)
        for network in policy.networks if policy else ():
            add(self._at, (ref[0], network), ref)
        return tuple(version for version in (before, policy) if version is not None)

    def all(self) -> tuple[Policy, ...]:
        """By namespace and name."""
        return tuple(self._objects[ref] for ref in sorted(self._objects))

    def governing(
        self, namespace: str, labels: Mapping[str, str], networks: Sequence[Network]
    ) -> tuple[Policy, ...]:
        """Those that govern an interface on any of `networks` of such a pod (A1 to A5), by name."""
        candidates = {ref for network in networks for ref in self._at.get((namespace, network), ())}
        ordered = (self._objects[ref] for ref in sorted(candidates))
        return tuple(policy for policy in ordered if governs(policy, namespace, labels, networks))

    def compile(self, subject: Subject, governing: Iterable[Policy]) -> Ruleset:
        """What these policies come to for a subject (B2, B3, E6)."""
        return combine(subject, [self._terms_of(policy) for policy in governing], self._common)

    def need_pods(self, governing: Iterable[Policy]) -> bool:
        """Whether it takes the pods that there are to tell what these policies permit (C2, C3, D4)."""
        terms = [self._terms_of(policy) for policy in governing]
        for direction in Direction:
            isolating = [found for one in terms if (found := one.of(direction)) is not None]
            if not isolating:
                continue
            for found in (*isolating, self._common.of(direction) or ()):
                if any(needs_pods(term, direction) for term in found):
                    return True
        return False

    def _terms_of(self, policy: Policy) -> Terms:
        ref = (policy.namespace, policy.name)
        if ref not in self._terms:
            self._terms[ref] = make_terms(policy)
        return self._terms[ref]


def _meaning(policy: Policy) -> tuple[object, ...]:
    return (policy.networks, policy.pod_selector, policy.ingress, policy.egress)
