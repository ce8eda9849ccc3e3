"""HTTP for scrapes and probes: one thread, few clients, a deadline for all that each sends or takes.

In: `GET path` of whoever can reach the port, which on a node is anybody. Out: what `answer` makes of the
paths. Nobody, however slow or many, gets more than MAX_CLIENTS descriptors, a few turns of one thread and a
look at the daemon every ASK_SECONDS: whoever has kept it waiting longest makes room for who comes.
"""

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple

from daemon.log import Seldom, get_logger

log = get_logger(__name__)

MAX_CLIENTS = 16
MAX_HEAD = 8192
"""Bytes of a request line with its headers."""
CLIENT_SECONDS = 5.0
"""From connecting to the whole request, and from the reply to its last byte taken."""
ASK_SECONDS = 0.1
"""From one answer of the daemon to the next question; all that wait meanwhile get the same."""
_PAUSE_SECONDS, _EVENTS = 0.005, 8
"""Between two turns, and in one of them: so that a flood leaves the processor to others."""
_BACKLOG = 128
_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "not HTTP/1\n",
    HTTPStatus.METHOD_NOT_ALLOWED: "only GET\n",
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"{MAX_HEAD} bytes are the most\n",
}


class Reply(NamedTuple):
    """What a path comes to."""

    status: HTTPStatus
    text: str


class _Client:
    """since: when it began to keep us waiting. path: what it wants to know, while we keep it waiting."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.since = time.monotonic()
        self.received = bytearray()
        self.path: str | None = None
        self.outgoing = memoryview(b"")

    def reply(self, reply: Reply) -> None:
        """Lay out what is to be written."""
        body = reply.text.encode(errors="backslashreplace")
        head = (
            f"HTTP/1.1 {reply.status.value} {reply.status.phrase}\r\n"
            "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.path, self.since = None, time.monotonic()
        self.outgoing = memoryview(head.encode() + body)


class ScrapeServer:
    """Listens on `address`. `answer`: a reply for each of some paths; may take a while."""

    def __init__(self, address: tuple[str, int], answer: Callable[[Sequence[str]], Sequence[Reply]]) -> None:
        """Raises OSError where the address can't be had."""
        self._answer = answer
        self._clients: dict[int, _Client] = {}
        self._next_ask = 0.0
        self._stopping = threading.Event()
        self._dropped = Seldom(log, "metrics-clients-dropped")
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=_BACKLOG)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        for fd in (self._listener.fileno(), self._wake):
            self._epoll.register(fd, select.EPOLLIN)

    def run(self) -> None:
        """Serve until stop()."""
        while not self._stopping.wait(_PAUSE_SECONDS):
            for fd, _ in self._epoll.poll(self._patience(), _EVENTS):
                self._on_event(fd)
            self._answer_waiting()
            self._expire()
        for client in list(self._clients.values()):
            self._drop(client)
        self._listener.close()
        self._epoll.close()
        os.close(self._wake)

    def stop(self) -> None:
        """End run(); callable from any thread, once."""
        # In this order: once it is set, run() may have closed what wakes it.
        os.eventfd_write(self._wake, 1)
        self._stopping.set()

    # --- clients -----------------------------------------------------------------------------------------

    def _on_event(self, fd: int) -> None:
        if fd == self._listener.fileno():
            for _ in range(_EVENTS):
                if not self._accept():
                    break
        elif client := self._clients.get(fd):
            try:
                if client.outgoing:
                    self._write(client)
                elif client.path is None:
                    self._read(client)
                else:
                    # Nothing was asked for but its end.
                    self._drop(client)
            except BlockingIOError:
                pass
            except OSError:
                self._drop(client)

    def _accept(self) -> bool:
        """Whether there may be another one."""
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            # It has gone, or there is no memory: nothing that a second try at once could mend.
            self._dropped.say(error=str(error))
            return False
        sock.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS and not self._make_room():
            sock.close()
            return True
        self._clients[sock.fileno()] = _Client(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        return True

    def _make_room(self) -> bool:
        """Whether there is a place more, for the client that has kept us waiting longest has lost its own."""
        self._dropped.say(most=MAX_CLIENTS)
        slow = [client for client in self._clients.values() if client.path is None]
        if slow:
            self._drop(min(slow, key=lambda client: client.since))
        return bool(slow)

    def _read(self, client: _Client) -> None:
        chunk = client.sock.recv(MAX_HEAD)
        if not chunk:
            self._drop(client)
            return
        client.received += chunk
        if b"\r\n\r\n" in client.received or b"\n\n" in client.received:
            refused, client.path = _parse(bytes(client.received))
        elif len(client.received) >= MAX_HEAD:
            refused = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        else:
            return
        self._epoll.modify(client.sock.fileno(), 0)
        if refused is not None:
            self._send(client, Reply(refused, _REFUSALS[refused]))

    def _answer_waiting(self) -> None:
        asking = [client for client in self._clients.values() if client.path is not None]
        if not asking or time.monotonic() < self._next_ask:
            return
        replies = self._answer([client.path for client in asking if client.path is not None])
        self._next_ask = time.monotonic() + ASK_SECONDS
        for client, reply in zip(asking, replies, strict=True):
            self._send(client, reply)

    def _send(self, client: _Client, reply: Reply) -> None:
        client.reply(reply)
        self._epoll.modify(client.sock.fileno(), select.EPOLLOUT)

    def _write(self, client: _Client) -> None:
        client.outgoing = client.outgoing[client.sock.send(client.outgoing) :]
        if not client.outgoing:
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_WR)
            self._drop(client)

    def _drop(self, client: _Client) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()

    # --- time --------------------------------------------------------------------------------------------

    def _patience(self) -> float:
        due = [
            self._next_ask if client.path is not None else client.since + CLIENT_SECONDS
            for client in self._clients.values()
        ]
        return max(0.0, min(due) - time.monotonic()) if due else -1

    def _expire(self) -> None:
        limit = time.monotonic() - CLIENT_SECONDS
        for client in [c for c in self._clients.values() if c.path is None and c.since <= limit]:
            self._dropped.say(received=len(client.received))
            self._drop(client)


def _parse(head: bytes) -> tuple[HTTPStatus | None, str | None]:
    """The path that is asked for, or why there is none."""
    words = head.split(b"\n", 1)[0].split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return HTTPStatus.BAD_REQUEST, None
    if words[0] != b"GET":
        return HTTPStatus.METHOD_NOT_ALLOWED, None
    return None, words[1].decode(errors="replace").partition("?")[0]
