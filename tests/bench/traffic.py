"""Established traffic through a governed interface, an enrolled one without policies, and a bare one.

In: a lab with one sender and three receivers on one network. Out: rates and their ratios.

The sender is bare, so only the receiver's side differs. Measured are the hardest case (UDP packets of 64
bytes, one way, after answers have made the flow an established one, delivered into a socket that is emptied
between two samples), and what applications do: TCP bulk and TCP requests with answers. Sender and receiver
share one core, so that a sample counts all work on both sides and none hides in a core that would else wait.
"""

import contextlib
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

from tests.bench.figures import Figure
from tests.bench.packets import Burst, received
from tests.bench.timing import Samples, interleaved, ratio, spread
from tests.lab import Attachment, Daemon, Lab, objects
from tests.lab.namespaces import inside
from tests.netns.enroll import add, must

PORT = 5555
KINDS = ("bare", "enrolled", "governed")
UDP_ROUNDS, UDP_PACKETS = 240, 4096
UDP_BUFFER = 32 << 20  # more than a sample's packets take
TCP_BUFFER = 1 << 20  # the same for all: the kernel's own tuning gives each connection another
# Many short samples: the closer together two are, the likelier the same thing disturbs both.
TCP_ROUNDS, TCP_SECONDS = 90, 0.04
MOST_LOST = 0.001
CHUNK = 1 << 18
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

OF_ENROLLED, OF_BARE = 97.0, 85.0

POLICY = objects.policy(
    "governed",
    {
        "podSelector": {"matchLabels": {"role": "governed"}},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"role": "sender"}}}],
                "ports": [{"protocol": protocol, "port": PORT} for protocol in ("TCP", "UDP")],
            }
        ],
        "egress": [],
    },
)


def measure(backend: str = "nftables") -> list[Figure]:
    """Measure UDP packets, TCP bulk and TCP requests over established flows."""
    with Lab() as lab:
        daemon = lab.daemon(backend=backend)
        sender = lab.attach(lab.pod("sender"))
        receivers = {kind: lab.attach(lab.pod(kind)) for kind in KINDS}
        _enroll(daemon, sender, receivers)
        _assert_governed(sender, receivers)
        with pinned():
            udp = _udp(sender, receivers)
            bulk = _tcp(sender, receivers, _sink, _bulk)
            requests = _tcp(sender, receivers, _echo, _requests)
    return [
        *_compare("UDP, 64 bytes", udp, "k/s", 1e-3),
        *_compare("TCP bulk", bulk, "Gbit/s", 8e-9),
        *_compare("TCP request and answer", requests, "k/s", 1e-3),
    ]


def introduce(one: Attachment, other: Attachment) -> None:
    """Make each know the other's hardware address for good."""
    for here, there in ((one, other), (other, one)):
        here.pod.set_neighbour(here.ifname, there.ipv4, there.mac)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on one core: the last."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _enroll(daemon: Daemon, sender: Attachment, receivers: dict[str, Attachment]) -> None:
    status = [objects.status_entry("default/net1", "net1", [sender.ipv4])]
    pods = [objects.pod(kind, labels={"role": kind}) for kind in KINDS]
    daemon.apply(
        "traffic",
        [
            objects.network("net1"),
            POLICY,
            objects.pod("sender", labels={"role": "sender"}, status=status),
            *pods,
        ],
    )
    daemon.wait_synced()
    for kind in ("enrolled", "governed"):
        must(add(daemon, receivers[kind]))
    for receiver in receivers.values():
        introduce(sender, receiver)


def _assert_governed(sender: Attachment, receivers: dict[str, Attachment]) -> None:
    """A port that the policy does not name is reached on all receivers but the governed one."""
    with inside(sender.pod.netns), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for kind, receiver in receivers.items():
            before = received(receiver.pod.netns)
            client.sendto(b"?", (receiver.ipv4, PORT + 1))
            came = received(receiver.pod.netns) - before
            if came != (0 if kind == "governed" else 1):
                raise RuntimeError(f"{kind}: {came} of 1 packets came to a port that only the policy closes")


# --- UDP -------------------------------------------------------------------------------------------------


def _udp(sender: Attachment, receivers: dict[str, Attachment]) -> Samples:
    burst = Burst([bytes(64)] * UDP_PACKETS)
    with contextlib.ExitStack() as opened:
        flows = {kind: _established(opened, sender, receivers[kind]) for kind in KINDS}
        jobs = {kind: partial(_send, burst, *flows[kind]) for kind in KINDS}
        before = {kind: received(receivers[kind].pod.netns) for kind in KINDS}
        samples = interleaved(UDP_ROUNDS, jobs)
    for kind in KINDS:
        came = received(receivers[kind].pod.netns) - before[kind]
        if came < UDP_ROUNDS * UDP_PACKETS * (1 - MOST_LOST):
            raise RuntimeError(f"{kind}: only {came} of {UDP_ROUNDS * UDP_PACKETS} datagrams came through")
    return samples


def _send(burst: Burst, client: socket.socket, server: socket.socket) -> float:
    """Return packets a second."""
    rate = 1 / burst.send(client)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.recv(64)
    return rate


def _established(
    opened: contextlib.ExitStack, sender: Attachment, receiver: Attachment
) -> tuple[socket.socket, socket.socket]:
    with inside(receiver.pod.netns):
        server = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with inside(sender.pod.netns):
        client = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    server.bind((receiver.ipv4, PORT))
    server.settimeout(2)
    client.settimeout(2)
    client.connect((receiver.ipv4, PORT))
    # Three packets and two answers: conntrack calls a flow assured only then.
    for _ in range(2):
        client.send(b"?")
        asked, place = server.recvfrom(64)
        server.sendto(asked, place)
        client.recv(64)
    client.setblocking(True)
    server.setblocking(False)
    server.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, UDP_BUFFER)
    return client, server


# --- TCP -------------------------------------------------------------------------------------------------


def _tcp(
    sender: Attachment,
    receivers: dict[str, Attachment],
    serve: Callable[[socket.socket], None],
    use: Callable[[socket.socket], float],
) -> Samples:
    with contextlib.ExitStack() as opened:
        flows = {kind: _connected(opened, sender, receivers[kind], serve) for kind in KINDS}
        jobs = {kind: partial(use, flow) for kind, flow in flows.items()}
        interleaved(2, jobs)
        return interleaved(TCP_ROUNDS, jobs)


def _connected(
    opened: contextlib.ExitStack,
    sender: Attachment,
    receiver: Attachment,
    serve: Callable[[socket.socket], None],
) -> socket.socket:
    with inside(receiver.pod.netns), socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, TCP_BUFFER)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((receiver.ipv4, PORT))
        listener.listen()
        child = multiprocessing.get_context("fork").Process(target=serve, args=(listener,), daemon=True)
        child.start()
    opened.callback(child.join, 5)
    # By signal: children started later hold this connection's other end open.
    opened.callback(child.terminate)
    with inside(sender.pod.netns):
        client = opened.enter_context(socket.socket())
    client.settimeout(10)
    client.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, TCP_BUFFER)
    client.connect((receiver.ipv4, PORT))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _sink(listener: socket.socket) -> None:
    connection = _accept(listener)
    space = bytearray(CHUNK)
    while connection.recv_into(space):
        pass


def _echo(listener: socket.socket) -> None:
    connection = _accept(listener)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    while asked := connection.recv(64):
        connection.sendall(asked)


def _accept(listener: socket.socket) -> socket.socket:
    listener.settimeout(10)
    connection, _ = listener.accept()
    connection.settimeout(60)
    listener.close()
    return connection


def _bulk(client: socket.socket) -> float:
    """Return bytes a second."""
    chunk = bytes(CHUNK)
    begun, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < begun + TCP_SECONDS:
        client.sendall(chunk)
        count += len(chunk)
    return count / (now - begun)


def _requests(client: socket.socket) -> float:
    """Return requests a second."""
    begun, count = time.perf_counter(), 0
    while (now := time.perf_counter()) < begun + TCP_SECONDS:
        client.sendall(b"ask")
        client.recv(64)
        count += 1
    return count / (now - begun)


def _compare(what: str, samples: Samples, unit: str, factor: float) -> list[Figure]:
    of_enrolled = 100 * ratio(samples["governed"], samples["enrolled"])
    of_bare = 100 * ratio(samples["governed"], samples["bare"])
    rates = ", ".join(f"{kind} {statistics.median(samples[kind]) * factor:.4g}" for kind in KINDS)
    noise = spread(samples["enrolled"])
    return [
        Figure(
            f"{what}: governed of enrolled", of_enrolled, "%", OF_ENROLLED, "at least", f"{unit}: {rates}"
        ),
        Figure(f"{what}: governed of bare", of_bare, "%", OF_BARE, "at least", noise),
    ]
