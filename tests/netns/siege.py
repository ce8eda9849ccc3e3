"""Floods against a pod, and what its network stack took of them.

In: attachments. Out: packets at a steady rate, and counts by the kernel of what got past its hooks: a packet
that a rule dropped is in none of them. It must not know what a policy means.
"""

import contextlib
import itertools
import socket
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from tests.lab import Attachment, Pod, frames
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.netns.lifeworld import Trio

W = TypeVar("W", bound=Trio)

FLOOD_PORT = 7000
SYN_PORT = 7001
RATE = 2500  # packets a second of each UDP flood
ENOUGH = 500
SETTLED = 2.0  # seconds

_SYN_BURST, _SYN_PAUSE = 4, 0.002
_SOURCE_PORTS = range(20_000, 20_512)


class SynFlood:
    """Bare SYNs from ever other ports, 2000 a second or less, of both families by turns."""

    def __init__(self, source: Attachment, target: Attachment) -> None:
        pairs = ((source.ipv4, target.ipv4), (source.ipv6, target.ipv6))
        built = [
            syn(source, target, start, end, port)
            for port, (start, end) in itertools.product(_SOURCE_PORTS, pairs)
        ]
        with inside(source.pod.netns):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._sock.bind((source.ifname, 0))
        self.sent = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(itertools.cycle(built),))
        self._thread.start()

    def _run(self, built: Iterator[bytes]) -> None:
        while not self._ended.wait(_SYN_PAUSE):
            for frame in itertools.islice(built, _SYN_BURST):
                # A full queue of the device is no reason to end.
                with contextlib.suppress(OSError):
                    self._sock.send(frame)
                    self.sent += 1

    def end(self) -> None:
        """Stop sending."""
        self._ended.set()
        self._thread.join()
        self._sock.close()


def syn(source: Attachment, target: Attachment, start: str, end: str, port: int) -> bytes:
    """One SYN as a frame."""
    segment = frames.tcp(port, SYN_PORT, frames.SYN)
    return frames.frame(source.mac, target.mac, start, end, frames.TCP, segment)


def kernel_counts(pod: Pod) -> dict[str, int]:
    """The kernel's protocol counters in a pod, as "TcpInSegs", "Udp6NoPorts" and the like."""
    with inside(pod.netns):
        four = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        six = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
    found = {name: int(count) for name, count in (line.split() for line in six)}
    for names, counts in zip(four[::2], four[1::2], strict=True):
        group, *fields = names.split()
        found |= {group[:-1] + n: int(c) for n, c in zip(fields, counts.split()[1:], strict=True)}
    return found


def segments(pod: Pod) -> int:
    """How many TCP segments the pod's stack was given, of both families."""
    return kernel_counts(pod)["TcpInSegs"]


def overflows(pod: Pod) -> int:
    """How many UDP datagrams came through and found a socket full."""
    counts = kernel_counts(pod)
    return counts["UdpRcvbufErrors"] + counts["Udp6RcvbufErrors"]


class Siege(Generic[W]):
    """A server under floods: b's are to be dropped, a's to arrive."""

    def __init__(self, world: W) -> None:
        """Start the floods; returns when each one arrives, so without a policy yet."""
        self.world = world
        self.server, self.friend, self.foe = (world.attachments[name] for name in ("server", "a", "b"))
        self.server.pod.prober.count(FLOOD_PORT)
        for attachment, rate in ((self.friend, RATE / 5), (self.foe, RATE)):
            for name, address in (("v4", self.server.ipv4), ("v6", self.server.ipv6)):
                attachment.pod.prober.flood(name, address, FLOOD_PORT, rate)
        self._syns = SynFlood(self.foe, self.server)
        self.assert_all_arrive()

    def end(self) -> None:
        """Stop all floods."""
        self._syns.end()

    def assert_all_arrive(self) -> None:
        """Each flood arrives right now: the positive control."""
        start, begun = self._denied(), segments(self.server.pod)
        poll(
            lambda: self._denied(),
            lambda now: len(now) == 2 and all(n > start.get(a, 0) for a, n in now.items()),
        )
        poll(lambda: segments(self.server.pod), lambda now: now > begun)

    @contextlib.contextmanager
    def watched(self, losses: int = 0) -> Iterator[None]:
        """No denied packet arrives within, of 500 or more sent by each flood; no allowed one is lost.

        losses: how many may be, and no more.
        """
        before, begun, lost = self._settled(), segments(self.server.pod), overflows(self.server.pod)
        sent, syns = self._sent(), self._syns.sent
        gaps = statistics.mode(self._gaps() for _ in range(9))
        yield
        poll(self._sent, lambda now: all(n >= sent[name] + ENOUGH for name, n in now.items()))
        poll(lambda: self._syns.sent, lambda now: now >= syns + ENOUGH)
        assert self._denied() == before, "denied UDP got in"
        assert segments(self.server.pod) == begun, "a denied SYN got in"
        # Packets that change places on their way look like a gap for a moment, so this is polled.
        missing = poll(
            lambda: self._gaps() - gaps - (overflows(self.server.pod) - lost), lambda n: n <= losses, SETTLED
        )
        assert missing <= losses

    def _sent(self) -> dict[str, int]:
        return {name: self.foe.pod.prober.flooded(name)["sent"] for name in ("v4", "v6")}

    def _counted(self, source: Attachment) -> dict[str, Any]:
        counted = self.server.pod.prober.counted(FLOOD_PORT)
        return {a: counted[a] for a in (source.ipv4, source.ipv6) if a in counted}

    def _denied(self) -> dict[str, int]:
        return {address: found["count"] for address, found in self._counted(self.foe).items()}

    def _settled(self) -> dict[str, int]:
        """What came in before the rules, once it is all read from the sockets."""
        readings = [self._denied()]

        def same() -> bool:
            readings.append(self._denied())
            return readings[-1] == readings[-2]

        poll(same, bool)
        return readings[-1]

    def _gaps(self) -> int:
        """How many packets of the allowed floods are missing between the first and the last that came."""
        return sum(
            found["last"][0] - found["first"][0] + 1 - found["count"]
            for found in self._counted(self.friend).values()
        )
