"""Which net-attach-def made this attachment: the evidence in order of trust.

In: what the configuration, Multus' cache, the pod and the net-attach-defs say. Out: candidates and where
they came from. Several candidates mean the union of their restrictions (a policy that names any of them
governs), never a guess that opens. What a pod's annotations say after its ADD restricts it too, and makes it
no peer on any other network. What Multus' cache contradicts only restricts: it lets nobody in, and takes no
address from others. Pure but for `read_multus_cache`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from daemon.model import Address, NetAttachDef, Network, Pod

MAX_CACHE_BYTES = 8 << 20
"""Every net-attach-def of a pod is in it as a whole: whoever writes those decides how large it is."""

WEAK = ("name", "net-attach-defs")
"""Evidence by what net-attach-defs were known at the ADD; that may have been behind."""


class Candidates(msgspec.Struct, frozen=True):
    """networks: those that it may be of, sorted. also: what it is said to be of since, and only restricts.

    evidence: "config", "multus-cache", "pod-networks", "net-attach-defs", "name" or "none". chosen: which of
    the networks its pod's network-status says, "": nothing that counts. claimed: those of the networks that
    Multus' cache contradicts, sorted; where there are any, some of what is said is a lie.
    """

    networks: tuple[Network, ...]
    evidence: str
    also: tuple[Network, ...] = ()
    chosen: Network = ""
    claimed: tuple[Network, ...] = ()

    @property
    def peering(self) -> tuple[Network, ...]:
        """Those that it may be on as a peer: only where that is one, it is one (C5)."""
        if self.claimed:
            return ()
        return (self.chosen,) if self.chosen else self.networks

    @property
    def holding(self) -> tuple[Network, ...]:
        """Those on which no other pod counts with its addresses (C5)."""
        if self.claimed:
            return tuple(network for network in self.networks if network not in self.claimed)
        return self.peering

    @property
    def governing(self) -> tuple[Network, ...]:
        """All whose policies govern it, sorted."""
        return tuple(sorted({*self.networks, *self.also}))


NO_NETWORK = Candidates((), "none")


def find_networks(
    configured: Network | None,
    cached: tuple[Network, ...] | None,
    config_name: str,
    ifname: str,
    pod: Pod,
    definitions: Iterable[NetAttachDef],
) -> Candidates:
    """The candidates for one attachment.

    configured: `netAttachDef` of the plugin's configuration; cached: see `read_multus_cache`.
    """
    if known := weigh(configured, cached):
        return known
    found = _ask_pod(config_name, ifname, pod, definitions)
    # What Multus noted is more than is read, and whoever asked for that much may have asked for this too.
    return found if cached is None else msgspec.structs.replace(found, claimed=found.networks)


def _ask_pod(config_name: str, ifname: str, pod: Pod, definitions: Iterable[NetAttachDef]) -> Candidates:
    """What the pod asks for, and the net-attach-defs that there are, come to."""
    requested = {request.network for request in pod.requests if request.interface == ifname}
    if requested:
        return Candidates(tuple(sorted(requested)), "pod-networks")
    named = {request.network for request in pod.requests if request.interface is None}
    if fitting := _fitting(named, config_name, definitions):
        return Candidates(fitting, "net-attach-defs")
    # Nothing is known but names. To restrict all that it may be is safe, to leave one out would open.
    return Candidates(tuple(sorted({*named, f"{pod.namespace}/{config_name}"})), "name")


def weigh(configured: Network | None, cached: tuple[Network, ...] | None) -> Candidates | None:
    """What configuration and Multus' cache come to; None: they say nothing.

    Whoever writes a net-attach-def may write another one's name into it; Multus knows which it used. Where
    it used several for one name, or nobody can tell which, nothing is sure.
    """
    evidence, said = "multus-cache", {*(cached or ())}
    doubtful = said if cached is not None and len(cached) != 1 else set[Network]()
    if configured is not None:
        if cached is not None and cached != (configured,):
            doubtful = {*doubtful, configured}
        evidence, said = "config", {*said, configured}
    return Candidates(_in_order(said), evidence, claimed=_in_order(doubtful)) if said else None


def _in_order(networks: Iterable[Network]) -> tuple[Network, ...]:
    return tuple(sorted(networks))


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
            found = Candidates(fitting, "net-attach-defs", claimed=fitting if present.claimed else ())
    # Where what is said contradicts itself, some of it is a lie: that is to be mended.
    if agrees and len(told) == 1 and {*told} < {*found.networks} and not found.claimed:
        found = msgspec.structs.replace(found, chosen=found.chosen or told[0])
    return msgspec.structs.replace(found, also=tuple(sorted(also - {*found.networks})))


class _Delegate(msgspec.Struct):
    """What is read of an entry of the cache; the rest, which is most of it, is passed over."""

    Name: Any = None
    ifnameRequest: Any = None  # noqa: N815 (Multus' word)


def read_multus_cache(directory: Path, container_id: str, ifname: str) -> tuple[Network, ...] | None:
    """What Multus noted for this container before it ran its delegates: the net-attach-def of an interface.

    Several, sorted, where it noted more for one name, as no honest pod asks it to; (): it noted more than is
    read; None: nothing.

    The file is Multus' own and not a documented interface: whatever does not look as expected counts as
    absent. container_id has been checked to hold no slash.
    """
    path = directory / container_id
    try:
        if path.stat().st_size > MAX_CACHE_BYTES:
            return ()
        delegates = msgspec.json.decode(path.read_bytes(), type=list[msgspec.Raw])
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    names = [name for index, each in enumerate(delegates) for name in _names(each, index, ifname)]
    if not names or not all(isinstance(name, str) and name.count("/") == 1 for name in names):
        return None
    return _in_order({*names})


def _names(delegate: msgspec.Raw, index: int, ifname: str) -> list[Any]:
    """The name of an entry, if it is of that interface."""
    try:
        found = msgspec.json.decode(delegate, type=_Delegate)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return []
    # Multus numbers interfaces over all delegates, the default network (eth0) being the first.
    wanted = found.ifnameRequest
    named = wanted if isinstance(wanted, str) and wanted else f"net{index}" if index else "eth0"
    return [found.Name] if named == ifname else []
