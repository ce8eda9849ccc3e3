"""Kinds of links that other kernels lack: what is done with a governed interface, and what holds then.

In: a lab and a daemon. Out: a result for each of KINDS. Each has a control: unrestricted, all passes.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyroute2 import IPRoute

from tests.lab import Daemon, Lab
from tests.lab.namespaces import inside
from tests.netns.enroll import add, check, must
from tests.netns.linkworld import DENY, OPEN, LinkWorld
from tests.vm.cases import KINDS, VmCase
from tests.vm.guest.results import Results

_VLAN = (["10.77.0.1", "fd77::1"], ["10.77.0.2", "fd77::2"])
_VRF = (
    "ip link add vrf0 type vrf table 10; ip link set vrf0 up; ip link set eth0 vrf vrf0; "
    # Sockets in no VRF answer, and find their way out by the slave itself.
    "for p in tcp udp raw; do sysctl -qw net.ipv4.${p}_l3mdev_accept=1; done"
)


def run_kinds(lab: Lab, daemon: Daemon, backend: str, results: Results) -> None:
    """A pod and a client each, on a network of their own."""
    for number, (name, run) in enumerate(zip(KINDS, _RUNS, strict=True)):
        wrong: list[str] = []
        try:
            network = f"k{number}"
            lab.network(network)
            run(LinkWorld(lab, daemon, network))
        except AssertionError as error:
            wrong = [repr(error)]
        results.add(VmCase(backend, "links", name), wrong)


def _vrf(world: LinkWorld) -> None:
    """What comes in has the slave as its input interface at prerouting, once, and the VRF from there on."""
    must(add(world.daemon, world.governed))
    world.enforce(OPEN)
    world.run(_VRF)
    _addresses_back(world)
    _expect(world, True)
    world.enforce(DENY)
    _expect(world, False)
    world.enforce({**DENY, "egress": [{}]})
    assert world.client.pod.prober.mismatches(_ways(world, world.governed, False)) == []
    assert world.pod.prober.mismatches(_ways(world, world.client, True)) == []
    world.enforce({**DENY, "ingress": [{}]})
    assert world.client.pod.prober.mismatches(_ways(world, world.governed, True)) == []
    assert world.pod.prober.mismatches(_ways(world, world.client, False)) == []
    must(check(world.daemon, world.governed))


def _vrf_before(world: LinkWorld) -> None:
    """As the CNI plugin `vrf` does, which stands before ours in the chain."""
    world.run(_VRF)
    _addresses_back(world)
    _expect(world, True)
    must(add(world.daemon, world.governed))
    _all_ways(world)


def _bond(world: LinkWorld) -> None:
    must(add(world.daemon, world.governed))
    world.enforce(DENY)
    world.run(
        "ip link add bond0 type bond mode active-backup; ip link set eth0 down; ip link set eth0 master bond0"
    )
    world.move_addresses("eth0", "bond0")
    _seen(world, ["bond0"])
    _all_ways(world)


def _vlan(world: LinkWorld) -> None:
    must(add(world.daemon, world.governed))
    mine, theirs = _VLAN
    world.run("ip link add over0 link eth0 type vlan id 5; ip link set over0 up")
    world.run_at_client(f"ip link add over0 link {world.client.ifname} type vlan id 5; ip link set over0 up")
    for run, addresses in ((world.run, mine), (world.run_at_client, theirs)):
        run(f"ip addr add {addresses[0]}/24 dev over0; ip addr add {addresses[1]}/64 dev over0 nodad")
    _seen(world, ["over0"])
    assert world.between(mine, theirs, True, world.pod) == []
    world.enforce(DENY)
    assert world.between(mine, theirs, False, world.pod) == []
    _expect(world, False)


def _ipvlan(world: LinkWorld) -> None:
    must(add(world.daemon, world.governed))
    world.run("ip link add over0 link eth0 type ipvlan mode l2")
    world.move_addresses("eth0", "over0")
    _seen(world, ["over0"])
    _all_ways(world)


def _ipvtap(world: LinkWorld) -> None:
    """On a network of its own, for a link carries either macvlans or ipvlans."""
    parent = world.lab.network("tap")
    pod = world.lab.pod("machine")
    with pod.netns.open("rb") as target, inside(world.lab.node), IPRoute() as links:
        links.link("add", ifname="net1", kind="ipvtap", link=parent.parent, net_ns_fd=target.fileno())
    reply = add(world.daemon, replace(world.governed, pod=pod, ifname="net1"), args={})
    assert reply["ok"] is False
    assert "ipvtap" in reply["msg"]
    assert "use ipvlan" in reply["details"]


_RUNS: tuple[Callable[[LinkWorld], None], ...] = (_vrf, _vrf_before, _bond, _vlan, _ipvlan, _ipvtap)


def _all_ways(world: LinkWorld) -> None:
    world.enforce(OPEN)
    _expect(world, True)
    world.enforce(DENY)
    _expect(world, False)


def _expect(world: LinkWorld, want: bool) -> None:
    assert world.wrong(want) == []


def _seen(world: LinkWorld, carriers: list[str]) -> None:
    """The daemon has looked, and called it governed."""
    found = world.swept(lambda now: now["carriers"] == carriers)
    assert found["state"] == "applied", found


def _ways(world: LinkWorld, to: Any, want: bool) -> dict[Any, bool]:
    return dict.fromkeys(world.targets([to.ipv4, to.ipv6]), want)


def _addresses_back(world: LinkWorld) -> None:
    """The kernel takes IPv6 addresses off what is enslaved; sockets outside the VRF need routes."""
    mine, theirs = world.governed, world.client
    world.run(
        f"ip addr replace {mine.ipv6}/64 dev eth0 nodad; ip route replace {theirs.ipv4}/32 dev eth0; "
        f"ip route replace {theirs.ipv6}/128 dev eth0"
    )
    world.forget_neighbours()
