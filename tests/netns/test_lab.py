"""The lab itself: its probers tell open from blocked from refused, and nothing of it is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lab import Attachment, Lab, ProberError, Target, frames, namespaces, objects
from tests.lab.polling import poll
from tests.lab.prober import probe_all

PORT = 5555
SHUT = 5556
FAMILIES = ["ipv4", "ipv6"]
PROTOCOLS = ["tcp", "udp", "icmp"]


@pytest.fixture
def pair(lab: Lab) -> tuple[Attachment, Attachment]:
    """Client and server; the server echoes on PORT."""
    client, server = (lab.attach(lab.pod(name)) for name in ("client", "server"))
    server.pod.prober.serve(PORT)
    return client, server


def nft(pod: Attachment, text: str) -> None:
    with namespaces.inside(pod.pod.netns):
        subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def drop(hook: str, rule: str) -> str:
    discovery = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    chain = f"type filter hook {hook} priority 0; {discovery}; {rule} drop;"
    return f"table inet t {{ chain c {{ {chain} }}; }}\n"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("hook", "pod"), [("input", 1), ("output", 1), ("input", 0), ("output", 0)])
def test_prober_tells_open_from_dropped(
    pair: tuple[Attachment, Attachment], family: str, protocol: str, hook: str, pod: int
) -> None:
    client, server = pair
    target = Target(protocol, getattr(server, family), 0 if protocol == "icmp" else PORT)
    assert client.pod.prober.mismatches({target: True}) == []
    assert client.pod.prober.mismatches({target: False}) == [f"{target}: blocked wanted, open"]
    nft(pair[pod], drop(hook, "iifname net1" if hook == "input" else "oifname net1"))
    assert client.pod.prober.mismatches({target: False}) == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_nobody_listens(pair: tuple[Attachment, Attachment], family: str, protocol: str) -> None:
    client, server = pair
    target = Target(protocol, getattr(server, family), SHUT, timeout=3)
    assert client.pod.prober.probe(target) == ["refused"]
    assert len(client.pod.prober.mismatches({target: True})) == 1
    assert len(client.pod.prober.mismatches({target: False})) == 1
    server.pod.prober.serve(tcp=[SHUT], udp=[SHUT])
    assert client.pod.prober.probe(target) == ["open"]
    server.pod.prober.unserve(SHUT)
    assert client.pod.prober.probe(target) == ["refused"]


def test_many_probes_cost_one_timeout(pair: tuple[Attachment, Attachment]) -> None:
    client, server = pair
    ports = range(6000, 6144)
    server.pod.prober.serve(tcp=ports, udp=ports)
    targets = [
        Target(protocol, address, port)
        for protocol in ("tcp", "udp")
        for address in (server.ipv4, server.ipv6)
        for port in ports
    ]
    assert client.pod.prober.mismatches(dict.fromkeys(targets, True)) == []
    nft(server, drop("input", "th dport >= 6072"))
    began = time.monotonic()
    assert client.pod.prober.mismatches({t: t.port < 6072 for t in targets}) == []
    assert time.monotonic() - began < 3


def test_answers_come_from_the_address_that_was_asked(lab: Lab) -> None:
    server = lab.pod("server")
    lab.network("net2")
    lab.attach(server, addresses=["10.9.0.1/24", "10.9.0.2/24", "fd09::1/64", "fd09::2/64"])
    lab.attach(server, "net2", "net2", addresses=["10.8.0.1/24"])
    client = lab.attach(lab.pod("client"), addresses=["10.9.0.3/24", "fd09::3/64"])
    server.prober.serve(udp=[PORT])
    second = [Target("udp", "10.9.0.2", PORT), Target("udp", "fd09::2", PORT)]
    assert client.pod.prober.mismatches(dict.fromkeys(second, True)) == []


def test_source_address_and_port(lab: Lab) -> None:
    server = lab.attach(lab.pod("server"))
    client = lab.attach(
        lab.pod("client"), addresses=["10.1.1.1/16", "10.1.1.2/16", "fd00:1::a1/64", "fd00:1::a2/64"]
    )
    server.pod.prober.serve(tcp=[PORT], udp=[PORT])
    nft(server, drop("input", "ip saddr 10.1.1.2 th sport 4000"))
    nft(server, drop("input", "ip6 saddr fd00:1::a2 th sport 4000"))
    want = {}
    for protocol in ("tcp", "udp"):
        for address, sources in (
            (server.ipv4, ("10.1.1.1", "10.1.1.2")),
            (server.ipv6, ("fd00:1::a1", "fd00:1::a2")),
        ):
            for source in sources:
                for port in (4000, 4001):
                    target = Target(protocol, address, PORT, source=source, source_port=port)
                    want[target] = not (source.endswith("2") and port == 4000)
    assert client.pod.prober.mismatches(want) == []


def test_held_connection(pair: tuple[Attachment, Attachment]) -> None:
    client, server = pair
    probe = client.pod.prober
    assert probe.hold("c", server.ipv4, PORT) == "open"
    assert probe.exchange("c") == "open"
    assert server.pod.prober.push(PORT, "news") == 1
    assert probe.receive("c", 4) == "open"
    nft(server, drop("input", "tcp dport 5555"))
    assert probe.exchange("c", timeout=0.3) == "timeout"
    assert probe.hold("d", server.ipv4, PORT, timeout=0.3) == "timeout"
    assert probe.hold("e", server.ipv4, SHUT) == "refused"
    with pytest.raises(ProberError, match="KeyError"):
        probe.exchange("d")
    probe.release("c")


@pytest.mark.parametrize("family", FAMILIES)
def test_flood_and_counter(pair: tuple[Attachment, Attachment], family: str) -> None:
    client, server = pair
    address, source = getattr(server, family), getattr(client, family)
    server.pod.prober.count(7000)
    client.pod.prober.flood("f", address, 7000, rate=2000)
    seen = poll(lambda: server.pod.prober.counted(7000), lambda sources: sources[source]["count"] > 100)
    assert seen[source]["first"][0] < 5
    assert seen[source]["last"][0] - seen[source]["first"][0] == seen[source]["count"] - 1
    nft(server, drop("input", "udp dport 7000"))
    stopped = server.pod.prober.counted(7000)[source]
    sent = client.pod.prober.flooded("f")["sent"]
    poll(lambda: client.pod.prober.flooded("f"), lambda report: report["sent"] > sent + 100)
    assert server.pod.prober.counted(7000)[source]["last"][0] <= sent
    assert server.pod.prober.counted(7000)[source]["count"] >= stopped["count"]
    report = client.pod.prober.flooded("f", end=True)
    assert report["failed"] == {}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_flood_counts_replies(pair: tuple[Attachment, Attachment], family: str, protocol: str) -> None:
    client, server = pair
    client.pod.prober.flood("f", getattr(server, family), PORT, rate=500, protocol=protocol)
    report = poll(lambda: client.pod.prober.flooded("f"), lambda report: report["replies"] > 20)
    assert report["last_reply"][0] >= 20
    assert report["first_reply"][1] < report["last_reply"][1] <= time.monotonic()


@pytest.mark.parametrize("family", FAMILIES)
def test_packets_that_wait_for_a_device(lab: Lab, family: str) -> None:
    # What the guard's tests stand on: without one the first packets reach a pod as soon as it has its device.
    client, late = lab.attach(lab.pod("client")), lab.pod("late")
    address, mac = {"ipv4": "10.1.8.8", "ipv6": "fd00:1::88"}[family], "02:00:00:00:08:08"
    late.prober.count(7000)
    client.pod.set_neighbour("net1", address, mac)
    client.pod.prober.flood("u", address, 7000, rate=2000)
    client.pod.prober.flood("p", address, rate=2000, protocol="icmp")
    poll(lambda: client.pod.prober.flooded("u"), lambda report: report["sent"] > 20)
    assert late.prober.counted(7000) == {}
    lab.attach(late, addresses=[f"{address}/{16 if family == 'ipv4' else 64}"], mac=mac)
    seen = poll(lambda: late.prober.counted(7000), lambda sources: getattr(client, family) in sources)
    assert seen[getattr(client, family)]["first"][0] > 20
    report = poll(lambda: client.pod.prober.flooded("p"), lambda report: report["replies"] > 0)
    assert report["failed"] == {}


@pytest.mark.parametrize("family", FAMILIES)
def test_spoofed_frame_arrives(pair: tuple[Attachment, Attachment], family: str) -> None:
    client, server = pair
    spoofed = {"ipv4": "10.1.77.7", "ipv6": "fd00:1::77"}[family]
    server.pod.prober.count(7000)
    packet = frames.udp(1234, 7000, b"mnpt" + (7).to_bytes(8, "big"))
    frame = frames.frame(client.mac, server.mac, spoofed, getattr(server, family), frames.UDP, packet)
    client.pod.prober.send_frames("net1", frame)
    seen = poll(lambda: server.pod.prober.counted(7000), lambda sources: spoofed in sources)
    assert seen[spoofed]["last"][0] == 7


PACKETS = [
    ("ipv4", "tcp", frames.TCP, frames.tcp(1234, PORT, frames.SYN)),
    ("ipv6", "tcp", frames.TCP, frames.tcp(1234, PORT, frames.SYN)),
    ("ipv4", "udp", frames.UDP, frames.udp(1234, PORT, b"odd")),
    ("ipv6", "udp", frames.UDP, frames.udp(1234, PORT, b"odd")),
    ("ipv4", "icmp", frames.ICMP, frames.echo_request(4, payload=b"x")),
    ("ipv6", "icmpv6", frames.ICMPV6, frames.echo_request(6, payload=b"x")),
]


@pytest.mark.parametrize(
    ("family", "name", "protocol", "packet"), PACKETS, ids=[f"{p[0]}-{p[1]}" for p in PACKETS]
)
@pytest.mark.parametrize("damaged", [False, True], ids=["whole", "damaged"])
def test_frames_have_right_checksums(
    pair: tuple[Attachment, Attachment], family: str, name: str, protocol: int, packet: bytes, damaged: bool
) -> None:
    # Connection tracking looks at the checksums, and calls a packet with a wrong one invalid.
    client, server = pair
    hook = "type filter hook input priority 0; iifname net1"
    for state in ("new", "invalid"):
        rule = f"{hook} meta l4proto {name} ct state {state} counter;"
        nft(server, f"table inet t {{ chain {state} {{ {rule} }}; }}\n")
    frame = frames.frame(
        client.mac, server.mac, getattr(client, family), getattr(server, family), protocol, packet
    )
    if damaged:
        frame = frame[:-1] + bytes([frame[-1] ^ 1])
    client.pod.prober.send_frames("net1", frame)
    poll(lambda: counters(server), lambda found: found == {"new": not damaged, "invalid": damaged})


def counters(attachment: Attachment) -> dict[str, int]:
    with namespaces.inside(attachment.pod.netns):
        text = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, check=True).stdout
    rules = [item["rule"] for item in json.loads(text)["nftables"] if "rule" in item]
    return {
        rule["chain"]: part["counter"]["packets"]
        for rule in rules
        for part in rule["expr"]
        if "counter" in part
    }


def test_a_host_outside(lab: Lab) -> None:
    inner = lab.attach(lab.pod("inner"))
    outer = lab.outside("net1")
    outer.pod.prober.serve(tcp=[PORT])
    inner.pod.prober.serve(tcp=[PORT])
    wanted = {
        inner.pod.prober: [
            Target("tcp", outer.ipv4, PORT, timeout=3),
            Target("tcp", outer.ipv6, PORT, timeout=3),
        ],
        outer.pod.prober: [
            Target("tcp", inner.ipv4, PORT, timeout=3),
            Target("tcp", inner.ipv6, PORT, timeout=3),
        ],
    }
    assert list(probe_all(wanted).values()) == [["open"] * 2] * 2


def test_cnitool_and_what_it_leaves(lab: Lab) -> None:
    pod = lab.pod("a")
    conflist = objects.conflist("net1", "net1", ["10.1.0.9/16"])
    conflist["plugins"] = conflist["plugins"][:1]  # the reference plugins alone: this is about the lab
    run = lab.cnitool("add", conflist, pod)
    assert run.code == 0, run
    assert run.result["interfaces"][0]["sandbox"] == str(pod.netns)
    cached = list(Path("/var/lib/cni/results").glob(f"*{pod.container_id}*"))
    assert json.loads(cached[0].read_text())["cniArgs"] == [list(item) for item in pod.cni_args.items()]
    assert lab.cnitool("check", conflist, pod).code == 0
    assert lab.cnitool("add", conflist, pod).code != 0  # a second one of this name


def test_cnitool_in_threads(lab: Lab) -> None:
    def add(number: int) -> int:
        conflist = objects.conflist("net1", "net1", [f"10.1.3.{number + 1}/16"])
        conflist["plugins"] = conflist["plugins"][:1]
        return lab.cnitool("add", conflist, pods[number]).code

    pods = [lab.pod(f"p{number}") for number in range(20)]
    home = os.stat("/proc/self/ns/net").st_ino
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(add, range(20))) == [0] * 20
    assert os.stat("/proc/self/ns/net").st_ino == home
    pods[19].prober.serve(PORT)
    assert pods[0].prober.mismatches({Target("tcp", "10.1.3.20", PORT): True}) == []


def test_result_is_what_macvlan_says(lab: Lab) -> None:
    made = lab.attach(lab.pod("a"), addresses=["10.1.0.9/16"])
    pod = lab.pod("b")
    for version in ("0.3.1", "0.4.0", "1.0.0", "1.1.0"):
        conflist = objects.conflist("net1", "net1", ["10.1.0.9/16"], version=version)
        conflist["plugins"] = conflist["plugins"][:1]
        result = lab.cnitool("add", conflist, pod, ifname="net1").result
        assert lab.cnitool("del", conflist, pod, ifname="net1").code == 0
        want = made.result(version)
        for interface, real in zip(want["interfaces"], result["interfaces"], strict=True):
            assert set(real) - {"mtu"} == set(interface)
        assert [set(ip) for ip in result["ips"]] == [set(ip) for ip in want["ips"]]


def test_fifty_pods_have_addresses_of_their_own(lab: Lab) -> None:
    made = [lab.attach(lab.pod(f"p{number}")) for number in range(50)]
    assert (
        len({one.ipv4 for one in made})
        == len({one.ipv6 for one in made})
        == len({one.mac for one in made})
        == 50
    )


def test_detached_and_attached_again(pair: tuple[Attachment, Attachment], lab: Lab) -> None:
    client, server = pair
    lab.detach(server)
    assert client.pod.prober.mismatches({Target("tcp", server.ipv4, PORT): False}) == []
    again = lab.attach(server.pod, addresses=server.addresses)
    client.pod.set_neighbour("net1", again.ipv4, again.mac)
    assert client.pod.prober.mismatches({Target("tcp", again.ipv4, PORT): True}) == []


def test_another_namespace_at_the_same_path(pair: tuple[Attachment, Attachment], lab: Lab) -> None:
    client, server = pair
    inode = server.pod.netns.stat().st_ino
    pinned = server.pod.netns.open("rb")  # else the kernel gives the number to the next
    again = lab.replace_namespace(server.pod)
    assert (again.netns, again.name) == (server.pod.netns, server.pod.name)
    assert again.netns.stat().st_ino != inode
    pinned.close()
    # Not the addresses of before: the client still knows their MAC, and the old namespace may linger.
    attachment = lab.attach(again, addresses=["10.1.0.77/16", "fd00:1::77/64"])
    again.prober.serve(PORT)
    targets = [Target("tcp", attachment.ipv4, PORT), Target("udp", attachment.ipv6, PORT)]
    assert client.pod.prober.mismatches(dict.fromkeys(targets, True)) == []


def test_pods_cannot_see_the_nodes_links(lab: Lab) -> None:
    pod = lab.attach(lab.pod("a")).pod
    for path, want in ((pod.netns, {"lo", "net1"}), (lab.node, {"lo", "net1", "net1-wire"})):
        with namespaces.inside(path):
            line = ["ip", "-j", "link"]
            links = json.loads(subprocess.run(line, capture_output=True, check=True).stdout)
        assert {link["ifname"] for link in links} - want <= {"sit0", "ip6tnl0", "tunl0", "gre0"}


SCRIPT = """
import sys, time
from tests.lab import Lab, objects
with Lab() as lab:
    pod = lab.attach(lab.pod("a")).pod
    conflist = objects.conflist("net1", "net1", ["10.1.0.9/16"])
    conflist["plugins"] = conflist["plugins"][:1]
    other = lab.pod("b")
    assert lab.cnitool("add", conflist, other).code == 0
    print(lab.tag, lab.folder, pod.prober.pid, other.container_id, flush=True)
    {ending}
"""

ENDINGS = [
    ("ends", "pass", None, 0),
    ("raises", "raise ValueError('of the test')", None, 1),
    ("interrupted", "time.sleep(60)", signal.SIGINT, -signal.SIGINT),
    ("terminated", "time.sleep(60)", signal.SIGTERM, 128 + signal.SIGTERM),
]


@pytest.mark.parametrize(("ending", "number", "code"), [e[1:] for e in ENDINGS], ids=[e[0] for e in ENDINGS])
def test_nothing_is_left(ending: str, number: int | None, code: int) -> None:
    line = [sys.executable, "-c", SCRIPT.format(ending=ending)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        tag, folder, prober, container = child.stdout.readline().split()
        if number is not None:
            child.send_signal(number)
        _, words = child.communicate(timeout=20)
    assert child.returncode == code, words
    assert not remains(tag, folder, prober, container)


def test_the_next_lab_removes_what_a_killed_one_left() -> None:
    line = [sys.executable, "-c", SCRIPT.format(ending="time.sleep(60)")]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        words = child.stdout.readline().split()
        child.kill()
    poll(lambda: Path("/proc", words[2]).exists(), lambda there: not there)  # at the end of its stdin
    with Lab():
        assert not remains(*words)


def remains(tag: str, folder: str, prober: str, container: str) -> list[str]:
    """Name what is still there of a lab."""
    left = [name for name in namespaces.names() if name.startswith(f"{tag}.")]
    left += [path.name for path in Path("/var/lib/cni/results").glob(f"*{container}*")]
    return left + [path for path in (folder, f"/proc/{prober}") if os.path.exists(path)]
