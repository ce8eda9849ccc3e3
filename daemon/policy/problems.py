"""What is reported about objects: what is odd in themselves, and what takes the whole cluster to see.

In: objects as they come, change and go. Out: problems by object. It changes no verdict: an unknown network is
matched by name all the same (A3), and whose an address is was decided before (C5). Each change costs as much
as the policies that it concerns, by index.
"""

from collections.abc import Callable, Container, Iterator
from ipaddress import ip_address
from typing import TypeAlias

from daemon.model import Address, Network, ObjectKey, Policy, Problem
from daemon.policy.budget import PolicyRef
from daemon.policy.dicts import put
from daemon.policy.holders import Claim
from daemon.policy.owners import Owners
from daemon.policy.peerset import MOST_OF_A_POD, PeerPod, PodRef
from daemon.policy.references import POLICY_FOR, References

ORPHANED = Problem(
    "metadata.namespace",
    "its namespace is being deleted: it stays in force until the last pod of it here has ended",
)

# A network that is misconfigured as a whole would name every pod; a few tell what is wrong.
MAX_REPORTED_ADDRESSES = 8
MAX_REPORTED_PODS = 8


Names: TypeAlias = Callable[[Address, Container[Network]], set[str]]
"""Who has an address by a living ADD here, on some of these networks."""


class Problems:
    """put_*() as things change, then all() or own(). Not shared between threads."""

    def __init__(self, holders: Names) -> None:
        self.references = References()
        self._owners = Owners()
        self._holders = holders
        self._withheld: dict[PodRef, PeerPod] = {}  # of which some address is another's
        self._claims: dict[PodRef, tuple[Claim, ...]] = {}
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
        known = self._withheld.get(ref)
        now = after if after is not None and after.withheld else None
        put(self._withheld, ref, now)
        if self._owners.put(ref, before, after) or known != now:
            self._shared.clear()
            self._all = None

    def put_claims(self, ref: PodRef, claims: tuple[Claim, ...]) -> None:
        """What a pod of this node says of networks on which it had no ADD."""
        if self._claims.get(ref, ()) != claims:
            put(self._claims, ref, claims or None)
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
        for ref, claims in self._claims.items():
            # On networks that no policy names it makes no difference.
            if told := tuple(problem for network, problem in claims if self.references.names(network)):
                key = ObjectKey("Pod", *ref)
                found[key] = found.get(key, ()) + told
        return found

    def _ambiguous(self, networks: tuple[Network, ...]) -> tuple[Problem, ...]:
        if networks not in self._shared:
            self._shared[networks] = tuple(self._tell_shared(frozenset(networks)))
        return self._shared[networks]

    def _tell_shared(self, networks: frozenset[Network]) -> Iterator[Problem]:
        """Addresses with several owners on one network, or over several of them."""
        shared = self._owners.shared(networks)
        for ref, pod in self._withheld.items():
            for address in _held_elsewhere(pod, networks):
                shared.setdefault(address, set()).add(ref)
        for address in sorted(shared)[:MAX_REPORTED_ADDRESSES]:
            whose = _whose(shared[address], self._holders(address, networks))
            yield Problem(POLICY_FOR, f"{ip_address(address)} is not unique: {whose}")
        if len(shared) > MAX_REPORTED_ADDRESSES:
            more = len(shared) - MAX_REPORTED_ADDRESSES
            yield Problem(POLICY_FOR, f"{more} more addresses are not unique")


def too_many_pods(namespace: str, most: int) -> Problem:
    """Of a policy whose selectors select more than there is room for (F2)."""
    return Problem(
        "spec",
        "it selects more pods than there is room for, and the largest of its sets permit nobody: all "
        f"policies of namespace {namespace} together may have {most} addresses in their sets, times the "
        f"named ports that each has, and one pod {MOST_OF_A_POD} in a set. Select fewer, or have "
        "namespaceElements raised",
    )


def _key(ref: PolicyRef) -> ObjectKey:
    return ObjectKey("MultiNetworkPolicy", *ref)


def _held_elsewhere(pod: PeerPod, networks: frozenset[Network]) -> Iterator[Address]:
    """The addresses of a pod on some of these networks that others hold on some of them."""
    for address, held in pod.withheld.items():
        if not held.isdisjoint(networks) and any(address in pod.addresses.get(n, ()) for n in networks):
            yield address


def _whose(pods: set[PodRef], added: set[str]) -> str:
    """Who has it, and for whom it counts (C5). added: by ADD on this node."""
    said = {f"{namespace}/{name}" for namespace, name in pods}
    if not added:
        return f"pods {_few(said)} have it on these networks"
    claims = f"; network-status of {_few(said - added)} claims it" if said - added else ""
    alone = f"{_few(added)} alone" if len(added) == 1 else "none of them"
    return f"{_few(added)} by ADD on this node{claims}: it counts for {alone}"


def _few(names: set[str]) -> str:
    more = f" and {len(names) - MAX_REPORTED_PODS} more" if len(names) > MAX_REPORTED_PODS else ""
    return ", ".join(sorted(names)[:MAX_REPORTED_PODS]) + more
