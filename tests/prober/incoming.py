"""What a pod answers: echo servers, and counters of floods.

In: ports. Out: echoes, and counts by source.
"""

import functools
import select
import socket
import time
from typing import Any

from tests.prober.loop import Loop
from tests.prober.sockets import FLOOD_PAYLOAD, PACKET_ADDRESS, listening


class Counter:
    """Counts a flood's packets at a port, by their source."""

    def __init__(self, loop: Loop, family: socket.AddressFamily, port: int) -> None:
        self.sources: dict[str, dict[str, Any]] = {}
        self._sock = listening("udp", family, port)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        loop.watch(self._sock, select.EPOLLIN, self._on_input)

    def _on_input(self, events: int) -> None:
        while True:
            try:
                packet, sender = self._sock.recvfrom(2048)
            except OSError:
                return
            if len(packet) == FLOOD_PAYLOAD.size:
                self._add(sender[0], FLOOD_PAYLOAD.unpack(packet)[1])

    def _add(self, source: str, sequence: int) -> None:
        now = time.monotonic()
        seen = self.sources.setdefault(source, {"count": 0, "first": [sequence, now]})
        seen["count"] += 1
        seen["last"] = [sequence, now]


class Echo:
    """A server that sends back what it gets, from the address that it was sent to."""

    def __init__(
        self, loop: Loop, protocol: str, family: socket.AddressFamily, port: int, address: str
    ) -> None:
        self._loop = loop
        self.accepted: set[socket.socket] = set()
        self._sock = listening(protocol, family, port, address)
        self._control = PACKET_ADDRESS[family]
        loop.watch(self._sock, select.EPOLLIN, self._on_packet if protocol == "udp" else self._on_connection)

    def _on_packet(self, events: int) -> None:
        level, _, kind = self._control
        while True:
            try:
                packet, control, _, sender = self._sock.recvmsg(65536, 256)
            except OSError:
                return
            # Wildcard sockets would answer from whichever address the route prefers, were it not for this.
            where = [item for item in control if item[:2] == (level, kind)]
            try:
                self._sock.sendmsg([packet], where, 0, sender)
            except OSError:
                continue  # a governed pod may not be allowed to answer: that is the other side's timeout

    def _on_connection(self, events: int) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            sock.setblocking(False)
            self.accepted.add(sock)
            self._loop.watch(sock, select.EPOLLIN, functools.partial(self._on_bytes, sock))

    def _on_bytes(self, sock: socket.socket, events: int) -> None:
        try:
            piece = sock.recv(65536)
            if piece:
                sock.send(piece)
                return
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self.accepted.discard(sock)
        self._loop.forget(sock)

    def push(self, text: bytes) -> int:
        """Send unasked on all connections that it accepted; returns on how many the kernel took it."""
        taken = 0
        for sock in self.accepted:
            try:
                taken += sock.send(text) == len(text)
            except OSError:
                continue
        return taken

    def end(self) -> None:
        for sock in self.accepted:
            self._loop.forget(sock)
        self._loop.forget(self._sock)
