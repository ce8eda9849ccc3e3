"""The TLS socket under one connection: it has a deadline, and another thread can cut it off.

In: what urllib3 connects. Out: reads that end in time. A time-out of the socket alone bounds each silence,
not the whole: a byte now and then would keep an exchange going for ever.
"""

import contextlib
import math
import socket
import ssl
import threading
import time
from typing import Any

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool


class Line:
    """What one connection's sockets share, one socket at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._deadline = math.inf
        self._seconds = math.inf
        self._cut = False

    def begin(self, seconds: float) -> None:
        """An exchange begins that may take so long as a whole."""
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    @property
    def ended_because(self) -> str:
        """Why nothing more comes, if that is our own doing; else ""."""
        if self._cut:
            return "interrupted"
        return f"not done in {self._seconds:g} s" if self.left <= 0 else ""

    def attach(self, connected: socket.socket) -> None:
        """Another socket from now on."""
        with self._lock:
            self._socket = connected
            if isinstance(connected, Socket):
                connected.line = self
            if self._cut:
                self._shut()

    def cut(self) -> None:
        """From any thread: end what waits on the socket, and all that follows until mend()."""
        with self._lock:
            self._cut = True
            self._shut()

    def mend(self) -> None:
        """Take exchanges again."""
        self._cut = False

    def close(self) -> None:
        """Close the socket now: urllib3 leaves that to the garbage collector, in its time."""
        with self._lock:
            if self._socket is not None:
                self._shut()
                self._socket.close()
                self._socket = None

    def _shut(self) -> None:
        if self._socket is not None:
            # Not SSLSocket's own, which takes the TLS away from under a thread that reads: what that reads
            # next is ciphertext. It may be closed meanwhile.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class Socket(ssl.SSLSocket):
    """For SSLContext.sslsocket_class."""

    line: Line | None = None

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """SSLSocket's, until the deadline."""
        if self.line is not None:
            left, silence = self.line.left, self.gettimeout()
            if left <= 0:
                raise TimeoutError("the deadline is over")
            if left < (math.inf if silence is None else silence):
                # urllib3 sets it anew for each request.
                self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)


def make_pool_class(line: Line) -> type[HTTPSConnectionPool]:
    """A pool of urllib3 whose connections attach their sockets to a line."""

    class Attached(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            line.attach(self.sock)

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Attached

    return Pool
