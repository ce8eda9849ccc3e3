"""Who is in each set of peers at this moment: each distinct set once, however many attachments hold it.

In: pods as peers, the namespaces' labels, which sets an attachment holds. Out: `Members`, and which holders a
change concerns. A pod's change costs as much as the sets that can include it are many, never a walk over all
pods; only a set that is new, and a namespace that a selector selects newly or no more, make it look at pods
again: for each set by itself, at the pods that there are on its networks. Such looks are *pending* until
somebody takes them in pieces (`advance`), for a tenant may write thousands of selectors; whoever holds a set
with a pending look has been told that it changes, or holds it only now.

What the sets of one namespace hold together is bounded: beyond that its largest set holds nobody (F2). What
a pod would add is counted before it is made, for it may be thousands of ports at hundreds of addresses.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import count, islice

import msgspec

from daemon.model import AttachmentKey, Namespace, Network
from daemon.policy.dicts import add, discard
from daemon.policy.peerset import PeerPod, PeerSet, PodRef, alike, both, meet, weight
from daemon.policy.ruleset import Members, SharedRef
from daemon.policy.spaces import NAME_LABEL, Spaces
from daemon.policy.wanting import A_PIECE, Parts, Wanting

_LIKE_A_POD = 32
"""So many selectors to be tried, or pods to be listed, take as long as to look at one."""
_PUT_AT_ONCE = 1024
"""Into so many sets a pod of one address is put while others wait."""
_PIECES_AT_ONCE = 4
"""Of looks that begin: small ones are done with that, and nobody need be told of them."""


class PeerSets:
    """All sets that are held; its length is their number. Not shared between threads.

    most: elements that all sets of one namespace may have together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pods: dict[PodRef, PeerPod] = {}
        self._located: dict[str, dict[Network, set[PodRef]]] = {}  # by namespace
        self._spaces = Spaces()
        self._sets: dict[SharedRef, PeerSet] = {}
        self._held: dict[AttachmentKey, frozenset[SharedRef]] = {}
        self._wanting = Wanting(self._spaces)
        self._looks: dict[SharedRef, Iterator[None]] = {}
        self._again: dict[PeerSet, set[str | PodRef]] = {}  # at which namespaces and pods, once more
        self._effort = 0  # since a look was interrupted, in pods
        self._paid: dict[str, set[PeerSet]] = {}  # by the namespace that pays for them
        self._spent: Counter[str] = Counter()  # and how many elements these have
        self._full: dict[PeerSet, int] = {}  # and how many elements each would have, if no look is pending
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
        new: list[SharedRef] = []
        for ref in wanted - before:
            found = self._sets.get(ref)
            if found is None:
                found = self._make(ref, namespace)
                self._looks[ref] = self._look(found)
                new.append(ref)
            found.holders[holder] = namespace
        for ref in before - wanted:
            self._let_go(self._sets[ref], holder)
        if wanted:
            self._held[holder] = wanted
        else:
            self._held.pop(holder, None)
        self._begin(new)

    def _let_go(self, peers: PeerSet, holder: AttachmentKey) -> None:
        del peers.holders[holder]
        if not peers.holders:
            self._spend(peers.payer, -len(peers))
            self._drop(peers)
        elif peers.payer not in peers.holders.values():
            self._charge(peers, next(iter(peers.holders.values())))

    def advance(self, holder: AttachmentKey, enough: Callable[[], bool]) -> bool:
        """Take the pending looks of a holder's sets, until `enough`; whether none is left.

        Between two questions whether it is there is work of about a millisecond.
        """
        if not self._looks:
            return True
        return self._go_on([ref for ref in self._held.get(holder, ()) if ref in self._looks], enough)

    def _begin(self, refs: list[SharedRef]) -> None:
        """Looks that are new: what takes longer is left to `advance`."""
        pieces = count(1)
        self._go_on(refs, lambda: next(pieces) >= _PIECES_AT_ONCE)

    def _go_on(self, pending: list[SharedRef], enough: Callable[[], bool]) -> bool:
        while pending:
            for _ in self._looks[pending[-1]]:
                if enough():
                    return False
            del self._looks[pending.pop()]
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
        """A pod as it is now (None: no peer, or gone); who holds a set that this changed, or will."""
        before = self._pods.get(ref)
        if before == pod:
            return set()
        self._locate(ref, before, pod)
        scopes = self._spaces.scopes(ref[0])
        now = self._wanting.sets(pod, scopes)
        earlier = now if alike(before, pod) else self._wanting.sets(before, scopes)
        # A set that has still to look at a namespace may hold a pod that was selected by its former labels.
        concerned = now | earlier | self._again.keys()
        todo = iter(concerned)
        at_once = islice(todo, 1 + _PUT_AT_ONCE // (weight(before) + weight(pod)))
        full: list[PeerSet] = []
        changed: list[PeerSet] = []
        for peers in at_once:
            if peers.full:
                full.append(peers)
            elif self._put(peers, ref, pod if peers in now else None):
                changed.append(peers)
        later: list[PeerSet] = []
        for peers in todo:
            (full if peers.full else later).append(peers)
        self._look_later(later, ref)
        for peers in full:
            was = before if peers in earlier else None
            self._recount(peers, peers.share(pod if peers in now else None).weight - peers.share(was).weight)
        return _holders([*changed, *later]) | self.settle()

    def put_namespace(self, name: str, labels: Mapping[str, str] | None) -> set[AttachmentKey]:
        """A namespace's labels as they are now (None: no such object).

        Who holds a set that looks for pods there from now on, or does no more, if there are any.
        """
        changed = self._spaces.put(name, labels)
        here = self._located.get(name)
        if not changed or not here:
            return self.settle()
        concerned = {peers for where in changed for peers in self._spaces.looking(where)}
        near = {networks for networks in {peers.networks for peers in concerned} if meet(here, networks)}
        told = [peers for peers in concerned if peers.networks in near]
        self._look_later([peers for peers in told if not peers.full], name)
        for peers in self._full.keys() & set(told):
            self._looks[peers.ref] = self._look(peers)
        self._begin([peers.ref for peers in told])
        return _holders(told) | self.settle()

    def _look_later(self, concerned: Iterable[PeerSet], at: str | PodRef) -> None:
        for peers in concerned:
            add(self._again, peers, at)
            self._looks.setdefault(peers.ref, self._look_again(peers))

    def _recount(self, peers: PeerSet, more: int) -> None:
        """What a set would have for which there is no room.

        While a look counts that, it is not known whether it has been at a pod yet: rather too few than too
        many, for then there is an attempt in vain to fill it, and no more.
        """
        self._full[peers] += min(0, more) if peers.ref in self._looks else more

    def _put(self, peers: PeerSet, ref: PodRef, pod: PeerPod | None) -> bool:
        """A pod that a set selects as it is now; None: it does not."""
        share = peers.share(pod)
        if peers.full:
            return False
        growth = peers.growth(ref, share)
        while not peers.full and self._spent[peers.payer] + growth > self._most:
            self._make_room(peers.payer, peers, growth)
        size = len(peers)
        changed = peers.put(ref, share)
        more = len(peers) - size
        self._effort += abs(more)
        self._spend(peers.payer, more)
        (self._refusing.add if peers.refuses else self._refusing.discard)(peers)
        return changed

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

    # --- sets that come and go ---------------------------------------------------------------------------

    def _make(self, ref: SharedRef, payer: str) -> PeerSet:
        made = self._sets[ref] = self._wanting.make(ref)
        made.payer = payer
        add(self._paid, payer, made)
        return made

    def _look(self, peers: PeerSet) -> Iterator[None]:
        """Let changes of pods find a set, then put all pods into it that it selects; in pieces."""
        for _ in self._wanting.add(peers):
            yield
        parts = self._wanting.parts(peers)
        for namespace in self._places(parts):
            yield from self._look_at(peers, parts, namespace)
        yield from self._look_again(peers)

    def _places(self, parts: Parts) -> list[str]:
        return list(self._located) if parts.places is None else parts.places

    def _look_again(self, peers: PeerSet) -> Iterator[None]:
        """Look at what has changed since, until nothing has."""
        parts = self._wanting.parts(peers)
        while again := self._again.get(peers):
            at = again.pop()
            if isinstance(at, str):
                yield from self._look_at(peers, parts, at)
            else:
                yield from self._look_at(peers, parts, at[0], {at})
        self._again.pop(peers, None)
        # It became full meanwhile, or is: what it would have is not known.
        if peers.full:
            self._full[peers] = 0
            for namespace in self._places(parts):
                yield from self._look_at(peers, parts, namespace, counting=True)

    def _look_at(
        self,
        peers: PeerSet,
        parts: Parts,
        namespace: str,
        pods: Collection[PodRef] | None = None,
        *,
        counting: bool = False,
    ) -> Iterator[None]:
        """Put pods of a namespace into a set that it selects, and out of it the others; in pieces.

        pods: those that may be gone; None: all that there are on the set's networks. counting: there is no
        room for them, so only count what it would have.
        """
        if peers.full and not counting:
            return
        scopes = parts.within(namespace, self._spaces.labels(namespace))
        if pods is None:
            # That has none yet of a namespace that it doesn't select, unless it did before.
            pods = self._near(peers, namespace) if scopes or peers in self._again else ()
        if self._tires(1 + (len(pods) + len(parts.scopes)) // _LIKE_A_POD):
            yield
        each = len(parts) // _LIKE_A_POD if scopes else 0
        for ref in pods:
            pod = self._pods.get(ref)
            selected = pod is not None and parts.selects(pod.labels, scopes)
            if counting:
                self._full[peers] += peers.share(pod if selected else None).weight
            else:
                self._put(peers, ref, pod if selected else None)
            if self._tires(each + weight(pod)):
                yield

    def _near(self, peers: PeerSet, namespace: str) -> set[PodRef]:
        """The pods of a namespace on the networks of a set."""
        here = self._located.get(namespace, {})
        return {ref for network in both(here, peers.networks) for ref in here[network]}

    def _tires(self, effort: int) -> bool:
        """Whether it is time to ask if others wait. effort: in pods that were looked at."""
        self._effort += effort
        if self._effort < A_PIECE:
            return False
        self._effort = 0
        return True

    def _drop(self, old: PeerSet) -> None:
        del self._sets[old.ref]
        self._looks.pop(old.ref, None)
        self._again.pop(old, None)
        self._full.pop(old, None)
        self._refusing.discard(old)
        self._settled.discard(old)
        discard(self._paid, old.payer, old)
        self._wanting.discard(old)

    def _without_holder(self, ref: SharedRef) -> PeerSet:
        """A set as if it were held, for a moment."""
        found = self._make(ref, "")
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

        largest = max((peers for peers in self._paid[namespace] if not peers.full), key=size)
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
        room: dict[str, int] = {}
        for peers, size in list(self._full.items()):
            left = room.setdefault(peers.payer, self._most - self._spent[peers.payer])
            if size <= left and peers.ref not in self._looks:
                room[peers.payer] = left - size
                del self._full[peers]
                peers.full = False
                self._looks[peers.ref] = self._look(peers)
                self._settled.add(peers)
        told, self._settled = self._settled, set()
        return _holders(told)

    def _charge(self, peers: PeerSet, namespace: str) -> None:
        self._spend(peers.payer, -len(peers))
        self._spend(namespace, len(peers))
        discard(self._paid, peers.payer, peers)
        add(self._paid, namespace, peers)
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
