"""How each backend tells a pod's interfaces apart: by index or by name, whatever the name looks like.

Every case starts with a positive control: the same probes before anything is governed.
"""

import socket
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from daemon import netns
from daemon.backends.base import Backend
from daemon.policy.ruleset import OPEN, Match, Ruleset
from tests.lab import Attachment, Lab, Target
from tests.netns.governed import Governed

FAMILIES = ["ipv4", "ipv6"]


@pytest.mark.parametrize("family", FAMILIES)
def test_forwarded_packets_need_both_interfaces(packet_filter: Backend, family: str) -> None:
    """E4."""
    with Lab(("net1", "net2")) as lab:
        client, server, router = (
            lab.attach(lab.pod("client")),
            lab.attach(lab.pod("server"), "net2"),
            lab.pod("router"),
        )
        sides = lab.attach(router), lab.attach(router, "net2", "net2")
        _route_through(client, server, sides)
        server.pod.prober.serve(80)
        target = Target("tcp", getattr(server, family), 80)
        governed = Governed(packet_filter, *sides)
        governed.program(OPEN, OPEN)
        assert client.pod.prober.mismatches({target: True}) == []
        anyone, nobody = (Match(None, None, ("p",)),), ()
        for in_, out, open_ in (
            (anyone, anyone, True),
            (anyone, nobody, False),
            (nobody, anyone, False),
            (anyone, None, True),
            (None, anyone, True),
            (None, nobody, False),
        ):
            governed.program(Ruleset(in_, None), Ruleset(None, out))
            assert client.pod.prober.mismatches({target: open_}) == [], (in_, out)


def _route_through(client: Attachment, server: Attachment, sides: tuple[Attachment, Attachment]) -> None:
    with netns.entered(str(sides[0].pod.netns), None):
        for switch in ("ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"):
            Path("/proc/sys/net", switch).write_text("1")
    for end, side in ((client, sides[0]), (server, sides[1])):
        with netns.entered(str(end.pod.netns), None), IPRoute() as routes:
            for family, gateway in ((socket.AF_INET, side.ipv4), (socket.AF_INET6, side.ipv6)):
                routes.route("add", family=family, dst="default", gateway=gateway, oif=end.ifindex)


def rename(attachment: Attachment, ifname: str) -> None:
    with netns.entered(str(attachment.pod.netns), None), IPRoute() as links:
        links.link("set", index=attachment.ifindex, state="down")
        links.link("set", index=attachment.ifindex, ifname=ifname)
        links.link("set", index=attachment.ifindex, state="up")


def test_rename(lab: Lab, packet_filter: Backend, backend: str) -> None:
    """Nftables dispatches by index: a workload that renames its interface stays governed.

    A limit of iptables, which knows names only: such an interface is governed no more, until it has its name
    again. (It takes CAP_NET_ADMIN in the pod, with which the rules can be taken away as well.)
    """
    server, friend = (lab.attach(lab.pod(name)) for name in ("server", "friend"))
    server.pod.prober.serve(80)

    def assert_reached(want: bool) -> None:
        targets = [Target("tcp", server.ipv4, 80), Target("tcp", server.ipv6, 80)]
        assert friend.pod.prober.mismatches(dict.fromkeys(targets, want)) == []

    # Else the kernel forgets the IPv6 address with the link.
    with netns.entered(str(server.pod.netns), None):
        Path("/proc/sys/net/ipv6/conf/net1/keep_addr_on_down").write_text("1")
    assert_reached(True)
    Governed(packet_filter, server).program(Ruleset((), None))
    assert_reached(False)
    rename(server, "other0")
    assert_reached(backend != "nftables")
    rename(server, "net1")
    assert_reached(False)


@pytest.mark.parametrize("odd", ["net+", "!net1", "net1+", "+"])
def test_odd_names_mean_one_interface(lab: Lab, packet_filter: Backend, odd: str) -> None:
    """What iptables' command line takes for a pattern is the name of one interface, in both directions."""
    server, friend = lab.pod("server"), lab.pod("friend")
    ends = [lab.attach(server, ifname=ifname) for ifname in (odd, "net1")]
    client = lab.attach(friend)
    for pod in (server, friend):
        pod.prober.serve(80)
    # Both interfaces are on one network: each answers for its own address, by itself.
    with netns.entered(str(server.netns), None), IPRoute() as links:
        Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1")
        for number, end in enumerate(ends, 100):
            links.route("add", dst="10.1.0.0/16", oif=end.ifindex, table=number)
            links.rule("add", src=end.ipv4, table=number)

    def open_(wanted: list[bool]) -> list[str]:
        targets = [Target("tcp", end.ipv4, 80) for end in ends]
        into = friend.prober.mismatches(dict(zip(targets, wanted, strict=True)))
        back = [Target("tcp", client.ipv4, 80, source=end.ipv4) for end in ends]
        return into + server.prober.mismatches(dict(zip(back, wanted, strict=True)))

    assert open_([True, True]) == []
    governed = Governed(packet_filter, ends[0])
    governed.program(Ruleset((), ()))
    assert open_([False, True]) == []
    Governed(packet_filter, ends[1]).program(Ruleset((), ()))
    assert open_([True, False]) == []
