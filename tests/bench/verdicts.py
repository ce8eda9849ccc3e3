"""What the first packet of a flow costs when a policy admits 10 peers, and when it admits 10,000.

In: a lab with one sender and three receivers. Out: nanoseconds a packet, and the growth.

Frames go out by a packet socket, each with another source port, so that no packet belongs to a known flow and
each walks the whole chain. Admitted ones make a connection tracking entry, as they do on the enrolled
receiver without policies that they are compared with; denied ones come from an address that is no peer and
leave nothing.
"""

import itertools
import socket
import statistics
from collections.abc import Callable
from functools import partial

from tests.bench.figures import Figure
from tests.bench.node import cluster_pods
from tests.bench.packets import Burst, received
from tests.bench.timing import Samples, interleaved, ratio, spread
from tests.bench.traffic import introduce, pinned
from tests.lab import Attachment, Daemon, Lab, frames, objects
from tests.lab.namespaces import inside
from tests.netns.enroll import add, must

FEW, MANY = 10, 10_000
FIRST_PORT = 20_000
FLOWS = 4096
ROUNDS = 20
STRANGER = "10.1.250.250"
# The promise is "no growth"; this is what the noise of a shared machine leaves of it.
MOST_GROWTH = 1.03

_ENROLLED, _FEW, _MANY = "enrolled", f"{FEW} peers", f"{MANY:,} peers"


def measure(backend: str = "nftables") -> list[Figure]:
    """Measure new flows, admitted and denied, by the number of peers."""
    with Lab() as lab:
        daemon = lab.daemon(backend=backend)
        sender = lab.attach(lab.pod("sender"))
        receivers = {kind: lab.attach(lab.pod(name)) for kind, name in _NAMES.items()}
        _enroll(daemon, sender, receivers)
        with pinned(), _packet_socket(sender) as sock:
            admitted = _admitted(sock, sender, receivers)
            denied = _denied(sock, sender, receivers)
    return [*_compare("admitted", admitted), *_compare("denied", denied)]


_NAMES = {_ENROLLED: "enrolled", _FEW: "few", _MANY: "many"}


def _enroll(daemon: Daemon, sender: Attachment, receivers: dict[str, Attachment]) -> None:
    status = [objects.status_entry("default/net1", "net1", [sender.ipv4])]
    labels = {"role": "peer", "place": "elsewhere"}
    daemon.apply(
        "local",
        [
            objects.network("net1"),
            objects.pod("sender", labels=labels, status=status),
            *(objects.pod(name, labels={"name": name}) for name in _NAMES.values()),
            _policy("few", {"role": "peer"}),
            _policy("many", {"place": "elsewhere"}),
        ],
    )
    daemon.apply("cluster.json", list(cluster_pods(MANY, FEW)))
    daemon.wait_synced()
    for receiver in receivers.values():
        must(add(daemon, receiver))
        introduce(sender, receiver)


def _policy(name: str, peers: dict[str, str]) -> objects.Object:
    rule = {"from": [{"podSelector": {"matchLabels": peers}}]}
    selector = {"matchLabels": {"name": name}}
    return objects.policy(name, {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [rule]})


def _packet_socket(sender: Attachment) -> socket.socket:
    with inside(sender.pod.netns):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind((sender.ifname, 0))
    return sock


def _admitted(sock: socket.socket, sender: Attachment, receivers: dict[str, Attachment]) -> Samples:
    """Each round has a port of its own, so that its flows are new."""
    ports = {kind: itertools.count(FIRST_PORT) for kind in receivers}

    def send(kind: str) -> float:
        burst = _burst(sender, receivers[kind], sender.ipv4, next(ports[kind]))
        return burst.send(sock) * 1e9

    before = {kind: _arrived(receiver) for kind, receiver in receivers.items()}
    samples = interleaved(ROUNDS, _jobs(receivers, send))
    for kind, receiver in receivers.items():
        # Nobody listens there: the kernel counts what came through as "no port".
        if _arrived(receiver) - before[kind] < 0.999 * ROUNDS * FLOWS:
            raise RuntimeError(f"{kind}: the packets did not come through")
    return samples


def _denied(sock: socket.socket, sender: Attachment, receivers: dict[str, Attachment]) -> Samples:
    governed = {kind: receiver for kind, receiver in receivers.items() if kind != _ENROLLED}
    bursts = {kind: _burst(sender, receiver, STRANGER, FIRST_PORT) for kind, receiver in governed.items()}
    before = {kind: _arrived(receiver) for kind, receiver in governed.items()}
    samples = interleaved(ROUNDS, _jobs(governed, lambda kind: bursts[kind].send(sock) * 1e9))
    if any(_arrived(receiver) != before[kind] for kind, receiver in governed.items()):
        raise RuntimeError("a packet that no policy admits came through")
    return samples


def _jobs(receivers: dict[str, Attachment], send: Callable[[str], float]) -> dict[str, Callable[[], float]]:
    return {kind: partial(send, kind) for kind in receivers}


def _burst(sender: Attachment, receiver: Attachment, source: str, port: int) -> Burst:
    return Burst(
        [
            frames.frame(
                sender.mac, receiver.mac, source, receiver.ipv4, frames.UDP, frames.udp(1024 + number, port)
            )
            for number in range(FLOWS)
        ]
    )


def _arrived(receiver: Attachment) -> int:
    return received(receiver.pod.netns)


def _compare(what: str, samples: Samples) -> list[Figure]:
    medians = {kind: statistics.median(times) for kind, times in samples.items()}
    costs = ", ".join(f"{kind} {median:,.0f}" for kind, median in medians.items())
    growth = ratio(samples[_MANY], samples[_FEW])
    figures = [
        Figure(f"new flow, {what}: {_MANY} : {_FEW}", growth, "x", MOST_GROWTH, note=f"ns a packet: {costs}"),
        Figure(f"new flow, {what}: growth", medians[_MANY] - medians[_FEW], "ns", note=spread(samples[_FEW])),
    ]
    if _ENROLLED in medians:
        verdict = medians[_MANY] - medians[_ENROLLED]
        figures.append(Figure(f"the verdict itself, {_MANY}", verdict, "ns", note="above the enrolled one's"))
    return figures
