"""Reading what kinds of links a namespace has, and what tc does with their frames. It changes nothing.

In: the current network namespace, which belongs to a pod: nothing in it is believed to be small. Out: Devices
by index. In a pod with a few links all of it takes 0.07 ms.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator

import msgspec

from daemon.errors import NetnsError
from daemon.linkkinds import Device, comes_back
from daemon.netlink import (
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    attr,
    attributes,
    error_number,
    pack,
)
from daemon.netns import route_answers, route_socket

MOST_BYTES = 1 << 18
"""Of one dump, some 240 links: a pod may have made more, and then not all are looked at (0.1 ms each)."""

_RTM_GETLINK, _RTM_GETQDISC, _RTM_GETTFILTER = 18, 38, 46

_IFNAME, _LINK, _MASTER, _LINKINFO, _EXT_MASK, _LINK_NETNSID, _XDP = 3, 5, 10, 18, 29, 37, 43
_KIND, _DETAILS, _SLAVE_KIND = 1, 2, 4
_XDP_ATTACHED = 2
_IPVLAN_MODE, _IPVLAN_L3S = 1, 2
_SKIP_STATISTICS = 1 << 3

_TC_KIND, _TC_OPTIONS = 1, 2
_PARENTS = {"ingress": 0xFFFF0000, "clsact": 0xFFFFFFF2}
"""Queueing disciplines that take what comes in, and where their filters for that hang."""
_ACTIONS = {
    "basic": 3,
    "bpf": 1,
    "cgroup": 1,
    "flow": 9,
    "flower": 3,
    "fw": 4,
    "matchall": 2,
    "route": 6,
    "u32": 7,
}
"""Where a classifier's actions stand among its options."""
_MIRRED_PARAMETERS = 2
_MIRRED_WORDS = {1: "redirects", 2: "mirrors", 3: "redirects", 4: "mirrors"}


class Links(msgspec.Struct, frozen=True):
    """The links of a namespace by index. whole: all of them."""

    devices: dict[int, Device]
    whole: bool


def read(indexes: Iterable[int] = ()) -> Links:
    """All links of the current namespace, and what tc does with frames that come in by those asked for.

    NetnsError: they can't be read.
    """
    try:
        with route_socket() as route:
            return _read(route, set(indexes))
    except (OSError, struct.error, KeyError) as error:
        raise NetnsError("its links", f"can't be read: {error!r}") from error


def _read(route: socket.socket, asked: set[int]) -> Links:
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + attr(_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    bodies, whole = _dump(route, _RTM_GETLINK, body)
    devices = {device.index: device for device in map(_device, bodies)}
    if not whole:
        return Links(devices, False)
    filtered, known = _filtering(route)
    for index in asked & filtered.keys() & devices.keys():
        diverted, all_read = _diverted(route, index, filtered[index], devices)
        devices[index] = msgspec.structs.replace(devices[index], diverted=diverted)
        known = known and all_read
    return Links(devices, whole and known)


def _device(body: bytes) -> Device:
    (index,) = struct.unpack_from("=i", body, 4)
    found = attributes(body, 16)
    about = attributes(found.get(_LINKINFO, b""))
    kind = _text(about.get(_KIND, b""))
    details = attributes(about.get(_DETAILS, b""))
    below = _number(found.get(_LINK, b""))
    place = found.get(_LINK_NETNSID)
    mode = _number(details.get(_IPVLAN_MODE, b"")) if kind in ("ipvlan", "ipvtap") else 0
    return Device(
        index=index,
        name=os.fsdecode(found[_IFNAME].rstrip(b"\0")),
        kind=kind,
        # With a number of a namespace beside it, it is an index there.
        lower=below if place is None else 0,
        parent=None if place is None else (below, _number(place)),
        master=_number(found.get(_MASTER, b"")),
        master_kind=_text(about.get(_SLAVE_KIND, b"")),
        l3s=mode == _IPVLAN_L3S,
        xdp=any(attributes(found.get(_XDP, b"")).get(_XDP_ATTACHED, b"")),
    )


# --- tc --------------------------------------------------------------------------------------------------


def _filtering(route: socket.socket) -> tuple[dict[int, str], bool]:
    """The links whose incoming frames filters may see first, with the discipline's kind; whether all."""
    bodies, whole = _dump(route, _RTM_GETQDISC, _traffic_control(0, 0))
    kinds = ((_index(body), _text(attributes(body, 20).get(_TC_KIND, b""))) for body in bodies)
    return {index: kind for index, kind in kinds if kind in _PARENTS}, whole


def _diverted(route: socket.socket, index: int, kind: str, devices: dict[int, Device]) -> tuple[str, bool]:
    """What filters do with the frames that come in, in words; whether all filters were read."""
    bodies, whole = _dump(route, _RTM_GETTFILTER, _traffic_control(index, _PARENTS[kind]))
    for verb, target in (each for body in bodies for each in _mirred(body)):
        device = devices.get(target)
        if not comes_back(device):
            return f"{verb} what comes in to {device.name if device else 'another device'}", whole
    return "", whole


def _mirred(body: bytes) -> Iterator[tuple[str, int]]:
    """Redirects and mirrors among a filter's actions: the word for it, and the index of the target."""
    found = attributes(body, 20)
    place = _ACTIONS.get(_text(found.get(_TC_KIND, b"")))
    if place is None:
        return
    actions = attributes(attributes(found.get(_TC_OPTIONS, b"")).get(place, b""))
    for action in map(attributes, actions.values()):
        parameters = attributes(action.get(_TC_OPTIONS, b"")).get(_MIRRED_PARAMETERS, b"")
        if _text(action.get(_TC_KIND, b"")) == "mirred" and len(parameters) >= 28:
            verb, target = struct.unpack_from("=iI", parameters, 20)
            yield _MIRRED_WORDS.get(verb, "diverts"), target


def _traffic_control(index: int, parent: int) -> bytes:
    return struct.pack("=BxxxiIII", 0, index, 0, parent, 0)


def _index(body: bytes) -> int:
    return int(struct.unpack_from("=i", body, 4)[0])


# --- dumps -----------------------------------------------------------------------------------------------


def _dump(route: socket.socket, kind: int, body: bytes) -> tuple[list[bytes], bool]:
    """What the kernel lists, up to MOST_BYTES; whether that was all. A kernel without tc lists nothing."""
    route.send(pack(kind, NLM_F_REQUEST | NLM_F_DUMP, kind, body))
    bodies: list[bytes] = []
    size = 0
    for answer in route_answers(route):
        if answer.sequence != kind:
            continue
        if answer.type == NLMSG_DONE:
            return bodies, True
        if answer.type == NLMSG_ERROR:
            number = error_number(answer)
            if number == errno.EOPNOTSUPP:
                return bodies, True
            raise OSError(number, os.strerror(number))
        bodies.append(answer.body)
        size += len(answer.body)
        if size > MOST_BYTES:
            break
    return bodies, False


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)
