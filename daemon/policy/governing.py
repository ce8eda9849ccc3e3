"""The policies that there are, and which of them govern an interface.

In: policies as they come, change and go. Out: those that govern an interface, by index and never by a look at
all, and what they come to. Each policy is worked out once, however many interfaces it governs.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import msgspec

from daemon.model import EVERYWHERE, AttachmentKey, CommonRules, Direction, Network, Policy, Problem, Subject
from daemon.policy.budget import Budget, Ledger, PolicyRef
from daemon.policy.compile import (
    Terms,
    combine,
    governs,
    make_common_terms,
    make_terms,
    needs_pods,
    sets_of,
)
from daemon.policy.dicts import add, discard, put
from daemon.policy.governed import Governed
from daemon.policy.ruleset import PeerRef, Ruleset


class Policies:
    """All policies, and the operator's common rules. Not shared between threads.

    governed: which of them govern something here, as far as that has been compiled.
    """

    def __init__(self, common: CommonRules, budget: Budget) -> None:
        self._common = make_common_terms(common)
        self._budget = budget
        self._ledger = Ledger(budget)
        self._objects: dict[PolicyRef, Policy] = {}
        self._at: dict[tuple[str, Network], set[PolicyRef]] = {}
        self.governed = Governed()
        self._terms: dict[PolicyRef, Terms] = {}  # only of policies that govern something here

    def __contains__(self, ref: PolicyRef) -> bool:
        return ref in self._objects

    def __iter__(self) -> Iterator[PolicyRef]:
        return iter(self._objects)

    def put(self, ref: PolicyRef, policy: Policy | None) -> tuple[Policy, ...]:
        """A policy as it is now (None: gone); the policies whose subjects that concerns.

        Its versions before and now, none of them where it still means the same; and others of its namespace
        that are closed for want of room from now on, or not any more.
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
        others = self._ledger.put(ref, policy)
        for other in others:
            self._terms.pop(other, None)
        versions = (before, policy, *(self._objects[other] for other in sorted(others)))
        return tuple(version for version in versions if version is not None)

    def all(self) -> tuple[Policy, ...]:
        """By namespace and name."""
        return tuple(self._objects[ref] for ref in sorted(self._objects))

    def governing(
        self, namespace: str, labels: Mapping[str, str], networks: Sequence[Network]
    ) -> tuple[Policy, ...]:
        """Those that govern an interface on any of `networks` of such a pod (A1 to A5, F3), by name."""
        candidates = {
            ref for network in (EVERYWHERE, *networks) for ref in self._at.get((namespace, network), ())
        }
        ordered = (self._objects[ref] for ref in sorted(candidates))
        return tuple(policy for policy in ordered if governs(policy, namespace, labels, networks))

    def compile(self, key: AttachmentKey, subject: Subject, governing: Sequence[Policy]) -> Ruleset:
        """What the policies that govern an attachment come to (B2, B3, E6)."""
        self.governed.put(key, [(policy.namespace, policy.name) for policy in governing])
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
            closed = {str(d): () for d in Direction if not self._ledger.fits(ref, d)}
            self._terms[ref] = make_terms(msgspec.structs.replace(policy, **closed) if closed else policy)
        return self._terms[ref]

    def closed(self, ref: PolicyRef) -> tuple[Problem, ...]:
        """What a policy does not permit for want of room (F1)."""
        budget = f"{self._budget.rules} rules and {self._budget.elements} elements"
        return tuple(
            Problem(
                f"spec.{direction}",
                f"{cost.rules} rules and {cost.elements} elements are more than there is room for: all "
                f"policies of namespace {ref[0]} together may have {budget}. It isolates and permits "
                "nothing: make it smaller, or have namespaceRules or namespaceElements raised",
            )
            for direction, cost in self._ledger.beyond(ref)
        )

    def selecting(self, namespace: str, refs: Container[PeerRef]) -> Iterator[PolicyRef]:
        """The policies of a namespace that govern something here and refer to any of these sets."""
        for ref, terms in self._terms.items():
            if ref[0] == namespace and any(
                found in refs for d in Direction for term in terms.of(d) or () for found in sets_of(term, d)
            ):
                yield ref


def _meaning(policy: Policy) -> tuple[object, ...]:
    return (policy.networks, policy.pod_selector, policy.ingress, policy.egress)
