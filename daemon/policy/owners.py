"""Addresses that several pods have: kept up to date with each pod, never looked for among all of them.

In: pods as peers, as they come, change and go. Out: who shares which address over the networks of a policy.
"""

from collections.abc import Container, Iterator, Mapping
from typing import TypeAlias

from daemon.model import Address, Network
from daemon.policy.peerset import PeerPod, PodRef

Place: TypeAlias = tuple[Network, PodRef]


class Owners:
    """Not shared between threads."""

    def __init__(self) -> None:
        # Of nearly all addresses there is one, and a set takes four times the memory.
        self._only: dict[Address, Place] = {}
        self._several: dict[Address, set[Place]] = {}

    def put(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> bool:
        """A pod as it was and is (None: no peer); whether that may change who shares an address."""
        old, new = (pod.addresses if pod else {} for pod in (before, after))
        if old == new:
            return False
        touched = [self._leave(address, place) for address, place in _places(ref, old)]
        touched += [self._take(address, place) for address, place in _places(ref, new)]
        return any(touched)

    def _leave(self, address: Address, place: Place) -> bool:
        several = self._several.get(address)
        if several is None:
            del self._only[address]
            return False
        several.discard(place)
        if len(several) == 1:
            self._only[address] = several.pop()
            del self._several[address]
        return True

    def _take(self, address: Address, place: Place) -> bool:
        several = self._several.get(address)
        if several is not None:
            several.add(place)
        elif address in self._only:
            self._several[address] = {self._only.pop(address), place}
        else:
            self._only[address] = place
        return address in self._several

    def shared(self, networks: Container[Network]) -> dict[Address, set[PodRef]]:
        """The addresses that several pods have over these networks, and which pods."""
        found = {
            address: {ref for network, ref in places if network in networks}
            for address, places in self._several.items()
        }
        return {address: refs for address, refs in found.items() if len(refs) > 1}


def _places(ref: PodRef, addresses: Mapping[Network, tuple[Address, ...]]) -> Iterator[tuple[Address, Place]]:
    for network, listed in addresses.items():
        place = (network, ref)
        for address in set(listed):
            yield address, place
