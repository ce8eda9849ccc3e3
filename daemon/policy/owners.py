"""Addresses that several pods have: kept up to date with each pod, never looked for among all of them.

In: pods as peers, as they come, change and go. Out: who shares which address over the networks of a policy,
as far as a bounded look goes: whoever may write pods may let as many as he likes be shared.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, TypeAlias

from daemon.model import Address, Network
from daemon.policy.dicts import put
from daemon.policy.peerset import PeerPod, PodRef

Place: TypeAlias = tuple[Network, PodRef]

MOST_LOOKS = 2000
"""At places, on behalf of one policy: a millisecond."""
MOST_PODS = 64
"""Of one address that are named to the caller, and on one network."""


class Shared(NamedTuple):
    """pods: by address, MOST_PODS at most of each. whole: nothing was left out for want of looks."""

    pods: dict[Address, set[PodRef]]
    whole: bool


class Owners:
    """Not shared between threads."""

    def __init__(self) -> None:
        # Of nearly all addresses there is one, and a set takes four times the memory.
        self._only: dict[Address, Place] = {}
        self._several: dict[Address, dict[Network, dict[PodRef, None]]] = {}
        # Of those that several have; dicts, for which are told first must not change with every other one.
        self._on: dict[Network, dict[Address, None]] = {}
        self._withheld_on: dict[Network, dict[tuple[Address, PodRef], frozenset[Network]]] = {}

    def put(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> set[Network]:
        """A pod as it was and is (None: no peer); on which networks that may change who shares an address."""
        touched = self._put_withheld(ref, before, after)
        old, new = (pod.addresses if pod else {} for pod in (before, after))
        if old == new:
            return touched
        were, are = set(_places(ref, old)), set(_places(ref, new))
        touched.update(place[0] for address, place in were - are if self._leave(address, place))
        touched.update(place[0] for address, place in are - were if self._take(address, place))
        return touched

    def _put_withheld(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> set[Network]:
        # Nearly no pod has any.
        old, new = (_withheld(ref, pod) if pod and pod.withheld else {} for pod in (before, after))
        touched: set[Network] = set()
        for place in [place for place in {**old, **new} if old.get(place) != new.get(place)]:
            network, entry = place
            here = self._withheld_on.setdefault(network, {})
            put(here, entry, new.get(place))
            if not here:
                del self._withheld_on[network]
            touched.add(network)
        return touched

    def _leave(self, address: Address, place: Place) -> bool:
        """Whether several had it."""
        network, ref = place
        places = self._several.get(address)
        if places is None:
            del self._only[address]
            return False
        del places[network][ref]
        if not places[network]:
            del places[network]
            self._unlist(address, network)
        if len(places) == 1 and len(last := next(iter(places.items()))[1]) == 1:
            (left,) = places
            self._only[address] = (left, next(iter(last)))
            del self._several[address]
            self._unlist(address, left)
        return True

    def _take(self, address: Address, place: Place) -> bool:
        """Whether several have it now."""
        if address not in self._several:
            only = self._only.pop(address, None)
            if only is None:
                self._only[address] = place
                return False
            self._several[address] = {}
            self._list(address, only)
        self._list(address, place)
        return True

    def _list(self, address: Address, place: Place) -> None:
        network, ref = place
        self._several[address].setdefault(network, {})[ref] = None
        self._on.setdefault(network, {})[address] = None

    def _unlist(self, address: Address, network: Network) -> None:
        del self._on[network][address]
        if not self._on[network]:
            del self._on[network]

    def shared(self, networks: Sequence[Network], most: int = MOST_LOOKS) -> Shared:
        """The addresses that several pods have over these networks, or one that another pod withholds.

        most: places to look at. Those that have been shared for longest come first.
        """
        within, found, seen = frozenset(networks), dict[Address, set[PodRef]](), set[Address]()
        for network in networks:
            for address in self._on.get(network, ()):
                if most <= 0:
                    return Shared(found, whole=False)
                most -= 1
                if address not in seen:
                    seen.add(address)
                    refs, looks = self._pods(address, networks, within)
                    most -= looks
                    if len(refs) > 1:
                        found[address] = refs
            for (address, ref), held in self._withheld_on.get(network, {}).items():
                if most <= 0:
                    return Shared(found, whole=False)
                most -= 1
                if not held.isdisjoint(within):
                    found.setdefault(address, set()).add(ref)
        return Shared(found, whole=True)

    def _pods(
        self, address: Address, networks: Sequence[Network], within: Container[Network]
    ) -> tuple[set[PodRef], int]:
        """Who has an address over these networks, and how many looks that took."""
        places = self._several[address]
        shorter: Mapping[Network, object] | Sequence[Network]
        shorter = places if len(places) < len(networks) else networks
        found, looks = set[PodRef](), len(shorter)
        for network in shorter:
            if network in within and network in places and len(found) < MOST_PODS:
                here = list(islice(places[network], MOST_PODS))
                looks += len(here)
                found.update(here)
        return found, looks


def _places(ref: PodRef, addresses: Mapping[Network, tuple[Address, ...]]) -> Iterator[tuple[Address, Place]]:
    for network, listed in addresses.items():
        place = (network, ref)
        for address in set(listed):
            yield address, place


def _withheld(ref: PodRef, pod: PeerPod) -> dict[tuple[Network, tuple[Address, PodRef]], frozenset[Network]]:
    """On which networks others hold an address of a pod, by the pod's own network and the address."""
    return {
        (network, (address, ref)): pod.withheld[address]
        for network, listed in pod.addresses.items()
        for address in listed
        if address in pod.withheld
    }
