"""Which sets of peers may include a pod: by its networks, by where they look for pods, by its labels.

In: sets as they come and go, a pod with the scopes of its namespace. Out: the sets that select it, found by
index; and for one set, what selects pods in a namespace. Its size is that of the selectors, plus once the
networks of each distinct list of them: never their product. Not shared between threads.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from weakref import WeakValueDictionary

from daemon.model import Network, Selector
from daemon.policy.dicts import add, discard
from daemon.policy.peerset import PeerPod, PeerSet, Scope, parts, scope
from daemon.policy.ruleset import PodSet, SharedRef
from daemon.policy.selectors import SelectorIndex, Selectors, matches
from daemon.policy.spaces import Spaces

A_PIECE = 64
"""After so many selectors or pods a look is worth interrupting."""

Networks = frozenset[Network]


class Parts:
    """The selectors of one set. scopes: where they look for pods; its length is that of its distinct ones."""

    __slots__ = ("_of", "_pods", "_spaces", "scopes")

    def __init__(self, wanted: Iterable[PodSet] = ()) -> None:
        self.scopes: dict[Scope, None] = {}
        self._spaces = Selectors()
        self._pods = Selectors()
        self._of: dict[
            Selector, Scope | set[Scope]
        ] = {}  # nearly all have one, and a set is larger than that
        for part in wanted:
            self.add(part)

    def __len__(self) -> int:
        return len(self._of)

    def add(self, part: PodSet) -> None:
        """One selector more."""
        where, known = scope(part), self._of.get(part.pods)
        self.scopes[where] = None
        if not isinstance(where, str):
            self._spaces.add(where)
        self._pods.add(part.pods)
        if isinstance(known, set):
            known.add(where)
        else:
            self._of[part.pods] = where if known is None or known == where else {known, where}

    def within(self, namespace: str, labels: Mapping[str, str]) -> Set[Scope]:
        """Those of its scopes in which a namespace with these labels is."""
        named: tuple[Scope, ...] = (namespace,) if namespace in self.scopes else ()
        return {*named, *self._spaces.selecting(labels)}

    def selects(self, labels: Mapping[str, str], scopes: Set[Scope]) -> bool:
        """Whether one selects what has these labels and looks in one of these scopes."""
        for selector in self._pods.candidates(labels):
            if matches(selector, labels):
                where = self._of[selector]
                if not where.isdisjoint(scopes) if isinstance(where, set) else where in scopes:
                    return True
        return False

    @property
    def places(self) -> list[str] | None:
        """The only namespaces in which they look; None: selectors of namespaces tell."""
        return None if self._spaces else [where for where in self.scopes if isinstance(where, str)]


class _Place:
    """Sets on the same networks that look for pods in the same namespaces.

    Those of one selector share an index. One of many is asked by itself: the first that selects is enough.
    """

    __slots__ = ("single", "unions")

    def __init__(self) -> None:
        self.single: SelectorIndex[PeerSet] = SelectorIndex()
        self.unions: set[PeerSet] = set()

    def add(self, peers: PeerSet, only: Selector | None) -> None:
        if only is None:
            self.unions.add(peers)
        else:
            self.single.add(only, peers)

    def discard(self, peers: PeerSet, only: Selector | None) -> bool:
        """Whether nobody is left."""
        if only is None:
            self.unions.discard(peers)
        else:
            self.single.discard(only, peers)
        return not (self.single or self.unions)


class Wanting:
    """Sets by networks and scopes; spaces is told which selectors of namespaces they have."""

    def __init__(self, spaces: Spaces) -> None:
        self._spaces = spaces
        self._parts: dict[PeerSet, Parts | None] = {}  # None: a set of one, soon made again
        self._groups: dict[Networks, dict[Scope, _Place]] = {}
        self._at: dict[Network, set[Networks]] = {}
        # A policy has thousands of sets, all on the same networks, which may be thousands too.
        self._shared: WeakValueDictionary[tuple[Network, ...], Networks] = WeakValueDictionary()

    def make(self, ref: SharedRef) -> PeerSet:
        """A set that is new, and holds nobody yet."""
        networks = self._shared.get(ref.networks)
        if networks is None:
            networks = self._shared[ref.networks] = frozenset(ref.networks)
        return PeerSet(ref, networks)

    def add(self, peers: PeerSet) -> Iterator[None]:
        """From its end on changes of pods find a set; in pieces. Nothing where they do already."""
        if peers in self._parts:
            return
        wanted, found = parts(peers.ref), Parts()
        self._parts[peers] = found if len(wanted) > 1 else None
        for number, part in enumerate(wanted, 1):
            found.add(part)
            if number % A_PIECE == 0:
                yield
        group = self._group(peers.networks)
        for number, where in enumerate(found.scopes, 1):
            group.setdefault(where, _Place()).add(peers, _only(wanted))
            if not isinstance(where, str):
                self._spaces.add(where, peers)
            if number % A_PIECE == 0:
                yield

    def _group(self, networks: Networks) -> dict[Scope, _Place]:
        if networks not in self._groups:
            self._groups[networks] = {}
            for network in networks:
                add(self._at, network, networks)
        return self._groups[networks]

    def discard(self, peers: PeerSet) -> None:
        """Changes of pods find it no more, if they did or began to."""
        group = self._groups.get(peers.networks)
        if peers not in self._parts or group is None:
            self._parts.pop(peers, None)
            return
        only = _only(parts(peers.ref))
        found = self.parts(peers)
        del self._parts[peers]
        for where in found.scopes:
            place = group.get(where)
            if place is not None and place.discard(peers, only):
                del group[where]
            if not isinstance(where, str):
                self._spaces.discard(where, peers)
        if not group:
            del self._groups[peers.networks]
            for network in peers.networks:
                discard(self._at, network, peers.networks)

    def parts(self, peers: PeerSet) -> Parts:
        """The selectors of a set that was added."""
        found = self._parts[peers]
        return Parts(parts(peers.ref)) if found is None else found

    def sets(self, pod: PeerPod | None, scopes: Set[Scope]) -> set[PeerSet]:
        """Those that select a pod in a namespace where these scopes look."""
        found: set[PeerSet] = set()
        if pod is None:
            return found
        for networks in self._on(pod.addresses):
            group, unions = self._groups[networks], set[PeerSet]()
            for where in group.keys() & scopes:
                place = group[where]
                unions |= place.unions
                if place.single:
                    found |= place.single.users(pod.labels)
            found.update(peers for peers in unions if self.parts(peers).selects(pod.labels, scopes))
        return found

    def _on(self, networks: Iterable[Network]) -> set[Networks]:
        return {group for network in networks for group in self._at.get(network, ())}


def _only(wanted: Sequence[PodSet]) -> Selector | None:
    """The selector of a set that has one alone."""
    return wanted[0].pods if len(wanted) == 1 else None
