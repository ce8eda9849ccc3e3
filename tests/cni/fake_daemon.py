"""A scripted daemon for tests of the plugin alone: a real Unix socket whose answers are as bad as one wants.

In: a socket's path and a script per connection, the last of which repeats. Out: the requests that arrived,
decoded by the msgpack package. It knows nothing of policies and is never used where the real daemon can
stand.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgpack

from cni_plugin import wire

Script = Callable[["FakeDaemon", socket.socket], None]

# A test that needs longer has failed already.
LIMIT = 30.0


class FakeDaemon:
    """Serves one connection after the other while the `with` block lasts.

    requests: one map a request that was read. connections: how many were accepted.
    """

    def __init__(self, path: Path, *scripts: Script) -> None:
        self.path = path
        self.scripts = scripts or (ok,)
        self.requests: list[dict[str, Any]] = []
        self.connections = 0
        self.released = threading.Event()
        self._stopped = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._stopped.set()
        # Wakes accept(), which close() would not.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            # What the plugin does meanwhile is the test's business: it may be gone.
            with connection, contextlib.suppress(ConnectionError):
                connection.settimeout(LIMIT)
                script(self, connection)

    def read(self, connection: socket.socket) -> dict[str, Any]:
        """Read one request as the real daemon does, and keep it."""
        (length,) = struct.unpack(">I", _receive(connection, 4))
        assert length <= wire.MAX_REQUEST
        request: dict[str, Any] = msgpack.unpackb(_receive(connection, length))
        self.requests.append(request)
        return request


def _receive(connection: socket.socket, size: int) -> bytes:
    body = b""
    while len(body) < size:
        part = connection.recv(size - len(body))
        if not part:
            raise ConnectionResetError("the plugin closed its end")
        body += part
    return body


def framed(reply: object) -> bytes:
    """Return a reply as it goes over the wire, written by the msgpack package."""
    body: bytes = msgpack.packb(reply)
    return struct.pack(">I", len(body)) + body


OK_REPLY = {"v": wire.WIRE_VERSION, "ok": True}


def ok(daemon: FakeDaemon, connection: socket.socket) -> None:
    daemon.read(connection)
    connection.sendall(framed(OK_REPLY))


def answer(reply: object) -> Script:
    """Answer with any msgpack value."""
    return raw(framed(reply))


def raw(text: bytes) -> Script:
    """Answer with these bytes and close."""

    def script(daemon: FakeDaemon, connection: socket.socket) -> None:
        daemon.read(connection)
        connection.sendall(text)

    return script


def refuse(code: int, msg: str, details: str) -> Script:
    """Answer with an error."""
    return answer({"v": wire.WIRE_VERSION, "ok": False, "code": code, "msg": msg, "details": details})


def refuse_unread(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Refuse before the request was read, as a daemon does whose client is too large or not root."""
    connection.sendall(framed({"v": 1, "ok": False, "code": 11, "msg": "busy", "details": ""}))


def hang(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Read, and never answer."""
    daemon.read(connection)
    daemon.released.wait(LIMIT)


def deaf(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Accept, and never read."""
    daemon.released.wait(LIMIT)


def hold(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Answer yes once the test sets `released`."""
    daemon.read(connection)
    daemon.released.wait(LIMIT)
    connection.sendall(framed(OK_REPLY))


def close_at_once(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Close before a byte was read."""


def close_unanswered(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Read the request and close."""
    daemon.read(connection)


def close_mid_reply(daemon: FakeDaemon, connection: socket.socket) -> None:
    """Send all but the last byte and close."""
    daemon.read(connection)
    connection.sendall(framed(OK_REPLY)[:-1])


def trickle(interval: float, size: int | None = None) -> Script:
    """Answer yes one byte at a time, an interval of seconds apart; at most size bytes of it."""

    def script(daemon: FakeDaemon, connection: socket.socket) -> None:
        daemon.read(connection)
        for byte in framed(OK_REPLY)[:size]:
            connection.sendall(bytes([byte]))
            daemon.released.wait(interval)
        if size is not None:
            daemon.released.wait(LIMIT)

    return script
