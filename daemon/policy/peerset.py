"""One set of peers: which pods it may hold, what each contributes, how many contribute each element.

In: the reference that it stands for, pods that its selectors select. Out: `Members`. Which pods those are is
the caller's to know (peersets.py).
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias, cast
from weakref import WeakKeyDictionary
from weakref import ref as weakref

import msgspec

from daemon.intervals import holds, number
from daemon.model import Address, AttachmentKey, ContainerPort, Network, Selector
from daemon.policy.compile import find_ports
from daemon.policy.ruleset import BlockSet, Endpoint, EndpointSet, Members, PodSet, PodUnion, SharedRef
from daemon.policy.selectors import EVERYTHING

PodRef: TypeAlias = tuple[str, str]
"""(namespace, name)."""

Scope: TypeAlias = str | Selector
"""Where a set looks for pods: in one namespace by name, or in those that a selector selects."""

Contribution: TypeAlias = frozenset[Address] | frozenset[Endpoint]
"""Elements of a set, which are all of one kind."""

_NOTHING: Contribution = frozenset()

MOST_OF_A_POD = 4096
"""Elements that one pod may have in one set: they are made in one piece, in 5 ms. Beyond that it has none."""


NOTHING_WITHHELD: Mapping[Address, frozenset[Network]] = {}
"""One for all: most pods have nothing withheld."""


class PeerPod(msgspec.Struct, frozen=True):
    """A pod that may be a peer (A7 is the caller's), with its addresses on each network (C5).

    withheld: on which networks others hold an address of it. In a set that looks for pods on one of those, it
    does not count.
    """

    namespace: str
    labels: Mapping[str, str]
    ports: tuple[ContainerPort, ...]
    addresses: Mapping[Network, tuple[Address, ...]]
    withheld: Mapping[Address, frozenset[Network]] = msgspec.field(default_factory=lambda: NOTHING_WITHHELD)


class Share(msgspec.Struct, frozen=True):
    """What a pod would bring to a set, before any element is made of it.

    ports: in a set of named ports those that it has (protocol, number); None: the set is of addresses.
    """

    addresses: frozenset[Address] = frozenset()
    ports: frozenset[tuple[int, int]] | None = None

    @property
    def size(self) -> int:
        """How many elements that is."""
        return len(self.addresses) * (1 if self.ports is None else len(self.ports))

    @property
    def weight(self) -> int:
        """As how many elements it counts: one that is too large to be made counts as one."""
        return 1 if self.size > MOST_OF_A_POD else self.size

    def elements(self) -> Contribution:
        """All of them, none where these are too many."""
        if self.size > MOST_OF_A_POD:
            return _NOTHING
        if self.ports is None:
            return self.addresses
        return frozenset((address, *port) for address in self.addresses for port in self.ports)


NO_SHARE = Share()


class PeerSet:
    """What a reference holds. holders: each with the namespace of its pod; payer: whose budget it counts in.

    networks: the reference's, one object for all sets on the same ones. full: it would hold more than that
    budget has room for, so it holds nobody.
    """

    def __init__(self, ref: SharedRef, networks: frozenset[Network]) -> None:
        self.ref = ref
        self.networks = networks
        self.holders: dict[AttachmentKey, str] = {}
        self.payer = ""
        self.full = False
        self._names = frozenset(ref.ports) if isinstance(ref, EndpointSet) else frozenset()
        self._contributions: dict[PodRef, Contribution] = {}
        self._refused: set[PodRef] = set()  # would bring too many elements
        self._size = 0
        self._v4 = _Counted()
        self._v6 = _Counted()
        self._members: Members | None = None

    def __len__(self) -> int:
        """How many elements pods bring, each counted as often as pods have it: what it costs to keep."""
        return self._size

    @property
    def refuses(self) -> bool:
        """Whether it holds nothing of some pod that would bring more than MOST_OF_A_POD."""
        return bool(self._refused)

    def share(self, pod: PeerPod | None) -> Share:
        """What it would hold of a pod that its selectors select; None: they select none."""
        if pod is None:
            return NO_SHARE
        listed = pod.addresses
        addresses = frozenset(a for network in both(listed, self.networks) for a in listed[network])
        if pod.withheld:
            held = (a for a, networks in pod.withheld.items() if not networks.isdisjoint(self.networks))
            addresses = addresses.difference(held)
        if not isinstance(self.ref, EndpointSet):
            return Share(addresses)
        if isinstance(blocks := self.ref.scope, BlockSet):
            addresses = frozenset(address for address in addresses if _in_blocks(blocks, address))
        return Share(addresses, frozenset(find_ports(self._names, pod.ports)))

    def growth(self, ref: PodRef, share: Share) -> int:
        """By how much it would become larger if this were what it holds of a pod."""
        return share.weight - self._weight_of(ref)

    def put(self, ref: PodRef, share: Share) -> bool:
        """What it holds of a pod from now on, unless it is full. Whether an element came or went by it."""
        if self.full:
            return False
        self._size += self.growth(ref, share)
        (self._refused.add if share.size > MOST_OF_A_POD else self._refused.discard)(ref)
        before, after = self._contributions.get(ref, _NOTHING), share.elements()
        if after == before:
            return False
        if after:
            self._contributions[ref] = _shared(after)
        else:
            del self._contributions[ref]
        changed = [self._family(element).add(element) for element in after - before]
        changed += [self._family(element).remove(element) for element in before - after]
        if any(changed):
            self._members = None
        return any(changed)

    def _weight_of(self, ref: PodRef) -> int:
        return 1 if ref in self._refused else len(self._contributions.get(ref, _NOTHING))

    def overflow(self) -> None:
        """It holds nobody from now on."""
        self.full = True
        self._contributions.clear()
        self._refused.clear()
        self._size = 0
        self._v4, self._v6, self._members = _Counted(), _Counted(), None

    def members(self) -> Members:
        """What it holds; the same object until that changes."""
        if self._members is None:
            self._members = Members(self._v4.frozen(), self._v6.frozen())
        return self._members

    def _family(self, element: Address | Endpoint) -> "_Counted":
        address = element if isinstance(element, bytes) else element[0]
        return self._v4 if len(address) == 4 else self._v6


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


def parts(ref: SharedRef) -> tuple[PodSet, ...]:
    """The selectors of a reference, each with where it looks for pods. Where it names none: any pod (D4)."""
    pods = ref.scope if isinstance(ref, EndpointSet) else ref
    if isinstance(pods, PodUnion):
        return pods.sets
    return (pods,) if isinstance(pods, PodSet) else (PodSet(ref.networks, "", EVERYTHING, EVERYTHING),)


def both(networks: Mapping[Network, object], others: frozenset[Network]) -> Iterator[Network]:
    """The networks that are in both. It costs as much as there are of the fewer: either may be thousands."""
    if len(networks) <= len(others):
        return (network for network in networks if network in others)
    return (network for network in others if network in networks)


_LIKE_A_POD = 8
"""So many addresses, or ports that may have a name, take as long to be put into a set as a pod of one."""


def weight(pod: PeerPod | None) -> int:
    """What it takes to put it into a set, in pods of one address."""
    if pod is None:
        return 1
    return 1 + (len(pod.ports) + sum(map(len, pod.addresses.values()))) // _LIKE_A_POD


def alike(before: PeerPod | None, after: PeerPod | None) -> bool:
    """Whether the same sets select both."""
    if before is None or after is None:
        return False
    return before.labels == after.labels and before.addresses.keys() == after.addresses.keys()


def meet(networks: Mapping[Network, object], others: frozenset[Network]) -> bool:
    """Whether any network is in both."""
    return any(True for _ in both(networks, others))


def scope(pods: PodSet) -> Scope:
    """Where a set of pods looks for them."""
    return pods.namespace if pods.namespaces is None else pods.namespaces


_KNOWN: WeakKeyDictionary[Contribution, "weakref[Contribution]"] = WeakKeyDictionary()


def _shared(contribution: Contribution) -> Contribution:
    """The same object for all that are equal, or a pod would have one in each of hundreds of sets.

    They would take most of the memory, and to look through them the collector would hold everything up.
    """
    known = _KNOWN.get(contribution)
    found = None if known is None else known()
    if found is None:
        _KNOWN[contribution] = weakref(contribution)
        return contribution
    return found


def _in_blocks(blocks: BlockSet, address: Address) -> bool:
    return holds(blocks.spans4 if len(address) == 4 else blocks.spans6, number(address))
