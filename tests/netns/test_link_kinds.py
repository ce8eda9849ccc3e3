"""What else may be done with a governed interface, and what then holds for its packets, kind by kind.

The kinds that this kernel lacks (VRF, bond, VLAN, ipvlan, ipvtap) run in the vm tier.

proves: A14, A15, E7
"""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from pyroute2 import IPRoute

from tests.lab import Lab
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.lab.programs import run
from tests.netns.enroll import add, add_guard, check, must
from tests.netns.linkworld import DENY, OPEN, PORT, LinkWorld

TC = {
    "ingress": ("ingress", "ffff:"),
    "clsact": ("clsact", "ffff:fff2"),
}


@pytest.fixture
def world(backend: str) -> Iterator[LinkWorld]:
    with Lab() as lab:
        made = LinkWorld(lab, lab.daemon(backend=backend))
        assert made.wrong(True) == []
        yield made


def governed(world: LinkWorld) -> LinkWorld:
    must(add(world.daemon, world.governed))
    world.enforce(DENY)
    assert world.wrong(False) == []
    return world


@pytest.mark.parametrize("kind", ["macvlan mode bridge", "macvlan mode private"])
def test_a_device_on_it_is_governed_with_it(world: LinkWorld, kind: str) -> None:
    """Its packets pass the interface below the packet filter: they are judged by the same policies."""
    world.run(f"ip link add over0 link eth0 type {kind}")
    world.move_addresses("eth0", "over0")
    assert world.wrong(True) == []
    must(add(world.daemon, world.governed))
    world.enforce(DENY)
    assert world.wrong(False) == []
    world.enforce(OPEN)
    assert world.wrong(True) == []
    must(check(world.daemon, world.governed))
    assert world.state()["state"] == "applied"


def test_a_device_that_is_stacked_on_it_later(world: LinkWorld) -> None:
    governed(world)
    world.run("ip link add over0 link eth0 type macvlan mode bridge")
    world.move_addresses("eth0", "over0")
    found = world.swept(lambda now: bool(now["carriers"]))
    assert (found["state"], found["carriers"]) == ("applied", ["over0"])
    assert world.wrong(False) == []
    world.enforce(OPEN)
    assert world.wrong(True) == []
    world.enforce(DENY)
    world.run("ip link del over0")
    world.run("ip addr add {} dev eth0; ip addr add {} dev eth0 nodad".format(*world.governed.addresses))
    world.forget_neighbours()
    world.swept(lambda now: not now["carriers"])
    assert world.wrong(False) == []
    world.enforce(OPEN)
    assert world.wrong(True) == []


def test_a_bridge_port_is_refused(world: LinkWorld) -> None:
    world.run("ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0")
    reply = add(world.daemon, world.governed)
    assert reply["ok"] is False
    assert "port of the bridge br0" in reply["msg"]
    assert reply["details"]
    assert world.daemon.ctl("attachments") == []


def test_a_port_of_a_bridge_later(world: LinkWorld) -> None:
    """KubeVirt's `bridge` binding: the guest's frames pass no packet filter; what is isolated is closed."""
    governed(world)
    guest = world.guest()
    world.enforce(OPEN)
    world.run("ip link add br0 type bridge; ip link set br0 up; ip link set vm0 master br0")
    world.run("ip link set eth0 master br0")
    world.move_addresses("eth0", "br0")
    # Nothing is isolated, so nothing is closed: the control of what follows.
    assert world.swept(lambda now: bool(now["error"]))["state"] == "applied"
    assert world.wrong(True, guest) == []
    assert world.wrong(True) == []
    world.enforce(DENY)
    world.assert_not_enforced("eth0 is a port of the bridge br0")
    assert world.wrong(False, guest) == []
    assert world.wrong(False) == []
    world.enforce(OPEN)
    assert world.wrong(True, guest) == []
    world.enforce(DENY)
    world.run("ip link set eth0 nomaster")
    world.move_addresses("br0", "eth0")
    world.swept(lambda now: now["state"] == "applied" and not now["error"])
    assert world.wrong(False) == []
    must(check(world.daemon, world.governed))
    world.enforce(OPEN)
    assert world.wrong(True) == []


def test_closed_again_by_the_next_daemon(world: LinkWorld) -> None:
    """A restart finds it closed and leaves it so; somebody who opens it is found by the next look."""
    governed(world)
    guest = world.guest()
    world.run("ip link add br0 type bridge; ip link set br0 up; ip link set vm0 master br0")
    world.run("ip link set eth0 master br0")
    world.assert_not_enforced("port of the bridge br0")
    assert world.wrong(False, guest) == []
    world.daemon.stop()
    assert world.wrong(False, guest) == []
    world.daemon.start()
    world.daemon.wait_synced()
    world.assert_not_enforced("port of the bridge br0")
    assert world.wrong(False, guest) == []
    world.run("nft delete table netdev multi-networkpolicy")
    world.swept(lambda now: world.wrong(False, guest) == [])
    world.run("ip link set eth0 name nic0")
    world.swept(lambda now: "nic0" in now["error"])
    world.swept(lambda now: world.wrong(False, guest) == [])
    world.run("ip link del br0")
    poll(lambda: "netdev" in listing(world), lambda there: not there)


OURS = "netdev multi-networkpolicy"
HANGS = "type filter hook ingress device eth0 priority -500; policy accept;"
OPENINGS = {
    "a rule before": [f"insert rule {OURS} ingress-eth0 accept", f"insert rule {OURS} egress-eth0 accept"],
    "a rule in its place": [f"flush chain {OURS} ingress-eth0", f"add rule {OURS} ingress-eth0 accept"],
    "a policy": [f"flush table {OURS}", f"add chain {OURS} ingress-eth0 {{ {HANGS} }}"],
    "a table that sleeps": [f"add table {OURS} {{ flags dormant; }}"],
}


@pytest.mark.parametrize("how", OPENINGS)
def test_what_is_closed_is_closed_again(world: LinkWorld, how: str) -> None:
    """Among 2,000 chains of others, of which no one is read."""
    governed(world)
    guest = world.guest()
    world.run("ip link add br0 type bridge; ip link set br0 up; ip link set vm0 master br0")
    world.run("ip link set eth0 master br0")
    world.assert_not_enforced("port of the bridge br0")
    chains = "".join(f"add chain netdev others c{n}\n" for n in range(2000))
    with inside(world.pod.netns):
        run("nft", "-f", "-", text="add table netdev others\n" + chains)
        for command in OPENINGS[how]:
            run("nft", command)
    world.swept(lambda now: world.wrong(False, guest) == [])


def listing(world: LinkWorld) -> str:
    with inside(world.pod.netns):
        return run("nft", "list", "ruleset")


def test_a_port_on_it(world: LinkWorld) -> None:
    """One floor up: only the device on it is closed, and the interface itself is governed as before."""
    governed(world)
    guest = world.guest()
    world.enforce(OPEN)
    world.run(
        "ip link add over0 link eth0 type macvlan mode passthru; ip link add br0 type bridge; "
        "for name in br0 over0; do ip link set $name up; done; "
        "for port in vm0 over0; do ip link set $port master br0; done"
    )
    assert world.wrong(True, guest) == []
    world.enforce({**DENY, "ingress": [{"ports": [{"port": PORT}]}], "egress": []})
    world.assert_not_enforced("over0, which stands on eth0, is a port of the bridge br0")
    assert world.wrong(False, guest) == []
    world.run("ip link del over0")
    world.swept(lambda now: now["state"] == "applied")
    target = world.targets([world.governed.ipv4, world.governed.ipv6])
    expected = {one: one.protocol == "tcp" for one in target}
    assert world.client.pod.prober.mismatches(expected) == []


def test_macvtap_is_refused(world: LinkWorld) -> None:
    """The guest's frames leave and come in by a file descriptor."""
    pod = world.lab.pod("machine")
    network = world.lab.networks["net1"]
    with pod.netns.open("rb") as target, inside(world.lab.node), IPRoute() as links:
        links.link(
            "add",
            ifname="net1",
            kind="macvtap",
            macvtap_mode="bridge",
            link=network.parent,
            net_ns_fd=target.fileno(),
        )
    reply = add(world.daemon, replace(world.governed, pod=pod, ifname="net1"), args={})
    assert reply["ok"] is False
    assert "macvtap" in reply["msg"]
    assert "macvlan" in reply["details"]


@pytest.mark.parametrize("kind", TC)
def test_redirected_frames(world: LinkWorld, kind: str) -> None:
    """Kata Containers' `tcfilter` model: frames go between the interface and a guest's tap by tc."""
    governed(world)
    guest = world.guest()
    with inside(guest.netns), IPRoute() as links:
        (index,) = links.link_lookup(ifname="guest0")
        links.link("set", index=index, address=world.governed.mac)
    qdisc, parent = TC[kind]
    for one, other in (("eth0", "vm0"), ("vm0", "eth0")):
        world.run(
            f"tc qdisc add dev {one} {qdisc}; tc filter add dev {one} parent {parent} protocol all "
            f"u32 match u32 0 0 action mirred egress redirect dev {other}"
        )
    assert world.wrong(True, guest) == []
    world.assert_not_enforced("eth0", "redirects", "vm0")
    world.run(f"tc qdisc del dev eth0 {qdisc}; tc qdisc del dev vm0 {qdisc}")
    world.swept(lambda now: now["state"] == "applied")
    assert world.wrong(False) == []


def test_redirected_frames_are_refused(world: LinkWorld) -> None:
    world.guest()
    world.run("tc qdisc add dev eth0 clsact")
    must(add(world.daemon, world.governed))
    world.run(
        "tc filter add dev eth0 ingress protocol ip u32 match u32 0 0 action mirred egress mirror dev vm0"
    )
    assert "mirrors" in check(world.daemon, world.governed)["msg"]
    assert add(world.daemon, world.governed)["ok"] is False


def test_a_tunnel_over_it(world: LinkWorld) -> None:
    """Its outer packets are judged like others; what is inside is nobody's business."""
    inner = ("10.88.0.1", "10.88.0.2")
    for run_there, own, other, place in (
        (world.run, world.governed, world.client, inner[0]),
        (world.run_at_client, world.client, world.governed, inner[1]),
    ):
        run_there(
            f"ip link add tunnel0 type vxlan id 5 dstport 4789 remote {other.ipv4} dev {own.ifname}; "
            f"ip addr add {place}/24 dev tunnel0; ip link set tunnel0 up"
        )
    must(add(world.daemon, world.governed))
    assert world.between([inner[0]], [inner[1]], True, world.pod) == []
    world.enforce(DENY)
    assert world.between([inner[0]], [inner[1]], False, world.pod) == []
    must(check(world.daemon, world.governed))
    tunnels = [{"protocol": "UDP", "port": 4789}]
    world.enforce({**DENY, "ingress": [{"ports": tunnels}], "egress": [{"ports": tunnels}]})
    assert world.between([inner[0]], [inner[1]], True, world.pod) == []
    assert world.wrong(False) == []


def test_frames_by_way_of_ifb_come_back(world: LinkWorld) -> None:
    """What shapers of incoming traffic do: the frames pass the interface once more, and its rules."""
    world.run(
        "ip link add ifb0 type ifb; ip link set ifb0 up; tc qdisc add dev eth0 clsact; "
        "tc filter add dev eth0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0"
    )
    assert world.wrong(True) == []
    governed(world)
    must(check(world.daemon, world.governed))
    world.enforce(OPEN)
    assert world.wrong(True) == []


def test_an_xdp_program(world: LinkWorld) -> None:
    """It may send frames anywhere before a packet filter has seen them, and nobody can tell."""
    governed(world)
    world.attach_xdp()
    world.assert_not_enforced("eth0", "XDP")
    assert add(world.daemon, replace(world.governed), trackConnections=False)["ok"] is False
    world.run("ip link set dev eth0 xdp off")
    world.swept(lambda now: now["state"] == "applied")
    must(check(world.daemon, world.governed))


def test_a_device_with_policies_of_its_own(world: LinkWorld) -> None:
    """A net-attach-def whose master is an interface of the pod (`linkInContainer`): A5 holds for both."""
    # Else eth0 answers for addresses that over0 has, and packets for these come in by eth0.
    world.run(
        "sysctl -qw net.ipv4.conf.all.arp_ignore=1; ip link add over0 link eth0 type macvlan mode bridge"
    )
    world.move_addresses("eth0", "over0")
    must(add(world.daemon, world.governed))
    world.enforce(DENY)
    assert world.wrong(False) == []
    over = replace(world.governed, ifname="over0")
    must(add(world.daemon, over, network="default/other"))
    world.swept(lambda now: now["carriers"] == [])
    assert world.wrong(True) == []


def test_with_the_guard(world: LinkWorld) -> None:
    """It is there before any of that can be known, and is no way round: the last ADD is refused."""
    must(add_guard(world.daemon, world.pod, "eth0"))
    assert world.wrong(False) == []
    world.run("ip link add br0 type bridge; ip link set br0 up; ip link set eth0 master br0")
    assert add(world.daemon, world.governed)["ok"] is False
    world.run("ip link set eth0 nomaster")
    must(add(world.daemon, world.governed))
    world.forget_neighbours()
    assert world.wrong(True) == []


def test_among_many_links(world: LinkWorld) -> None:
    """What a pod hides among more links than are looked at counts as passing by."""
    governed(world)
    world.run("for n in $(seq 200); do echo link add name m$n type veth peer name n$n; done | ip -batch -")
    world.assert_not_enforced("eth0 has more devices on it, or beside it")
    world.run("for n in $(seq 200); do echo link del m$n; done | ip -batch -")
    world.swept(lambda now: now["state"] == "applied")
    must(check(world.daemon, world.governed))


def test_a_sibling_is_told(world: LinkWorld) -> None:
    """E7: asking for a macvlan on a macvlan makes one beside it, which is no part of it."""
    must(add(world.daemon, world.client))
    world.run_at_client("ip link add over0 link net1 type macvlan mode bridge")
    wanted = f"{world.client.pod.namespace}/{world.client.pod.name}"

    def notes() -> list[str]:
        (found,) = world.daemon.ctl("attachments", wanted)
        assert (found["state"], found["error"], found["carriers"]) == ("applied", "", [])
        return list(found["notes"])

    (note,) = poll(notes, bool, 15.0)
    assert note.startswith("over0: on the same master as net1")
    world.run_at_client("ip link del over0")
    poll(notes, lambda now: not now, 15.0)
