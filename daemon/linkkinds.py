"""How the packets of an interface meet the packet filter of its namespace, by what kind of link it is. Pure.

In: the links of one namespace, as links.py reads them. Out: for one of them its Reach: which directions its
rules can't judge, why, and what to do; and which other devices they have to stand on too (docs/semantics.md,
A14 and A15, has the table).

An interface's packets enter or leave the IP stack by another device where that device stands on it (VLAN,
macvlan) or bundles it (bond, VRF): the rules stand on that device then. They enter none where the interface
is a port of a bridge or its frames go to a file descriptor: no rule of a packet filter on IP sees them.
"""

from collections.abc import Iterator, Mapping, Set

import msgspec

from daemon.model import Direction
from daemon.program import Carrier

MOST_CARRIERS = 16
"""Devices over one interface that are governed with it: a pod may make thousands."""

BOTH = tuple(Direction)

_TAPS = {"macvtap": "macvlan", "ipvtap": "ipvlan"}
"""Kinds whose frames go to a file descriptor, and the kind to use instead."""

_STACKED = ("macvlan", "macvtap", "ipvlan", "ipvtap", "vlan", "macsec")
"""Kinds that take frames from a lower device before that one's IP stack, and give it theirs below it.

Not tunnels (gre, ipip, vxlan, wireguard): their outer packets pass the lower device's rules as others do.
"""

_SIBLINGS = ("macvlan", "macvtap", "ipvlan", "ipvtap")
_BUNDLES = ("bond", "team")
_VRF = "vrf"
IFB = "ifb"


class Device(msgspec.Struct, frozen=True):
    """One link. kind "": none told (hardware). lower, master: indexes in the same namespace; 0: none there.

    parent: a lower device in another namespace, by index and that one's number; None: there is none. l3s: an
    ipvlan in that mode. xdp: a program is attached. diverted: what tc does with its frames before the rest of
    its namespace has seen them, in words ("redirects what comes in to tap0"); "": nothing. fed: tc gives it
    frames to send, which it takes from other devices.
    """

    index: int
    name: str
    kind: str = ""
    lower: int = 0
    master: int = 0
    master_kind: str = ""
    parent: tuple[int, int] | None = None
    l3s: bool = False
    xdp: bool = False
    diverted: str = ""
    fed: bool = False


class Forward(msgspec.Struct, frozen=True):
    """A table of nft's netdev family that forwards or duplicates frames, or may do so.

    devices: the names of those on which it hangs; None: not known. targets: the indexes of those that frames
    are sent by; None: not known.
    """

    table: str
    devices: frozenset[str] | None = None
    targets: frozenset[int] | None = None


class Links(msgspec.Struct, frozen=True):
    """The links of a namespace by index. whole: all of them.

    filtered: what tc does to any was read, as far as it matters. forwards: what nft does; None: not all of
    that could be read.
    """

    devices: dict[int, Device]
    whole: bool = True
    filtered: bool = True
    forwards: tuple[Forward, ...] | None = ()


NONE = Links({})


class Reach(msgspec.Struct, frozen=True):
    """How far rules reach. past: the directions whose packets they can't all judge; (): all are judged.

    reason, remedy: why, for people. carriers: other devices that the rules have to stand on. seals: the
    devices where a drop of every frame stops what passes them by; closable: all of that, by a drop in the
    direction that is passed by. note: what else is worth knowing, for people.
    """

    past: tuple[Direction, ...] = ()
    reason: str = ""
    remedy: str = ""
    carriers: tuple[Carrier, ...] = ()
    seals: tuple[str, ...] = ()
    closable: bool = True
    note: str = ""


GOVERNED = Reach()


class _Fault(msgspec.Struct, frozen=True):
    """seal: the device where a drop of every frame stops it; "": none does.

    surely: all of it; else what answers to it, both ways.
    """

    past: tuple[Direction, ...]
    reason: str
    remedy: str
    seal: str = ""
    surely: bool = True


def reach(links: Links, index: int, own: Set[int]) -> Reach:
    """How the rules of the interface with that index reach its packets; one that is not there: GOVERNED.

    own: the indexes of interfaces that have policies of their own.
    """
    devices = links.devices
    if index not in devices:
        return GOVERNED
    found = over(devices, index, own)
    root, more = found[0], len(found) > MOST_CARRIERS + 1
    faults = [fault for device in found for fault in _faults(device, root, devices)]
    faults += [fault for device in found for fault in _forwarded(device, root, links)]
    faults += _unread(root, links, more)
    return Reach(
        past=tuple(d for d in Direction if any(d in fault.past for fault in faults)),
        reason="; ".join(fault.reason for fault in faults),
        remedy="; ".join(dict.fromkeys(fault.remedy for fault in faults)),
        carriers=tuple(Carrier(device.index, device.name) for device in found[1 : MOST_CARRIERS + 1]),
        seals=tuple(sorted({fault.seal for fault in faults if fault.seal})),
        closable=all(fault.seal and fault.surely for fault in faults),
        note=_siblings(devices, root, own),
    )


def _siblings(devices: Mapping[int, Device], root: Device, own: Set[int]) -> str:
    """Who makes a macvlan on a macvlan gets one beside it, on the same master: another interface (E7)."""
    if root.parent is None or root.kind not in _SIBLINGS:
        return ""
    beside = (d for d in devices.values() if d.parent == root.parent and d.kind in _SIBLINGS)
    strange = [d.name for d in beside if d is not root and d.index not in own]
    if not strange:
        return ""
    some = ", ".join(sorted(strange)[:MOST_CARRIERS])
    return f"{some}: on the same master as {root.name}, and not enrolled, so no policy governs it"


def over(devices: Mapping[int, Device], index: int, own: Set[int]) -> list[Device]:
    """The device, and those by which its packets enter or leave the IP stack, nearest first.

    At most one more than are governed.
    """
    found = [devices[index]]
    for below in found:
        for device in devices.values():
            stacked = device.lower == below.index and device.kind in _STACKED
            bundle = device.index == below.master and below.master_kind in _BUNDLES
            if (stacked or bundle) and device not in found and device.index not in own:
                found.append(device)
        if len(found) > MOST_CARRIERS + 1:
            return found[: MOST_CARRIERS + 2]
    return found


def _faults(device: Device, root: Device, devices: Mapping[int, Device]) -> Iterator[_Fault]:
    who = device.name if device is root else f"{device.name}, which stands on {root.name},"
    if device.l3s:
        yield _Fault(
            (Direction.INGRESS,),
            f"{who} is an ipvlan in mode l3s, and the kernel delivers what comes in by that past the packet "
            "filter of the pod: no policy can be enforced there; use mode l2 or l3",
            'set "mode": "l2" or "l3" in the ipvlan entry, and in all others with the same master',
        )
    if device.kind in _TAPS:
        yield _Fault(
            BOTH,
            f"{who} is a {device.kind}: frames go between it and a file descriptor, and meet no packet "
            "filter of the pod: no policy can be enforced there",
            f"use {_TAPS[device.kind]} (with KubeVirt the masquerade binding), or enforce outside the pod",
            device.name,
        )
    if device.master and device.master_kind not in (*_BUNDLES, _VRF):
        yield _port(device, who, devices)
    if device.xdp:
        yield _Fault(
            BOTH,
            f"{who} has an XDP program, which sees frames before the packet filter does and may take them "
            "elsewhere: what passes there is not known",
            f"take it off: ip link set dev {device.name} xdp off",
        )
    if device.diverted:
        yield _Fault(
            BOTH,
            f"{who} has a tc filter that {device.diverted}: these meet no packet filter of the pod",
            "take the filter off; with Kata Containers choose an internetworking model without tc",
        )
    if device.fed:
        yield _Fault(
            (Direction.EGRESS,),
            f"a tc filter gives frames to {who} to be sent there: these pass its rules by",
            f"take the filter off that redirects or mirrors to {device.name}",
            device.name,
            surely=False,
        )


def _forwarded(device: Device, root: Device, links: Links) -> Iterator[_Fault]:
    who = device.name if device is root else f"{device.name}, which stands on {root.name},"
    ifbs = {other.name for other in links.devices.values() if other.kind == IFB}
    for one in links.forwards or ():
        what = f"the nft table netdev {one.table} may forward or duplicate"
        remedy = f"take what forwards (`fwd`, `dup`) out of the table netdev {one.table}"
        if one.devices is None or one.devices & {device.name, *ifbs}:
            reason = f"{what} frames of {who}: these meet no rule on IP"
            yield _Fault(BOTH, reason, remedy, device.name, surely=False)
        elif one.targets is None or device.index in one.targets:
            yield _Fault((Direction.EGRESS,), f"{what} frames to {who}", remedy, device.name)


def _unread(root: Device, links: Links, more: bool) -> Iterator[_Fault]:
    """What a pod has more of than is looked at may hide what passes the interface by."""
    if more or not links.whole:
        reason = f"{root.name} has more devices on it, or beside it, than are looked at: some may pass it by"
        yield _Fault(BOTH, reason, "have fewer devices in the pod", root.name)
    rest = "in the pod can be read: some may take frames past the packet filter"
    if not links.filtered:
        reason = f"{root.name}: not all tc filters {rest}"
        yield _Fault(BOTH, reason, "have fewer and shorter tc filters in the pod", root.name, surely=False)
    if links.forwards is None:
        reason = f"{root.name}: not all rules of nft's netdev family {rest}"
        yield _Fault(BOTH, reason, "have fewer of them", root.name, surely=False)


def _port(device: Device, who: str, devices: Mapping[int, Device]) -> _Fault:
    master = devices.get(device.master)
    name = f" {master.name}" if master is not None else ""
    kind = device.master_kind or "device"
    return _Fault(
        BOTH,
        f"{who} is a port of the {kind}{name}: frames go between its ports, and meet no packet filter of the "
        "pod: no policy can be enforced there",
        f"take it out of the {kind}{name} (with KubeVirt use the masquerade binding), or enforce outside "
        "the pod",
        device.name,
    )
