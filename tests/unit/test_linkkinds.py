"""How rules reach an interface's packets, kind by kind: the table of docs/semantics.md, from netlink's facts.

proves: A14, A15
"""

from dataclasses import dataclass
from typing import Any

import pytest

from daemon.linkkinds import GOVERNED, MOST_CARRIERS, Device, Forward, Links, reach

NET1 = 7
IN, BOTH = ("ingress",), ("ingress", "egress")


@dataclass(frozen=True)
class Row:
    """One kind: the device itself, what else is there, and what holds."""

    name: str
    device: Device
    others: tuple[Device, ...] = ()
    past: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    carriers: tuple[str, ...] = ()
    seals: tuple[str, ...] = ()
    own: frozenset[int] = frozenset()


def net1(kind: str = "veth", master: str = "", **facts: Any) -> Device:
    """The interface; `master` is a kind, of the device with index 8."""
    return Device(NET1, "net1", kind, master=8 if master else 0, master_kind=master, **facts)


def above(index: int, kind: str, name: str = "", lower: int = NET1, **facts: Any) -> Device:
    """A device on another one."""
    return Device(index, name or f"over{index}", kind, lower=lower, **facts)


def master(kind: str, **facts: Any) -> Device:
    """The device that net1 is enslaved to."""
    return Device(8, f"{kind}0", kind, **facts)


PLAIN = ("", "veth", "macvlan", "ipvlan", "vlan", "dummy", "bridge", "bond", "ipoib", "netkit", "tun")
TUNNELS = ("gre", "ipip", "sit", "vxlan", "geneve", "wireguard", "ip6tnl", "vti")

ROWS = (
    *(Row(f"plain {kind or 'hardware'}", net1(kind)) for kind in PLAIN),
    *(Row(f"{kind} over it", net1(), (above(9, kind),)) for kind in TUNNELS),
    Row("the other end of its cable", net1("veth"), (above(9, "veth"),)),
    Row("its parent's index is another namespace's", net1("macvlan"), (Device(9, "veth0", "veth"),)),
    Row(
        "ipvlan l3s",
        net1("ipvlan", l3s=True),
        past=IN,
        words=("net1 is an ipvlan in mode l3s", "use mode l2 or l3"),
    ),
    Row("macvtap", net1("macvtap"), past=BOTH, words=("macvtap", "file descriptor"), seals=("net1",)),
    Row("ipvtap", net1("ipvtap"), past=BOTH, words=("ipvtap", "file descriptor"), seals=("net1",)),
    Row("ipvtap l3s", net1("ipvtap", l3s=True), past=BOTH, words=("ipvtap", "l3s"), seals=("net1",)),
    *(
        Row(
            f"port of a {kind}",
            net1("macvlan", master=kind),
            (master(kind),),
            BOTH,
            (f"port of the {kind} {kind}0",),
            seals=("net1",),
        )
        for kind in ("bridge", "openvswitch", "batadv", "something")
    ),
    Row(
        "port of what is not told", net1(master="hsr"), past=BOTH, words=("port of the hsr",), seals=("net1",)
    ),
    Row("VRF", net1(master="vrf"), (master("vrf"),)),
    Row("bond", net1(master="bond"), (master("bond"),), carriers=("bond0",)),
    Row("team", net1(master="team"), (master("team"),), carriers=("team0",)),
    Row("bond with policies of its own", net1(master="bond"), (master("bond"),), own=frozenset({8})),
    Row(
        "bond in a bridge",
        net1(master="bond"),
        (master("bond", master=9, master_kind="bridge"), Device(9, "br0", "bridge")),
        BOTH,
        ("bond0, which stands on net1, is a port of the bridge br0",),
        ("bond0",),
        ("bond0",),
    ),
    Row(
        "bond in a VRF",
        net1(master="bond"),
        (master("bond", master=9, master_kind="vrf"), Device(9, "vrf0", "vrf")),
        carriers=("bond0",),
    ),
    *(
        Row(f"{kind} on it", net1(), (above(9, kind),), carriers=("over9",))
        for kind in ("vlan", "macvlan", "ipvlan", "macsec")
    ),
    Row("vlan with policies of its own on it", net1(), (above(9, "vlan"),), own=frozenset({9})),
    Row(
        "vlan on a vlan", net1(), (above(9, "vlan"), above(10, "vlan", lower=9)), carriers=("over9", "over10")
    ),
    Row(
        "vlan on it in a bridge",
        net1(),
        (above(9, "vlan", master=10, master_kind="bridge"), Device(10, "br0", "bridge")),
        BOTH,
        ("over9, which stands on net1, is a port of the bridge br0",),
        ("over9",),
        ("over9",),
    ),
    Row(
        "macvtap on it",
        net1(),
        (above(9, "macvtap"),),
        BOTH,
        ("over9, which stands on net1, is a macvtap",),
        ("over9",),
        ("over9",),
    ),
    Row("XDP", net1(xdp=True), past=BOTH, words=("XDP",)),
    Row("tc", net1(diverted="redirects what comes in to tap0"), past=BOTH, words=("redirects", "tap0")),
    Row(
        "given frames by tc",
        net1(fed=True),
        past=("egress",),
        words=("a tc filter gives frames to net1",),
        seals=("net1",),
    ),
    Row(
        "too many on it",
        net1(),
        tuple(above(100 + n, "vlan") for n in range(MOST_CARRIERS + 1)),
        BOTH,
        ("more devices",),
        tuple(f"over{100 + n}" for n in range(MOST_CARRIERS)),
        ("net1",),
    ),
    Row(
        "as many as may be",
        net1(),
        tuple(above(100 + n, "vlan") for n in range(MOST_CARRIERS)),
        carriers=tuple(f"over{100 + n}" for n in range(MOST_CARRIERS)),
    ),
    Row("a circle, which the kernel makes none of", net1(lower=9), (above(9, "vlan"),), carriers=("over9",)),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_kind(row: Row) -> None:
    devices = {device.index: device for device in (row.device, *row.others)}
    found = reach(Links(devices), NET1, row.own)
    assert (found.past, found.seals) == (row.past, row.seals)
    assert tuple(carrier.ifname for carrier in found.carriers) == row.carriers
    assert [word for word in row.words if word not in found.reason] == []
    assert bool(found.reason) == bool(found.remedy) == bool(row.past)


OUT = ("egress",)
WAYS: tuple[tuple[str, dict[str, Any], tuple[str, ...], tuple[str, ...], bool], ...] = (
    ("of another device", {"forwards": (Forward("t", frozenset({"tap0"}), frozenset({9})),)}, (), (), True),
    (
        "hangs on it",
        {"forwards": (Forward("t", frozenset({"net1"}), frozenset({9})),)},
        BOTH,
        ("net1",),
        False,
    ),
    ("sends by it", {"forwards": (Forward("t", frozenset({"tap0"}), frozenset({7})),)}, OUT, ("net1",), True),
    ("sends anywhere", {"forwards": (Forward("t", frozenset({"tap0"})),)}, OUT, ("net1",), True),
    (
        "hangs on an ifb",
        {"forwards": (Forward("t", frozenset({"ifb0"}), frozenset()),)},
        BOTH,
        ("net1",),
        False,
    ),
    ("hangs anywhere", {"forwards": (Forward("t", None, frozenset()),)}, BOTH, ("net1",), False),
    ("nft was not read", {"forwards": None}, BOTH, ("net1",), False),
    ("tc was not read", {"filtered": False}, BOTH, ("net1",), False),
)


@pytest.mark.parametrize(("name", "facts", "past", "seals", "closable"), WAYS, ids=[way[0] for way in WAYS])
def test_ways_by_tc_and_nft(
    name: str, facts: dict[str, Any], past: tuple[str, ...], seals: tuple[str, ...], closable: bool
) -> None:
    """closable: a drop in the direction that is passed by is enough."""
    devices = {NET1: net1(), 9: Device(9, "tap0", "tun"), 10: Device(10, "ifb0", "ifb")}
    found = reach(Links(devices, **facts), NET1, frozenset())
    assert (found.past, found.seals, found.closable) == (past, seals, closable)
    assert bool(found.reason) == bool(past), name


def test_a_device_on_it_that_is_given_frames() -> None:
    found = reach(Links({NET1: net1(), 9: above(9, "macvlan", fed=True)}), NET1, frozenset())
    assert (found.past, found.seals, found.closable) == (OUT, ("over9",), False)
    assert "to over9, which stands on net1" in found.reason


def test_links_that_were_not_all_read() -> None:
    """A pod that makes more links than are looked at hides nothing behind them."""
    found = reach(Links({NET1: net1()}, whole=False), NET1, frozenset())
    assert (found.past, found.seals) == (BOTH, ("net1",))
    assert "than are looked at" in found.reason


def test_an_interface_that_is_gone() -> None:
    assert reach(Links({}), NET1, frozenset()) == GOVERNED


def test_what_is_beside_it_and_not_enrolled() -> None:
    """E7: another interface on the same master is told, and nothing else."""
    place = (3, 0)
    others = (
        above(9, "macvlan", "b", lower=0, parent=place),
        above(10, "macvtap", "a", lower=0, parent=place),
    )
    far = (above(11, "macvlan", lower=0, parent=(3, 1)), above(12, "veth", lower=0, parent=place))
    devices = {d.index: d for d in (net1("macvlan", parent=place), *others, *far)}
    found = reach(Links(devices), NET1, frozenset())
    assert found.note.startswith("a, b: on the same master as net1, and not enrolled")
    assert (found.past, found.carriers) == ((), ())
    assert reach(Links(devices), NET1, frozenset({9, 10})) == GOVERNED
