"""Reading what kinds of links a namespace has, and what tc does with their frames. It changes nothing.

In: the current network namespace, which belongs to a pod: nothing in it is believed to be small. Out: Devices
by index. In a pod with a few links all of it takes 0.07 ms.

Whether tc diverts anything is told by the list of its `mirred` actions, of the namespace as a whole: where
none is bound to a filter, no filter is looked at, and where each has been met in a filter none is hidden.
"""

import os
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from daemon import rtnl
from daemon.errors import NetnsError
from daemon.linkkinds import IFB, Device, Links
from daemon.netlink import attr, attributes
from daemon.rtnl import Connect, Route, connect

MOST_BYTES = 1 << 18
"""Of one dump, some 240 links: a pod may have made more, and then not all are looked at (0.1 ms each)."""
MOST_FILTERED = 64
"""Places whose filters are looked at, two for a device."""

_RTM_GETQDISC, _RTM_GETTFILTER, _RTM_GETACTION = 38, 46, 50

_IFNAME, _LINK, _MASTER, _LINKINFO, _LINK_NETNSID, _XDP = 3, 5, 10, 18, 37, 43
_KIND, _DETAILS, _SLAVE_KIND = 1, 2, 4
_XDP_ATTACHED = 2
_IPVLAN_MODE, _IPVLAN_L3S = 1, 2

_TC_KIND, _TC_OPTIONS = 1, 2
_INCOMING, _OUTGOING = 0xFFFFFFF2, 0xFFFFFFF3
_PARENTS = {"ingress": (0xFFFF0000,), "clsact": (_INCOMING, _OUTGOING)}
"""Queueing disciplines that are none, and where their filters hang, first those for what comes in."""
_ACTIONS = {
    "basic": 3,
    "bpf": 1,
    "cgroup": 1,
    "flow": 9,
    "flower": 3,
    "fw": 4,
    "matchall": 2,
    "route": 6,
    "rsvp": 6,
    "rsvp6": 6,
    "tcindex": 7,
    "u32": 7,
}
"""Where a classifier's actions stand among its options."""
_ROOT_ACTIONS, _ROOT_FLAGS = 1, 2
_LARGE_DUMP = struct.pack("=II", 1, 1)
_MIRRED = "mirred"
_MIRRED_PARAMETERS = 2
_MIRRED_WORDS = {1: "redirects", 2: "mirrors", 3: "redirects", 4: "mirrors"}
_SENDING = (1, 2)
"""Those of the kinds of mirred that give frames to a device to be sent; others to be received."""


def read(indexes: Iterable[int] = (), connect: Connect = connect) -> Links:
    """All links of the current namespace, those asked for in any case, and what tc does with their frames.

    NetnsError: they can't be read.
    """
    try:
        with Route(connect) as route:
            return _read(route, set(indexes))
    except (OSError, struct.error, KeyError) as error:
        raise NetnsError("its links", f"can't be read: {error!r}") from error


def _read(route: Route, asked: set[int]) -> Links:
    dumped = route.dump(rtnl.GETLINK, rtnl.link_body(), MOST_BYTES)
    devices = {device.index: device for device in map(_device, dumped.bodies)}
    for index in asked - devices.keys():
        devices |= _one(route, index)
    return Links(devices, dumped.whole, _Diversions(route, devices).read())


def _one(route: Route, index: int) -> dict[int, Device]:
    try:
        return {index: _device(route.ask(rtnl.GETLINK, rtnl.link_body(index)))}
    except OSError:
        return {}


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


class _Action(msgspec.Struct, frozen=True):
    """One action of mirred: by its number, which all filters that share it have in common.

    bound: how many filters that are. sends: the target is to send the frames; else it receives them.
    """

    number: int
    bound: int
    verb: str
    sends: bool
    target: int


@dataclass
class _Diversions:
    """What tc diverts in a namespace. met: by device, the actions that its filters have, what comes in first.

    unsure: devices whose filters for what comes in were not all understood.
    """

    route: Route
    devices: dict[int, Device]
    coming: dict[int, list[_Action]] = field(default_factory=dict)
    going: dict[int, list[_Action]] = field(default_factory=dict)
    unsure: set[int] = field(default_factory=set)

    def read(self) -> bool:
        """Say in the devices what is diverted; whether all that matters could be read."""
        bound, whole = _bound(self.route)
        if not bound:
            return whole
        whole = self._look_at_filters() and whole
        filters = (*self.coming.values(), *self.going.values())
        met = {action.number for actions in filters for action in actions}
        hidden = any(action.bound > 1 or action.number not in met for action in bound)
        self._tell_sources(hidden)
        self._tell_targets(bound)
        return whole

    def _look_at_filters(self) -> bool:
        dumped = self.route.dump(_RTM_GETQDISC, _traffic_control(0, 0), MOST_BYTES)
        kinds = [(_index(body), _text(attributes(body, 20).get(_TC_KIND, b""))) for body in dumped.bodies]
        places = [
            (index, parent, self.going if parent == _OUTGOING else self.coming)
            for index, kind in kinds
            for parent in _PARENTS.get(kind, ())
        ]
        for index, parent, met in places[:MOST_FILTERED]:
            filters = self.route.dump(_RTM_GETTFILTER, _traffic_control(index, parent), MOST_BYTES)
            found = [_actions_of(body) for body in filters.bodies]
            met.setdefault(index, []).extend(action for actions in found for action in actions or ())
            if met is self.coming and not (filters.whole and None not in found):
                self.unsure.add(index)
        return dumped.whole and len(places) <= MOST_FILTERED

    def _tell_sources(self, hidden: bool) -> None:
        """hidden: there are actions that no filter has that was looked at, on an ifb for example."""
        for index in (self.coming.keys() | self.unsure) & self.devices.keys():
            words = "may redirect what comes in, and can't be read" if hidden and index in self.unsure else ""
            for action in self.coming.get(index, ()):
                if not self._comes_back(action.target, hidden):
                    target = self.devices.get(action.target)
                    words = f"{action.verb} what comes in to {target.name if target else 'another device'}"
                    break
            self.devices[index] = msgspec.structs.replace(self.devices[index], diverted=words)

    def _comes_back(self, target: int, hidden: bool) -> bool:
        """Whether frames that tc sends to a device come in once more by the one that they came from."""
        device = self.devices.get(target)
        sends_on = hidden or bool(self.coming.get(target)) or bool(self.going.get(target))
        return device is not None and device.kind == IFB and not sends_on

    def _tell_targets(self, bound: list[_Action]) -> None:
        for target in {action.target for action in bound if action.sends} & self.devices.keys():
            self.devices[target] = msgspec.structs.replace(self.devices[target], fed=True)


def _bound(route: Route) -> tuple[list[_Action], bool]:
    """The actions that filters have, and whether these are all."""
    kind = attr(1, attr(_TC_KIND, _MIRRED.encode() + b"\0"))
    body = bytes(4) + attr(_ROOT_ACTIONS, kind) + attr(_ROOT_FLAGS, _LARGE_DUMP)
    dumped = route.dump(_RTM_GETACTION, body, MOST_BYTES)
    lists = [attributes(body, 4).get(_ROOT_ACTIONS, b"") for body in dumped.bodies]
    return [action for each in lists for action in _mirred(each) if action.bound], dumped.whole


def _actions_of(body: bytes) -> list[_Action] | None:
    """What a filter does with mirred; None: it is of a kind that is not known."""
    found = attributes(body, 20)
    place = _ACTIONS.get(_text(found.get(_TC_KIND, b"")))
    if place is None:
        return None
    return list(_mirred(attributes(found.get(_TC_OPTIONS, b"")).get(place, b"")))


def _mirred(actions: bytes) -> Iterator[_Action]:
    """Those of mirred in a list of actions."""
    for action in map(attributes, attributes(actions).values()):
        parameters = attributes(action.get(_TC_OPTIONS, b"")).get(_MIRRED_PARAMETERS, b"")
        if _text(action.get(_TC_KIND, b"")) == _MIRRED and len(parameters) >= 28:
            number, _, _, _, bound, verb, target = struct.unpack_from("=IIiiiiI", parameters)
            yield _Action(number, bound, _MIRRED_WORDS.get(verb, "diverts"), verb in _SENDING, target)


def _traffic_control(index: int, parent: int) -> bytes:
    return struct.pack("=BxxxiIII", 0, index, 0, parent, 0)


def _index(body: bytes) -> int:
    return int(struct.unpack_from("=i", body, 4)[0])


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder)
