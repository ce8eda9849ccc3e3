"""Who is in each set of peers at this moment: each distinct set once, however many attachments hold it.

In: pods as peers, the namespaces' labels, which sets an attachment holds. Out: `Members`, and which holders a
change concerns. A pod's change costs as much as the sets that can include it are many, never a walk over all
pods; only a set that is new, and a namespace that a selector newly selects, make it look at pods again. That
look can be taken in pieces (`advance`), for a tenant may write thousands of selectors.

What the sets of one namespace hold together is bounded: beyond that its largest set holds nobody (F2). What
a pod would add is counted before it is made, for it may be thousands of ports at hundreds of addresses.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from daemon.model import AttachmentKey, Namespace, Network
from daemon.policy.dicts import add, discard
from daemon.policy.peerset import PeerPod, PeerSet, PodRef, Scope, parts, scope
from daemon.policy.ruleset import Members, PodSet, SharedRef
from daemon.policy.selectors import SelectorIndex

NAME_LABEL = "kubernetes.io/metadata.name"

_A_PIECE = 64
"""After so many pods or selectors a look is worth interrupting."""
_SELECTORS_LIKE_A_POD = 32
"""So many selectors to be tried for a pod take as long as to look at one more."""
_PIECES_AT_ONCE = 4


class PeerSets:
    """All sets that are held; its length is their number. Not shared between threads.

    most: elements that all sets of one namespace may have together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pods: dict[PodRef, PeerPod] = {}
        self._located: dict[str, dict[Network, set[PodRef]]] = {}  # by namespace
        self._labels: dict[str, Mapping[str, str]] = {}
        self._sets: dict[SharedRef, PeerSet] = {}
        self._held: dict[AttachmentKey, frozenset[SharedRef]] = {}
        self._wanting: dict[tuple[Scope, Network], SelectorIndex[PeerSet]] = {}
        self._namespaces: SelectorIndex[PeerSet] = SelectorIndex()
        # By namespace that there is: it is matched with all selectors once, and not for each of its pods.
        self._scopes: dict[str, tuple[Scope, ...]] = {}
        self._looks: dict[SharedRef, Iterator[None]] = {}  # at the pods that there were when a set was new
        self._spent: Counter[str] = Counter()  # elements, by the namespace that pays for their sets
        self._full: dict[PeerSet, int] = {}  # and how many elements each would have
        self._refusing: set[PeerSet] = set()  # hold nothing of a pod that would bring too many
        self._settled: set[PeerSet] = set()  # full or not any more, since holders were last told

    def __len__(self) -> int:
        return len(self._sets)

    def __contains__(self, ref: SharedRef) -> bool:
        return ref in self._sets

    # --- holding -----------------------------------------------------------------------------------------

    def hold(self, holder: AttachmentKey, refs: Iterable[SharedRef], namespace: str = "") -> None:
        """From now on the holder, a pod's of that namespace, refers to exactly these sets.

        None: it is gone.
        """
        wanted, before = frozenset(refs), self._held.get(holder, frozenset())
        for ref in wanted - before:
            found = self._sets.get(ref)
            if found is None:
                found = self._sets[ref] = PeerSet(ref)
                found.payer = namespace
                look = self._look(found)
                # Small ones are done here.
                if len(list(islice(look, _PIECES_AT_ONCE))) == _PIECES_AT_ONCE:
                    self._looks[ref] = look
            found.holders[holder] = namespace
        for ref in before - wanted:
            self._let_go(self._sets[ref], holder)
        if wanted:
            self._held[holder] = wanted
        else:
            self._held.pop(holder, None)

    def _let_go(self, peers: PeerSet, holder: AttachmentKey) -> None:
        del peers.holders[holder]
        if not peers.holders:
            self._spend(peers.payer, -len(peers))
            self._drop(peers)
        elif peers.payer not in peers.holders.values():
            self._charge(peers, next(iter(peers.holders.values())))

    def advance(self, holder: AttachmentKey, enough: Callable[[], bool]) -> bool:
        """Look at pods for the sets of a holder that are new, until `enough`; whether that is done."""
        if not self._looks:
            return True
        pending = [ref for ref in self._held.get(holder, ()) if ref in self._looks]
        while pending:
            for _ in self._looks[pending[-1]]:
                if enough():
                    return False
            del self._looks[pending.pop()]
            if enough():
                return not pending
        return True

    def members(self, ref: SharedRef) -> Members:
        """What a set holds now. The same object until it changes; one that nobody holds is looked up anew."""
        found = self._sets.get(ref)
        if found is None:
            return self._without_holder(ref).members()
        for _ in self._looks.pop(ref, ()):
            pass
        return found.members()

    def snapshot(self) -> dict[SharedRef, Members]:
        """What each set that is held holds now; members are shared, not copied."""
        return {ref: self.members(ref) for ref in self._sets}

    def pods(self) -> Mapping[PodRef, PeerPod]:
        """All pods that may be peers, as they are now."""
        return self._pods

    def overflown(self) -> dict[str, set[SharedRef]]:
        """The sets that lack somebody because there is no room for more, by the namespaces that hold them."""
        found: dict[str, set[SharedRef]] = {}
        for peers in (*self._full, *self._refusing):
            for namespace in {*peers.holders.values()}:
                found.setdefault(namespace, set()).add(peers.ref)
        return found

    # --- changes -----------------------------------------------------------------------------------------

    def put_pod(self, ref: PodRef, pod: PeerPod | None) -> set[AttachmentKey]:
        """A pod as it is now (None: no peer, or gone); who holds a set that this changed."""
        before = self._pods.get(ref)
        if before == pod:
            return set()
        self._locate(ref, before, pod)
        scopes = self._scopes_of(ref[0])
        was, now = self._wanted_by(before, scopes), self._wanted_by(pod, scopes)
        changed = [
            found
            for found in was | now
            if self._put(found, ref, pod if found in now else None, before if found in was else None)
        ]
        return _holders(changed) | self.settle()

    def put_namespace(self, name: str, labels: Mapping[str, str] | None) -> set[AttachmentKey]:
        """A namespace's labels as they are now (None: no such object); who holds a set that this changed."""
        before = self._scopes_of(name)
        if labels is None:
            self._labels.pop(name, None)
        else:
            self._labels[name] = labels
        self._scopes.pop(name, None)
        after = self._scopes_of(name)
        changed: set[PeerSet] = set()
        if set(before) != set(after):
            for ref in {ref for refs in self._located.get(name, {}).values() for ref in refs}:
                pod = self._pods[ref]
                now = self._wanted_by(pod, after)
                for found in now ^ self._wanted_by(pod, before):
                    if self._put(found, ref, *((pod, None) if found in now else (None, pod))):
                        changed.add(found)
        return _holders(changed) | self.settle()

    def _put(self, peers: PeerSet, ref: PodRef, pod: PeerPod | None, before: PeerPod | None = None) -> bool:
        """A pod that a set selects as it is now, and as it was when it did; None: it does not, did not."""
        share = peers.share(pod)
        if peers.full:
            self._full[peers] += share.weight - peers.share(before).weight
            return False
        growth = peers.growth(ref, share)
        while not peers.full and self._spent[peers.payer] + growth > self._most:
            self._make_room(peers.payer, peers, growth)
        size = len(peers)
        changed = peers.put(ref, share)
        self._spend(peers.payer, len(peers) - size)
        (self._refusing.add if peers.refuses else self._refusing.discard)(peers)
        return changed

    def _wanted_by(self, pod: PeerPod | None, scopes: Iterable[Scope]) -> set[PeerSet]:
        """The sets that select a pod in a namespace where these scopes look."""
        if pod is None:
            return set()
        return {
            found
            for where in scopes
            for network in pod.addresses
            if (index := self._wanting.get((where, network))) is not None
            for found in index.users(pod.labels)
        }

    def _locate(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> None:
        here = self._located.setdefault(ref[0], {})
        for network in before.addresses if before else ():
            discard(here, network, ref)
        for network in after.addresses if after else ():
            add(here, network, ref)
        if not here:
            del self._located[ref[0]]
        if after is None:
            self._pods.pop(ref, None)
        else:
            self._pods[ref] = after

    def _labels_of(self, namespace: str) -> Mapping[str, str]:
        # The label is there even where a Namespace object lacks it, or there is no such object.
        return {**self._labels.get(namespace, {}), NAME_LABEL: namespace}

    def _scopes_of(self, namespace: str) -> tuple[Scope, ...]:
        scopes = self._scopes.get(namespace)
        if scopes is None:
            selecting = self._namespaces.selecting(self._labels_of(namespace))
            scopes = (namespace, *selecting)
            if namespace in self._labels:
                self._scopes[namespace] = scopes
        return scopes

    # --- sets that come and go ---------------------------------------------------------------------------

    def _look(self, new: PeerSet) -> Iterator[None]:
        """Let changes of pods find a new set, then put all pods into it that it selects; in pieces."""
        wanted = parts(new.ref)
        for number, part in enumerate(wanted, 1):
            self._want(part, new)
            if number % _A_PIECE == 0:
                yield
        looked_at, effort = 0, 1 + len(wanted) // _SELECTORS_LIKE_A_POD
        for namespace in self._places(wanted):
            scopes = self._scopes_of(namespace)
            here = self._located.get(namespace, {})
            for ref in [ref for network in new.networks for ref in here.get(network, ())]:
                pod = self._pods.get(ref)
                if pod is not None and new in self._wanted_by(pod, scopes):
                    self._put(new, ref, pod)
                looked_at += effort
                if looked_at >= _A_PIECE:
                    looked_at = 0
                    yield

    def _places(self, wanted: Iterable[PodSet]) -> list[str]:
        """The namespaces in which there may be pods that these select."""
        scopes = {scope(part) for part in wanted}
        named = [where for where in scopes if isinstance(where, str)]
        return named if len(named) == len(scopes) else list(self._located)

    def _want(self, part: PodSet, new: PeerSet) -> None:
        where = scope(part)
        for network in part.networks:
            self._wanting.setdefault((where, network), SelectorIndex()).add(part.pods, new)
        if not isinstance(where, str) and self._namespaces.add(where, new):
            self._scopes.clear()

    def _drop(self, old: PeerSet) -> None:
        del self._sets[old.ref]
        self._looks.pop(old.ref, None)
        self._full.pop(old, None)
        self._refusing.discard(old)
        self._settled.discard(old)
        for part in parts(old.ref):
            where = scope(part)
            for network in part.networks:
                index = self._wanting.get((where, network))
                if index is not None:
                    index.discard(part.pods, old)
                    if not index:
                        del self._wanting[where, network]
            if not isinstance(where, str) and self._namespaces.discard(where, old):
                self._scopes.clear()

    def _without_holder(self, ref: SharedRef) -> PeerSet:
        """A set as if it were held, for a moment."""
        found = self._sets[ref] = PeerSet(ref)
        for _ in self._look(found):
            pass
        self._spend(found.payer, -len(found))
        self._drop(found)
        return found

    # --- the budget --------------------------------------------------------------------------------------

    def _make_room(self, namespace: str, growing: PeerSet, growth: int) -> None:
        """The largest set of a namespace goes to another one that holds it too and has room for it.

        Where there is none, it holds nobody from now on. growing: one that is to become so much larger.
        """

        def size(peers: PeerSet) -> int:
            return len(peers) + (growth if peers is growing else 0)

        largest = max((s for s in self._sets.values() if s.payer == namespace and not s.full), key=size)
        for other in {*largest.holders.values()} - {namespace}:
            if self._spent[other] + size(largest) <= self._most:
                self._charge(largest, other)
                return
        self._full[largest] = size(largest)
        self._spend(namespace, -len(largest))
        largest.overflow()
        self._settled.add(largest)

    def settle(self) -> set[AttachmentKey]:
        """Sets for which there is room again are filled again; who holds one, or one that has become full."""
        for peers, size in list(self._full.items()):
            if self._spent[peers.payer] + size <= self._most:
                del self._full[peers]
                peers.full = False
                self._looks[peers.ref] = self._look(peers)
                self._settled.add(peers)
        told, self._settled = self._settled, set()
        return _holders(told)

    def _charge(self, peers: PeerSet, namespace: str) -> None:
        self._spend(peers.payer, -len(peers))
        self._spend(namespace, len(peers))
        peers.payer = namespace

    def _spend(self, namespace: str, members: int) -> None:
        self._spent[namespace] += members
        if not self._spent[namespace]:
            del self._spent[namespace]


def _holders(changed: Iterable[PeerSet]) -> set[AttachmentKey]:
    return {holder for found in changed for holder in found.holders}


def named_namespaces(used: Iterable[str], objects: Mapping[str, Namespace]) -> dict[str, Namespace]:
    """The namespaces that there are: with an object, or because something is in them; labelled as all are."""
    found = {name: Namespace(name, {NAME_LABEL: name}) for name in used}
    for name, namespace in objects.items():
        found[name] = msgspec.structs.replace(namespace, labels={**namespace.labels, NAME_LABEL: name})
    return found
