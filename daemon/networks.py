"""Which net-attach-def made this attachment: the evidence in order of trust.

In: what the configuration, Multus' cache, the pod and the net-attach-defs say. Out: candidates and where
they came from. Several candidates mean the union of their restrictions (a policy that names any of them
governs), never a guess that opens. Pure but for `read_multus_cache`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from daemon.model import NetAttachDef, Network, Pod

MAX_CACHE_BYTES = 1 << 20


class Candidates(msgspec.Struct, frozen=True):
    """networks: sorted.

    evidence: "config", "multus-cache", "pod-networks", "net-attach-defs", "name", "status" or "none".
    """

    networks: tuple[Network, ...]
    evidence: str

    @property
    def certain(self) -> bool:
        """Whether it is known which one it is."""
        return len(self.networks) == 1 and self.evidence != "name"


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
        return Candidates((configured,), "config")
    if cached is not None:
        return Candidates((cached,), "multus-cache")
    requested = {request.network for request in pod.requests if request.interface == ifname}
    if requested:
        return Candidates(tuple(sorted(requested)), "pod-networks")
    chained = {d.network for d in definitions if d.chained and d.config_name == config_name}
    named = {request.network for request in pod.requests if request.interface is None}
    if chained:
        # Where the pod asked for networks without naming interfaces, one of those is meant; if none of them
        # fits, what we know of the net-attach-defs lags behind, and all may be.
        return Candidates(tuple(sorted(chained & named or chained | named)), "net-attach-defs")
    # Nothing is known but names. To restrict all that it may be is safe, to leave one out would open.
    return Candidates(tuple(sorted({*named, f"{pod.namespace}/{config_name}"})), "name")


def confirm_networks(pod: Pod, ifname: str) -> Candidates | None:
    """What network-status says of this interface, once Multus has written it; None before."""
    networks = {status.network for status in pod.statuses if status.interface == ifname}
    return Candidates(tuple(sorted(networks)), "status") if networks else None


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
