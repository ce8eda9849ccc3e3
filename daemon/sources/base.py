"""What every source gives, and what may be asked of it.

In: nothing. Out: the Update type and the Source protocol.
"""

from collections.abc import Mapping
from typing import Protocol

import msgspec

from daemon.model import Change, Problem


class Update(msgspec.Struct, frozen=True):
    """What a source found since its last update, handed over from the source's own thread.

    problems: all that is wrong with the source now (not with objects: those carry their own), by place, such
    as `web.yaml` or `web.yaml#2`; it replaces the last update's.
    complete: everything that there was at the start has been handed over.
    tokens: of each request_sync() that this update answers; with it, all that the source held at that call
    has been handed over.
    """

    changes: tuple[Change, ...] = ()
    problems: Mapping[str, tuple[Problem, ...]] = {}
    complete: bool = False
    tokens: tuple[int, ...] = ()


class Source(Protocol):
    """A thread that reads cluster objects and publishes updates."""

    def start(self) -> None:
        """Begin to read."""

    def stop(self, timeout: float) -> bool:
        """End the thread; False when it still works after `timeout` seconds."""

    def request_sync(self, token: int) -> None:
        """Read anew; an update with the token follows. From any thread, returns at once."""
