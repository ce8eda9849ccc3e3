"""Who is in each set of peers at this moment: each distinct set once, however many attachments hold it.

In: pods as peers, the namespaces' labels, which sets an attachment holds. Out: `Members`, and which holders a
change concerns. A pod's change costs as much as the sets that can include it are many, never a walk over all
pods; only a set that is new, and a namespace that a selector newly selects, make it look at pods again.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, cast

import msgspec

from daemon.intervals import holds, number
from daemon.model import Address, AttachmentKey, ContainerPort, Network, Selector
from daemon.policy.compile import find_port
from daemon.policy.dicts import add, discard
from daemon.policy.ruleset import BlockSet, Endpoint, EndpointSet, Members, PodSet
from daemon.policy.selectors import EVERYTHING, matches

PodRef: TypeAlias = tuple[str, str]
"""(namespace, name)."""

ResolvedRef: TypeAlias = PodSet | EndpointSet
"""The references that have members; a BlockSet has its spans in itself."""

Scope: TypeAlias = str | Selector
"""Where a set looks for pods: in one namespace by name, or in those that a selector selects."""

NAME_LABEL = "kubernetes.io/metadata.name"

Contribution: TypeAlias = frozenset[Address] | frozenset[Endpoint]
"""Elements of a set, which are all of one kind."""


class PeerPod(msgspec.Struct, frozen=True):
    """A pod that may be a peer (A7 is the caller's), with the addresses that count on each network (C5)."""

    namespace: str
    labels: Mapping[str, str]
    ports: tuple[ContainerPort, ...]
    addresses: Mapping[Network, tuple[Address, ...]]


class PeerSets:
    """All sets that are held; its length is their number. Not shared between threads."""

    def __init__(self) -> None:
        self._pods: dict[PodRef, PeerPod] = {}
        self._located: dict[tuple[str, Network], set[PodRef]] = {}
        self._labels: dict[str, Mapping[str, str]] = {}
        self._sets: dict[ResolvedRef, _PeerSet] = {}
        self._held: dict[AttachmentKey, frozenset[ResolvedRef]] = {}
        self._scoped: dict[tuple[Scope, Network], set[_PeerSet]] = {}
        self._selectors: dict[Selector, int] = {}
        self._scopes: dict[str, tuple[Scope, ...]] = {}  # by namespace, worked out when asked for

    def __len__(self) -> int:
        return len(self._sets)

    def hold(self, holder: AttachmentKey, refs: Iterable[ResolvedRef]) -> None:
        """From now on the holder refers to exactly these sets; none: it is gone."""
        wanted, before = frozenset(refs), self._held.get(holder, frozenset())
        for ref in wanted - before:
            found = self._sets.get(ref)
            if found is None:
                found = self._resolve(ref)
                self._index(found)
            found.holders.add(holder)
        for ref in before - wanted:
            self._sets[ref].holders.discard(holder)
            if not self._sets[ref].holders:
                self._unindex(self._sets[ref])
        if wanted:
            self._held[holder] = wanted
        else:
            self._held.pop(holder, None)

    def members(self, ref: ResolvedRef) -> Members:
        """What a set holds now. The same object until it changes; one that nobody holds is looked up anew."""
        found = self._sets.get(ref)
        return (found or self._resolve(ref)).members()

    def snapshot(self) -> dict[ResolvedRef, Members]:
        """What each set that is held holds now; members are shared, not copied."""
        return {ref: found.members() for ref, found in self._sets.items()}

    def pods(self) -> Mapping[PodRef, PeerPod]:
        """All pods that may be peers, as they are now."""
        return self._pods

    def put_pod(self, ref: PodRef, pod: PeerPod | None) -> set[AttachmentKey]:
        """A pod as it is now (None: no peer, or gone); who holds a set that this changed."""
        before = self._pods.get(ref)
        if before == pod:
            return set()
        networks = set(before.addresses if before else ()) | set(pod.addresses if pod else ())
        self._locate(ref, before, pod)
        concerned = {
            found
            for scope in self._scopes_of(ref[0])
            for network in networks
            for found in self._scoped.get((scope, network), ())
        }
        return _holders(found for found in concerned if found.put(ref, pod))

    def put_namespace(self, name: str, labels: Mapping[str, str] | None) -> set[AttachmentKey]:
        """A namespace's labels as they are now (None: no such object); who holds a set that this changed."""
        before = set(self._scopes_of(name))
        if labels is None:
            self._labels.pop(name, None)
        else:
            self._labels[name] = labels
        self._scopes.pop(name, None)
        after = set(self._scopes_of(name))
        changed = set()
        for scope in before ^ after:
            for found in self._of_scope(scope):
                for ref in self._pods_at(name, found.networks):
                    if found.put(ref, self._pods[ref] if scope in after else None):
                        changed.add(found)
        return _holders(changed)

    def _locate(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> None:
        for network in before.addresses if before else ():
            discard(self._located, (ref[0], network), ref)
        for network in after.addresses if after else ():
            add(self._located, (ref[0], network), ref)
        if after is None:
            self._pods.pop(ref, None)
        else:
            self._pods[ref] = after

    def _pods_at(self, namespace: str, networks: Iterable[Network]) -> set[PodRef]:
        return {ref for network in networks for ref in self._located.get((namespace, network), ())}

    def _labels_of(self, namespace: str) -> Mapping[str, str]:
        # The label is there even where a Namespace object lacks it, or there is no such object.
        return {**self._labels.get(namespace, {}), NAME_LABEL: namespace}

    def _scopes_of(self, namespace: str) -> tuple[Scope, ...]:
        scopes = self._scopes.get(namespace)
        if scopes is None:
            labels = self._labels_of(namespace)
            selecting = [selector for selector in self._selectors if matches(selector, labels)]
            scopes = self._scopes[namespace] = (namespace, *selecting)
        return scopes

    def _of_scope(self, scope: Scope) -> set["_PeerSet"]:
        return {found for found in self._sets.values() if found.scope == scope}

    def _resolve(self, ref: ResolvedRef) -> "_PeerSet":
        new = _PeerSet(ref)
        for namespace in self._namespaces_in(new.scope, new.networks):
            for pod_ref in self._pods_at(namespace, new.networks):
                new.put(pod_ref, self._pods[pod_ref])
        return new

    def _namespaces_in(self, scope: Scope, networks: Iterable[Network]) -> list[str]:
        if isinstance(scope, str):
            return [scope]
        populated = {namespace for namespace, network in self._located if network in networks}
        return [name for name in populated if matches(scope, self._labels_of(name))]

    def _index(self, new: "_PeerSet") -> None:
        self._sets[new.ref] = new
        for network in new.networks:
            add(self._scoped, (new.scope, network), new)
        if isinstance(new.scope, Selector):
            self._selectors[new.scope] = self._selectors.get(new.scope, 0) + 1
            if self._selectors[new.scope] == 1:
                self._scopes.clear()

    def _unindex(self, old: "_PeerSet") -> None:
        del self._sets[old.ref]
        for network in old.networks:
            discard(self._scoped, (old.scope, network), old)
        if isinstance(old.scope, Selector):
            self._selectors[old.scope] -= 1
            if not self._selectors[old.scope]:
                del self._selectors[old.scope]
                self._scopes.clear()


class _PeerSet:
    """One set: what each pod contributes, and how many pods contribute each element."""

    def __init__(self, ref: ResolvedRef) -> None:
        pods = ref if isinstance(ref, PodSet) else ref.scope if isinstance(ref.scope, PodSet) else None
        self.ref = ref
        self.networks = ref.networks
        self.scope: Scope = EVERYTHING
        if pods is not None:
            self.scope = pods.namespace if pods.namespaces is None else pods.namespaces
        self.holders: set[AttachmentKey] = set()
        self._selector = EVERYTHING if pods is None else pods.pods
        self._contributions: dict[PodRef, Contribution] = {}
        self._v4 = _Counted()
        self._v6 = _Counted()
        self._members: Members | None = None

    def put(self, ref: PodRef, pod: PeerPod | None) -> bool:
        """A pod as it is now; whether an element came or went by it."""
        after = self._elements(pod)
        before = self._contributions.get(ref, frozenset())
        if after == before:
            return False
        if after:
            self._contributions[ref] = after
        else:
            del self._contributions[ref]
        changed = [self._family(element).add(element) for element in after - before]
        changed += [self._family(element).remove(element) for element in before - after]
        if any(changed):
            self._members = None
        return any(changed)

    def members(self) -> Members:
        if self._members is None:
            self._members = Members(self._v4.frozen(), self._v6.frozen())
        return self._members

    def _family(self, element: Address | Endpoint) -> "_Counted":
        address = element if isinstance(element, bytes) else element[0]
        return self._v4 if len(address) == 4 else self._v6

    def _elements(self, pod: PeerPod | None) -> Contribution:
        if pod is None or not matches(self._selector, pod.labels):
            return frozenset()
        addresses = frozenset(a for network in self.networks for a in pod.addresses.get(network, ()))
        if isinstance(self.ref, PodSet):
            return addresses
        return frozenset(self._endpoints(self.ref, addresses, pod.ports))

    def _endpoints(
        self, ref: EndpointSet, addresses: Iterable[Address], available: tuple[ContainerPort, ...]
    ) -> Iterator[Endpoint]:
        found = [port for wanted in ref.ports if (port := find_port(wanted, available)) is not None]
        for address in addresses:
            if isinstance(ref.scope, BlockSet) and not _in_blocks(ref.scope, address):
                continue
            for port in found:
                assert port.span is not None
                yield address, port.protocol, port.span[0]


class _Counted:
    """Elements with the number of pods that contribute each (two pods may have one address for a while)."""

    def __init__(self) -> None:
        self._counts: dict[Address | Endpoint, int] = {}
        self._frozen: Contribution | None = frozenset()

    def add(self, element: Address | Endpoint) -> bool:
        """Whether it is new."""
        count = self._counts[element] = self._counts.get(element, 0) + 1
        if count == 1:
            self._frozen = None
        return count == 1

    def remove(self, element: Address | Endpoint) -> bool:
        """Whether that was the last of it."""
        count = self._counts[element] - 1
        if count:
            self._counts[element] = count
            return False
        del self._counts[element]
        self._frozen = None
        return True

    def frozen(self) -> Contribution:
        """The elements; the same object as long as they are the same."""
        if self._frozen is None:
            self._frozen = cast("Contribution", frozenset(self._counts))
        return self._frozen


def _in_blocks(blocks: BlockSet, address: Address) -> bool:
    return holds(blocks.spans4 if len(address) == 4 else blocks.spans6, number(address))


def _holders(changed: Iterable[_PeerSet]) -> set[AttachmentKey]:
    return {holder for found in changed for holder in found.holders}
