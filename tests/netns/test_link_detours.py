"""Ways round an interface's rules by other devices, and what may hide them: told, and closed where possible.

proves: A14, A15
"""

from collections.abc import Iterator

import pytest

from tests.lab import Lab, longfilter
from tests.lab.namespaces import inside
from tests.netns.enroll import add, check, must
from tests.netns.linkworld import DENY, OPEN, LinkWorld

ALL = "protocol all u32 match u32 0 0"
NETDEV = (
    "nft add table netdev t; nft add chain netdev t c '{{ type filter hook {} device {} priority -510; }}'"
)


@pytest.fixture
def world(backend: str) -> Iterator[LinkWorld]:
    """An isolated interface."""
    with Lab() as lab:
        made = LinkWorld(lab, lab.daemon(backend=backend))
        assert made.wrong(True) == []
        must(add(made.daemon, made.governed))
        made.enforce(DENY)
        assert made.wrong(False) == []
        yield made


def redirect(world: LinkWorld, source: str, target: str, hook: str = "ingress", options: str = "") -> None:
    """Frames of one device, by the discipline that it has, to another one's sending side."""
    world.run(f"tc filter add dev {source} {hook} {options} {ALL} action mirred egress redirect dev {target}")


def take_the_way_of(world: LinkWorld, ifname: str) -> None:
    """What goes to the client leaves by that device, which looks like eth0 to it."""
    mine, client = world.governed, world.client
    world.run(
        f"ip link add {ifname} type veth peer name {ifname}-far; ip link set {ifname} address {mine.mac}; "
        f"ip link set {ifname} up; ip link set {ifname}-far up; tc qdisc add dev {ifname} clsact; "
        f"ip route add {client.ipv4}/32 dev {ifname} src {mine.ipv4}; "
        f"ip -6 route add {client.ipv6}/128 dev {ifname} src {mine.ipv6}; "
        f"ip neigh add {client.ipv4} lladdr {client.mac} dev {ifname}; "
        f"ip -6 neigh add {client.ipv6} lladdr {client.mac} dev {ifname}"
    )


def test_tc_sends_by_it(world: LinkWorld) -> None:
    """Another device's frames leave by it below its hooks; what comes back belonged to a connection."""
    world.enforce(OPEN)
    take_the_way_of(world, "d0")
    redirect(world, "d0", "eth0", "egress")
    assert world.wrong(True) == []
    world.enforce(DENY)
    world.assert_not_enforced("a tc filter gives frames to eth0")
    assert world.wrong(False) == []
    world.run("ip link del d0")
    world.swept(lambda now: now["state"] == "applied")
    assert world.wrong(False) == []
    world.enforce(OPEN)
    assert world.wrong(True) == []


def test_a_way_by_ifb_that_goes_on(world: LinkWorld) -> None:
    """An ifb gives frames back, unless it has a filter of its own."""
    world.guest()
    world.run("ip link add ifb0 type ifb; ip link set ifb0 up")
    world.run("for name in eth0 ifb0; do tc qdisc add dev $name clsact; done")
    redirect(world, "eth0", "ifb0")
    must(check(world.daemon, world.governed))
    redirect(world, "ifb0", "vm0", "egress")
    world.assert_not_enforced("eth0 has a tc filter", "redirects what comes in to ifb0")
    world.run("tc qdisc del dev ifb0 clsact")
    world.swept(lambda now: now["state"] == "applied")
    must(check(world.daemon, world.governed))


def test_a_redirect_of_a_device_over_it(world: LinkWorld) -> None:
    world.guest()
    world.run("ip link add over0 link eth0 type macvlan mode bridge; ip link set over0 up")
    world.run("tc qdisc add dev over0 clsact")
    world.swept(lambda now: now["carriers"] == ["over0"])
    redirect(world, "over0", "vm0")
    world.assert_not_enforced("over0, which stands on eth0, has a tc filter", "vm0")
    assert world.state()["carriers"] == ["over0"]


def test_a_redirect_behind_a_filter_that_is_too_long_to_be_listed(world: LinkWorld) -> None:
    """The kernel ends its list before the long one. By itself that one hides nothing."""
    world.guest()
    world.run("tc qdisc add dev eth0 clsact")
    with inside(world.pod.netns):
        longfilter.attach("eth0")
    must(check(world.daemon, world.governed))
    redirect(world, "eth0", "vm0", options="pref 2")
    world.assert_not_enforced("eth0 has a tc filter that may redirect what comes in, and can't be read")
    world.run("tc filter del dev eth0 ingress pref 1")
    world.swept(lambda now: "redirects what comes in to vm0" in now["error"])


def test_more_actions_than_are_read(world: LinkWorld) -> None:
    world.run(
        "ip link add d0 type veth peer name d1; for n in $(seq 3000); do "
        "echo action add action mirred egress redirect dev d1; done | tc -batch -"
    )
    world.assert_not_enforced("not all tc filters in the pod can be read")
    assert world.wrong(False) == []
    world.run("tc actions flush action mirred")
    world.swept(lambda now: now["state"] == "applied")


def test_nft_takes_what_comes_in(world: LinkWorld) -> None:
    """Chains of the netdev family come before ours, whatever ours have as priority."""
    world.guest()
    world.run(NETDEV.format("ingress", "eth0") + "; nft add rule netdev t c udp dport 1 counter drop")
    world.swept(lambda now: now["state"] == "applied")
    must(check(world.daemon, world.governed))
    world.run("nft add rule netdev t c fwd to vm0")
    world.assert_not_enforced("the nft table netdev t may forward or duplicate frames of eth0")
    world.run("nft delete table netdev t")
    world.swept(lambda now: now["state"] == "applied")
    assert world.wrong(False) == []


def test_nft_sends_by_it(world: LinkWorld) -> None:
    world.enforce(OPEN)
    take_the_way_of(world, "d0")
    world.run(NETDEV.format("egress", "d0") + "; nft add rule netdev t c fwd to eth0")
    assert world.wrong(True) == []
    world.enforce({**DENY, "ingress": [{}]})
    world.assert_not_enforced("the nft table netdev t may forward or duplicate frames to eth0")
    assert world.between([], [world.client.ipv4, world.client.ipv6], False, world.pod) == []
    world.run("nft delete table netdev t; ip link del d0")
    world.swept(lambda now: now["state"] == "applied")
