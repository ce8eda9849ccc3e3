"""What waits for the dataplane thread, in lanes, so that no kind of work can hold up another.

In: items put by the server, the source and the signal thread. Out: one item of each lane in turn.
"""

import threading
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TypeAlias

Task: TypeAlias = Callable[[], None]


class Lane(IntEnum):
    """DEL, CHECK, mnpctl and stop; ADDs; what the source sends."""

    CONTROL = 0
    ADD = 1
    SOURCE = 2


class Inbox:
    """Thread-safe lanes of tasks, each in order of arrival."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._lanes: tuple[deque[Task], ...] = tuple(deque() for _ in Lane)

    def put(self, lane: Lane, task: Task) -> None:
        """Append a task to a lane; callable from any thread."""
        with self._ready:
            self._lanes[lane].append(task)
            self._ready.notify()

    def put_first(self, lane: Lane, task: Task) -> None:
        """Put a task before all others of its lane: the rest of one that has begun."""
        with self._ready:
            self._lanes[lane].appendleft(task)
            self._ready.notify()

    def take(self, timeout: float | None) -> list[Task]:
        """The first task of every lane that has one.

        Waits up to `timeout` seconds for any (None: until there is one).
        """
        with self._ready:
            self._ready.wait_for(lambda: any(self._lanes), timeout)
            return [lane.popleft() for lane in self._lanes if lane]
