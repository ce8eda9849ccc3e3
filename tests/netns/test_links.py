"""What is read of a namespace's links, filters and netdev tables, where somebody makes that hard to read.

proves: A14
"""

import subprocess

import pytest

from daemon import links, netns, rtnl
from daemon.backends import forwards
from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.linkkinds import Forward
from daemon.liveness import marks
from daemon.rtnl import Ended, Route
from tests.lab import longfilter

REAPER = Reaper(1)
PAIR = "ip link add eth0 type veth peer name far0; ip link add vm0 type veth peer name far1; "
REDIRECT = "protocol all u32 match u32 0 0 action mirred egress redirect dev"
TABLE = "add table netdev t; add chain netdev t c { type filter hook ingress device eth0 priority 0; }; "


def sh(script: str) -> None:
    """In the current namespace."""
    done = subprocess.run(["sh", "-ec", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def nft(script: str) -> None:
    done = subprocess.run(["nft", "-f", "-"], input=script, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def batch(lines: list[str]) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), check=True, text=True)


def far_names(ifname: str, count: int) -> None:
    """So many further names, of 124 bytes each."""
    batch([f"link property add dev {ifname} altname a{number:0123d}" for number in range(count)])


def test_a_link_with_many_names_hides_none() -> None:
    def work() -> None:
        sh(PAIR)
        far_names("far0", 480)
        listing = netns.links()
        found = listing.links()
        assert (listing.whole, {link.ifname for link in found}) == (
            True,
            {"lo", "eth0", "far0", "vm0", "far1"},
        )
        assert {device.name for device in links.read().devices.values()} == {link.ifname for link in found}

    netns.in_scratch(work)


def test_links_by_what_they_have() -> None:
    def work() -> None:
        sh(PAIR + "ip link set vm0 address 02:00:00:00:77:01; ip link add over0 link vm0 type macvlan")
        listing = netns.links()
        (vm0, over0) = (netns.link(name) for name in ("vm0", "over0"))
        assert vm0 is not None
        assert over0 is not None
        assert listing.indexes() >= {vm0.ifindex, over0.ifindex}
        for names, macs, lower, want in (
            (["vm0", ""], [""], "", vm0),
            ([], [vm0.mac], "", vm0),
            ([], ["zz", "\ud800"], over0.lower, over0),
        ):
            assert want in listing.having(marks(names, macs, lower))
        assert over0 not in listing.having(marks(["vm0", "\ud800"], ["zz"], "macvlan on nothing"))

    netns.in_scratch(work)


def test_more_links_than_are_looked_through() -> None:
    def work() -> None:
        batch([f"link add name a{number} type veth peer name b{number}" for number in range(600)])
        sh("ip link add eth0 type veth peer name far0")
        listing = netns.links()
        found = listing.links()
        assert not listing.whole
        assert len(found) < netns.MAX_LINKS
        (last,) = {netns.link("eth0")} - {None}
        assert last is not None
        assert last not in found
        # One that is asked for is found among however many.
        sh(f"tc qdisc add dev eth0 clsact; tc filter add dev eth0 ingress {REDIRECT} far0")
        read = links.read([last.ifindex])
        assert not read.whole
        assert read.devices[last.ifindex].diverted
        assert read.devices[last.ifindex].name == "eth0"

    netns.in_scratch(work)


def test_lists_that_are_not_whole() -> None:
    def work() -> None:
        sh(PAIR)
        with Route() as route:
            assert route.dump(rtnl.GETLINK, rtnl.link_body(), 1 << 20).ended is Ended.WHOLE
            assert route.dump(rtnl.GETLINK, rtnl.link_body(), 1000).ended is Ended.LONG
            # What was not read to its end is not in the way.
            assert route.dump(rtnl.GETLINK, rtnl.link_body(), 1 << 20).ended is Ended.WHOLE

    netns.in_scratch(work)


def test_a_filter_that_is_too_long_hides_no_redirect() -> None:
    def work() -> None:
        sh(PAIR + "tc qdisc add dev eth0 clsact")
        longfilter.attach("eth0")
        assert [device.diverted for device in links.read().devices.values() if device.diverted] == []
        sh(f"tc filter add dev eth0 ingress pref 2 {REDIRECT} vm0")
        found = {device.name: device for device in links.read().devices.values()}
        assert found["eth0"].diverted
        assert [name for name, device in found.items() if device.fed] == ["vm0"]

    netns.in_scratch(work)


def test_a_shared_block_and_a_shared_action() -> None:
    """A filter of two devices is one; where two filters share an action, an ifb's may be among them."""

    def work() -> None:
        sh(
            PAIR + "ip link add ifb0 type ifb; for name in eth0 vm0; do "
            f"tc qdisc add dev $name ingress_block 7 clsact; done; tc filter add block 7 {REDIRECT} ifb0"
        )
        assert all(not device.diverted for device in links.read().devices.values())
        sh("tc qdisc add dev far0 clsact")
        sh("tc filter add dev far0 egress protocol all u32 match u32 0 0 action mirred index 1")
        found = {device.name: device.diverted for device in links.read().devices.values()}
        assert found["eth0"] == found["vm0"] == "redirects what comes in to ifb0"

    netns.in_scratch(work)


def read_forwards() -> tuple[Forward, ...] | None:
    with NetfilterSocket(REAPER) as sock:
        return forwards.read(sock)


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        ("", []),
        ("add rule netdev t c counter drop", []),
        ("add chain netdev t d; add rule netdev t d drop; add rule netdev t c jump d", []),
        ("add rule netdev t c fwd to vm0", [("eth0", "vm0")]),
        (
            "add chain netdev t d; add rule netdev t d dup to vm0; add rule netdev t c jump d",
            [("eth0", "vm0")],
        ),
        ("add rule netdev t c fwd ip to 10.0.0.1 device vm0", [("eth0", "")]),
        ("add rule netdev t c dup to meta mark map { 1 : vm0 }", [("eth0", "")]),
    ],
)
def test_netdev_tables(rules: str, found: list[tuple[str, str]]) -> None:
    """Where frames go is told where the rule says it at once; else it may be anywhere."""

    def work() -> None:
        sh(PAIR)
        nft(TABLE + rules)
        got = read_forwards()
        assert got is not None
        names = {device.index: device.name for device in links.read().devices.values()}
        told = [
            (",".join(one.devices or ()), ",".join(names[index] for index in one.targets or ()))
            for one in got
        ]
        assert told == found
        assert all(
            (one.targets is None) == (target == "") for one, (_, target) in zip(got, found, strict=True)
        )

    netns.in_scratch(work)


def test_a_rule_that_is_too_long_to_be_listed() -> None:
    """The kernel ends its list of rules there, silently, and what is behind it is not known."""

    def work() -> None:
        sh(PAIR)
        name = "o" * 250
        counters = " ".join(f"counter name {name}{number % 4}" for number in range(126))
        objects = "; ".join(f"add counter netdev t {name}{number}" for number in range(4))
        nft(f"{TABLE} {objects}; add rule netdev t c {counters}; add rule netdev t c fwd to vm0")
        assert read_forwards() == (Forward("t", frozenset({"eth0"}), None),)

    netns.in_scratch(work)


def test_more_chains_than_are_read() -> None:
    def work() -> None:
        sh(PAIR)
        nft("add table netdev t; " + "; ".join(f"add chain netdev t c{number}" for number in range(3000)))
        assert read_forwards() is None
        nft("delete table netdev t")
        assert read_forwards() == ()

    netns.in_scratch(work)
