"""An event loop: sockets and times.

In: sockets and deadlines with a callback each. Out: calls, all from one thread.
"""

import heapq
import itertools
import select
import socket
import time
from collections.abc import Callable


class Loop:
    """Calls back when a socket has something, or when a time has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def watch(self, sock: socket.socket | int, events: int, callback: Callable[[int], None]) -> None:
        number = sock if isinstance(sock, int) else sock.fileno()
        self._callbacks[number] = callback
        self._epoll.register(number, events)

    def unwatch(self, sock: socket.socket) -> None:
        number = sock.fileno()
        if self._callbacks.pop(number, None) is not None:
            self._epoll.unregister(number)

    def forget(self, sock: socket.socket) -> None:
        """Close the socket; twice is fine."""
        self.unwatch(sock)
        sock.close()

    def at(self, when: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), callback))

    def run(self) -> None:
        while True:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
            for number, events in self._epoll.poll(wait):
                callback = self._callbacks.get(number)
                if callback is not None:
                    callback(events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
