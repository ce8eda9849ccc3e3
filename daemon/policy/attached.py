"""One attachment as the store knows it, and with which addresses a pod is a peer.

In: what was said of an attachment when it came, and the pod object that it belongs to. Out: its subject as
that follows the pod (A11, A12), and the addresses of the pod (C5).
"""

from collections.abc import Mapping, Sequence

import msgspec

from daemon.model import Address, Network, Pod, Subject
from daemon.policy.peerset import PodRef
from daemon.policy.ruleset import Ruleset


class Attached:
    """live: no DEL came yet. stale: its ruleset is to be compiled. pod_uid "": whatever pod has that name.

    candidates: the net-attach-defs that it may be of; its subject may name more, which restrict it too.
    holding: those on which its addresses are nobody else's.
    outlived: another pod has its pod's name by now. held: its addresses that the index of holders knows.
    peer: what it says of its pod's addresses counts.
    """

    def __init__(
        self,
        pod_ref: PodRef | None,
        pod_uid: str,
        subject: Subject,
        addresses: tuple[Address, ...],
        candidates: tuple[Network, ...],
        ruleset: Ruleset,
    ) -> None:
        self.pod_ref = pod_ref
        self.pod_uid = pod_uid
        self.subject = subject
        self.addresses = addresses
        self.candidates = self.holding = candidates
        self.ruleset = ruleset
        self.live = True
        self.peer = True
        self.stale = True
        self.host_network = False
        self.finished = False
        self.outlived = False
        self.held: tuple[Address, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether its addresses are its own, whatever others say: until DEL, and while its pod runs (A7)."""
        return self.live and self.peer and not self.finished

    def is_of(self, pod: Pod) -> bool:
        """Whether that pod object, of its pod's name, is this attachment's (A12)."""
        return pod.local and pod.is_meant_by(self.pod_uid)

    def is_attached_to(self, pod: Pod) -> bool:
        """Whether this is an attachment of that pod object."""
        return self.pod_ref == pod.ref and self.is_of(pod)

    def follow(self, pod: Pod) -> bool:
        """Take over what the pod object says, if it is this one's; whether its ruleset may be another now."""
        self.outlived = not self.is_of(pod)
        if self.outlived:
            return False
        now = msgspec.structs.replace(self.subject, labels=pod.labels, ports=pod.ports)
        changed = now != self.subject or self.host_network != pod.host_network
        self.subject, self.host_network, self.finished = now, pod.host_network, pod.finished
        self.stale = self.stale or changed
        return changed


def pod_addresses(pod: Pod, own: Sequence[Attached], here: bool) -> Mapping[Network, tuple[Address, ...]]:
    """With which addresses a pod is a peer, by network (A7, C5).

    own: its attachments here. here: it is a pod of this node, whether it has any now or not: then its
    annotations say nothing of addresses.
    """
    if pod.host_network or pod.finished:
        return {}
    found: dict[Network, list[Address]] = {}
    if here or own:
        for attachment in own:
            # Of several candidates none is sure.
            if attachment.live and attachment.peer and len(attachment.candidates) == 1:
                network = attachment.candidates[0]
                found.setdefault(network, []).extend(attachment.addresses)
    else:
        for status in pod.statuses:
            found.setdefault(status.network, []).extend(status.addresses)
    return {network: tuple(listed) for network, listed in found.items() if listed}
