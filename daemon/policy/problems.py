"""What is reported about objects: what is odd in themselves, and what takes the whole cluster to see.

In: objects as they come, change and go. Out: problems by object. It changes no verdict: an unknown network is
matched by name all the same (A3), and whose an address is was decided before (C5). A change only notes, by
index, which policies it concerns; those are looked at again in pieces (`settle`), each namespace's in turn,
and each look is bounded, whatever its author has written.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import TypeAlias

from daemon.model import Address, Network, ObjectKey, Policy, Problem
from daemon.policy.budget import PolicyRef
from daemon.policy.closures import Closures
from daemon.policy.dicts import add, count, discard, put
from daemon.policy.holders import Claim
from daemon.policy.owners import MOST_PODS, Owners, Shared
from daemon.policy.peerset import PeerPod, PodRef
from daemon.policy.references import POLICY_FOR, References
from daemon.policy.turns import Turns
from daemon.slices import Pausing

ORPHANED = Problem(
    "metadata.namespace",
    "its namespace is being deleted: it stays in force until the last pod of it here has ended",
)

# A network that is misconfigured as a whole would name every pod; a few tell what is wrong.
MAX_REPORTED_ADDRESSES = 8
MAX_REPORTED_PODS = 8


Names: TypeAlias = Callable[[Address, Container[Network]], set[str]]
"""Who has an address by a living ADD here, on some of these networks."""

_NONE: Mapping[ObjectKey, tuple[Problem, ...]] = {}


class _Group:
    """Policies of one namespace for the same networks. told: which addresses are not unique there."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self.networks = networks
        self.policies: set[PolicyRef] = set()
        self.told: tuple[Problem, ...] = ()


class Problems:
    """put_*() as things change, then settle(), then found. Not shared between threads.

    found: by namespace, then by object, only objects that have any, as far as settle() has come. faults: how
    many of these are no hints, by namespace. looked: how many objects and groups of policies were looked at
    since the start.
    """

    def __init__(self, holders: Names, closures: Closures) -> None:
        self.references = References()
        self.found: dict[str, dict[ObjectKey, tuple[Problem, ...]]] = {}
        self.faults: Counter[str] = Counter()
        self.looked = 0
        self._holders = holders
        self._closures = closures
        self._owners = Owners()
        self._own: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._claims: dict[PodRef, tuple[Claim, ...]] = {}
        self._claiming: dict[Network, set[PodRef]] = {}
        self._group_of: dict[PolicyRef, _Group] = {}
        self._groups: dict[tuple[str, tuple[Network, ...]], _Group] = {}
        self._naming: dict[Network, set[_Group]] = {}
        self._orphans: set[PolicyRef] = set()
        self._touched: set[Network] = set()  # on which others share an address now
        self._stale: Turns[_Group | ObjectKey] = Turns()
        self._news: set[ObjectKey] = set()

    # --- what changes ------------------------------------------------------------------------------------

    def put_own(self, key: ObjectKey, problems: tuple[Problem, ...]) -> None:
        """What was found in an object itself when it was decoded; none: it is fine, or gone."""
        if self._own.get(key, ()) != problems:
            put(self._own, key, problems or None)
            self._touch(key)

    def put_policy(self, ref: PolicyRef, policy: Policy | None) -> None:
        """A policy as it is in force now; None: not at all."""
        self._orphans.discard(ref)
        self.put_own(_key(ref), policy.problems if policy else ())
        self.references.put_policy(ref, policy)
        before = self._group_of.get(ref)
        networks = policy.networks if policy else None
        if before is not None and before.networks != networks:
            self._leave(ref, before)
        if networks is not None and (before is None or before.networks != networks):
            self._join(ref, networks)
        self.touch(ref)

    def _join(self, ref: PolicyRef, networks: tuple[Network, ...]) -> None:
        key = ref[0], networks
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(networks)
            self._stale.put(ref[0], group)
            for network in networks:
                add(self._naming, network, group)
                self._touch_claims(network)
        group.policies.add(ref)
        self._group_of[ref] = group

    def _leave(self, ref: PolicyRef, group: _Group) -> None:
        del self._group_of[ref]
        group.policies.discard(ref)
        if not group.policies:
            self._stale.drop(ref[0], group)
            del self._groups[ref[0], group.networks]
            for network in set(group.networks):
                discard(self._naming, network, group)
                self._touch_claims(network)

    def orphan(self, ref: PolicyRef) -> None:
        """A policy that is in force although it is gone (A13)."""
        self._orphans.add(ref)
        self.touch(ref)

    def touch(self, ref: PolicyRef) -> None:
        """A policy of which something else may be closed for want of room (F1)."""
        self._touch(_key(ref))

    def put_peer(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> None:
        """A pod as a peer, as it was and is."""
        self._touched |= self._owners.put(ref, before, after) & self._naming.keys()

    def put_claims(self, ref: PodRef, claims: tuple[Claim, ...]) -> None:
        """What a pod of this node says of networks on which it had no ADD."""
        before = self._claims.get(ref, ())
        if before != claims:
            put(self._claims, ref, claims or None)
            for network in {network for network, _ in before}:
                discard(self._claiming, network, ref)
            for network in {network for network, _ in claims}:
                add(self._claiming, network, ref)
            self._touch(ObjectKey("Pod", *ref))

    def _touch_claims(self, network: Network) -> None:
        for ref in self._claiming.get(network, ()):
            self._touch(ObjectKey("Pod", *ref))

    def _touch(self, key: ObjectKey) -> None:
        ref = key.namespace, key.name
        there = key in self._own or (ref in self._claims if key.kind == "Pod" else ref in self._group_of)
        # What is gone before anything was told of it leaves nothing: perhaps nobody will ever ask.
        change = self._stale.put if there or self.of(key) else self._stale.drop
        change(_space(key), key)

    # --- looking -----------------------------------------------------------------------------------------

    def settle(self) -> Pausing[None]:
        """Look at all that may be wrong in another way than it was."""
        for ref in (yield from self._closures.look()):
            self.touch(ref)
        self._spread()
        while self._stale:
            one = self._stale.take()
            if isinstance(one, _Group):
                self._look_at_group(one)
            else:
                self._look_at(one)
            self.looked += 1
            yield
            self._spread()

    def _spread(self) -> None:
        """Let what has changed make stale what it concerns."""
        touched, self._touched = self._touched, set()
        for network in touched:
            for group in self._naming.get(network, ()):
                self._stale.put(next(iter(group.policies))[0], group)
        if self.references.stale:
            for ref in sorted(self.references.take_stale()):
                self.touch(ref)

    def _look_at_group(self, group: _Group) -> None:
        told = tuple(self._tell_shared(group.networks)) if group.policies else ()
        if told != group.told:
            group.told = told
            for ref in group.policies:
                self.touch(ref)

    def _look_at(self, key: ObjectKey) -> None:
        ref = key.namespace, key.name
        found = self._own.get(key, ())
        if key.kind == "MultiNetworkPolicy":
            found += self._of_policy(ref)
        elif key.kind == "Pod":
            # On networks that no policy names it makes no difference.
            claims = self._claims.get(ref, ())
            found += tuple(problem for network, problem in claims if network in self._naming)
        before, space = self.of(key), _space(key)
        if found != before:
            here = self.found.setdefault(space, {})
            put(here, key, found or None)
            if not here:
                del self.found[space]
            count(self.faults, space, _faults(found) - _faults(before))
            self._news.add(key)

    def _of_policy(self, ref: PolicyRef) -> tuple[Problem, ...]:
        group = self._group_of.get(ref)
        if group is None:
            return ()
        orphaned = (ORPHANED,) if ref in self._orphans else ()
        return (*self._closures.of(ref), *self.references.look(ref), *group.told, *orphaned)

    # --- telling -----------------------------------------------------------------------------------------

    def of(self, key: ObjectKey) -> tuple[Problem, ...]:
        """What is wrong with one object, as far as settle() has come."""
        return self.found.get(_space(key), _NONE).get(key, ())

    def own(self) -> Mapping[str, Mapping[ObjectKey, tuple[Problem, ...]]]:
        """What is wrong with objects whatever else there is: all that can be said before that is known."""
        found: dict[str, dict[ObjectKey, tuple[Problem, ...]]] = {}
        for key, problems in self._own.items():
            found.setdefault(_space(key), {})[key] = problems
        for ref in self._group_of:
            if closed := self._closures.of(ref):
                here = found.setdefault(ref[0], {})
                here[_key(ref)] = here.get(_key(ref), ()) + closed
        return found

    def take_news(self) -> list[ObjectKey]:
        """The objects of which something else is wrong, or nothing any more, since this was last asked."""
        news, self._news = self._news, set()
        return sorted(news)

    @property
    def policies(self) -> int:
        """How many policies are in force."""
        return len(self._group_of)

    def _tell_shared(self, networks: Sequence[Network]) -> Iterator[Problem]:
        """Addresses with several owners on one network, or over several of them."""
        shared = self._owners.shared(networks)
        within = frozenset(networks)
        for address in sorted(shared.pods)[:MAX_REPORTED_ADDRESSES]:
            whose = _whose(shared.pods[address], self._holders(address, within))
            yield Problem(POLICY_FOR, f"{ip_address(address)} is not unique: {whose}")
        if more := _tell_more(shared):
            yield Problem(POLICY_FOR, more)


def _tell_more(shared: Shared) -> str:
    more = len(shared.pods) - MAX_REPORTED_ADDRESSES
    if shared.whole:
        return f"{more} more addresses are not unique" if more > 0 else ""
    known = f"at least {more} more addresses are not unique: " if more > 0 else ""
    return f"{known}more pods have addresses that other pods have on other networks than are looked at"


def _key(ref: PolicyRef) -> ObjectKey:
    return ObjectKey("MultiNetworkPolicy", *ref)


def _space(key: ObjectKey) -> str:
    return key.namespace or key.name


def _faults(problems: tuple[Problem, ...]) -> int:
    return sum(not problem.hint for problem in problems)


def _whose(pods: set[PodRef], added: set[str]) -> str:
    """Who has it, and for whom it counts (C5). added: by ADD on this node."""
    said = {f"{namespace}/{name}" for namespace, name in pods}
    if not added:
        return f"pods {_few(said)} have it on these networks"
    claims = f"; network-status of {_few(said - added)} claims it" if said - added else ""
    alone = f"{_few(added)} alone" if len(added) == 1 else "none of them"
    return f"{_few(added)} by ADD on this node{claims}: it counts for {alone}"


def _few(names: set[str]) -> str:
    left, least = len(names) - MAX_REPORTED_PODS, "at least " if len(names) >= MOST_PODS else ""
    return ", ".join(sorted(names)[:MAX_REPORTED_PODS]) + (f" and {least}{left} more" if left > 0 else "")
