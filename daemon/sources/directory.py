"""Which files of a directory are new and fit to be read, and which are gone.

In: the directory, looked at again and again. Out: contents of files. It parses nothing, and never blocks. A
file counts when nobody has it open for writing. One that became empty or vanished counts after a time of
quiet: editors truncate first, or rename in two steps.
"""

import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

SUFFIXES = (".yaml", ".yml", ".json")
MAX_FILE = 64 * 1024 * 1024
QUIET_SECONDS = 0.2
WRITER_QUIET_SECONDS = 5.0
"""A file that stays open for writing is read when it did not change for so long: it may never be closed."""

CLOSING_TRIES = 10
CLOSING_SECONDS = 0.002

# Older kernels stamp files by a tick of up to 10 ms: a second write within it leaves no trace.
_STAMP_TICK_NS = 50_000_000
# A mounted ConfigMap: every file is a link through this one, which is swapped.
_SWAPPED_LINK = "..data"
MAX_SWAPS = 100

Signature: TypeAlias = tuple[int, int, int, int, int]


class Look(msgspec.Struct):
    """What one look found. Nothing in it: nothing changed."""

    contents: dict[str, bytes] = {}
    errors: dict[str, str] = {}
    gone: list[str] = []


class _Seen(msgspec.Struct):
    """signature None: look again whatever it is. racy: stamped so lately that a later write may not show."""

    signature: Signature | None
    empty: bool = False
    racy: bool = False


class _Wait(msgspec.Struct):
    """A change that is not taken yet. signature None: vanished."""

    signature: Signature | None
    since: float
    seconds: float


class Directory:
    """One directory's files by name. Not thread-safe."""

    def __init__(self, path: str, is_remote: Callable[[int], bool]) -> None:
        """is_remote: whether a device number is that of a network file system."""
        self._path = path
        self._is_remote = is_remote
        self._seen: dict[str, _Seen] = {}
        self._waits: dict[str, _Wait] = {}

    def look(self, now: float, closed: Iterable[str] = (), only: Iterable[str] | None = None) -> Look:
        """Find what changed. now: monotonic seconds. closed: names just written and closed, or moved in.

        only: look at no others. Raises OSError when the directory itself can't be read; nothing is gone then.
        """
        found = Look()
        for _ in range(MAX_SWAPS):
            swapped = self._swapped_link()
            names = self._list() | self._seen.keys() if only is None else set(only)
            for name in sorted(names | self._waits.keys()):
                self._check(name, found, now, closed=name in closed)
            # All files of a swap are taken together, or not at all.
            if self._swapped_link() == swapped:
                break
        return found

    def unsettled(self) -> set[str]:
        """Names whose change waits for quiet; not those that somebody still writes to."""
        return {name for name, wait in self._waits.items() if wait.seconds == QUIET_SECONDS}

    def next_due(self) -> float | None:
        """When the next wait is over, in monotonic seconds."""
        return min((wait.since + wait.seconds for wait in self._waits.values()), default=None)

    def _list(self) -> set[str]:
        with os.scandir(self._path) as entries:
            return {entry.name for entry in entries if entry.name.endswith(SUFFIXES)}

    def _swapped_link(self) -> Signature | None:
        try:
            # Of the link, not of its target, which a second swap may have made the old one again.
            return _signature(os.lstat(os.path.join(self._path, _SWAPPED_LINK)))
        except OSError:
            return None

    def _check(self, name: str, found: Look, now: float, *, closed: bool) -> None:
        try:
            status = os.stat(os.path.join(self._path, name))
        except (FileNotFoundError, NotADirectoryError):
            self._check_vanished(name, found, now)
            return
        except OSError as error:
            self._refuse(name, None, found, error.strerror or str(error))
            return
        signature = _signature(status)
        seen = self._seen.get(name)
        if seen is not None and seen.signature == signature and not seen.racy and not closed:
            self._waits.pop(name, None)
        elif not stat.S_ISREG(status.st_mode):
            self._refuse(name, signature, found, "not a regular file")
        elif status.st_size > MAX_FILE:
            self._refuse(name, signature, found, f"larger than {MAX_FILE >> 20} MiB: split it")
        elif status.st_size or (seen and seen.empty) or self._is_quiet(name, signature, now, QUIET_SECONDS):
            self._read(name, found, now, closed=closed)

    def _check_vanished(self, name: str, found: Look, now: float) -> None:
        # A link that leads nowhere never was a file.
        if name not in self._seen:
            self._waits.pop(name, None)
        elif self._is_quiet(name, None, now, QUIET_SECONDS):
            self._waits.pop(name, None)
            del self._seen[name]
            found.contents.pop(name, None)
            found.gone.append(name)

    def _refuse(self, name: str, signature: Signature | None, found: Look, message: str) -> None:
        self._seen[name] = _Seen(signature)
        self._waits.pop(name, None)
        found.errors[name] = f"can't be read: {message}"

    def _is_quiet(self, name: str, signature: Signature | None, now: float, seconds: float) -> bool:
        """Whether a change has stayed as it is for so long; begins to wait where it has not."""
        wait = self._waits.get(name)
        if wait is None or wait.signature != signature or wait.seconds != seconds:
            self._waits[name] = _Wait(signature, now, seconds)
            return False
        return now - wait.since >= seconds

    def _read(self, name: str, found: Look, now: float, *, closed: bool) -> None:
        try:
            # Should it have become a pipe meanwhile, opening it must not block.
            fd = os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            self._refuse(name, None, found, error.strerror or str(error))
            return
        try:
            self._read_opened(name, fd, found, now, closed=closed)
        except OSError as error:
            self._refuse(name, None, found, error.strerror or str(error))
        finally:
            os.close(fd)

    def _read_opened(self, name: str, fd: int, found: Look, now: float, *, closed: bool) -> None:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            return
        signature = _signature(before)
        writers = None if self._is_remote(before.st_dev) else _has_writers(fd)
        for _ in range(CLOSING_TRIES if closed and writers else 0):
            # The kernel tells of a close just before it ends the writing.
            time.sleep(CLOSING_SECONDS)
            writers = _has_writers(fd)
            if not writers:
                break
        if writers and not self._is_quiet(name, signature, now, WRITER_QUIET_SECONDS):
            return
        if writers is None and not closed and not self._is_quiet(name, signature, now, QUIET_SECONDS):
            return
        content = _read_bounded(fd)
        if _signature(os.fstat(fd)) != signature:
            # Written to meanwhile: what was read may be neither the old content nor the new.
            self._is_quiet(name, signature, now, WRITER_QUIET_SECONDS)
            return
        racy = 0 <= time.time_ns() - before.st_mtime_ns < _STAMP_TICK_NS
        self._seen[name] = _Seen(signature, empty=not content, racy=racy)
        self._waits.pop(name, None)
        found.errors.pop(name, None)
        found.contents[name] = content


def _signature(status: os.stat_result) -> Signature:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _read_bounded(fd: int) -> bytes:
    parts = []
    size = 0
    while size <= MAX_FILE and (part := os.read(fd, 1 << 20)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _has_writers(fd: int) -> bool | None:
    """Whether somebody has the file open for writing; None where the file system can't tell.

    A read lease is granted only if nobody has (fcntl(2), F_SETLEASE). It is given back at once; a writer who
    opens the file in between waits for that, and the signal that tells us of him is one that does nothing.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    return False
