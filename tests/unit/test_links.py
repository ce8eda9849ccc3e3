"""What is made of rtnetlink's answers where a list ends badly, and of tc where filters are out of sight.

proves: A14
"""

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest

from daemon import links, rtnl
from daemon.linkkinds import Links
from daemon.netlink import NLM_F_DUMP_INTR, NLMSG_DONE, attr, pack
from daemon.rtnl import Ended, Route

LINK, QDISC, FILTER, ACTION = 18, 38, 46, 50
ETH0, IFB0, VM0 = 2, 3, 4
INCOMING, OUTGOING = 0xFFFFFFF2, 0xFFFFFFF3
Answers = Callable[[int, bytes], tuple[list[bytes], int, int]]
"""By a message's type and body: bodies, what the end says (an errno, or 0), and flags."""


class Kernel:
    """A socket whose far end is this test."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._pending: list[bytes] = []
        self.sent: list[int] = []

    def connect(self) -> socket.socket:
        return cast("socket.socket", self)

    def send(self, request: bytes) -> None:
        _, kind, _, sequence, _ = struct.unpack_from("=IHHII", request)
        bodies, end, flags = self._answers(kind, request[16:])
        self.sent.append(kind)
        told = [pack(16, flags, sequence, body) for body in bodies]
        self._pending = [*told, pack(NLMSG_DONE, flags, sequence, struct.pack("=i", -end))]

    def recvmsg(self, *_: int) -> tuple[bytes, list[Any], int, tuple[int, int]]:
        return self._pending.pop(0), [], 0, (0, 0)

    def close(self) -> None:
        self._pending = []


def link(index: int, name: str, kind: str) -> bytes:
    return (
        struct.pack("=BxHiII", 0, 0, index, 0, 0)
        + attr(3, name.encode() + b"\0")
        + attr(18, attr(1, kind.encode()))
    )


def qdisc(index: int, kind: str) -> bytes:
    return struct.pack("=BxxxiIII", 0, index, 0, 0, 0) + attr(1, kind.encode() + b"\0")


def mirred(number: int, target: int, verb: int = 1, bound: int = 1) -> bytes:
    """An action as filters and the list of actions have it."""
    parameters = struct.pack("=IIiiiiI", number, 0, 4, 1, bound, verb, target)
    return attr(1, attr(1, b"mirred\0") + attr(2, attr(2, parameters)))


def filtered(kind: str, actions: bytes) -> bytes:
    return bytes(20) + attr(1, kind.encode() + b"\0") + attr(2, attr(7, actions))


DEVICES = [link(ETH0, "eth0", "veth"), link(IFB0, "ifb0", "ifb"), link(VM0, "vm0", "veth")]


def read(
    actions: list[bytes],
    filters: dict[tuple[int, int], list[bytes]],
    qdiscs: dict[int, str],
    cut: int = 0,
) -> tuple[Links, Kernel]:
    """cut: how the lists of filters end."""

    def answers(kind: int, body: bytes) -> tuple[list[bytes], int, int]:
        if kind == LINK:
            return DEVICES, 0, 0
        if kind == ACTION:
            return [bytes(4) + attr(1, action) for action in actions], 0, 0
        if kind == QDISC:
            return [qdisc(index, name) for index, name in qdiscs.items()], 0, 0
        (index, _, parent) = struct.unpack_from("=iII", body, 4)
        return filters.get((index, parent), []), cut, 0

    kernel = Kernel(answers)
    return links.read([ETH0], kernel.connect), kernel


def diverted(found: Links) -> dict[str, str]:
    return {device.name: device.diverted for device in found.devices.values() if device.diverted}


def test_no_filter_is_looked_at_where_no_action_is_bound() -> None:
    """What an ordinary pod costs, however many filters it has."""
    found, kernel = read([mirred(1, VM0, bound=0)], {}, {ETH0: "clsact"})
    assert kernel.sent == [LINK, ACTION]
    assert found == Links(found.devices)
    assert not any(device.fed or device.diverted for device in found.devices.values())


TO_IFB, TO_VM = mirred(1, IFB0), mirred(2, VM0)


@pytest.mark.parametrize(
    ("actions", "filters", "cut", "want"),
    [
        ([TO_IFB], {(ETH0, INCOMING): [filtered("u32", TO_IFB)]}, 0, {}),
        # Behind a discipline with classes, whose filters are not looked at: it may be the ifb's.
        (
            [TO_IFB, TO_VM],
            {(ETH0, INCOMING): [filtered("u32", TO_IFB)]},
            0,
            "redirects what comes in to ifb0",
        ),
        ([TO_IFB], {(ETH0, INCOMING): [filtered("u32", TO_IFB)]}, errno.EMSGSIZE, {}),
        ([TO_VM], {(ETH0, INCOMING): [filtered("u32", TO_VM)]}, 0, "redirects what comes in to vm0"),
        ([TO_VM], {(ETH0, OUTGOING): [filtered("u32", TO_VM)]}, 0, {}),
        ([TO_VM], {}, errno.EMSGSIZE, "may redirect what comes in, and can't be read"),
        (
            [TO_VM],
            {(ETH0, INCOMING): [filtered("new", TO_VM)]},
            0,
            "may redirect what comes in, and can't be read",
        ),
        ([TO_VM], {}, 0, {}),
    ],
    ids=[
        "an ifb",
        "an ifb, and something out of sight",
        "an ifb, cut short behind all that there is",
        "a redirect",
        "what goes out was judged before",
        "cut short",
        "a kind of filter that is not known",
        "of another device",
    ],
)
def test_what_comes_in(
    actions: list[bytes], filters: dict[tuple[int, int], list[bytes]], cut: int, want: str | dict[str, str]
) -> None:
    found, _ = read(actions, filters, {ETH0: "clsact", IFB0: "prio"}, cut)
    assert diverted(found) == ({"eth0": want} if isinstance(want, str) else want)
    assert found.filtered


def test_what_is_given_to_a_device_to_be_sent() -> None:
    """Of which device, and where its filters hang, is all the same. What it shall receive its rules judge."""
    found, _ = read([mirred(1, ETH0), mirred(2, VM0, verb=3)], {}, {})
    assert [device.name for device in found.devices.values() if device.fed] == ["eth0"]


def test_more_places_than_are_looked_at() -> None:
    found, kernel = read([TO_VM], {}, dict.fromkeys(range(100, 100 + links.MOST_FILTERED), "clsact"))
    assert not found.filtered
    assert kernel.sent.count(FILTER) == links.MOST_FILTERED


@pytest.mark.parametrize(
    ("end", "flags", "want", "tries"),
    [
        (0, 0, Ended.WHOLE, 1),
        (errno.EMSGSIZE, 0, Ended.EARLY, 1),
        (0, NLM_F_DUMP_INTR, Ended.CHANGED, 3),
        (errno.EMSGSIZE, NLM_F_DUMP_INTR, Ended.EARLY, 1),
    ],
)
def test_how_a_list_ends(end: int, flags: int, want: Ended, tries: int) -> None:
    kernel = Kernel(lambda *_: (DEVICES, end, flags))
    with Route(kernel.connect) as route:
        found = route.dump(rtnl.GETLINK, rtnl.link_body(), 1 << 20)
    assert (found.ended, len(kernel.sent), found.bodies) == (want, tries, DEVICES)


@pytest.mark.parametrize(("end", "flags"), [(errno.EMSGSIZE, 0), (0, NLM_F_DUMP_INTR)])
def test_links_that_were_not_all_listed(end: int, flags: int) -> None:
    """Not whole: and then the one that was asked for is asked for by itself."""

    def answers(kind: int, body: bytes) -> tuple[list[bytes], int, int]:
        if kind != LINK:
            return [], 0, 0
        (index,) = struct.unpack_from("=i", body, 4)
        return ([DEVICES[0]], 0, 0) if index == ETH0 else (DEVICES[1:], end, flags)

    found = links.read([ETH0], Kernel(answers).connect)
    assert (found.whole, sorted(found.devices)) == (False, [ETH0, IFB0, VM0])
