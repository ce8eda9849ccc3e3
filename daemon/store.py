"""The current objects and attachments, and which attachments a change concerns.

In: `Change`s from a source, attachments as they come and go. Out: rulesets, members of peer sets, and after
each change the keys of the attachments that it may concern: by index, never by a look at all. A key is
*dirty* when its ruleset may be another object now, or the members of a set that it holds are; `ruleset` and
`members` give the same object as long as nothing changed, which tells the two apart by identity.
Not shared between threads. Touches no kernel, keeps nothing on disk, logs nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

import msgspec

from daemon.model import (
    Address,
    AttachmentKey,
    Change,
    CommonRules,
    Namespace,
    NetAttachDef,
    Network,
    ObjectKey,
    Pod,
    Policy,
    Problem,
    Subject,
)
from daemon.policy.compile import Terms, combine, governs, make_common_terms, make_terms
from daemon.policy.peersets import NAME_LABEL, PeerPod, PeerSets, PodRef, ResolvedRef
from daemon.policy.problems import cluster_problems
from daemon.policy.ruleset import OPEN, BlockSet, EndpointSet, Members, PodSet, Ruleset

PolicyRef: TypeAlias = tuple[str, str]
"""(namespace, name)."""

K = TypeVar("K")
E = TypeVar("E")


class Store:
    """Objects, attachments and the indices between them."""

    def __init__(self, common: CommonRules) -> None:
        self._common = make_common_terms(common)
        self._namespaces: dict[str, Namespace] = {}
        self._net_attach_defs: dict[Network, NetAttachDef] = {}
        self._pods: dict[PodRef, Pod] = {}
        self._policies: dict[PolicyRef, Policy] = {}
        self._policies_at: dict[tuple[str, Network], set[PolicyRef]] = {}
        self._terms: dict[PolicyRef, Terms] = {}  # only of policies that govern something here
        self._attachments: dict[AttachmentKey, _Attachment] = {}
        self._attachments_at: dict[tuple[str, Network], set[AttachmentKey]] = {}
        self._attachments_of: dict[PodRef, set[AttachmentKey]] = {}
        self._left: dict[PodRef, set[Network]] = {}  # where a pod that is still listed had an attachment
        self._peers = PeerSets()
        self._reported: dict[ObjectKey, tuple[Problem, ...]] | None = None

    # --- objects -----------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change]) -> set[AttachmentKey]:
        """Take over what a source gives; the dirty attachments. What is equal to before changes nothing."""
        self._reported = None
        dirty: set[AttachmentKey] = set()
        for change in changes:
            dirty |= self._apply_one(change.key, change.object)
        return dirty

    def _apply_one(self, key: ObjectKey, new: object) -> set[AttachmentKey]:
        match key.kind, new:
            case "Pod", Pod() | None:
                return self._put_pod((key.namespace, key.name), new)
            case "MultiNetworkPolicy", Policy() | None:
                return self._put_policy((key.namespace, key.name), new)
            case "Namespace", Namespace() | None:
                _put(self._namespaces, key.name, new)
                return self._peers.put_namespace(key.name, new.labels if new else None)
            case "NetworkAttachmentDefinition", NetAttachDef() | None:
                _put(self._net_attach_defs, f"{key.namespace}/{key.name}", new)  # matched by name alone (A3)
                return set()
        raise TypeError(f"{key}: a {type(new).__name__} is none of that kind")

    def _put_pod(self, ref: PodRef, pod: Pod | None) -> set[AttachmentKey]:
        before = self._pods.get(ref)
        if before == pod:
            return set()
        _put(self._pods, ref, pod)
        if pod is None or before is None or before.uid != pod.uid:
            self._left.pop(ref, None)
        dirty = self._update_peer(ref)
        for key in self._attachments_of.get(ref, ()):
            if pod is not None and self._attachments[key].follow(pod):
                dirty.add(key)
        return dirty

    def _put_policy(self, ref: PolicyRef, policy: Policy | None) -> set[AttachmentKey]:
        before = self._policies.get(ref)
        _put(self._policies, ref, policy)
        if before is not None and policy is not None and _meaning(before) == _meaning(policy):
            return set()
        self._terms.pop(ref, None)
        dirty: set[AttachmentKey] = set()
        for version in (before, policy):
            if version is not None:
                dirty.update(self._governed_by(version))
        for network in before.networks if before else ():
            _discard(self._policies_at, (ref[0], network), ref)
        for network in policy.networks if policy else ():
            self._policies_at.setdefault((ref[0], network), set()).add(ref)
        for key in dirty:
            self._attachments[key].stale = True
        return dirty

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
    ) -> set[AttachmentKey]:
        """An attachment that is there from now on, or that is so again with what is said now.

        pod_ref None: no identity, so no policy governs it. pod_uid "": whatever pod has that name.
        subject: its labels and ports count while the source has no such pod (A11). addresses: of its ADD.
        The dirty attachments, this one among them.
        """
        self._reported = None
        dirty = {key}
        known = self._attachments.get(key)
        if known is not None:
            dirty |= self.detach(key)
        new = _Attachment(pod_ref, pod_uid, subject, addresses, known.ruleset if known else OPEN)
        self._attachments[key] = new
        self._index(key, new)
        if pod_ref is not None:
            self._attachments_of.setdefault(pod_ref, set()).add(key)
            self._left.get(pod_ref, set()).difference_update(subject.networks)
            if (pod := self._pods.get(pod_ref)) is not None:
                new.follow(pod)
            dirty |= self._update_peer(pod_ref)
        return dirty

    def withdraw(self, key: AttachmentKey) -> set[AttachmentKey]:
        """DEL: its addresses leave the peer sets at once, for they get reused; it stays governed (A11)."""
        self._reported = None
        found = self._attachments.get(key)
        if found is None:
            return set()
        found.live = False
        return set() if found.pod_ref is None else self._update_peer(found.pod_ref)

    def detach(self, key: AttachmentKey) -> set[AttachmentKey]:
        """The attachment is gone, and its netns or link too. The dirty ones among the others."""
        self._reported = None
        found = self._attachments.pop(key, None)
        if found is None:
            return set()
        self._unindex(key, found)
        self._peers.hold(key, ())
        if found.pod_ref is None:
            return set()
        _discard(self._attachments_of, found.pod_ref, key)
        pod = self._pods.get(found.pod_ref)
        if pod is not None and found.is_of(pod):
            # Until the pod object goes, its network-status may name addresses that others have by now.
            self._left.setdefault(found.pod_ref, set()).update(found.subject.networks)
        return self._update_peer(found.pod_ref)

    def update_networks(self, key: AttachmentKey, networks: tuple[Network, ...]) -> set[AttachmentKey]:
        """Other candidate net-attach-defs, once network-status is known; the dirty attachments."""
        self._reported = None
        found = self._attachments[key]
        if found.subject.networks == networks:
            return set()
        self._unindex(key, found)
        found.subject = msgspec.structs.replace(found.subject, networks=networks)
        found.stale = True
        self._index(key, found)
        return {key} if found.pod_ref is None else {key} | self._update_peer(found.pod_ref)

    def _index(self, key: AttachmentKey, new: "_Attachment") -> None:
        if new.pod_ref is not None:
            for network in new.subject.networks:
                self._attachments_at.setdefault((new.subject.namespace, network), set()).add(key)

    def _unindex(self, key: AttachmentKey, old: "_Attachment") -> None:
        if old.pod_ref is not None:
            for network in set(old.subject.networks):
                _discard(self._attachments_at, (old.subject.namespace, network), key)

    def _update_peer(self, ref: PodRef) -> set[AttachmentKey]:
        pod = self._pods.get(ref)
        if pod is None or pod.host_network or pod.finished:  # A7, A11
            return self._peers.put_pod(ref, None)
        peer = self._make_peer(pod)
        # Most pods of a cluster have no secondary address: not worth their place.
        return self._peers.put_pod(ref, peer if peer.addresses else None)

    def _make_peer(self, pod: Pod) -> PeerPod:
        own = [self._attachments[key] for key in self._attachments_of.get(pod.ref, ())]
        own = [attachment for attachment in own if attachment.is_of(pod)]
        addresses: dict[Network, tuple[Address, ...]] = dict.fromkeys(self._left.get(pod.ref, ()), ())
        for attachment in own:
            if not attachment.live:
                # Its addresses may be another's by now, whichever of the candidates its network is.
                for network in attachment.subject.networks:
                    addresses.setdefault(network, ())
            # Of several candidates none is sure: then network-status alone says whose network it is.
            if len(attachment.subject.networks) == 1:
                network = attachment.subject.networks[0]
                addresses[network] = addresses.get(network, ()) + (
                    attachment.addresses if attachment.live else ()
                )
        for status in pod.statuses:
            if status.network not in addresses:
                addresses[status.network] = _on_network(pod, status.network)
        return PeerPod(pod.namespace, pod.labels, pod.ports, {n: a for n, a in addresses.items() if a})

    # --- what is asked -----------------------------------------------------------------------------------

    def subject(self, key: AttachmentKey) -> Subject:
        """The subject as it is now, with the labels and ports of its pod, or its last ones (A11, A12)."""
        return self._attachments[key].subject

    def governing(self, key: AttachmentKey) -> tuple[Policy, ...]:
        """The policies that govern an attachment (A4), by name."""
        return tuple(self._policies[ref] for ref in self._governing(self._attachments[key]))

    def ruleset(self, key: AttachmentKey) -> Ruleset:
        """What governs an attachment; the same object until that is something else."""
        found = self._attachments[key]
        if found.stale:
            ruleset = self._compile(found)
            if ruleset != found.ruleset:
                found.ruleset = ruleset
            self._peers.hold(key, _resolved_refs(found.ruleset))
            found.stale = False
        return found.ruleset

    def members(self, ref: ResolvedRef) -> Members:
        """Who is in a set now; the same object until that changes."""
        return self._peers.members(ref)

    def _governing(self, found: "_Attachment") -> list[PolicyRef]:
        if found.pod_ref is None or found.host_network:
            return []
        subject = found.subject
        candidates = {
            ref
            for network in subject.networks
            for ref in self._policies_at.get((subject.namespace, network), ())
        }
        return sorted(
            ref
            for ref in candidates
            if governs(self._policies[ref], subject.namespace, subject.labels, subject.networks)
        )

    def _compile(self, found: "_Attachment") -> Ruleset:
        governing = self._governing(found)
        for ref in governing:
            if ref not in self._terms:
                self._terms[ref] = make_terms(self._policies[ref])
        return combine(found.subject, [self._terms[ref] for ref in governing], self._common)

    def policies(self) -> tuple[Policy, ...]:
        """All policies, by namespace and name."""
        return tuple(self._policies[ref] for ref in sorted(self._policies))

    def pod(self, namespace: str, name: str) -> Pod | None:
        """The pod of that name; None: the source has none."""
        return self._pods.get((namespace, name))

    def net_attach_defs(self) -> Mapping[Network, NetAttachDef]:
        """All net-attach-defs by "namespace/name"."""
        return self._net_attach_defs

    def namespaces(self) -> dict[str, Namespace]:
        """The namespaces that there are: by an object, or because something is in them."""
        names = {ref[0] for ref in (*self._pods, *self._policies)}
        names |= {definition.namespace for definition in self._net_attach_defs.values()}
        found = {name: Namespace(name, {NAME_LABEL: name}) for name in names}
        for name, namespace in self._namespaces.items():
            found[name] = Namespace(name, {**namespace.labels, NAME_LABEL: name})
        return found

    def problems(self) -> dict[ObjectKey, tuple[Problem, ...]]:
        """What is reported, by object; only objects that have any.

        Looks at everything, once after each change.
        """
        if self._reported is None:
            self._reported = {key: problems for key, problems in self._find_problems().items() if problems}
        return self._reported

    def _find_problems(self) -> dict[ObjectKey, tuple[Problem, ...]]:
        found = cluster_problems(self._policies.values(), self._net_attach_defs, self._peers.pods())
        for policy in self._policies.values():
            found[policy.key] = policy.problems + found.get(policy.key, ())
        for pod in self._pods.values():
            if pod.problems:
                found[ObjectKey("Pod", pod.namespace, pod.name)] = pod.problems
        for definition in self._net_attach_defs.values():
            key = ObjectKey("NetworkAttachmentDefinition", definition.namespace, definition.name)
            found[key] = definition.problems
        return found


class _Attachment:
    """One attachment as the store knows it. live: no DEL came yet. stale: its ruleset is to be compiled."""

    def __init__(
        self,
        pod_ref: PodRef | None,
        pod_uid: str,
        subject: Subject,
        addresses: tuple[Address, ...],
        ruleset: Ruleset,
    ) -> None:
        self.pod_ref = pod_ref
        self.subject = subject
        self.addresses = addresses
        self.ruleset = ruleset
        self.live = True
        self.stale = True
        self.host_network = False
        self._uid = pod_uid

    def is_of(self, pod: Pod) -> bool:
        """Whether that pod object is this attachment's (A12). A static pod's UID is its hash to runtimes."""
        return self._uid in ("", pod.uid, pod.config_hash)

    def follow(self, pod: Pod) -> bool:
        """Take over the labels and ports of the pod object, if it is this one's; whether they changed."""
        if not self.is_of(pod):
            return False
        now = msgspec.structs.replace(self.subject, labels=pod.labels, ports=pod.ports)
        changed = now != self.subject or self.host_network != pod.host_network
        self.subject, self.host_network = now, pod.host_network
        self.stale = self.stale or changed
        return changed


def _resolved_refs(ruleset: Ruleset) -> Iterator[PodSet | EndpointSet]:
    for match in (*(ruleset.ingress or ()), *(ruleset.egress or ())):
        if match.peer is not None and not isinstance(match.peer, BlockSet):
            yield match.peer


def _on_network(pod: Pod, network: Network) -> tuple[Address, ...]:
    return tuple(a for status in pod.statuses if status.network == network for a in status.addresses)


def _meaning(policy: Policy) -> tuple[object, ...]:
    return (policy.networks, policy.pod_selector, policy.ingress, policy.egress)


def _put(objects: dict[K, E], key: K, new: E | None) -> None:
    if new is None:
        objects.pop(key, None)
    else:
        objects[key] = new


def _discard(index: dict[K, set[E]], key: K, value: E) -> None:
    found = index[key]
    found.discard(value)
    if not found:
        del index[key]
