"""What real packets meet in what each backend programs: each part of a chain, both families.

Every case starts with a positive control: the same probes, all open, while the server is enrolled and
ungoverned.
"""

import socket
from dataclasses import dataclass

import pytest

from daemon import netns
from daemon.backends.base import Backend
from daemon.desired import make_program
from daemon.model import Span
from daemon.planner import EMPTY, Program, denied_gate, make_plan
from daemon.policy.ruleset import (
    OPEN,
    BlockSet,
    EndpointSet,
    Match,
    Members,
    PeerRef,
    Ports,
    Ruleset,
)
from tests.lab import Attachment, Lab, Target, frames
from tests.lab.polling import poll
from tests.netns.governed import Governed
from tests.unit.backends.walk import NETWORKS, pods

TCP, UDP = 6, 17
FRIENDS = pods("friend")
WEB = EndpointSet(NETWORKS, None, ((TCP, "web"), (UDP, "dns")))
PORTS = (53, 80, 443, 5005)
FAMILIES = ["ipv4", "ipv6"]


@dataclass
class World:
    """A governed server, a friend that rules name, and a stranger."""

    server: Attachment
    friend: Attachment
    stranger: Attachment
    governed: Governed

    def targets(self, family: str) -> dict[str, Target]:
        address = getattr(self.server, family)
        some = {f"{p}{port}": Target(p, address, port) for port in PORTS for p in ("tcp", "udp")}
        return {**some, "icmp": Target("icmp", address)}

    def reach(self, who: Attachment, family: str, open_: str) -> list[str]:
        """Probe all; `open_`: the names of those that shall be open."""
        named = open_.split()
        return who.pod.prober.mismatches({t: name in named for name, t in self.targets(family).items()})


ALL = " ".join(f"{p}{port}" for port in PORTS for p in ("tcp", "udp")) + " icmp"
ALL_TCP = " ".join(f"tcp{port}" for port in PORTS)
ALL_UDP = " ".join(f"udp{port}" for port in PORTS)


def addresses(*attachments: Attachment) -> Members:
    return Members(
        frozenset(socket.inet_pton(socket.AF_INET, a.ipv4) for a in attachments),
        frozenset(socket.inet_pton(socket.AF_INET6, a.ipv6) for a in attachments),
    )


def number(attachment: Attachment, family: str) -> int:
    kind = socket.AF_INET if family == "ipv4" else socket.AF_INET6
    return int.from_bytes(socket.inet_pton(kind, getattr(attachment, family)), "big")


def span_of(attachment: Attachment, family: str, more: int = 0) -> tuple[Span, ...]:
    first = number(attachment, family)
    return ((first, first + more),)


@pytest.fixture
def world(lab: Lab, packet_filter: Backend) -> World:
    friend, stranger, server = (lab.attach(lab.pod(name)) for name in ("friend", "stranger", "server"))
    server.pod.prober.serve(*PORTS)
    governed = Governed(packet_filter, server)
    governed.program(OPEN)
    made = World(server, friend, stranger, governed)
    for who in (friend, stranger):
        for family in FAMILIES:
            assert made.reach(who, family, ALL) == []
    return made


def allow(peer: PeerRef | None, ports: Ports | None) -> Ruleset:
    return Ruleset((Match(peer, ports, ("default/p ingress[0]",)),), None)


MANY = ((TCP, (80, 80)), (TCP, (443, 443)), (TCP, (5000, 5010)))
MIXED = ((TCP, (80, 80)), (TCP, (443, 443)), (UDP, (53, 53)))
RANGES = ((TCP, (1, 100)), (UDP, (5000, 5010)))

CASES = [
    ("nothing", Ruleset((), None), "", ""),
    ("denied", None, "", ""),
    ("peer and port", allow(FRIENDS, ((TCP, (80, 80)),)), "tcp80", ""),
    ("peer", allow(FRIENDS, None), ALL, ""),
    ("anyone", allow(None, None), ALL, ALL),
    ("anyone, one port", allow(None, ((UDP, (53, 53)),)), "udp53", "udp53"),
    ("ports and a range", allow(FRIENDS, MANY), "tcp80 tcp443 tcp5005", ""),
    ("several protocols", allow(FRIENDS, MIXED), "tcp80 tcp443 udp53", ""),
    ("ranges of several protocols", allow(FRIENDS, RANGES), "tcp53 tcp80 udp5005", ""),
    ("whole protocol", allow(FRIENDS, ((TCP, None),)), ALL_TCP, ""),
    (
        "whole protocols",
        allow(None, ((TCP, None), (UDP, None))),
        f"{ALL_TCP} {ALL_UDP}",
        f"{ALL_TCP} {ALL_UDP}",
    ),
    ("whole and port", allow(FRIENDS, ((TCP, None), (UDP, (53, 53)))), f"{ALL_TCP} udp53", ""),
    ("only going out", Ruleset(None, ()), ALL, ALL),
    ("everything coming in", Ruleset((Match(None, None, ("p",)),), ()), ALL, ALL),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_verdicts(world: World, family: str, case: tuple[str, Ruleset | None, str, str]) -> None:
    """B2, B4, C1, C4, D1, D2, D3, D5, E1: replies pass whatever the other direction is."""
    _, ruleset, friend, stranger = case
    world.governed.program(ruleset, held=addresses(world.friend))
    assert world.reach(world.friend, family, friend) == []
    assert world.reach(world.stranger, family, stranger) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks(world: World, family: str) -> None:
    """C6, C9: a single address and a span, in one family only."""
    other = "ipv6" if family == "ipv4" else "ipv4"
    for more in (0, 0x100):
        # Addresses follow each other in the lab: friend, stranger, server.
        first = span_of(world.friend, family, 0 if more == 0 else 1)
        far = (first[0][1] + 1000, first[0][1] + 1000 + more)
        spans = (*first, far)
        blocks = BlockSet(spans, ()) if family == "ipv4" else BlockSet((), spans)
        world.governed.program(allow(blocks, ((TCP, (80, 80)),)))
        assert world.reach(world.friend, family, "tcp80") == []
        assert world.reach(world.stranger, family, "" if more == 0 else "tcp80") == []
        assert world.reach(world.friend, other, "") == []


def test_all_addresses(world: World) -> None:
    """C6: 0.0.0.0/0 and ::/0 are legal, and end with the last address."""
    world.governed.program(allow(BlockSet(((0, 2**32 - 1),), ((0, 2**128 - 1),)), None))
    for family in FAMILIES:
        assert world.reach(world.stranger, family, ALL) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_endpoints_are_the_receivers(world: World, family: str) -> None:
    """D4: address, protocol and port at once, on the way out of the friend."""
    friend = Governed(world.governed.backend, world.friend)
    member = {(socket.inet_pton(socket.AF_INET, world.server.ipv4), TCP, 80)}
    member6 = {(socket.inet_pton(socket.AF_INET6, world.server.ipv6), UDP, 53)}
    ruleset = Ruleset(None, (Match(WEB, None, ("default/p egress[0]",)),))
    friend.program(ruleset, held=Members(frozenset(member), frozenset(member6)))
    assert world.reach(world.friend, family, "tcp80" if family == "ipv4" else "udp53") == []
    world.friend.pod.prober.serve(80)
    back = Target("tcp", getattr(world.friend, family), 80)
    assert world.server.pod.prober.mismatches({back: True}) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_first_packets_need_discovery(lab: Lab, packet_filter: Backend, family: str) -> None:
    """E3: both are governed before they ever met, so their first packets ask for each other's address."""
    server, friend = (lab.attach(lab.pod(name)) for name in ("server", "friend"))
    server.pod.prober.serve(80)
    Governed(packet_filter, server).program(allow(FRIENDS, ((TCP, (80, 80)),)), held=addresses(friend))
    Governed(packet_filter, friend).program(
        Ruleset((), (Match(FRIENDS, ((TCP, (80, 80)),), ("p",)),)), held=addresses(server)
    )
    target = Target("tcp", getattr(server, family), 80)
    assert friend.pod.prober.mismatches({target: True}) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_outlive_a_stricter_program(world: World, family: str) -> None:
    """E1: tracked since before the policy; a guard does not even let those through."""
    prober = world.friend.pod.prober
    assert prober.hold("c", getattr(world.server, family), 80) == "open"
    world.governed.program(Ruleset((), ()))
    assert prober.exchange("c") == "open"
    assert world.reach(world.friend, family, "") == []
    world.governed.program(None)
    assert prober.exchange("c", timeout=0.3) == "timeout"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "ruleset",
    [allow(None, None), Ruleset(None, ()), Ruleset((Match(None, None, ("p",)),), ())],
    ids=["ingress isolated", "egress isolated", "both"],
)
def test_midstream_tcp_is_dropped(world: World, family: str, ruleset: Ruleset) -> None:
    """E2: new without being a bare SYN, where a direction is isolated, whatever the rules permit."""
    world.governed.program(ruleset)
    before = world.governed.dropped()
    start, end = getattr(world.stranger, family), getattr(world.server, family)
    for flags, dropped in ((frames.SYN, 0), (frames.ACK, 1), (frames.ACK | frames.PSH, 2)):
        segment = frames.tcp(40_000 + flags, 80, flags, payload=b"x")
        frame = frames.frame(world.stranger.mac, world.server.mac, start, end, frames.TCP, segment)
        world.stranger.pod.prober.send_frames("net1", frame)
        assert world.governed.drops(before + dropped) == before + dropped


def test_own_address_as_source_is_dropped(world: World) -> None:
    """C10. (The kernel's own check of IPv4 sources comes after ours.)"""
    world.governed.program(allow(None, None))
    for family in FAMILIES:
        target, other = getattr(world.server, family), getattr(world.stranger, family)
        before = world.governed.dropped()
        for source, dropped in ((other, 0), (target, 1)):
            packet = frames.udp(40_000, 53, b"x")
            frame = frames.frame(world.stranger.mac, world.server.mac, source, target, frames.UDP, packet)
            world.stranger.pod.prober.send_frames("net1", frame)
            assert world.governed.drops(before + dropped) == before + dropped
        own = Target("tcp", target, 80)
        assert world.server.pod.prober.mismatches({own: True}) == []


def test_drops_are_counted_over_changes(world: World) -> None:
    world.governed.program(Ruleset((), None))
    assert world.reach(world.friend, "ipv4", "") == []
    counted = world.governed.dropped()
    assert counted > 0
    world.governed.program(allow(FRIENDS, None))
    world.governed.actual = None
    world.governed.program(Ruleset((), None))
    assert world.governed.dropped() >= counted


def test_no_program_change_lets_a_denied_packet_through(world: World) -> None:
    """E5: every kind of change, over and over, under a flood that no rule ever permits."""
    port = 7000
    anyone = (Match(None, ((TCP, (80, 80)),), ("p",)),)
    world.server.pod.prober.count(port)
    prober = world.friend.pod.prober
    for name, address in (("v4", world.server.ipv4), ("v6", world.server.ipv6)):
        prober.flood(name, address, port, rate=20_000)
    reached = poll(lambda: world.server.pod.prober.counted(port), lambda found: len(found) == 2)
    assert all(found["count"] for found in reached.values())

    def guarded() -> Program:
        return make_program([denied_gate("net1", None, "c0ffee net1")], lambda _: Members(), True)

    world.governed.program(None)
    before = world.server.pod.prober.counted(port)
    for step in range(150):
        world.governed.program(Ruleset(anyone, None), held=addresses(world.friend))
        world.governed.program(allow(FRIENDS, ((TCP, (80, 80)),)), held=addresses(world.stranger))
        world.governed.program(allow(FRIENDS, ((TCP, (80, 80)),)), held=addresses(world.friend))
        world.governed.apply(guarded())
        if step % 3 == 0:
            world.governed.actual = None
        world.governed.program(Ruleset((), ()))
    assert world.server.pod.prober.counted(port) == before
    for name in ("v4", "v6"):
        assert prober.flooded(name, end=True)["sent"] > 1000
    assert world.governed.dropped() > 1000


@pytest.fixture
def guarded(lab: Lab, packet_filter: Backend) -> tuple[Attachment, Attachment, Governed]:
    """A client, and a server whose device came after its guard."""
    client, pod = lab.attach(lab.pod("client")), lab.pod("server")
    with netns.entered(str(pod.netns), None):
        guard = make_program([denied_gate("net1", None, "c0ffee net1")], lambda _: Members(), True)
        packet_filter.apply(make_plan(guard, None))
    server = lab.attach(pod)
    server.pod.prober.serve(80)
    governed = Governed(packet_filter, server)
    governed.actual = guard
    return client, server, governed


@pytest.mark.parametrize("family", FAMILIES)
def test_guard_holds_from_before_the_device_exists(
    guarded: tuple[Attachment, Attachment, Governed], family: str
) -> None:
    client, server, governed = guarded
    address = getattr(server, family)
    targets = [Target("tcp", address, 80), Target("udp", address, 80), Target("icmp", address)]
    assert client.pod.prober.mismatches(dict.fromkeys(targets, False)) == []
    back = Target("icmp", getattr(client, family))
    assert server.pod.prober.mismatches({back: False}) == []
    governed.program(OPEN)
    assert client.pod.prober.mismatches(dict.fromkeys(targets, True)) == []
    assert server.pod.prober.mismatches({back: True}) == []


def test_leaving_a_program_opens(world: World) -> None:
    world.governed.program(Ruleset((), ()))
    assert world.reach(world.friend, "ipv4", "") == []
    world.governed.apply(EMPTY)
    assert world.reach(world.friend, "ipv4", ALL) == []
