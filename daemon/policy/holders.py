"""Whose an address is where several say that they have it.

In: the attachments of this node, and which pods count with which addresses. Out: what withholds an address
from a pod (C5), and which pods an attachment that comes or goes concerns: by index, never by a look at all.

An address that a living ADD here gave is known to be in use here. Whoever else names it has it from a
status that is old or made up, or has taken it: so it passes for no other pod, and of two ADDs for neither.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import TypeAlias

from daemon.model import Address, Network, NetworkStatus, Pod, Problem
from daemon.policy.attached import Attached, pod_addresses
from daemon.policy.dicts import add, discard
from daemon.policy.peerset import NOTHING_WITHHELD, PeerPod, PodRef

MAX_REPORTED_ADDRESSES = 8

Claim: TypeAlias = tuple[Network, Problem]
"""What a pod says of a network, and what is wrong with that."""


class Holders:
    """node: this node's name, by which pods say that they are of it; "": not known. Single-threaded."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._left: set[PodRef] = set()  # pods that are still listed, and had an attachment here
        self._held: dict[Address, set[Attached]] = {}
        # In a big cluster nearly all addresses have one pod: for those a set would weigh more than the rest.
        self._named: dict[Address, PodRef | set[PodRef]] = {}

    def put(self, attached: Attached) -> set[PodRef]:
        """An attachment as it is now; the pods that may count with other addresses by that."""
        held = attached.addresses if attached.holds else ()
        for address in {*attached.held} - {*held}:
            discard(self._held, address, attached)
        for address in held:
            add(self._held, address, attached)
        concerned = {ref for address in {*attached.held, *held} for ref in self._pods(address)}
        attached.held = held
        return concerned

    def name(self, ref: PodRef, before: PeerPod | None, after: PeerPod | None) -> None:
        """Which addresses a pod counts with, or would if they were not withheld."""
        old, new = _addresses(before), _addresses(after)
        for address in new - old:
            known = self._named.get(address)
            if isinstance(known, set):
                known.add(ref)
            else:
                self._named[address] = ref if known is None else {known, ref}
        for address in old - new:
            known = self._named[address]
            if isinstance(known, set):
                known.discard(ref)
            if not known or known == ref:
                del self._named[address]

    def leave(self, ref: PodRef) -> None:
        """An attachment of a listed pod is gone; its network-status may name what others have by now."""
        self._left.add(ref)

    def forget(self, ref: PodRef) -> None:
        """That pod is listed no more."""
        self._left.discard(ref)

    def make_peer(self, pod: Pod, own: Sequence[Attached]) -> PeerPod | None:
        """A pod as a peer; None: it is none (A7), or has no address. own: its attachments here."""
        addresses = pod_addresses(pod, own, self._is_here(pod))
        # Most pods of a cluster have no secondary address: not worth their place.
        if not addresses:
            return None
        withheld = self._withheld(pod, {a for listed in addresses.values() for a in listed})
        return PeerPod(pod.namespace, pod.labels, pod.ports, addresses, withheld)

    def false_claims(self, pod: Pod, own: Sequence[Attached]) -> tuple[Claim, ...]:
        """What network-status says of networks on which a pod of this node had no ADD here.

        Nothing of a pod that has had a DEL, for its status goes with its object.
        """
        ending = pod.finished or pod.ref in self._left or not all(one.live for one in own)
        if ending or not (own or self._is_here(pod)):
            return ()
        attached = {network for one in own for network in one.subject.networks}
        claims = (one for one in pod.statuses if one.addresses and one.network not in attached)
        return tuple((one.network, _false_claim(one)) for one in claims)

    def _is_here(self, pod: Pod) -> bool:
        """Whether it is known to be of this node, with an attachment or without one."""
        return pod.ref in self._left or (pod.local and self._node != "" and pod.node == self._node)

    def _withheld(self, pod: Pod, addresses: Iterable[Address]) -> Mapping[Address, frozenset[Network]]:
        """On which networks others hold addresses of a pod; only of such as any do."""
        found: dict[Address, frozenset[Network]] = {}
        for address in addresses:
            others = [one for one in self._held.get(address, ()) if not one.is_attached_to(pod)]
            if networks := frozenset(network for one in others for network in one.holding):
                found[address] = networks
        return found or NOTHING_WITHHELD

    def names(self, address: Address, networks: Container[Network]) -> set[str]:
        """Who holds an address on some of these networks."""
        holders = self._held.get(address, ())
        return {_name(one) for one in holders if any(network in networks for network in one.holding)}

    def _pods(self, address: Address) -> Iterable[PodRef]:
        found = self._named.get(address, set())
        return found if isinstance(found, set) else (found,)


def _name(attached: Attached) -> str:
    if attached.pod_ref is None:
        return "a container without identity"
    return "/".join(attached.pod_ref) + (" (an earlier pod of that name)" if attached.outlived else "")


def _false_claim(status: NetworkStatus) -> Problem:
    listed = ", ".join(str(ip_address(address)) for address in status.addresses[:MAX_REPORTED_ADDRESSES])
    return Problem(
        "metadata.annotations[k8s.v1.cni.cncf.io/network-status]",
        f"{listed} on {status.network} does not count: the pod has had no ADD there on this node; chain the "
        "plugin in that net-attach-def and start the pod anew",
    )


def _addresses(pod: PeerPod | None) -> set[Address]:
    return set() if pod is None else {a for listed in pod.addresses.values() for a in listed}
