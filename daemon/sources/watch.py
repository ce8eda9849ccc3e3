"""Wakes a thread when a directory changes: inotify where it works, and never later than asked.

In: a path that may not exist yet, or be replaced. Out: the names that changed. It reads no file.
"""

import contextlib
import os
import select
from collections.abc import Iterable

import inotify_simple
import msgspec
from inotify_simple import INotify, flags

from daemon.libc import LIBC
from daemon.log import get_logger

log = get_logger(__name__)

inotify_simple._libc = LIBC

_TAKEN = flags.CLOSE_WRITE | flags.MOVED_TO
_MASK = _TAKEN | flags.MOVED_FROM | flags.DELETE | flags.CREATE | flags.DELETE_SELF | flags.MOVE_SELF


class Wake(msgspec.Struct):
    """closed: written and closed, or moved in. touched: any other change. everything: look at all files."""

    closed: set[str] = set()
    touched: set[str] = set()
    everything: bool = False


class Watch:
    """One directory's inotify watch, and a way to wake its thread. wake() may be called from any thread."""

    def __init__(self, path: str, suffixes: tuple[str, ...]) -> None:
        self._path = path
        self._suffixes = suffixes
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._event, select.POLLIN)
        self._watched: tuple[int, int] | None = None
        self._number: int | None = None
        self._notify = self._open()

    def _open(self) -> INotify | None:
        try:
            notify = INotify(nonblocking=True)
        except OSError as error:
            log.warning("inotify-unavailable", extra={"error": str(error), "instead": "polling"})
            return None
        self._poll.register(notify.fileno(), select.POLLIN)
        return notify

    def close(self) -> None:
        """Give the descriptors back; wake() must not be called any more."""
        if self._notify is not None:
            self._notify.close()
        os.close(self._event)

    def wake(self) -> None:
        """End the wait() that is going on, or the next one."""
        os.eventfd_write(self._event, 1)

    def follow(self) -> bool:
        """Watch what the path leads to now; true when that is another directory than before."""
        try:
            status = os.stat(self._path)
        except OSError:
            self._watched = None
            return False
        identity = (status.st_dev, status.st_ino)
        if identity == self._watched:
            return False
        self._watched = identity
        if self._notify is not None:
            self._move_watch(self._notify)
        return True

    def _move_watch(self, notify: INotify) -> None:
        try:
            new = notify.add_watch(self._path, _MASK)
        except OSError as error:
            # The limit of watches, most likely; polling finds every change too, only later.
            log.warning("inotify-unavailable", extra={"error": str(error), "instead": "polling"})
            return
        if self._number not in (None, new):
            # Gone already with its directory, unless that was only moved away.
            with contextlib.suppress(OSError):
                notify.rm_watch(self._number)
        self._number = new

    def wait(self, seconds: float) -> Wake:
        """Wait for a change, for wake(), or so long."""
        self._poll.poll(max(0.0, seconds) * 1000)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        return self._sort(self._notify.read(timeout=0)) if self._notify is not None else Wake()

    def _sort(self, events: Iterable[tuple[int, int, int, str]]) -> Wake:
        wake = Wake()
        for _, mask, _, name in events:
            if name.endswith(self._suffixes):
                (wake.closed if mask & _TAKEN else wake.touched).add(name)
            elif not name or mask & flags.MOVED_TO:
                # The directory itself, a lost event, or a link that was swapped.
                wake.everything = True
            if mask & (flags.IGNORED | flags.DELETE_SELF | flags.MOVE_SELF):
                self._watched = None
        return wake
