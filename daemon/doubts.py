"""Whether what is said of an attachment agrees: configuration, pod, network-status, and what ADD gave.

In: a record, its pod, the net-attach-defs. Out: what its author should know, in words. Pure.
"""

from collections.abc import Collection, Iterable
from ipaddress import ip_address

from daemon.attachments import Record
from daemon.model import Address, Network, Pod
from daemon.networks import told_addresses, told_networks
from daemon.spelling import tell_missing

MAX_TOLD = 4


def agrees(record: Record, pod: Pod) -> bool:
    """Whether network-status gives an interface the networks and the addresses that its record does."""
    told = told_networks(pod, record.ifname)
    as_added = record.addresses != () and told_addresses(pod, record.ifname) == {*record.addresses}
    return bool(told) and set(told) <= set(record.networks) and as_added


def config_doubts(record: Record, pod: Pod | None, definitions: Collection[Network]) -> tuple[str, ...]:
    """What speaks against the `netAttachDef` of its configuration. definitions: all that there are.

    A name that is misspelt leaves the interface to policies that nobody has written.
    """
    if record.evidence != "config" or record.withdrawn or not record.configured:
        return ()
    doubts, configured = [], record.configured
    if configured not in definitions:
        doubts.append(f"and there is no such net-attach-def{tell_missing(configured, definitions)}")
    asked = [] if pod is None else _asked(record.ifname, pod)
    if asked and not {*asked} & {*record.networks}:
        doubts.append(f"and its pod asks for {_some(asked)}")
    governing = " and ".join(record.networks)
    return tuple(
        f"its configuration says netAttachDef {configured}, {doubt}{'' if doubt.endswith('?') else '.'} "
        f"Only policies for {governing} govern it: correct netAttachDef, if that was not meant"
        for doubt in doubts
    )


def _asked(ifname: str, pod: Pod) -> list[Network]:
    """The net-attach-defs that a pod asks for as this interface may be of; []: it may be of any."""
    named = {request.network for request in pod.requests if request.interface == ifname}
    # Multus numbers the others net1, net2, …; what has another name is the cluster's default network.
    numbered = {request.network for request in pod.requests} if ifname.startswith("net") else set()
    return sorted(named or numbered)


def status_notes(record: Record, pod: Pod) -> tuple[str, ...]:
    """What the author of a pod, or of a net-attach-def, should know of one attachment."""
    notes: list[str] = []
    candidates, governing = ", ".join(record.known.networks), ", ".join(record.networks)
    if claimed := ", ".join(record.known.claimed):
        notes.append(
            f"Multus' cache does not bear out that it is of {claimed}: policies for any of {candidates} "
            "govern, and it is no peer; correct netAttachDef in its configuration, and give each interface a "
            "name of its own"
        )
    told = told_networks(pod, record.ifname)
    if not told:
        return tuple(notes)
    if told != record.networks:
        remedy = "; set netAttachDef in their configurations" if len(record.known.networks) > 1 else ""
        says = f"network-status says that it is {', '.join(told)}"
        notes.append(f"{says}; policies for any of {governing} govern{remedy}")
    listed = told_addresses(pod, record.ifname)
    if listed != {*record.addresses}:
        notes.append(
            f"network-status lists {_addresses(listed)}, and ADD gave {_addresses(record.addresses)}"
        )
    return tuple(notes)


def _addresses(addresses: Iterable[Address]) -> str:
    """A few addresses for people."""
    return _some([str(ip_address(address)) for address in sorted(addresses)]) or "none"


def _some(texts: list[str]) -> str:
    return f"{', '.join(texts[:MAX_TOLD])}{', …' if texts[MAX_TOLD:] else ''}"
