"""What a pod begins: probes, connections that stay, floods.

In: targets. Out: verdicts and counts, by callback.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from tests.prober.loop import Loop
from tests.prober.sockets import (
    ECHO_REQUEST,
    FLOOD_MARK,
    FLOOD_PAYLOAD,
    anyone,
    endpoint,
    family_of,
    open_socket,
    verdict_of,
)

_TICK = 0.001  # seconds between two bursts of a flood: what epoll can wait at least
_BURST = 256  # packets a tick at most, so that a flood never starves the other jobs


class Attempt:
    """One probe: a socket, a packet or a handshake, and a verdict that is given once."""

    def __init__(self, loop: Loop, target: list[Any], token: bytes, settle: Callable[[str], None]) -> None:
        self._loop = loop
        self._protocol, address, port, timeout, source, source_port = target
        self._token = token
        self._settle: Callable[[str], None] | None = settle
        self._family = family_of(address)
        try:
            self._sock = open_socket(self._protocol, self._family)
        except OSError as error:
            self._give(verdict_of(error))
            return
        loop.at(time.monotonic() + timeout, lambda: self._give("timeout"))
        try:
            if source or source_port:
                self._bind(source, source_port)
            self._start(endpoint(address, port))
        except OSError as error:
            self._give(verdict_of(error))

    def _bind(self, source: str, source_port: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(endpoint(source or anyone(self._family), source_port))

    def _start(self, target: tuple[Any, ...]) -> None:
        if self._protocol in ("tcp", "sctp"):
            outcome = self._sock.connect_ex(target)
            if outcome not in (0, errno.EINPROGRESS):
                raise OSError(outcome, os.strerror(outcome))
            self._loop.watch(self._sock, select.EPOLLOUT, self._on_connected)
            return
        self._sock.connect(target)
        self._loop.watch(self._sock, select.EPOLLIN, self._on_reply)
        self._sock.send(self._packet())

    def _packet(self) -> bytes:
        if self._protocol == "udp":
            return self._token
        # The kernel fills in the checksum and an ID that is this socket's.
        return struct.pack(">BBHHH", ECHO_REQUEST[self._family], 0, 0, 0, 1) + self._token

    def _on_connected(self, events: int) -> None:
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._give(verdict_of(OSError(number, "")) if number else "open")

    def _on_reply(self, events: int) -> None:
        try:
            reply = self._sock.recv(2048)
        except BlockingIOError:
            return
        except OSError as error:
            self._give(verdict_of(error))
            return
        if reply.endswith(self._token):
            self._give("open")

    def _give(self, verdict: str) -> None:
        if self._settle is None:
            return
        settle, self._settle = self._settle, None
        if hasattr(self, "_sock"):
            self._loop.forget(self._sock)
        settle(verdict)


class Held:
    """A TCP connection that stays, and what came in on it."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.ended = ""
        self._loop = loop
        self._waiting: list[Callable[[], bool]] = []
        loop.watch(sock, select.EPOLLIN, self._on_input)

    def _on_input(self, events: int) -> None:
        try:
            piece = self.sock.recv(65536)
            self.ended = "" if piece else "closed"
        except BlockingIOError:
            return
        except OSError as error:
            piece, self.ended = b"", verdict_of(error)
        self.received += piece
        if self.ended:
            self._loop.forget(self.sock)
        self._waiting = [check for check in self._waiting if not check()]

    def when(self, length: int, deadline: float, tell: Callable[[bytes], None]) -> None:
        """Tell once, when `length` bytes are there or the connection ended, else at the deadline."""
        told = False

        def check(late: bool = False) -> bool:
            nonlocal told
            if not told and (late or self.ended or len(self.received) >= length):
                told = True
                taken, self.received = self.received[:length], self.received[length:]
                tell(taken)
            return told

        def finish() -> None:
            check(late=True)

        if not check():
            self._waiting.append(check)
            self._loop.at(deadline, finish)


class Flood:
    """UDP packets or pings with a sequence number at a steady rate, whatever becomes of them."""

    def __init__(self, loop: Loop, job: dict[str, Any]) -> None:
        self._loop = loop
        self._protocol = job["protocol"]
        self._family = family_of(job["address"])
        self._target = endpoint(job["address"], job["port"])
        self._rate = float(job["rate"])
        self._sock = open_socket(self._protocol, self._family)
        if job["source"] or job["source_port"]:
            self._sock.bind(endpoint(job["source"] or anyone(self._family), job["source_port"]))
        self._began = time.monotonic()
        self._next = 0  # sequence number
        self._failed: dict[str, int] = {}
        self._replies: list[Any] = []
        self._reply_count = 0
        self._live = True
        loop.watch(self._sock, select.EPOLLIN, self._on_reply)
        self._tick()

    def _tick(self) -> None:
        if not self._live:
            return
        now = time.monotonic()
        due = int((now - self._began) * self._rate) + 1 - self._next
        for _ in range(min(due, _BURST)):
            self._send_one()
        self._loop.at(now + max(_TICK, 1 / self._rate), self._tick)

    def _send_one(self) -> None:
        payload = FLOOD_PAYLOAD.pack(FLOOD_MARK, self._next)
        if self._protocol == "icmp":
            kind = ECHO_REQUEST[self._family]
            payload = struct.pack(">BBHHH", kind, 0, 0, 0, self._next & 0xFFFF) + payload
        self._next += 1
        try:
            self._sock.sendto(payload, self._target)
        except OSError as error:
            verdict = verdict_of(error)
            self._failed[verdict] = self._failed.get(verdict, 0) + 1

    def _on_reply(self, events: int) -> None:
        while True:
            try:
                reply = self._sock.recv(2048)
            except OSError:
                return
            mark, sequence = FLOOD_PAYLOAD.unpack(reply[-FLOOD_PAYLOAD.size :])
            if mark == FLOOD_MARK:
                self._reply_count += 1
                last = [sequence, time.monotonic()]
                self._replies = [self._replies[0] if self._replies else last, last]

    def report(self) -> dict[str, Any]:
        return {
            "sent": self._next - sum(self._failed.values()),
            "failed": self._failed,
            "replies": self._reply_count,
            "first_reply": self._replies[0] if self._replies else None,
            "last_reply": self._replies[1] if self._replies else None,
        }

    def end(self) -> None:
        self._live = False
        self._loop.forget(self._sock)
