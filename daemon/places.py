"""The places in the file system that a start needs: what is wrong with one, and what to do about it.

In: paths of the settings. Out: the same places in use, or MultiNetworkPolicyError with the remedy.
"""

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from daemon.errors import MultiNetworkPolicyError, StopAskedError
from daemon.log import get_logger

log = get_logger(__name__)

LOCK_SECONDS = 10.0
"""How long a second daemon waits for the first to end (a rolling update overlaps them)."""
TRY_SECONDS = 0.05

_REMEDIES = {
    errno.EROFS: "mount it writable",
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or raise the quota",
    errno.ENOTDIR: "move away what is no directory there",
    errno.EEXIST: "move away what is no directory there",
    errno.EACCES: "run the daemon as root, and let the node's security modules permit it",
    errno.EPERM: "run the daemon as root, and let the node's security modules permit it",
    errno.EIO: "mend the disk",
}
_OF_DISKS = (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a write says without naming the file."""


@contextlib.contextmanager
def using_state(directory: Path) -> Iterator[None]:
    """Where the state directory can't be used: MultiNetworkPolicyError with the remedy, and no traceback."""
    try:
        yield
    except OSError as error:
        where = _place(error)
        if where is None:
            if error.errno not in _OF_DISKS:
                raise
        elif directory not in (where, *where.parents) and where not in directory.parents:
            raise
        raise _unusable("the state directory", directory, where or directory, error, "--state-dir") from error


@contextlib.contextmanager
def using_socket(path: Path) -> Iterator[None]:
    """The same of the socket, and of the directory that it is to stand in."""
    try:
        yield
    except OSError as error:
        # To bind names no file; it fails for the directory.
        raise _unusable("the socket", path, _place(error) or path.parent, error, "--socket") from error


def _place(error: OSError) -> Path | None:
    return None if error.filename is None else Path(os.fsdecode(error.filename))


def _unusable(what: str, path: Path, where: Path, error: OSError, option: str) -> MultiNetworkPolicyError:
    remedy = _REMEDIES.get(error.errno or 0, "make it one that can be written to")
    return MultiNetworkPolicyError(
        f"{what} {path} can't be used: {where}: {error.strerror}: {remedy}, or name another one with "
        f"{option}. Rules that are in force stay so meanwhile"
    )


class StateLock:
    """flock on the state directory: only its holder may unlink a stale socket or write records.

    pause: wait for so many seconds; the name of the signal that asked to stop meanwhile, "": none.
    """

    def __init__(self, directory: Path, pause: Callable[[float], str]) -> None:
        self._path = directory / "lock"
        self._pause = pause

    def __enter__(self) -> "StateLock":
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            self._take()
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def _take(self) -> None:
        deadline, told = time.monotonic() + LOCK_SECONDS, False
        while not self._taken():
            if time.monotonic() >= deadline:
                raise MultiNetworkPolicyError(
                    f"{self._path} is held by another multi-networkpolicyd; stop that one, or give "
                    "this one its own --state-dir and --socket"
                )
            if not told:
                told = True
                log.warning("waiting-for-lock", extra={"lock": str(self._path), "seconds": LOCK_SECONDS})
            if name := self._pause(TRY_SECONDS):
                raise StopAskedError(name)

    def _taken(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
