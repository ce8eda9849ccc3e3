"""The Unix socket: one thread, one epoll loop, all clients; a reply goes out in the thread that has it.

In: framed requests (cni_plugin.wire). Out: decoded `Request`s to `dispatch`, and their replies to the
clients. What a request means is lifecycle's; here are only transport, bounds on sizes and times, and who
may speak. A waiting request holds no thread, so any number of ADDs may wait while DEL and mnpctl are served.
"""

import contextlib
import logging
import os
import select
import socket
import stat
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from cni_plugin import wire
from daemon.errors import SocketTakenError
from daemon.log import Seldom, get_logger

log = get_logger(__name__)

READ_SECONDS = 5.0
"""From connect to the whole request."""
WRITE_SECONDS = 30.0
"""From the reply to its last byte taken: mnpctl may read 64 MiB over a slow terminal."""
ACCEPT_AGAIN_SECONDS = 0.2
"""After a failure to accept."""
MAX_CONNECTIONS = 2048
"""Beyond this, the client that has been silent longest makes room; where none is, new ones wait outside."""
PATIENCE_SECONDS = 0.25
"""So long nobody loses the place: a plugin sends its request at once, on a busy node too."""
_HEADER = 4
_CREDENTIALS = struct.Struct("3i")


class Request:
    """One request of one client. reply() may be called from any thread, once; later calls do nothing."""

    def __init__(self, body: dict[str, Any], connection: "_Connection", server: "Server") -> None:
        self.body = body
        self.received = time.monotonic()
        self._connection = connection
        self._server = server

    @property
    def op(self) -> str:
        """The operation's name; "" when the client sent none."""
        op = self.body.get("op")
        return op if isinstance(op, str) else ""

    def reply(self, body: dict[str, Any]) -> None:
        """Send the reply; dropped when the client has gone."""
        self._server.post(self._connection, {"v": wire.WIRE_VERSION, **body})

    @property
    def gone(self) -> bool:
        """Whether the connection is known to be closed; costs nothing, and may be late by a moment."""
        return self._connection.closed

    def alive(self) -> bool:
        """Whether the client still holds its end open: asked right before something is committed for it."""
        return self._connection.alive()


class _Connection:
    """One client: reads up to one frame, then waits for its reply, then writes it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.lock = threading.Lock()
        self.closed = False
        self.received = bytearray()
        self.answered = False
        self.outgoing = memoryview(b"")
        # When it began to keep us waiting, and when that is too long; None: it is we who keep it waiting.
        self.since = time.monotonic()
        self.deadline: float | None = self.since + READ_SECONDS

    def answer(self, frame: bytes) -> None:
        """Write the reply, once, as far as it goes now; who reads to the end has it without another turn."""
        with self.lock:
            if self.closed or self.answered:
                return
            self.answered = True
            self.since = time.monotonic()
            self.deadline = self.since + WRITE_SECONDS
            self.outgoing = memoryview(frame)
            with contextlib.suppress(OSError):
                self.write()

    def write(self) -> None:
        """Send what the client takes, and after the last of it the end. Raises OSError: it is gone."""
        with contextlib.suppress(BlockingIOError):
            self.outgoing = self.outgoing[self.sock.send(self.outgoing) :]
        if not self.outgoing:
            self.sock.shutdown(socket.SHUT_WR)

    def alive(self) -> bool:
        with self.lock:
            if self.closed:
                return False
            poller = select.poll()
            poller.register(self.sock.fileno(), 0)
            # A peer that only shut down its writing half (POLLRDHUP) still waits for the reply.
            return not poller.poll(0)

    def close(self) -> None:
        with self.lock:
            self.closed = True
            self.sock.close()


class Server:
    """Listens on `path`. `dispatch` is called in the server's thread and must not block.

    most: clients at a time.
    """

    def __init__(
        self,
        path: Path,
        dispatch: Callable[[Request], None],
        allowed_uid: int = 0,
        most: int = MAX_CONNECTIONS,
    ) -> None:
        self._path = path
        self._listener = _listen(path)
        self._identity = _identity(path)
        self._most = most
        self._refused = Seldom(log, "client-refused")
        self._failed = Seldom(log, "accept-failed")
        self._late = Seldom(log, "client-too-slow", logging.INFO)
        self._crowded = Seldom(log, "clients-dropped")
        self._dispatch = dispatch
        self._allowed_uid = allowed_uid
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._connections: dict[int, _Connection] = {}
        self._answered: deque[_Connection] = deque()
        self._accepting = False
        self._accept_again: float | None = None
        self._stopping = False

    def run(self) -> None:
        """Serve until stop(); replies already posted are still written then."""
        self._epoll.register(self._wake, select.EPOLLIN)
        self._accept_more()
        while not self._stopping or self._unwritten():
            for fd, events in self._epoll.poll(self._patience()):
                self._on_event(fd, events)
            self._finish_answered()
            self._expire()
        self._close()

    def stop(self) -> None:
        """End run(); callable from any thread."""
        self._stopping = True
        os.eventfd_write(self._wake, 1)

    def post(self, connection: _Connection, body: dict[str, Any]) -> None:
        """Send a reply in the calling thread, and leave the rest to the server's."""
        # A pod may give its links names that are no text; who reads this takes text only.
        payload = msgpack.packb(body, use_bin_type=True, unicode_errors="backslashreplace")
        if len(payload) > wire.MAX_CTL_REPLY:
            payload = msgpack.packb(_too_large(len(payload)))
        connection.answer(len(payload).to_bytes(_HEADER, "big") + payload)
        self._answered.append(connection)
        os.eventfd_write(self._wake, 1)

    # --- events ------------------------------------------------------------------------------------------

    def _on_event(self, fd: int, events: int) -> None:
        if fd == self._wake:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        elif fd == self._listener.fileno():
            self._accept()
        elif connection := self._connections.get(fd):
            try:
                self._on_client(connection, events)
            except OSError:
                self._drop(connection)

    def _on_client(self, connection: _Connection, events: int) -> None:
        if events & select.EPOLLIN:
            self._read(connection)
        elif events & select.EPOLLOUT:
            self._write(connection)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self._drop(connection)

    def _accept(self) -> None:
        if len(self._connections) >= self._most and not self._make_room():
            return
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            # Out of descriptors or memory: the backlog keeps the client until the next try.
            self._failed.say(error=str(error))
            self._stop_accepting(time.monotonic() + ACCEPT_AGAIN_SECONDS)
            return
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections[sock.fileno()] = connection
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        pid, uid, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid not in (0, self._allowed_uid):
            self._refused.say(pid=pid, uid=uid)
            self._refuse(connection, f"uid {uid} may not use this socket; run as root")

    def _make_room(self) -> bool:
        """Whether there is a place more; else nobody is accepted until there may be one."""
        slow = [c for c in self._connections.values() if c.deadline is not None]
        slowest = min(slow, key=lambda connection: connection.since, default=None)
        self._crowded.say(most=self._most, silent=len(slow))
        if slowest is None:
            self._stop_accepting(None)  # until one that waits has its reply
        elif (patient := slowest.since + PATIENCE_SECONDS) > time.monotonic():
            self._stop_accepting(patient)
        else:
            self._drop(slowest)
            return True
        return False

    def _read(self, connection: _Connection) -> None:
        chunk = connection.sock.recv(1 << 18)
        if not chunk:
            self._drop(connection)
            return
        received = connection.received
        received += chunk
        if len(received) < _HEADER:
            return
        length = int.from_bytes(received[:_HEADER], "big")
        if length > wire.MAX_REQUEST:
            self._refuse(connection, f"a request of {length} bytes; {wire.MAX_REQUEST} is the most")
        elif len(received) >= _HEADER + length:
            self._on_frame(connection, bytes(received[_HEADER : _HEADER + length]))

    def _on_frame(self, connection: _Connection, frame: bytes) -> None:
        connection.received = bytearray()
        connection.deadline = None
        # From here only its end of life is of interest, until there is a reply.
        self._epoll.modify(connection.sock.fileno(), 0)
        try:
            body = msgpack.unpackb(frame, raw=False, strict_map_key=True, unicode_errors="strict")
        except (ValueError, msgpack.exceptions.UnpackException) as error:
            self._refuse(connection, f"not one msgpack map: {error}")
            return
        if not isinstance(body, dict):
            self._refuse(connection, "not one msgpack map")
            return
        version = body.get("v")
        if type(version) is int and version in wire.SERVED_VERSIONS:
            self._dispatch(Request(body, connection, self))
            return
        # Not shown unless it is a number: it may be anything, nested deeper than can be printed.
        told = str(version) if type(version) is int else "none" if version is None else "no number"
        served = ", ".join(map(str, wire.SERVED_VERSIONS))
        self._refuse(connection, f"wire version {told}; this daemon serves {served}")

    def _refuse(self, connection: _Connection, message: str) -> None:
        self.post(
            connection, {"v": wire.WIRE_VERSION, "ok": False, "code": 999, "msg": message, "details": ""}
        )

    # --- replies -----------------------------------------------------------------------------------------

    def _finish_answered(self) -> None:
        while self._answered:
            connection = self._answered.popleft()
            if connection.closed:
                continue
            if connection.outgoing:
                self._epoll.modify(connection.sock.fileno(), select.EPOLLOUT)
            else:
                self._drop(connection)

    def _write(self, connection: _Connection) -> None:
        connection.write()
        if not connection.outgoing:
            self._drop(connection)

    # --- life --------------------------------------------------------------------------------------------

    def _patience(self) -> float:
        deadlines = [c.deadline for c in self._connections.values() if c.deadline is not None]
        if self._accept_again is not None:
            deadlines.append(self._accept_again)
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else -1

    def _expire(self) -> None:
        now = time.monotonic()
        if self._accept_again is not None and self._accept_again <= now and not self._accepting:
            self._accept_more()
        late = [c for c in self._connections.values() if c.deadline is not None and c.deadline <= now]
        for connection in late:
            self._late.say(received=len(connection.received))
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        fd = connection.sock.fileno()
        if self._connections.pop(fd, None) is None:
            return
        self._epoll.unregister(fd)
        connection.close()
        if not self._accepting and not self._stopping:
            self._accept_more()

    def _accept_more(self) -> None:
        self._accepting = True
        self._accept_again = None
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)

    def _stop_accepting(self, until: float | None) -> None:
        """Let clients wait in the kernel's backlog until then; None: until a place is free."""
        self._accept_again = until
        if self._accepting:
            self._accepting = False
            self._epoll.unregister(self._listener.fileno())

    def _unwritten(self) -> bool:
        return bool(self._answered) or any(c.outgoing for c in self._connections.values())

    def _close(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()
        self._epoll.close()
        # Only our own: another daemon may have taken the path since.
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()
        self._listener.close()


def _too_large(size: int) -> dict[str, Any]:
    message = f"the reply would be {size} bytes; ask for less (one attachment, one namespace)"
    return {"v": wire.WIRE_VERSION, "ok": False, "code": 999, "msg": message, "details": ""}


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _remove_stale(path: Path) -> None:
    """Make way for our socket. Raises SocketTakenError for what is not a stale one."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketTakenError(f"{path} is there and is no socket; remove it, or name another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise SocketTakenError(f"{path} can't be looked at: {error}") from error
    raise SocketTakenError(f"another process listens at {path}; stop it, or name another --socket")


def _listen(path: Path) -> socket.socket:
    """Bind, replacing a stale socket: the caller holds the state directory's lock."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(previous)
    return listener
