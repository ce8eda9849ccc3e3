"""The directory of kept versions: one file a policy, its name a digest of the policy's.

In: Versions. Out: files, and Versions read from them. Files are written as a whole or not at all, and what is
read is believed no more than any input: what is damaged, foreign or of another format is set aside.
"""

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from daemon.log import get_logger
from daemon.model import ObjectKey
from daemon.sources.lastvalid import Version, decode

log = get_logger(__name__)

SUFFIX = ".json"
MAX_FILE = 8 << 20
"""Of one policy: more than an API server holds of one. Beyond that it is kept without its rules."""
MAX_FILES = 10_000
MAX_TOTAL = 64 << 20
"""Of whole versions: what is kept without its rules may come on top, so that nobody takes others' place."""
MAX_ASIDE = 100
"""Files that are set aside; the oldest make room."""


def file_name(key: ObjectKey) -> str:
    """The name of the file about a policy: namespaces and names are longer together than a file's may be."""
    text = f"{key.namespace}/{key.name}".encode("utf-8", "surrogatepass")
    return sha256(text).hexdigest()[:40] + SUFFIX


class KeptFiles:
    """Thread-safe. Where the directory can't be read there are no files; write() and delete() raise OSError.

    aside: (file name, reason) of what this run has found that could not be used.
    """

    def __init__(
        self,
        directory: Path,
        max_file: int = MAX_FILE,
        max_files: int = MAX_FILES,
        max_total: int = MAX_TOTAL,
    ) -> None:
        self.directory = directory
        self._max_file = max_file
        self._max_files = max_files
        self._max_total = max_total
        self._lock = threading.Lock()
        self._aside: dict[str, str] = {}
        self._sizes = self._list()

    @property
    def aside(self) -> dict[str, str]:
        """File name to reason of what this run has set aside."""
        with self._lock:
            return dict(self._aside)

    @property
    def names(self) -> frozenset[str]:
        """The files that there are."""
        with self._lock:
            return frozenset(self._sizes)

    def __contains__(self, name: str) -> bool:
        return name in self._sizes

    def knows(self, name: str) -> bool:
        """Whether there is such a file, or was one before it was set aside."""
        return name in self._sizes or name in self._aside

    def has_place(self, name: str) -> bool:
        """Whether it is there, or there may be one more."""
        with self._lock:
            return name in self._sizes or len(self._sizes) < self._max_files

    def room(self, name: str) -> int:
        """How many bytes one more file, or another content of one, may have."""
        with self._lock:
            others = sum(size for other, size in self._sizes.items() if other != name)
        return max(0, min(self._max_file, self._max_total - others))

    def content(self, name: str) -> bytes | None:
        """A file's bytes; None: there is none, or it can't be read."""
        try:
            return _read(self.directory / name, self._max_file)
        except (OSError, ValueError):
            return None

    def read(self, key: ObjectKey) -> Version | None:
        """What is kept of a policy; None: nothing that can be used, which is set aside."""
        return self._decode(file_name(key))

    def scan(self) -> Iterator[Version]:
        """All that can be used; the rest is set aside."""
        for name in sorted(self.names):
            version = self._decode(name)
            if version is not None:
                yield version

    def write(self, name: str, content: bytes) -> None:
        """Write or replace one file; a kill in the middle, or a full disk, leaves the old one."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / name
        temporary = path.with_suffix(".tmp")
        try:
            with open(temporary, "wb", opener=_private) as file:
                file.write(content)
                file.flush()
                # Nobody waits for it, and unlike a record it is of use after the power has failed.
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        with self._lock:
            self._sizes[name] = len(content)
            self._aside.pop(name, None)

    def delete(self, name: str) -> None:
        """Forget one; nothing happens when it is not there."""
        (self.directory / name).unlink(missing_ok=True)
        with self._lock:
            self._sizes.pop(name, None)

    def excuse(self, name: str) -> None:
        """What was set aside is of no use to anybody any more."""
        with self._lock:
            self._aside.pop(name, None)

    # --- inside ------------------------------------------------------------------------------------------

    def _list(self) -> dict[str, int]:
        sizes = {}
        try:
            with os.scandir(self.directory) as entries:
                for entry in entries:
                    if entry.name.endswith(".tmp"):
                        with contextlib.suppress(OSError):
                            os.unlink(entry.path)
                    elif entry.name.endswith(SUFFIX):
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
        except FileNotFoundError:
            pass
        except OSError as error:
            log.warning("kept-not-read", extra={"directory": str(self.directory), "error": str(error)})
        return sizes

    def _decode(self, name: str) -> Version | None:
        path = self.directory / name
        try:
            version = decode(_read(path, self._max_file))
            if file_name(version.key) != name:
                raise ValueError("a copy: its name is not that of what it holds")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._set_aside(path, str(error))
            return None
        return version

    def _set_aside(self, path: Path, reason: str) -> None:
        folder = self.directory / "set-aside"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            path.replace(folder / path.name)
            _thin_out(folder)
        except OSError as refused:
            reason = f"{reason} (left where it is: {refused})"
        log.warning("kept-not-used", extra={"file": path.name, "reason": reason})
        with self._lock:
            self._sizes.pop(path.name, None)
            self._aside[path.name] = reason


def _thin_out(folder: Path) -> None:
    found = sorted(folder.iterdir(), key=lambda path: path.lstat().st_mtime)
    for path in found[: max(0, len(found) - MAX_ASIDE)]:
        path.unlink()


def _read(path: Path, most: int) -> bytes:
    """At most so many bytes of a plain file. ValueError: it is none, or larger."""
    with open(path, "rb", opener=_plain) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"larger than {most} bytes")
    return content


def _plain(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ValueError("no plain file")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
