"""State by real packets: replies, ICMP errors, mid-stream TCP, IPv6's essentials, own addresses.

What got through is read from the receiving kernel's own counters where no socket would tell.

proves: A6, C10, E1, E2, E3
"""

import itertools
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from tests.lab import Attachment, Lab, Target, frames, objects
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.netns.lifeworld import PORT, World
from tests.netns.siege import kernel_counts

FAMILIES = ("ipv4", "ipv6")
CLOSED_PORT = 5556
BOTH = ["Ingress", "Egress"]
DENY_BOTH: dict[str, Any] = {"policyTypes": BOTH}
ALLOW_IN: dict[str, Any] = {"policyTypes": ["Ingress"], "ingress": [{}]}
ALLOW_OUT: dict[str, Any] = {"policyTypes": ["Egress"], "egress": [{}]}
ALLOW_BOTH: dict[str, Any] = {"policyTypes": BOTH, "ingress": [{}], "egress": [{}]}
DENY_IN: dict[str, Any] = {"policyTypes": ["Ingress"]}
DENY_OUT: dict[str, Any] = {"policyTypes": ["Egress"]}

ESSENTIALS = (2, 130, 131, 132, 133, 134, 135, 136, 143)
OTHERS = (1, 3, 128, 129, 137, 139)

_IFA_F_DADFAILED = 0x08
_ports = itertools.count(20_000)  # never twice, for connection tracking remembers


@pytest.fixture(scope="module")
def node(backend: str) -> Iterator[World]:
    """One for all tests here: each leaves it without policies."""
    with Lab() as lab:
        made = World(lab, backend)
        made.enroll_all()
        yield made


@pytest.fixture
def world(node: World) -> Iterator[World]:
    yield node
    if (node.daemon.manifests / "policy.yaml").exists():
        release(node)


def role(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"role": name}}}


def enforce(world: World, spec: dict[str, Any]) -> None:
    """One policy for the server, in the place of the one before."""
    world.daemon.apply("policy", objects.policy("p", {**role("server"), **spec}, networks="net1"))
    world.daemon.wait_synced()


def release(world: World) -> None:
    world.daemon.remove("policy")
    world.daemon.wait_synced()


# --- what the kernel took --------------------------------------------------------------------------------


def arrives(target: Attachment, counter: str, send: Callable[[], object], want: bool) -> None:
    """Sending raises that counter of the target's stack, or (not wanted) does not."""
    before = kernel_counts(target.pod)
    send()
    if want:
        poll(lambda: kernel_counts(target.pod).get(counter, 0), lambda n: n > before.get(counter, 0))
        return
    # What comes in is counted before any rule sees it, so a packet that was dropped is known to have come.
    poll(lambda: _received(kernel_counts(target.pod)), lambda n: n > _received(before))
    assert kernel_counts(target.pod).get(counter, 0) == before.get(counter, 0), counter


def leaves(source: Attachment, target: Attachment, counter: str, packet: bytes, want: bool) -> None:
    """An IP packet that the source's own stack sends raises that counter of the target, or is refused."""
    if want:
        arrives(target, counter, lambda: send_out(source, packet), want=True)
        return
    before = kernel_counts(target.pod).get(counter, 0)
    with pytest.raises(PermissionError):
        send_out(source, packet)
    assert kernel_counts(target.pod).get(counter, 0) == before


def _received(counts: dict[str, int]) -> int:
    return counts["IpInReceives"] + counts["Ip6InReceives"]


def send_out(source: Attachment, packet: bytes) -> None:
    """Send a whole IP packet through the pod's output, which frames would go past."""
    six = packet[0] >> 4 == 6
    target = socket.inet_ntop(*((socket.AF_INET6, packet[24:40]) if six else (socket.AF_INET, packet[16:20])))
    with inside(source.pod.netns):
        family = socket.AF_INET6 if six else socket.AF_INET
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.sendto(packet, (target, 0))


def frame(source: Attachment, target: Attachment, family: str, protocol: int, payload: bytes) -> bytes:
    ends = getattr(source, family), getattr(target, family)
    return frames.frame(source.mac, target.mac, *ends, protocol, payload)


def packet(source: Attachment, target: Attachment, family: str, protocol: int, payload: bytes) -> bytes:
    return frame(source, target, family, protocol, payload)[14:]


def segment(flags: int) -> bytes:
    return frames.tcp(next(_ports), PORT, flags)


def icmpv6(kind: int) -> bytes:
    # Of an echo these two bytes are the identifier, by which connection tracking knows one from another.
    return bytes([kind, 0, 0, 0]) + next(_ports).to_bytes(2, "big") + bytes(22)


# --- connections -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_outlive_edits_that_still_allow_them(world: World, family: str) -> None:
    """E1, E2: opened before the first policy, and under policies that are replaced by others."""
    server, prober = world.server, world.attachments["a"].pod.prober
    assert prober.hold("old", getattr(server, family), PORT) == "open"
    enforce(world, {"policyTypes": BOTH, "ingress": [{"from": [role("a")]}]})
    assert prober.exchange("old") == "open"
    assert prober.hold("new", getattr(server, family), PORT) == "open"
    length = {"ipv4": 32, "ipv6": 128}[family]
    block = [{"ipBlock": {"cidr": f"{getattr(world.attachments['a'], family)}/{length}"}}]
    specs: list[dict[str, Any]] = [
        {"ingress": [{"from": block, "ports": [{"port": PORT}]}]},
        {"policyTypes": BOTH, "ingress": [{"ports": [{"port": PORT, "endPort": PORT + 9}]}]},
        {"ingress": [{}]},
        {"policyTypes": ["Ingress"], "ingress": [{"from": [role("a")]}]},
    ]
    for spec in specs:
        enforce(world, spec)
        assert [prober.exchange(name) for name in ("old", "new")] == ["open", "open"]
        assert server.pod.prober.push(PORT) >= 2
        assert [prober.receive(name, 4) for name in ("old", "new")] == ["open", "open"]
    for name in ("old", "new"):
        prober.release(name)


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_pass_a_direction_that_denies_all(world: World, family: str) -> None:
    """E1: the server asks and is answered while nothing new may come in."""
    friend = world.attachments["a"]
    friend.pod.prober.serve(PORT)
    enforce(world, DENY_IN)
    wanted = {Target(protocol, getattr(friend, family), PORT): True for protocol in ("tcp", "udp", "icmp")}
    assert world.server.pod.prober.mismatches(wanted) == []
    world.assert_blocked("a", "b")


@pytest.mark.parametrize("family", FAMILIES)
def test_icmp_errors_that_belong_to_a_connection_pass(world: World, family: str) -> None:
    """E1: nobody listens there, and the server gets to know it; an error out of nothing does not come in."""
    friend = world.attachments["a"]
    there = Target("udp", getattr(friend, family), CLOSED_PORT)
    assert world.server.pod.prober.probe(there) == ["refused"]
    enforce(world, DENY_IN)
    assert world.server.pod.prober.probe(there) == ["refused"]


@pytest.mark.parametrize("family", FAMILIES)
def test_icmp_errors_out_of_nothing_do_not(world: World, family: str) -> None:
    friend, server = world.attachments["a"], world.server
    about = packet(server, friend, family, frames.UDP, frames.udp(next(_ports), CLOSED_PORT))
    kind, protocol, counter = {
        "ipv4": (3, frames.ICMP, "IcmpInDestUnreachs"),
        "ipv6": (1, frames.ICMPV6, "Icmp6InDestUnreachs"),
    }[family]
    error = frame(friend, server, family, protocol, bytes([kind, 3, 0, 0, 0, 0, 0, 0]) + about)

    def send() -> None:
        friend.pod.prober.send_frames("net1", error)

    arrives(server, counter, send, want=True)
    enforce(world, DENY_IN)
    arrives(server, counter, send, want=False)


# --- in the middle of a stream ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_out_of_nothing_does_not_come_in(world: World, family: str) -> None:
    """E2: whatever the rules allow, and in the open direction too, where the other one is isolated."""
    friend, server = world.attachments["a"], world.server

    def sending(flags: int) -> Callable[[], None]:
        built = frame(friend, server, family, frames.TCP, segment(flags))
        return lambda: friend.pod.prober.send_frames("net1", built)

    for flags in (frames.ACK, frames.ACK | frames.PSH, frames.SYN, frames.RST):
        arrives(server, "TcpInSegs", sending(flags), want=True)
    for spec in (ALLOW_IN, ALLOW_OUT, ALLOW_BOTH, DENY_OUT):
        enforce(world, spec)
        for flags in (frames.ACK, frames.ACK | frames.PSH):
            arrives(server, "TcpInSegs", sending(flags), want=False)
    arrives(server, "TcpInSegs", sending(frames.SYN), want=True)
    enforce(world, DENY_IN)
    for flags in (frames.ACK, frames.ACK | frames.PSH, frames.SYN, frames.RST, frames.FIN | frames.ACK):
        arrives(server, "TcpInSegs", sending(flags), want=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_tcp_out_of_nothing_does_not_go_out(world: World, family: str) -> None:
    friend, server = world.attachments["a"], world.server

    def leaving(flags: int, want: bool) -> None:
        built = packet(server, friend, family, frames.TCP, segment(flags))
        leaves(server, friend, "TcpInSegs", built, want)

    for flags in (frames.ACK, frames.SYN, frames.RST):
        leaving(flags, want=True)
    for spec in (ALLOW_OUT, ALLOW_IN, ALLOW_BOTH, DENY_IN):
        enforce(world, spec)
        leaving(frames.ACK, want=False)
        leaving(frames.SYN, want=True)
    enforce(world, DENY_OUT)
    for flags in (frames.ACK, frames.SYN, frames.RST):
        leaving(flags, want=False)


# --- IPv6's essentials -----------------------------------------------------------------------------------


def test_icmpv6_that_always_comes_in(world: World) -> None:
    """E3: redirects (137) and echoes are not among it."""
    friend, server = world.attachments["a"], world.server

    def arrive(kind: int, want: bool) -> None:
        built = frame(friend, server, "ipv6", frames.ICMPV6, icmpv6(kind))
        arrives(server, f"Icmp6InType{kind}", lambda: friend.pod.prober.send_frames("net1", built), want)

    for kind in (*ESSENTIALS, *OTHERS):
        arrive(kind, want=True)
    enforce(world, DENY_BOTH)
    for kind in ESSENTIALS:
        arrive(kind, want=True)
    for kind in OTHERS:
        arrive(kind, want=False)


def test_icmpv6_that_always_goes_out(world: World) -> None:
    friend, server = world.attachments["a"], world.server

    def leave(kind: int, want: bool) -> None:
        built = packet(server, friend, "ipv6", frames.ICMPV6, icmpv6(kind))
        leaves(server, friend, f"Icmp6InType{kind}", built, want)

    for kind in (*ESSENTIALS, *OTHERS):
        leave(kind, want=True)
    enforce(world, DENY_BOTH)
    for kind in ESSENTIALS:
        leave(kind, want=True)
    for kind in OTHERS:
        leave(kind, want=False)


def test_discovery_works_where_all_is_denied(world: World) -> None:
    """E3: the others find the server's address by the kernel's discovery, though nothing answers there."""
    friend, server = world.attachments["a"], world.server
    enforce(world, DENY_BOTH)

    subprocess.run(["ip", "-n", friend.pod.netns.name, "neighbour", "flush", "all"], check=True)

    def known() -> dict[str, str]:
        with inside(friend.pod.netns), IPRoute() as links:
            found = [*links.get_neighbours(socket.AF_INET), *links.get_neighbours(socket.AF_INET6)]
        return {n.get_attr("NDA_DST"): n.get_attr("NDA_LLADDR") for n in found if n.get_attr("NDA_LLADDR")}

    assert {server.ipv4, server.ipv6}.isdisjoint(known())
    world.assert_blocked("a")
    assert (known()[server.ipv4], known()[server.ipv6]) == (server.mac, server.mac)


def test_duplicate_addresses_are_found_where_all_is_denied(world: World) -> None:
    """E3: the question comes from `::`, and its answer comes back."""
    friend, server = world.attachments["a"], world.server
    enforce(world, DENY_BOTH)
    with inside(server.pod.netns), IPRoute() as links:
        Path("/proc/sys/net/ipv6/conf/net1/accept_dad").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/accept_dad").write_text("1")
        links.addr("add", index=server.ifindex, address=f"{friend.ipv6}/64")

    def flags() -> int:
        with inside(server.pod.netns), IPRoute() as links:
            found = links.get_addr(index=server.ifindex, address=friend.ipv6)
            return int(found[0].get_attr("IFA_FLAGS")) if found else 0

    try:
        poll(flags, lambda now: bool(now & _IFA_F_DADFAILED))
    finally:
        with inside(server.pod.netns), IPRoute() as links:
            links.addr("del", index=server.ifindex, address=f"{friend.ipv6}/64")


# --- own addresses ---------------------------------------------------------------------------------------


def test_a_pod_reaches_itself_where_all_is_denied(world: World) -> None:
    """C10."""
    enforce(world, DENY_BOTH)
    own = (world.server.ipv4, world.server.ipv6, "127.0.0.1", "::1")
    wanted = {Target(protocol, address, PORT): True for address in own for protocol in ("tcp", "udp", "icmp")}
    assert world.server.pod.prober.mismatches(wanted) == []
    world.assert_blocked("a", "b")


@pytest.mark.parametrize("family", FAMILIES)
def test_own_address_as_source_comes_in_nowhere(world: World, family: str) -> None:
    """C10: a policy that allows everyone does not allow the pod's own addresses from outside."""
    foe, server = world.attachments["b"], world.server
    with inside(server.pod.netns):
        # The kernel's own check for IPv4 would hide whether ours works.
        Path("/proc/sys/net/ipv4/conf/all/accept_local").write_text("1")
        for name in ("all", "net1"):
            Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
    counter = {"ipv4": "UdpNoPorts", "ipv6": "Udp6NoPorts"}[family]
    address = getattr(server, family)

    def sending(source: str) -> Callable[[], None]:
        payload = frames.udp(next(_ports), CLOSED_PORT)
        built = frames.frame(foe.mac, server.mac, source, address, frames.UDP, payload)
        return lambda: foe.pod.prober.send_frames("net1", built)

    arrives(server, counter, sending(address), want=True)
    own_namespace: dict[str, Any] = {"ingress": [{"from": [{"podSelector": {}}]}]}
    for spec in (ALLOW_IN, ALLOW_BOTH, own_namespace):
        enforce(world, spec)
        arrives(server, counter, sending(getattr(foe, family)), want=True)
        arrives(server, counter, sending(address), want=False)


# --- without policies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_opened_without_a_policy_it_survives_the_first_one(world: World, family: str) -> None:
    """A6: tracking is on from the ADD, so the first policy finds the connection known, in both directions."""
    prober = world.attachments["a"].pod.prober
    assert prober.hold("c", getattr(world.server, family), PORT) == "open"
    enforce(world, {"policyTypes": BOTH, "ingress": [{"from": [role("a")]}], "egress": []})
    assert prober.exchange("c") == "open"
    release(world)
    assert prober.exchange("c") == "open"
    prober.release("c")
