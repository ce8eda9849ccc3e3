"""One attachment as the store knows it, and with which addresses the pod of attachments is a peer.

In: what was said of an attachment when it came, and the pod object that it belongs to. Out: its subject as
that follows the pod (A11, A12), and the pod as a peer (C5).
"""

from collections.abc import Iterable, Sequence

import msgspec

from daemon.model import Address, Network, Pod, Subject
from daemon.policy.peerset import PeerPod, PodRef
from daemon.policy.ruleset import Ruleset


class Attached:
    """live: no DEL came yet. stale: its ruleset is to be compiled. pod_uid "": whatever pod has that name."""

    def __init__(
        self,
        pod_ref: PodRef | None,
        pod_uid: str,
        subject: Subject,
        addresses: tuple[Address, ...],
        ruleset: Ruleset,
    ) -> None:
        self.pod_ref = pod_ref
        self.pod_uid = pod_uid
        self.subject = subject
        self.addresses = addresses
        self.ruleset = ruleset
        self.live = True
        self.stale = True
        self.host_network = False

    def is_of(self, pod: Pod) -> bool:
        """Whether that pod object is this attachment's (A12)."""
        return pod.local and pod.is_meant_by(self.pod_uid)

    def follow(self, pod: Pod) -> bool:
        """Take over the labels and ports of the pod object, if it is this one's; whether they changed."""
        if not self.is_of(pod):
            return False
        now = msgspec.structs.replace(self.subject, labels=pod.labels, ports=pod.ports)
        changed = now != self.subject or self.host_network != pod.host_network
        self.subject, self.host_network = now, pod.host_network
        self.stale = self.stale or changed
        return changed


def make_peer(pod: Pod, attached: Iterable[Attached], left: Iterable[Network]) -> PeerPod | None:
    """A pod as a peer; None: it is none (A7), or has no address that counts (C5).

    attached: the attachments of that name here. left: networks on which it had one that is gone.
    """
    if pod.host_network or pod.finished:
        return None
    own = [attachment for attachment in attached if attachment.is_of(pod)]
    addresses = _addresses_here(own, left)
    for status in pod.statuses:
        if status.network not in addresses:
            addresses[status.network] = _on_network(pod, status.network)
    found = {network: listed for network, listed in addresses.items() if listed}
    # Most pods of a cluster have no secondary address: not worth their place.
    return PeerPod(pod.namespace, pod.labels, pod.ports, found) if found else None


def _addresses_here(own: Sequence[Attached], left: Iterable[Network]) -> dict[Network, tuple[Address, ...]]:
    """What this node knows of the pod's addresses; a network that is named is not looked up elsewhere."""
    addresses: dict[Network, tuple[Address, ...]] = dict.fromkeys(left, ())
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
    return addresses


def _on_network(pod: Pod, network: Network) -> tuple[Address, ...]:
    return tuple(a for status in pod.statuses if status.network == network for a in status.addresses)
