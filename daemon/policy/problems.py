"""What is reported about objects: what is odd in themselves, and what takes the whole cluster to see.

In: objects as they come, change and go. Out: problems by object. It changes no verdict: an unknown network is
matched by name all the same (A3), an address of two pods counts for both (C5). Each change costs as much as
the policies that it concerns, by index.
"""

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from daemon.model import Network, ObjectKey, Policy, Problem
from daemon.policy.budget import PolicyRef
from daemon.policy.dicts import put
from daemon.policy.owners import Owners
from daemon.policy.peerset import PeerPod, PodRef
from daemon.policy.references import POLICY_FOR, References

ORPHANED = Problem(
    "metadata.namespace",
    "its namespace is being deleted: it stays in force until the last pod of it here has ended",
)

# A network that is misconfigured as a whole would name every pod; a few tell what is wrong.
MAX_REPORTED_ADDRESSES = 8
MAX_REPORTED_PODS = 8


class Problems:
    """put_*() as things change, then all() or own(). Not shared between threads."""

    def __init__(self) -> None:
        self.references = References()
        self._owners = Owners()
        self._own: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._policies: dict[PolicyRef, tuple[Network, ...]] = {}
        self._orphans: set[PolicyRef] = set()
        self._closed: tuple[tuple[PolicyRef, Problem], ...] = ()
        self._shared: dict[tuple[Network, ...], tuple[Problem, ...]] = {}
        self._all: dict[ObjectKey, tuple[Problem, ...]] | None = None

    def put_own(self, key: ObjectKey, problems: tuple[Problem, ...]) -> None:
        """What was found in an object itself when it was decoded; none: it is fine, or gone."""
        if self._own.get(key, ()) != problems:
            put(self._own, key, problems or None)
            self._all = None

    def put_policy(self, ref: PolicyRef, policy: Policy | None) -> None:
        """A policy as it is in force now; None: not at all."""
        self._orphans.discard(ref)
        self.put_own(_key(ref), policy.problems if policy else ())
        self.references.put_policy(ref, policy)
        put(self._policies, ref, policy.networks if policy else None)
        self._all = None

    def orphan(self, ref: PolicyRef) -> None:
        """A policy that is in force although it is gone (A13)."""
        self._orphans.add(ref)
        self._all = None

    def put_peer(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> None:
        """A pod as a peer, as it was and is."""
        if self._owners.put(ref, before, after):
            self._shared.clear()
            self._all = None

    def put_closed(self, closed: tuple[tuple[PolicyRef, Problem], ...]) -> None:
        """All that policies do not permit for want of room (F1, F2)."""
        if self._closed != closed:
            self._closed = closed
            self._all = None

    def own(self) -> dict[ObjectKey, tuple[Problem, ...]]:
        """What is wrong with objects whatever else there is: all that can be said before that is known."""
        found = dict(self._own)
        for ref, problem in self._closed:
            found[_key(ref)] = (*found.get(_key(ref), ()), problem)
        return found

    def all(self) -> dict[ObjectKey, tuple[Problem, ...]]:
        """All by object, only objects that have any; the same map until something in it may have changed."""
        if self._all is None or self.references.stale:
            self._all = self._gather()
        return self._all

    def _gather(self) -> dict[ObjectKey, tuple[Problem, ...]]:
        found = self.own()
        for ref, problems in self.references.problems().items():
            found[_key(ref)] = found.get(_key(ref), ()) + problems
        for ref, networks in self._policies.items():
            problems = self._ambiguous(networks) + ((ORPHANED,) if ref in self._orphans else ())
            if problems:
                found[_key(ref)] = found.get(_key(ref), ()) + problems
        return found

    def _ambiguous(self, networks: tuple[Network, ...]) -> tuple[Problem, ...]:
        if networks not in self._shared:
            self._shared[networks] = tuple(_tell_shared(networks, self._owners))
        return self._shared[networks]


def _key(ref: PolicyRef) -> ObjectKey:
    return ObjectKey("MultiNetworkPolicy", *ref)


def _tell_shared(networks: Sequence[Network], owners: Owners) -> Iterator[Problem]:
    """Addresses with several owners on one network, or over several of them."""
    shared = owners.shared(frozenset(networks))
    for address in sorted(shared)[:MAX_REPORTED_ADDRESSES]:
        pods = [f"{namespace}/{name}" for namespace, name in sorted(shared[address])]
        more = f" and {len(pods) - MAX_REPORTED_PODS} more" if len(pods) > MAX_REPORTED_PODS else ""
        names = ", ".join(pods[:MAX_REPORTED_PODS]) + more
        yield Problem(
            POLICY_FOR, f"{ip_address(address)} is not unique: pods {names} have it on these networks"
        )
    if len(shared) > MAX_REPORTED_ADDRESSES:
        yield Problem(POLICY_FOR, f"{len(shared) - MAX_REPORTED_ADDRESSES} more addresses are not unique")
