"""A port of this machine's loopback, reachable on that of a node's namespace: for Multus, which runs there.

In: a namespace and a port. Out: connections there, carried over to the same port here, until close().
"""

import contextlib
import socket
import threading
from pathlib import Path

from pyroute2 import IPRoute

from tests.lab.namespaces import inside

_HOST = "127.0.0.1"
_PIECE = 1 << 16


class Relay:
    """Listens from the start on."""

    def __init__(self, netns: Path, port: int) -> None:
        """Bring the namespace's loopback up and listen there."""
        self._port = port
        with inside(netns), IPRoute() as links:
            links.link("set", index=1, state="up")
            self._listener = socket.create_server((_HOST, port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more connections; those that there are end with their ends."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((_HOST, self._port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=_carry, args=ends, daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError), source:
        while piece := source.recv(_PIECE):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
