"""The current objects and attachments, and which attachments a change concerns.

In: `Change`s from a source, attachments as they come and go. Out: rulesets, members of peer sets, and after
each change the keys of the attachments that it may concern: by index, never by a look at all. A key is
*dirty* when its ruleset may be another object now, or the members of a set that it holds are; `ruleset` and
`members` give the same object as long as nothing changed, which tells the two apart by identity.
Between `hold` and `release` they give what was allowed then and is allowed now.
Not shared between threads. Touches no kernel, keeps nothing on disk, logs nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from daemon.model import (
    EVERYWHERE,
    Address,
    AttachmentKey,
    Change,
    CommonRules,
    Direction,
    Namespace,
    NetAttachDef,
    Network,
    ObjectKey,
    Pod,
    Policy,
    Problem,
    Subject,
    lives_here,
)
from daemon.policy.attached import Attached
from daemon.policy.budget import DEFAULT, Budget, PolicyRef
from daemon.policy.closures import Closures
from daemon.policy.compile import governs
from daemon.policy.dicts import add, count, discard, put
from daemon.policy.floor import Allowed, Floor
from daemon.policy.governing import Policies
from daemon.policy.holders import Holders
from daemon.policy.peerset import PodRef
from daemon.policy.peersets import PeerSets, named_namespaces
from daemon.policy.problems import Problems
from daemon.policy.ruleset import OPEN, Members, Ruleset, SharedRef
from daemon.slices import ended


class Store:
    """Objects, attachments and the indices between them.

    node: this node's name, by which pods say that they are of it; "": not known. faults: what is wrong with
    objects.
    """

    def __init__(self, common: CommonRules, budget: Budget = DEFAULT, node: str = "") -> None:
        self._namespaces: dict[str, Namespace] = {}
        self._net_attach_defs: dict[Network, NetAttachDef] = {}
        self._pods: dict[PodRef, Pod] = {}
        self._local_pods: dict[str, int] = {}  # by namespace
        self._budget = budget
        self._policies = Policies(common, budget)
        self.governed = self._policies.governed
        # Of each namespace that ends, the policies that are gone and stay in force.
        self._orphans: dict[str, set[PolicyRef]] = {}
        self._attachments: dict[AttachmentKey, Attached] = {}
        self._attachments_at: dict[tuple[str, Network], set[AttachmentKey]] = {}
        self._attachments_of: dict[PodRef, set[AttachmentKey]] = {}
        self._holders = Holders(node)
        self._peers = PeerSets(budget.elements)
        self._floor: Floor | None = None
        self.faults = Problems(self._holders.names, Closures(self._policies, self._peers, budget))

    # --- objects -----------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change]) -> set[AttachmentKey]:
        """Take over what a source gives; the dirty attachments. What is equal to before changes nothing.

        The order between kinds means nothing: whether a namespace ends is known before its policies go.
        """
        dirty = self.settle()
        for change in sorted(changes, key=lambda change: change.key.kind != "Namespace"):
            dirty |= self._apply_one(change.key, change.object)
        return dirty | self.settle()

    def settle(self) -> set[AttachmentKey]:
        """Those whose peer sets became full, or are not any more, since that was last asked (F2)."""
        self._end_orphans()
        return self._peers.settle()

    def _apply_one(self, key: ObjectKey, new: object) -> set[AttachmentKey]:
        match key.kind, new:
            case "Pod", Pod() | None:
                self.faults.put_own(key, new.problems if new else ())
                return self._put_pod((key.namespace, key.name), new)
            case "MultiNetworkPolicy", Policy() | None:
                return self._put_policy((key.namespace, key.name), new)
            case "Namespace", Namespace() | None:
                return self._put_namespace(key.name, new)
            case "NetworkAttachmentDefinition", NetAttachDef() | None:
                self._put_net_attach_def(key, new)
                return set()
        raise TypeError(f"{key}: a {type(new).__name__} is none of that kind")

    def _put_pod(self, ref: PodRef, pod: Pod | None) -> set[AttachmentKey]:
        before = self._pods.get(ref)
        if before == pod:
            return set()
        put(self._pods, ref, pod)
        count(self._local_pods, ref[0], lives_here(pod) - lives_here(before))
        if pod is None or before is None or before.uid != pod.uid:
            self._holders.forget(ref)
        dirty = set()
        for key in self._attachments_of.get(ref, ()):
            found = self._attachments[key]
            held = found.holds
            if pod is not None and found.follow(pod):
                dirty.add(key)
            if found.holds is not held:
                dirty |= self._update_holder(found)
        return dirty | self._update_peer(ref)

    def _put_net_attach_def(self, key: ObjectKey, definition: NetAttachDef | None) -> None:
        network = f"{key.namespace}/{key.name}"
        put(self._net_attach_defs, network, definition)  # matched by name alone (A3)
        self.faults.put_own(key, definition.problems if definition else ())
        self.faults.references.put_net_attach_def(network, definition)

    def _put_namespace(self, name: str, namespace: Namespace | None) -> set[AttachmentKey]:
        put(self._namespaces, name, namespace)
        self.faults.references.put_namespace(name, exists=namespace is not None)
        dirty = self._peers.put_namespace(name, namespace.labels if namespace else None)
        if namespace is not None and namespace.terminating:
            self._orphans.setdefault(name, set())
        elif namespace is not None:
            for ref in self._orphans.pop(name, ()):  # another namespace of that name
                dirty |= self._replace_policy(ref, None)
        return dirty

    def _put_policy(self, ref: PolicyRef, policy: Policy | None) -> set[AttachmentKey]:
        orphans = self._orphans.get(ref[0])
        if orphans is not None:
            if policy is None and ref in self._policies and self._is_lived_in(ref[0]):
                orphans.add(ref)
                self.faults.orphan(ref)
                return set()
            orphans.discard(ref)
        return self._replace_policy(ref, policy)

    def _replace_policy(self, ref: PolicyRef, policy: Policy | None) -> set[AttachmentKey]:
        self.faults.put_policy(ref, policy)
        versions = self._policies.put(ref, policy)
        for version in versions:
            self.faults.touch((version.namespace, version.name))
        dirty = {key for version in versions for key in self._governed_by(version)}
        for key in dirty:
            self._attachments[key].stale = True
        return dirty

    def _end_orphans(self) -> None:
        """Let go of orphans whom nobody here needs any more.

        Not at once in `detach`, for what is detached may be attached again the next moment.
        """
        for namespace, orphans in list(self._orphans.items()):
            if self._is_lived_in(namespace):
                continue
            for ref in orphans:
                self._replace_policy(ref, None)
            orphans.clear()
            if namespace not in self._namespaces:
                del self._orphans[namespace]

    def _is_lived_in(self, namespace: str) -> bool:
        # Also by a pod whose ADD is still to come.
        return namespace in self._local_pods or any(ref[0] == namespace for ref in self._attachments_of)

    def is_ending(self, namespace: str) -> bool:
        """Whether a namespace is being deleted (A13)."""
        return namespace in self._orphans

    def _governed_by(self, policy: Policy) -> Iterator[AttachmentKey]:
        for network in policy.networks:
            for key in self._attachments_at.get((policy.namespace, network), ()):
                if governs(policy, policy.namespace, self._attachments[key].subject.labels, (network,)):
                    yield key

    # --- attachments -------------------------------------------------------------------------------------

    def attach(
        self,
        key: AttachmentKey,
        pod_ref: PodRef | None,
        pod_uid: str,
        subject: Subject,
        addresses: tuple[Address, ...],
        candidates: tuple[Network, ...] | None = None,
        holding: tuple[Network, ...] | None = None,
        *,
        peer: bool = True,
    ) -> set[AttachmentKey]:
        """An attachment that is there from now on, or that is so again with what is said now.

        pod_ref None: no identity, so no policy governs it. pod_uid "": whatever pod has that name.
        subject: its labels and ports count while the source has no such pod (A11). addresses: of its ADD.
        candidates: the networks that it may be on; None: those of its subject, which may name more. holding:
        those on which no other pod counts with its addresses; None: the candidates.
        peer: it counts when it is asked whom its pod's addresses belong to; else as a subject only. The dirty
        attachments, this one among them.
        """
        dirty = {key}
        known = self._attachments.get(key)
        if known is not None:
            dirty |= self.detach(key)
        if self._floor is not None:
            self._floor.admit(key, pod_ref, pod_uid)
        may_be = subject.networks if candidates is None else candidates
        new = Attached(pod_ref, pod_uid, subject, addresses, may_be, known.ruleset if known else OPEN)
        new.peer, new.holding = peer, may_be if holding is None else holding
        self._attachments[key] = new
        self._index(key, new)
        if pod_ref is not None:
            add(self._attachments_of, pod_ref, key)
            if (pod := self._pods.get(pod_ref)) is not None:
                new.follow(pod)
        return dirty | self._update_holder(new)

    def withdraw(self, key: AttachmentKey) -> set[AttachmentKey]:
        """DEL: its addresses leave the peer sets at once, for they get reused; it stays governed (A11)."""
        found = self._attachments.get(key)
        if found is None:
            return set()
        found.live = False
        return self._update_holder(found)

    def rejoin(self, key: AttachmentKey) -> set[AttachmentKey]:
        """Take a withdraw() back: its interface is there again."""
        found = self._attachments.get(key)
        if found is None:
            return set()
        found.live = True
        return self._update_holder(found)

    def detach(self, key: AttachmentKey) -> set[AttachmentKey]:
        """The attachment is gone, and its netns or link too. The dirty ones among the others."""
        found = self._attachments.pop(key, None)
        if found is None:
            return set()
        self._unindex(key, found)
        self.governed.put(key, ())
        self._peers.hold(key, ())
        if self._floor is not None:
            self._floor.leave(key)
        found.live = False
        if found.pod_ref is not None:
            discard(self._attachments_of, found.pod_ref, key)
            if (pod := self._pods.get(found.pod_ref)) is not None and found.is_of(pod):
                self._holders.leave(found.pod_ref)
        return self._update_holder(found)

    def update_networks(
        self,
        key: AttachmentKey,
        networks: tuple[Network, ...],
        candidates: tuple[Network, ...],
        holding: tuple[Network, ...] | None = None,
    ) -> set[AttachmentKey]:
        """Other net-attach-defs that it may be of, or that restrict it; the dirty attachments."""
        found = self._attachments[key]
        dirty: set[AttachmentKey] = set()
        if found.subject.networks != networks:
            self._unindex(key, found)
            found.subject = msgspec.structs.replace(found.subject, networks=networks)
            found.stale = True
            self._index(key, found)
            dirty.add(key)
        on = (candidates, candidates if holding is None else holding)
        if (found.candidates, found.holding) != on:
            found.candidates, found.holding = on
            dirty |= self._update_holder(found)
        return dirty

    def _index(self, key: AttachmentKey, new: Attached) -> None:
        if new.pod_ref is not None:
            for network in (EVERYWHERE, *new.subject.networks):
                add(self._attachments_at, (new.subject.namespace, network), key)

    def _unindex(self, key: AttachmentKey, old: Attached) -> None:
        if old.pod_ref is not None:
            for network in {EVERYWHERE, *old.subject.networks}:
                discard(self._attachments_at, (old.subject.namespace, network), key)

    def _update_holder(self, attached: Attached) -> set[AttachmentKey]:
        """An attachment comes, changes or goes: its pod, and whoever else is said to have its addresses."""
        concerned = self._holders.put(attached) | {attached.pod_ref}
        return {key for ref in concerned if ref is not None for key in self._update_peer(ref)}

    def _update_peer(self, ref: PodRef) -> set[AttachmentKey]:
        pod, before = self._pods.get(ref), self._peers.pods().get(ref)
        own = [] if pod is None else self._own(pod)
        peer = None if pod is None else self._holders.make_peer(pod, own)  # A11
        self._holders.name(ref, before, peer)
        self.faults.put_peer(ref, before, peer)
        self.faults.put_claims(ref, () if pod is None else self._holders.false_claims(pod, own))
        return self._peers.put_pod(ref, peer)

    def _own(self, pod: Pod) -> list[Attached]:
        attached = (self._attachments[key] for key in self._attachments_of.get(pod.ref, ()))
        return [one for one in attached if one.is_of(pod)]

    # --- while the source is behind ----------------------------------------------------------------------

    def hold(self) -> None:
        """From now on nothing relaxes: what is allowed at this moment is the floor until `release`.

        A further hold changes nothing. An attachment that comes later has no floor; one that is attached
        again, of the same pod, keeps its own.
        """
        if self._floor is None:
            these = self._attachments.items()
            allowed = {key: Allowed(one.pod_ref, one.pod_uid, self.ruleset(key)) for key, one in these}
            self._floor = Floor(self._peers, allowed, self._budget)

    def release(self) -> set[AttachmentKey]:
        """What is allowed now counts again, and alone; the dirty attachments: those that were held back."""
        floor, self._floor = self._floor, None
        return set() if floor is None else floor.release()

    # --- what is asked -----------------------------------------------------------------------------------

    def subject(self, key: AttachmentKey) -> Subject:
        """The subject as it is now, with the labels and ports of its pod, or its last ones (A11, A12)."""
        return self._attachments[key].subject

    def governing(self, key: AttachmentKey) -> tuple[Policy, ...]:
        """The policies that govern an attachment (A4), by name."""
        found = self._attachments[key]
        if found.pod_ref is None or found.host_network:
            return ()
        subject = found.subject
        return self._policies.governing(subject.namespace, subject.labels, subject.networks)

    def ruleset(self, key: AttachmentKey) -> Ruleset:
        """What governs an attachment; the same object until that is something else.

        While held: what both its floor and its policies permit. References mean `members`.
        """
        self.prepare(key, enough=lambda: False)
        return self._attachments[key].ruleset if self._floor is None else self._floor.ruleset(key)

    def prepare(self, key: AttachmentKey, enough: Callable[[], bool]) -> bool:
        """Work towards `ruleset` until `enough`, for it may take long; whether that is done."""
        found, floor = self._attachments[key], self._floor
        if found.stale:
            ruleset = self._policies.compile(key, found.subject, self.governing(key))
            found.ruleset, found.stale = (found.ruleset if ruleset == found.ruleset else ruleset), False
            if floor is None:
                self._peers.hold(key, found.ruleset.sets(), found.subject.namespace)
        if floor is not None:
            return floor.advance(key, found.subject.namespace, found.ruleset, enough)
        return self._peers.advance(key, enough)

    def closed(self, key: AttachmentKey) -> tuple[Direction, ...]:
        """The directions in which it permits less than it should while held, for want of room (F4)."""
        return () if self._floor is None else self._floor.closed(key)

    def members(self, ref: SharedRef) -> Members:
        """Who is in a set now, and while held was in it at the hold; the same object until that changes."""
        return self._peers.members(ref) if self._floor is None else self._floor.members(ref)

    def selects_peers(self, namespace: str, labels: Mapping[str, str], networks: tuple[Network, ...]) -> bool:
        """Whether it takes the pods that there are to tell what such an interface is allowed.

        So it does if a policy that would govern it (A4) names pods as peers in a direction that it isolates
        (C2, C3), or where egress is isolated, names a port there (D4).
        """
        return self._policies.need_pods(self._policies.governing(namespace, labels, networks))

    def policies(self) -> tuple[Policy, ...]:
        """All policies in force, by namespace and name."""
        self._end_orphans()
        return self._policies.all()

    def pod(self, namespace: str, name: str) -> Pod | None:
        """The pod of that name; None: the source has none."""
        return self._pods.get((namespace, name))

    def net_attach_defs(self) -> Mapping[Network, NetAttachDef]:
        """All net-attach-defs by "namespace/name"."""
        return self._net_attach_defs

    def namespaces(self) -> dict[str, Namespace]:
        """The namespaces that there are: by an object, or because something is in them."""
        self._end_orphans()
        used = (ref[0] for ref in (*self._pods, *self._policies))
        others = (definition.namespace for definition in self._net_attach_defs.values())
        return named_namespaces((*used, *others), self._namespaces)

    def problems(self) -> dict[ObjectKey, tuple[Problem, ...]]:
        """All that is reported, by object; only objects that have any. To find it out may take long."""
        ended(self.faults.settle())
        return {key: each for found in self.faults.found.values() for key, each in found.items()}
