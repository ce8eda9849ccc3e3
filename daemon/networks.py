"""Which net-attach-def made this attachment: the evidence in order of trust.

In: what the configuration, Multus' cache, the pod and the net-attach-defs say. Out: candidates and where
they came from. Several candidates mean the union of their restrictions (a policy that names any of them
governs), never a guess that opens. What a pod's annotations say after its ADD restricts it too, and makes it
no peer on any other network. Pure but for `read_multus_cache`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from daemon.model import Address, NetAttachDef, Network, Pod

MAX_CACHE_BYTES = 1 << 20

WEAK = ("name", "net-attach-defs")
"""Evidence by what net-attach-defs were known at the ADD; that may have been behind."""


class Candidates(msgspec.Struct, frozen=True):
    """networks: those that it may be of, sorted. also: what it is said to be of since, and only restricts.

    evidence: "config", "multus-cache", "pod-networks", "net-attach-defs", "name" or "none". chosen: which of
    the networks its pod's network-status says, "": nothing that counts.
    """

    networks: tuple[Network, ...]
    evidence: str
    also: tuple[Network, ...] = ()
    chosen: Network = ""

    @property
    def governing(self) -> tuple[Network, ...]:
        """All whose policies govern it, sorted."""
        return tuple(sorted({*self.networks, *self.also}))


def find_networks(
    configured: Network | None,
    cached: Network | None,
    config_name: str,
    ifname: str,
    pod: Pod,
    definitions: Iterable[NetAttachDef],
) -> Candidates:
    """The candidates for one attachment.

    configured: `netAttachDef` of the plugin's configuration; cached: what Multus' cache says of this
    interface.
    """
    if configured is not None:
        # Whoever writes a net-attach-def may write another one's name into it; Multus knows which it used.
        return Candidates(tuple(sorted({configured, cached or configured})), "config")
    if cached is not None:
        return Candidates((cached,), "multus-cache")
    requested = {request.network for request in pod.requests if request.interface == ifname}
    if requested:
        return Candidates(tuple(sorted(requested)), "pod-networks")
    named = {request.network for request in pod.requests if request.interface is None}
    if fitting := _fitting(named, config_name, definitions):
        return Candidates(fitting, "net-attach-defs")
    # Nothing is known but names. To restrict all that it may be is safe, to leave one out would open.
    return Candidates(tuple(sorted({*named, f"{pod.namespace}/{config_name}"})), "name")


def _fitting(
    named: Iterable[Network], config_name: str, definitions: Iterable[NetAttachDef]
) -> tuple[Network, ...]:
    """Those of `named` that chain us by that name; if none of them does but others do: all of them.

    For then what we know of the net-attach-defs lags behind. (): nobody chains us by that name.
    """
    chained = {d.network for d in definitions if d.chained and d.config_name == config_name}
    return tuple(sorted((chained & {*named}) or {*chained, *named})) if chained else ()


def told_networks(pod: Pod, ifname: str) -> tuple[Network, ...]:
    """What network-status says of this interface, sorted; (): Multus has not written it yet."""
    return tuple(sorted({status.network for status in pod.statuses if status.interface == ifname}))


def told_addresses(pod: Pod, ifname: str) -> frozenset[Address]:
    """The addresses that network-status gives this interface."""
    return frozenset(a for status in pod.statuses if status.interface == ifname for a in status.addresses)


def reconsider(
    present: Candidates,
    config_name: str,
    told: tuple[Network, ...],
    agrees: bool,
    definitions: Iterable[NetAttachDef],
) -> Candidates:
    """What is known of an attachment since its ADD.

    told: what network-status says of its interface. agrees: with the addresses that ADD gave, too. Whoever
    may write a pod's annotations may have written that: it takes no restriction away, and chooses at most
    among networks of which each is possible. What the pod asks for meanwhile counts no more.
    """
    found, also = msgspec.structs.replace(present, also=()), {*told}
    if present.evidence in WEAK and (fitting := _fitting(present.networks, config_name, definitions)):
        also |= {*fitting}
        if present.evidence == "name":
            found = Candidates(fitting, "net-attach-defs")
    # Where a configuration names another than Multus used, one of them lies: that is to be mended.
    if agrees and len(told) == 1 and {*told} < {*found.networks} and found.evidence != "config":
        found = msgspec.structs.replace(found, chosen=found.chosen or told[0])
    return msgspec.structs.replace(found, also=tuple(sorted(also - {*found.networks})))


def read_multus_cache(directory: Path, container_id: str, ifname: str) -> Network | None:
    """What Multus noted for this container before it ran its delegates; None where that says nothing.

    The file is Multus' own and not a documented interface: whatever does not look as expected counts as
    absent. container_id has been checked to hold no slash.
    """
    path = directory / container_id
    try:
        if path.stat().st_size > MAX_CACHE_BYTES:
            return None
        delegates = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if not isinstance(delegates, list):
        return None
    for index, delegate in enumerate(delegates):
        if isinstance(delegate, dict) and _interface(delegate, index) == ifname:
            name = delegate.get("Name")
            return name if isinstance(name, str) and name.count("/") == 1 else None
    return None


def _interface(delegate: dict[str, Any], index: int) -> str:
    # Multus numbers interfaces over all delegates, the default network (eth0) being the first.
    requested = delegate.get("ifnameRequest")
    return requested if isinstance(requested, str) and requested else f"net{index}" if index else "eth0"
