"""The guard under floods: from before the device exists until the real ADD, not one packet gets in or out.

proves: E5, B2
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Attachment, Daemon, Lab, Pod, Target, objects
from tests.lab.polling import poll
from tests.netns.enroll import add, add_guard, must
from tests.netns.siege import FLOOD_PORT, RATE, SynFlood, kernel_counts

MAC = "02:00:00:00:07:07"
ADDRESSES = ("10.1.7.7/16", "fd00:1::7:7/64")
IPV4, IPV6 = (address.split("/")[0] for address in ADDRESSES)
# What came in past the hooks, by the kernel's counters. InEchos by type, for ICMPv6's total has discovery.
ARRIVALS = ("TcpInSegs", "UdpInDatagrams", "UdpNoPorts", "Udp6InDatagrams", "Udp6NoPorts", "IcmpInEchos")
ARRIVALS6 = "Icmp6InEchos"
FLOODS = (("udp", IPV4), ("udp", IPV6), ("icmp", IPV4), ("icmp", IPV6))
ENOUGH = 300  # packets of each flood


class Window:
    """A pod whose interface does not exist yet, and a host outside that floods it all the time."""

    def __init__(self, lab: Lab, backend: str) -> None:
        self.lab = lab
        self.daemon: Daemon = lab.daemon(backend=backend)
        self.pod: Pod = lab.pod("server")
        self.outside: Attachment = lab.outside("net1", ("10.1.9.9/16", "fd00:1::9:9/64"))
        self.daemon.apply("network", objects.network("net1"))
        self.daemon.apply("server", objects.pod("server", networks="net1"))
        self.daemon.wait_synced()
        self.pod.prober.count(FLOOD_PORT)
        self.outside.pod.prober.count(FLOOD_PORT)
        for protocol, address in FLOODS:
            self.outside.pod.set_neighbour("eth0", address, MAC)
            self.outside.pod.prober.flood(f"{protocol} {address}", address, FLOOD_PORT, RATE / 2, protocol)
        # As frames, so that these SYNs need no device of the pod's either.
        target = Attachment(self.pod, lab.networks["net1"], "net1", 0, MAC, ADDRESSES)
        self.syns = SynFlood(self.outside, target)

    def attach(self) -> Attachment:
        """Create the device, and let the pod itself send at once."""
        made = self.lab.attach(self.pod, addresses=ADDRESSES, mac=MAC)
        for address in (self.outside.ipv4, self.outside.ipv6):
            self.pod.set_neighbour("net1", address, self.outside.mac)
            self.pod.prober.flood(f"out {address}", address, FLOOD_PORT, RATE / 2)
        return made

    def arrived(self) -> dict[str, int]:
        """What the pod's stack took in, and what of the pod's own arrived outside."""
        counts = kernel_counts(self.pod)
        found = {name: counts.get(name, 0) for name in (*ARRIVALS, ARRIVALS6)}
        reached = self.outside.pod.prober.counted(FLOOD_PORT)
        return found | {
            f"out {address}": reached.get(address, {}).get("count", 0) for address in (IPV4, IPV6)
        }

    def replies(self) -> int:
        """Echo replies that came back to the host outside."""
        floods = [f"{protocol} {address}" for protocol, address in FLOODS]
        return sum(int(self.outside.pod.prober.flooded(name)["replies"]) for name in floods)

    def keep_on(self) -> None:
        """Wait until each flood has sent some more."""
        names = [(self.outside.pod.prober, f"{protocol} {address}") for protocol, address in FLOODS]

        def sent() -> list[int]:
            return [int(prober.flooded(name)["sent"]) for prober, name in names] + [self.syns.sent]

        start = sent()
        poll(sent, lambda now: all(n >= before + ENOUGH for n, before in zip(now, start, strict=True)))

    def wait_for_all(self) -> None:
        """Each kind of packet arrives, so each flood works: the positive control."""
        before = self.arrived()
        # Counters bind before the floods, so no UDP packet finds no port.
        wanted = [name for name in before if not name.endswith("NoPorts")]
        poll(self.arrived, lambda now: all(now[name] > before[name] for name in wanted))
        poll(self.replies, bool)


NOTHING = dict.fromkeys((*ARRIVALS, ARRIVALS6, f"out {IPV4}", f"out {IPV6}"), 0)
DENY = objects.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}, networks="net1")


@pytest.fixture
def window(lab: Lab, backend: str) -> Iterator[Window]:
    made = Window(lab, backend)
    try:
        yield made
    finally:
        made.syns.end()


def test_without_a_guard_packets_get_in_before_the_add(window: Window) -> None:
    """The contrast, and the positive control: the window is there, and the floods find it.

    Floods that got in are connections by then, so it is new ones that the ADD's rules are tried with.
    """
    window.daemon.apply("policy", DENY)
    window.daemon.wait_synced()
    attachment = window.attach()
    window.wait_for_all()
    must(add(window.daemon, attachment))
    window.keep_on()
    closed = window.arrived()
    targets = [Target(protocol, address, FLOOD_PORT) for protocol, address in FLOODS]
    assert window.outside.pod.prober.mismatches(dict.fromkeys(targets, False)) == []
    window.keep_on()
    assert window.arrived()["TcpInSegs"] == closed["TcpInSegs"]


def test_with_the_guard_none_gets_in_until_the_add_and_then_as_policies_say(window: Window) -> None:
    window.daemon.apply("policy", DENY)
    window.daemon.wait_synced()
    must(add_guard(window.daemon, window.pod, "net1"))
    attachment = window.attach()
    window.keep_on()
    assert window.arrived() == NOTHING
    must(add(window.daemon, attachment))
    window.keep_on()
    assert window.arrived() == NOTHING
    assert window.replies() == 0
    window.daemon.remove("policy")
    window.daemon.wait_synced()
    window.wait_for_all()


def test_the_guard_holds_without_any_policy(window: Window) -> None:
    must(add_guard(window.daemon, window.pod, "net1"))
    attachment = window.attach()
    window.keep_on()
    assert window.arrived() == NOTHING
    must(add(window.daemon, attachment))
    window.wait_for_all()


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_guard_outlives_the_daemon(window: Window, how: str) -> None:
    window.daemon.apply("policy", DENY)
    window.daemon.wait_synced()
    must(add_guard(window.daemon, window.pod, "net1"))
    getattr(window.daemon, how)()
    attachment = window.attach()
    window.keep_on()
    window.daemon.start()
    window.keep_on()
    assert window.arrived() == NOTHING
    must(add(window.daemon, attachment))
    window.keep_on()
    assert window.arrived() == NOTHING
    window.daemon.remove("policy")
    window.daemon.wait_synced()
    window.wait_for_all()


def test_a_failed_add_leaves_the_guard(window: Window) -> None:
    """Multus calls DEL after a failed ADD; until then the device that exists stays shut."""
    must(add_guard(window.daemon, window.pod, "net1"))
    attachment = window.attach()
    window.daemon.remove("server")
    window.daemon.wait_synced()
    reply = add(window.daemon, attachment, timeout=3)
    assert reply["ok"] is False
    window.keep_on()
    assert window.arrived() == NOTHING
    window.daemon.apply("server", objects.pod("server", networks="net1"))
    window.daemon.wait_synced()
    must(add(window.daemon, attachment))
    window.wait_for_all()


def test_edits_meanwhile_open_nothing(window: Window) -> None:
    """A policy that allows everything concerns the attachment from its ADD on only."""
    anyone: dict[str, Any] = {"podSelector": {}, "ingress": [{}], "egress": [{}]}
    must(add_guard(window.daemon, window.pod, "net1"))
    attachment = window.attach()
    for _ in range(5):
        window.daemon.apply("policy", objects.policy("all", anyone, networks="net1"))
        window.daemon.wait_synced()
        window.daemon.remove("policy")
        window.daemon.wait_synced()
    window.keep_on()
    assert window.arrived() == NOTHING
    must(add(window.daemon, attachment))
    window.wait_for_all()
