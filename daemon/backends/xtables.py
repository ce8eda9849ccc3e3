"""The legacy tables of the current netns, by python-iptables: read, changed, committed as wholes.

In: entries and chains' names. Out: tables in the kernel, and what is in them. It keeps no socket to any
netns, and starts no process but modprobe. Every use of a table is within `one_thread`.

libiptc reads a whole table, changes the copy, and puts it back by one system call, which refuses when the
number of rules has changed since, but not when others were exchanged for as many. So the lock file that
iptables itself takes is held meanwhile, and the caller reads back what it wrote (see `Table.rules`).
"""

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Iterator
from typing import Any

import msgspec

from daemon.backends.iptclib import last_errno, load
from daemon.backends.iptentry import Entry, match_of
from daemon.backends.xtsockopt import TABLE, require_readable
from daemon.errors import BackendUnavailableError, DataplaneError, TransactionError

LOCK_PATH = "/run/xtables.lock"
LOCK_SECONDS = 2.0

_MODULES = {4: "ip_tables", 6: "ip6_tables"}
_TABLES_REMEDY = (
    "the iptables backend needs a kernel with legacy tables (`modprobe -a iptable_mangle ip6table_mangle`), "
    "or --backend nftables"
)


class FoundRule(msgspec.Struct, frozen=True):
    """One rule as the kernel has it.

    match: all that a packet must be for it, as bytes. target: a verdict or a chain. counters: packets, bytes.
    """

    match: bytes
    target: str
    counters: tuple[int, int]

    def says(self, entry: Entry) -> bool:
        """Whether it is that entry."""
        return self.match == entry.match and self.target == entry.target


class Table:
    """One family's table of the netns in which it was opened; changes count after commit()."""

    def __init__(self, family: int, name: str = TABLE) -> None:
        """DataplaneError: the kernel has no such table, or not for us."""
        self._subject = f"the IPv{family} {name} table"
        self._family = family
        require_readable(family, name)
        iptc = load()
        try:
            self._table = (iptc.Table if family == 4 else iptc.Table6)(name, autocommit=False)
            # python-iptables keeps one object a name, whatever the netns: this reads the current one anew.
            self._table.refresh()
        except iptc.IPTCError as error:
            raise DataplaneError(f"open {self._subject}: {error}") from error

    def close(self) -> None:
        """Let go; what was not committed is forgotten."""
        self._table.close()

    def chains(self) -> frozenset[str]:
        """The names of all chains, whoever's, but such as are no ASCII: of those none is ours."""
        # Table.chains makes an object for each, and fails at a name that is no UTF-8.
        iptc, pointer = self._table._iptc, self._table._handle
        found = set()
        name = iptc.iptc_first_chain(pointer)
        while name:
            if name.isascii():
                found.add(name.decode())
            name = iptc.iptc_next_chain(pointer)
        return frozenset(found)

    def rules(self, chain: str, most: int | None = None) -> list[FoundRule]:
        """What stands in a chain, or its first so many rules; nothing where there is no such chain."""
        found: list[FoundRule] = []
        entry = self._table.first_rule(chain)
        while entry and (most is None or len(found) < most):
            raw = ctypes.string_at(ctypes.addressof(entry), entry.target_offset)
            target = self._table.get_target(entry) or b""
            counters = (entry.counters.pcnt, entry.counters.bcnt)
            found.append(FoundRule(match_of(raw, self._family), target.decode(errors="replace"), counters))
            entry = self._table.next_rule(entry)
        return found

    def create(self, chain: str) -> None:
        """Make an empty chain."""
        self._do("create chain", chain, self._table.create_chain, chain)

    def flush(self, chain: str) -> None:
        """Take all rules out of a chain."""
        self._do("flush chain", chain, self._table.flush_entries, chain)

    def delete(self, chain: str) -> None:
        """Take away an empty chain that no rule jumps to."""
        self._do("delete chain", chain, self._table.delete_chain, chain)

    def append(self, chain: str, entry: Entry) -> None:
        """Add a rule at the end of a chain. The chain that it jumps to is there."""
        self._do("append to", chain, self._table.append_entry, chain, _buffer(entry.raw))

    def insert(self, chain: str, entry: Entry) -> None:
        """Add a rule as a chain's first."""
        self._do("insert into", chain, self._table.insert_entry, chain, _buffer(entry.raw), 0)

    def remove(self, chain: str, entry: Entry) -> None:
        """Take the first such rule out of a chain."""
        mask = _buffer(b"\xff" * len(entry.raw))
        self._do("delete from", chain, self._table.delete_entry, chain, _buffer(entry.raw), mask)

    def commit(self) -> None:
        """Put the table into the kernel as a whole. TransactionError: refused, it is as before.

        Its errno is EAGAIN when somebody else has changed the table since it was opened.
        """
        self._do("commit", self._subject, self._table.commit)

    def _do(self, verb: str, subject: str, step: Any, *arguments: Any) -> None:
        try:
            step(*arguments)
        except load().IPTCError as error:
            number = last_errno()
            raise TransactionError(number, str(error), f"{verb} {subject}") from error


class Tables:
    """Opens and locks. Tests hand over one whose tables refuse things."""

    def __init__(self, lock_path: str | None = None) -> None:
        """lock_path: iptables' own by default, or what XTABLES_LOCKFILE names, as it does for iptables."""
        self._lock = LockFile(lock_path or os.environ.get("XTABLES_LOCKFILE") or LOCK_PATH)

    @contextlib.contextmanager
    def opened(self, family: int, name: str = TABLE) -> Iterator[Table]:
        """A family's table, closed at the end."""
        table = self.open(family, name)
        try:
            yield table
        finally:
            table.close()

    def open(self, family: int, name: str = TABLE) -> Table:
        """A family's table of the current netns. DataplaneError: there is none."""
        return Table(family, name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that iptables takes. DataplaneError: another process held it all the time."""
        fd = self._lock.take(LOCK_SECONDS)
        try:
            yield
        finally:
            os.close(fd)


class ScratchTables(Tables):
    """Of a netns that nobody else can reach: there is no lock to wait for."""

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nothing to hold."""
        yield


class LockFile:
    """A file that whoever changes legacy tables holds an flock on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: threading.Thread | None = None

    def take(self, seconds: float) -> int:
        """Lock it; returns the descriptor whose close unlocks it. DataplaneError: not within so many seconds.

        After one such failure it is not waited for until its holder has let go: one that hangs must not cost
        every pod's turn a wait.
        """
        try:
            fd = os.open(self._path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataplaneError(f"open the lock file {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if self._waiting is not None and self._waiting.is_alive():
                os.close(fd)
                raise self._held() from None
        except OSError as error:
            os.close(fd)
            raise DataplaneError(f"lock {self._path}: {error.strerror}") from error
        else:
            return fd
        # Trying again and again could lose against others for ever; who waits in the kernel gets its turn.
        turn = _Turn(fd)
        self._waiting = threading.Thread(target=turn.wait, name="xtables-lock", daemon=True)
        self._waiting.start()
        if not turn.came_within(seconds):
            raise self._held()
        return fd

    def _held(self) -> DataplaneError:
        hint = f"`fuser {self._path}` names it; an iptables that hangs?"
        return DataplaneError(f"{self._path} is held by another process: {hint}")


class _Turn:
    """A wait for a lock that can be given up; the descriptor is then closed once the lock has been had."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._came = threading.Event()
        self._given_up = False
        self._deciding = threading.Lock()

    def wait(self) -> None:
        """Block until the lock is ours; for a thread of its own."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._deciding:
            if self._given_up:
                os.close(self._fd)
            else:
                self._came.set()

    def came_within(self, seconds: float) -> bool:
        """Whether the lock is ours; if not after so many seconds, it will not be kept."""
        if self._came.wait(seconds):
            return True
        with self._deciding:
            self._given_up = not self._came.is_set()
        return not self._given_up


def require_tables() -> None:
    """Load the kernel's modules for legacy tables if need be. BackendUnavailableError: it has none."""
    for family, module in _MODULES.items():
        try:
            Table(family).close()
        except DataplaneError:
            # The kernel loads a table by itself, but not what tables are made of.
            load().util.load_kernel(module)
            try:
                Table(family).close()
            except DataplaneError as error:
                raise BackendUnavailableError(f"{error}: {_TABLES_REMEDY}") from error


def _buffer(raw: bytes) -> Any:
    return (ctypes.c_ubyte * len(raw)).from_buffer_copy(raw)
