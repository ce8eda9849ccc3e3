"""Translation inside a pod, as service meshes, KubeVirt and VPNs set it up: the wire's packet is judged.

Every case starts with a positive control: the same probes through the same translation while nothing is
isolated.

proves: D6, E1, E4
"""

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from daemon.backends.base import Backend
from daemon.policy.ruleset import OPEN, EndpointSet, Match, Members, PeerRef, Ruleset
from tests.lab import Attachment, Lab, Pod, Target
from tests.lab.kernelview import IPTABLES
from tests.lab.namespaces import inside
from tests.netns.governed import Governed
from tests.unit.backends.walk import NETWORKS, pods

TCP, UDP = 6, 17
FRIENDS = pods("friend")
PROXY = 15006
SERVICE = {"ipv4": "10.99.0.1", "ipv6": "fd00:99::1"}
FAMILIES = ("ipv4", "ipv6")
HOW = ("iptables", "nft", "nft late")
_TOOLS = {"iptables-legacy": "ipv4", "ip6tables-legacy": "ipv6"}
# The kernel runs all translation at the same places, whatever priority a chain asks for.
_PRIORITIES = {"nft": "-190", "nft late": "250"}
_NFT_FAMILY = {"ipv4": "ip", "ipv6": "ip6"}


def shell(pod: Pod, lock: Path, script: str) -> None:
    """Run commands of somebody who may do everything in the pod."""
    IPTABLES.run(pod.netns, script, lock)


def both(rule: str) -> str:
    """One rule of iptables, for both families."""
    return "; ".join(f"{tool} -w {rule}" for tool in _TOOLS)


class Translator:
    """Puts translations into a pod, by one of the ways that there are."""

    def __init__(self, how: str, lock: Path) -> None:
        self._how = how
        self._lock = lock

    def redirect(self, pod: Pod, hook: str, match: str, port: int) -> None:
        """match: like "tcp dport 80"; without a port, all of the protocol."""
        self._translate(pod, hook, match, f"REDIRECT --to-ports {port}", f"redirect to :{port}")

    def forward(self, pod: Pod, hook: str, match: str, to: Attachment, port: int) -> None:
        """Send on what is for another address or port; match as above."""
        for family in FAMILIES:
            where = getattr(to, family)
            where = where if family == "ipv4" else f"[{where}]"
            command = f"DNAT --to-destination {where}:{port}"
            self._translate(pod, hook, match, command, f"dnat to {where}:{port}", (family,))

    def _translate(
        self, pod: Pod, hook: str, match: str, target: str, verdict: str, families: Iterable[str] = FAMILIES
    ) -> None:
        protocol, _, rest = match.partition(" ")
        if self._how == "iptables":
            ports = rest.replace("dport", "--dport")
            rule = f"-t nat -A {hook.upper()} -p {protocol} {ports} {self._where(hook)} -j {target}"
            script = "; ".join(f"{tool} -w {rule}" for tool, family in _TOOLS.items() if family in families)
        else:
            chain = f"{{ type nat hook {hook} priority {_PRIORITIES[self._how]}; }}"
            matched = match if rest else f"meta l4proto {protocol}"
            near = "iifname net1 " if hook == "prerouting" else ""
            script = "\n".join(
                f"nft add table {_NFT_FAMILY[f]} mesh; nft add chain {_NFT_FAMILY[f]} mesh {hook} '{chain}'; "
                f"nft add rule {_NFT_FAMILY[f]} mesh {hook} {near}{matched} '{verdict}'"
                for f in families
            )
        shell(pod, self._lock, script)

    @staticmethod
    def _where(hook: str) -> str:
        return "-i net1" if hook == "prerouting" else ""

    def run(self, pod: Pod, script: str) -> None:
        """Other commands."""
        shell(pod, self._lock, script)

    def masquerade(self, pod: Pod, ifname: str) -> None:
        """As routers and KubeVirt do."""
        self.run(pod, both(f"-t nat -A POSTROUTING -o {ifname} -j MASQUERADE"))


@pytest.fixture(params=HOW)
def translator(request: pytest.FixtureRequest, lab: Lab) -> Translator:
    return Translator(request.param, lab.folder / "xtables.lock")


@pytest.fixture
def legacy(lab: Lab) -> Translator:
    """Where it does not matter how."""
    return Translator("iptables", lab.folder / "xtables.lock")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(("net1", "net2")) as made:
        yield made


def addresses(*attachments: Attachment) -> Members:
    return Members(
        frozenset(socket.inet_pton(socket.AF_INET, a.ipv4) for a in attachments),
        frozenset(socket.inet_pton(socket.AF_INET6, a.ipv6) for a in attachments),
    )


def allow(*ports: int, peer: PeerRef | None = None) -> tuple[Match, ...]:
    """These ports by TCP and UDP."""
    spans = tuple((protocol, (port, port)) for port in ports for protocol in (TCP, UDP))
    return (Match(peer, spans, ("default/p rule[0]",)),)


def reach(source: Attachment, where: dict[str, str], ports: Iterable[int], open_: Iterable[int]) -> list[str]:
    """Dial these ports of the addresses by TCP and UDP; those of `open_` shall answer."""
    wanted = set(open_)
    targets = {
        Target(protocol, address, port): port in wanted
        for address in where.values()
        for protocol in ("tcp", "udp")
        for port in ports
    }
    return source.pod.prober.mismatches(targets)


def of(attachment: Attachment) -> dict[str, str]:
    return {family: getattr(attachment, family) for family in FAMILIES}


# --- coming in -------------------------------------------------------------------------------------------


def test_what_is_redirected_is_judged_by_the_port_that_was_dialled(
    lab: Lab, packet_filter: Backend, translator: Translator
) -> None:
    """D6: a mesh's sidecar takes whatever comes in; the policy means what the client dials."""
    friend, stranger, server = (lab.attach(lab.pod(name)) for name in ("friend", "stranger", "server"))
    server.pod.prober.serve(PROXY)
    for protocol in ("tcp", "udp"):
        translator.redirect(server.pod, "prerouting", protocol, PROXY)
    governed = Governed(packet_filter, server)
    dialled = (80, 9999, PROXY)
    governed.program(OPEN)
    for who in (friend, stranger):
        assert reach(who, of(server), dialled, open_=dialled) == []
    for port in (80, PROXY):
        governed.program(Ruleset(allow(port, peer=FRIENDS), None), held=addresses(friend))
        assert reach(friend, of(server), dialled, open_=[port]) == []
        assert reach(stranger, of(server), dialled, open_=[]) == []
    many = allow(80, *range(20_000, 20_060, 2))
    governed.program(Ruleset(many, None))
    assert reach(stranger, of(server), dialled, open_=[80]) == []


def test_connections_that_are_redirected_go_on(lab: Lab, packet_filter: Backend, legacy: Translator) -> None:
    """E1: replies and later packets pass by their connection, and an ICMP error that belongs to one too."""
    friend, server = (lab.attach(lab.pod(name)) for name in ("friend", "server"))
    server.pod.prober.serve(tcp=[PROXY])
    for protocol in ("tcp", "udp"):
        legacy.redirect(server.pod, "prerouting", protocol, PROXY)
    governed = Governed(packet_filter, server)
    governed.program(Ruleset(allow(80), ()))
    for family, address in of(server).items():
        assert friend.pod.prober.hold(family, address, 80) == "open"
        # Nobody listens for UDP there.
        assert friend.pod.prober.probe(Target("udp", address, 80, timeout=3.0)) == ["refused"]
    governed.program(Ruleset((), ()))
    for family in FAMILIES:
        assert friend.pod.prober.exchange(family) == "open"
    assert reach(friend, of(server), [80], open_=[]) == []


@pytest.mark.parametrize("ports", [(80, 8080), (80, 80)], ids=["another port", "same port"])
def test_a_machine_behind_the_pod(
    lab: Lab, packet_filter: Backend, translator: Translator, ports: tuple[int, int]
) -> None:
    """D6, E4: KubeVirt's masquerade binding. In: what was dialled; out: who is dialled."""
    dialled, inner = ports
    client, launcher, machine = (lab.pod(name) for name in ("client", "launcher", "machine"))
    outer, far = lab.attach(client), lab.attach(machine, "net2", "net2")
    near, inside_ = lab.attach(launcher), lab.attach(launcher, "net2", "net2")
    route_by(launcher, far, inside_)
    translator.forward(launcher, "prerouting", f"tcp dport {dialled}", far, inner)
    translator.forward(launcher, "prerouting", f"udp dport {dialled}", far, inner)
    translator.forward(launcher, "prerouting", "tcp dport 9999", far, inner)
    translator.forward(launcher, "prerouting", "udp dport 9999", far, inner)
    for ifname in ("net1", "net2"):
        translator.masquerade(launcher, ifname)
    machine.prober.serve(inner)
    client.prober.serve(443, 444)
    governed = Governed(packet_filter, near)
    governed.program(OPEN)
    assert reach(outer, of(near), [dialled, 9999], open_=[dialled, 9999]) == []
    assert reach(far, of(outer), [443, 444], open_=[443, 444]) == []
    client_only = addresses(outer)
    governed.program(Ruleset(allow(dialled, peer=FRIENDS), allow(443, peer=FRIENDS)), held=client_only)
    assert reach(outer, of(near), [dialled, 9999], open_=[dialled]) == []
    assert reach(far, of(outer), [443, 444], open_=[443]) == []
    governed.program(Ruleset(allow(9999), ()))
    assert reach(outer, of(near), [dialled, 9999], open_=[9999]) == []
    assert reach(far, of(outer), [443, 444], open_=[]) == []


def route_by(router: Pod, end: Attachment, side: Attachment) -> None:
    """What this end has no other way to goes by the router."""
    with inside(router.netns):
        for family in FAMILIES:
            Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
    with inside(end.pod.netns), IPRoute() as routes:
        for number, gateway in ((socket.AF_INET, side.ipv4), (socket.AF_INET6, side.ipv6)):
            routes.route("add", family=number, dst="default", gateway=gateway, oif=end.ifindex)


def test_packets_that_a_transparent_proxy_takes(lab: Lab, packet_filter: Backend, legacy: Translator) -> None:
    """D6: TPROXY leaves the packet as it is and gives it to another socket."""
    friend, server = (lab.attach(lab.pod(name)) for name in ("friend", "server"))
    taken = f"-t mangle -A PREROUTING -i net1 -p tcp -j TPROXY --on-port {PROXY} --tproxy-mark 1"
    legacy.run(server.pod, both(taken))
    local = "rule add fwmark 1 lookup 100; ip {0} route add local default dev lo table 100"
    legacy.run(server.pod, "; ".join(f"ip {f} {local.format(f)}" for f in ("-4", "-6")))
    governed = Governed(packet_filter, server)
    with transparent(server.pod, PROXY):
        for ruleset, open_ in (
            (OPEN, {80, 9999}),
            (Ruleset(allow(80), None), {80}),
            (Ruleset(allow(PROXY), None), set()),
        ):
            governed.program(ruleset)
            targets = [Target("tcp", a, port) for a in of(server).values() for port in (80, 9999)]
            wanted = {target: target.port in open_ for target in targets}
            assert friend.pod.prober.mismatches(wanted) == []


def transparent(pod: Pod, port: int) -> socket.socket:
    """A listening socket of both families that takes connections to any address."""
    with inside(pod.netns):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, 75, 1)  # IPV6_TRANSPARENT
    sock.bind(("::", port))
    sock.listen(64)
    return sock


def test_datagrams_in_pieces(lab: Lab, packet_filter: Backend, legacy: Translator) -> None:
    """Only the first piece has ports; they are put together before they are judged."""
    friend, server = (lab.attach(lab.pod(name)) for name in ("friend", "server"))
    server.pod.prober.serve(PROXY)
    legacy.redirect(server.pod, "prerouting", "udp", PROXY)
    governed = Governed(packet_filter, server)
    for ruleset, open_ in ((OPEN, True), (Ruleset(allow(80), ()), True), (Ruleset(allow(PROXY), ()), False)):
        governed.program(ruleset)
        assert [echoed(friend, address, 80, b"x" * 4000) for address in of(server).values()] == [open_] * 2
    # The same the other way round: what the pod sends is cut behind the rules.
    friend.pod.prober.serve(80, 81)
    governed.program(Ruleset((), allow(80)))
    for port, open_ in ((80, True), (81, False)):
        assert [echoed(server, address, port, b"x" * 4000) for address in of(friend).values()] == [open_] * 2


def echoed(source: Attachment, address: str, port: int, payload: bytes) -> bool:
    """Whether a datagram comes back."""
    with inside(source.pod.netns):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(1.0)
        try:
            sock.sendto(payload, (address, port))
            return sock.recv(65536) == payload
        except (TimeoutError, PermissionError):
            return False


def test_packets_that_are_not_tracked(lab: Lab, packet_filter: Backend, legacy: Translator) -> None:
    """What is exempt from connection tracking can't be translated either: its own fields count."""
    friend, server = (lab.attach(lab.pod(name)) for name in ("friend", "server"))
    for hook in ("PREROUTING", "OUTPUT"):
        legacy.run(server.pod, both(f"-t raw -A {hook} -p udp -j CT --notrack"))
    server.pod.prober.serve(53, 54)
    governed = Governed(packet_filter, server)
    for ruleset, open_ in ((OPEN, [53, 54]), (Ruleset(allow(53), None), [53]), (Ruleset((), None), [])):
        governed.program(ruleset)
        assert reach(friend, of(server), [53, 54], open_) == []


def test_another_source_for_the_pods_own_servers(
    lab: Lab, packet_filter: Backend, legacy: Translator
) -> None:
    """Translated behind our hook: who sends is who sent on the wire."""
    friend, stranger, server = (lab.attach(lab.pod(name)) for name in ("friend", "stranger", "server"))
    for tool, family in _TOOLS.items():
        rule = f"{tool} -w -t nat -A INPUT -s {getattr(stranger, family)} -j SNAT --to-source "
        legacy.run(server.pod, rule + getattr(friend, family))
    server.pod.prober.serve(80)
    governed = Governed(packet_filter, server)
    governed.program(Ruleset(allow(80), None))
    assert reach(stranger, of(server), [80], open_=[80]) == []
    governed.program(Ruleset(allow(80, peer=FRIENDS), None), held=addresses(friend))
    assert reach(friend, of(server), [80], open_=[80]) == []
    assert reach(stranger, of(server), [80], open_=[]) == []
    governed.program(Ruleset(allow(80, peer=FRIENDS), None), held=addresses(stranger))
    assert reach(stranger, of(server), [80], open_=[80]) == []


# --- going out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["net1", "net2"])
def test_a_service_is_judged_by_what_it_stands_for(
    lab: Lab, packet_filter: Backend, translator: Translator, way: str
) -> None:
    """D6: the wire has the translated address and port, wherever the service's address pointed to."""
    friend, client = lab.attach(lab.pod("friend")), lab.pod("client")
    near, other = lab.attach(client), lab.attach(client, "net2", "net2")
    route_services(client, near if way == "net1" else other)
    translator.masquerade(client, "net1")
    for protocol in ("tcp", "udp"):
        translator.forward(client, "output", f"{protocol} dport 443", friend, 8080)
    friend.pod.prober.serve(8080)
    governed = Governed(packet_filter, near)
    governed.program(OPEN)
    assert reach(near, SERVICE, [443], open_=[443]) == []
    endpoints = EndpointSet(NETWORKS, None, ((TCP, "web"), (UDP, "web")))
    for rules, held, open_ in (
        ((), None, False),
        (allow(8080, peer=FRIENDS), addresses(friend), True),
        (allow(443, peer=FRIENDS), addresses(friend), False),
        (allow(8080, peer=FRIENDS), addresses(near), False),
        ((Match(endpoints, None, ("p",)),), named(friend, 8080), True),
        ((Match(endpoints, None, ("p",)),), named(friend, 443), False),
    ):
        governed.program(Ruleset(None, rules), held=held)
        assert reach(near, SERVICE, [443], [443] if open_ else []) == [], rules


def named(attachment: Attachment, port: int) -> Members:
    """What a port's name stands for."""
    four = socket.inet_pton(socket.AF_INET, attachment.ipv4)
    six = socket.inet_pton(socket.AF_INET6, attachment.ipv6)
    return Members(
        frozenset((four, protocol, port) for protocol in (TCP, UDP)),
        frozenset((six, protocol, port) for protocol in (TCP, UDP)),
    )


def route_services(pod: Pod, side: Attachment) -> None:
    with inside(pod.netns), IPRoute() as routes:
        for number, address, length in ((socket.AF_INET, "ipv4", 32), (socket.AF_INET6, "ipv6", 128)):
            routes.route("add", family=number, dst=f"{SERVICE[address]}/{length}", oif=side.ifindex)


def test_what_a_sidecar_takes_never_went_out(
    lab: Lab, packet_filter: Backend, translator: Translator
) -> None:
    """D6: dials that stay in the pod are nobody's business; what the proxy itself dials is judged."""
    friend, client = (lab.attach(lab.pod(name)) for name in ("friend", "client"))
    for protocol in ("tcp", "udp"):
        translator.redirect(client.pod, "output", f"{protocol} dport 80", 15001)
    client.pod.prober.serve(15001)
    friend.pod.prober.serve(81)
    governed = Governed(packet_filter, client)
    for rules, open_ in ((None, [80, 81]), ((), [80]), (allow(81), [80, 81])):
        governed.program(Ruleset(rules, rules))
        assert reach(client, of(friend), [80, 81], open_) == []


def test_what_a_mark_leads_to_another_interface(lab: Lab, packet_filter: Backend, legacy: Translator) -> None:
    """E4: out through an interface is what counts, not the way that a packet was meant to take at first."""
    friend, client = lab.attach(lab.pod("friend")), lab.pod("client")
    near, other = lab.attach(client), lab.attach(client, "net2", "net2")
    friend.pod.prober.serve(80)
    legacy.masquerade(client, "net1")
    legacy.run(client, both("-t mangle -A OUTPUT -j MARK --set-mark 1"))
    lengths = {"-4": (friend.ipv4, 32), "-6": (friend.ipv6, 128)}
    for family, (address, length) in lengths.items():
        legacy.run(client, f"ip {family} rule add fwmark 1 lookup 100")
        legacy.run(client, f"ip {family} route add {address}/{length} dev net1 table 100")
        legacy.run(client, f"ip {family} route add {address}/{length} dev net2")
    governed = Governed(packet_filter, near, other)
    shut = Ruleset(None, ())
    for out, meant, open_ in ((OPEN, OPEN, True), (OPEN, shut, True), (shut, OPEN, False)):
        governed.program(out, meant)
        assert reach(near, of(friend), [80], [80] if open_ else []) == [], (out, meant)
