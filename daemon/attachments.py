"""The durable records: one small file an attachment, so that a restarted daemon takes its attachments over.

In: Records. Out: files in a directory, and the Records read from it. Rules are never touched here.

Intent is recorded before the kernel is programmed, by one write and without fsync: a network
namespace does not survive the power loss that fsync guards against, and a record carries the boot id that
it belongs to.
"""

import contextlib
import errno
import os
import re
import stat
from hashlib import blake2b, sha256
from pathlib import Path

import msgspec

from daemon.model import Address, AttachmentKey, ContainerPort, Network
from daemon.networks import Candidates

RECORD_VERSION = 1
"""Written. This one and the one before it are read."""

MAX_RECORD_BYTES = 1 << 20
"""A record is about 1 KiB; labels and ports make the largest part. More than this is damage."""


PAGE_BYTES = 4096
"""What one write puts down as a whole."""

_PATH_BYTES, _NAME_BYTES = 4096, 255
_MOST_TEXT = 4096


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of one attachment.

    netns, device, inode, cookie, directory: the namespace's path and identity (netns.NetnsIdentity).
    ifindex 0: a guard, whose device does not exist yet, or not known any more. permanent, lower: of its link
    at ADD (see netns.Link); seen_name, seen_mac: what it was given since, "": nothing. addresses: those of
    ADD's result.
    pod_*: "" without identity. labels, ports: of the last pod object seen with that UID (A11).
    networks: the net-attach-defs whose policies govern it; candidates: those that it may be of, () in a
    record of before: the same; chosen: which of them by network-status; claimed: which of them Multus' cache
    contradicts; evidence: how they were found;
    configured, config_name: the keys `netAttachDef` and `name` of the plugin's configuration. withdrawn: DEL
    came, the link may live on. unready: everything is denied until the source is read. adopted: its record
    was lost, this is what stood in the kernel: its addresses count for nobody until the source says the same.
    serial: later records have higher ones. digest, generation: of what was applied last to the whole netns;
    "" and 0 where that is not known.
    """

    version: int
    boot_id: str
    container_id: str
    ifname: str
    netns: str
    device: int
    inode: int
    cookie: int | None
    ifindex: int
    mac: str
    addresses: tuple[Address, ...]
    pod_namespace: str
    pod_name: str
    pod_uid: str
    labels: dict[str, str]
    ports: tuple[ContainerPort, ...]
    networks: tuple[Network, ...]
    evidence: str
    configured: str
    config_name: str
    guard: bool
    withdrawn: bool
    track: bool
    unready: bool = False
    adopted: bool = False
    permanent: str = ""
    lower: str = ""
    seen_name: str = ""
    seen_mac: str = ""
    serial: int = 0
    digest: str = ""
    generation: int = 0
    candidates: tuple[Network, ...] = ()
    chosen: Network = ""
    directory: tuple[int, int] | None = None
    claimed: tuple[Network, ...] = ()

    @property
    def known(self) -> Candidates:
        """What is known of the net-attach-def that it is of."""
        networks = self.candidates or (
            (self.configured,) if self.configured in self.networks else self.networks
        )
        also = tuple(network for network in self.networks if network not in networks)
        claimed = self.claimed
        if self.evidence == "config" and len(networks) > 1 and not claimed:
            claimed = (self.configured,)  # in a record of before
        return Candidates(networks, self.evidence, also, self.chosen, claimed)

    @property
    def key(self) -> AttachmentKey:
        """(containerID, ifname)."""
        return AttachmentKey(self.container_id, self.ifname)


class Loaded(msgspec.Struct, frozen=True):
    """What a start finds. notes: (file name, reason) of each record that was dropped or set aside."""

    records: tuple[Record, ...]
    notes: tuple[tuple[str, str], ...]


class RecordStore:
    """The directory of records. Raises OSError where the directory can't be used.

    booted: when this kernel was started, in seconds of the wall clock; what is damaged and older is of
    another boot.
    """

    def __init__(self, directory: Path, boot_id: str, booted: float = 0.0) -> None:
        self._directory = directory
        self._aside = directory / "set-aside"
        self._boot_id = boot_id
        self._booted = booted
        self._any_aside = True
        self._make()

    def _make(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = self._directory.stat()
        self._place = status.st_dev, status.st_ino

    def regain(self) -> bool:
        """Make the directory anew where it is gone or another one; whether so, and nothing is in it then.

        OSError: it can't be made.
        """
        with contextlib.suppress(FileNotFoundError):
            status = self._directory.stat()
            if (status.st_dev, status.st_ino) == self._place:
                return False
        self._make()
        return True

    @property
    def boot_id(self) -> str:
        """The running kernel's, which new records carry."""
        return self._boot_id

    def load(self) -> Loaded:
        """All records of this boot.

        Of another boot, or empty: removed. Damaged or newer: set aside; its rules stay.
        """
        records: list[Record] = []
        notes: list[tuple[str, str]] = []
        for path in self._aside.glob("*.json"):
            self._drop_of_another_boot(path)
        for path in sorted(self._directory.glob("*.json")):
            try:
                record = self._decode(path)
            except (msgspec.MsgspecError, ValueError, OSError) as error:
                notes.append((path.name, self._set_aside(path, error)))
                continue
            if record is not None and record.boot_id == self._boot_id:
                records.append(record)
                continue
            path.unlink(missing_ok=True)
            empty = "empty, so its ADD neither programmed nor answered"
            notes.append((path.name, f"dropped: {empty if record is None else 'of another boot'}"))
        for leftover in self._directory.glob("*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
        return Loaded(tuple(records), tuple(notes))

    def save(self, record: Record) -> None:
        """Write or replace one record, atomically as far as this process can be killed in the middle."""
        path = self._path(record.key)
        try:
            encoded = msgspec.json.encode(record)
        except UnicodeEncodeError:
            # A pod may give its links names that are no text; ADD's own is checked.
            encoded = msgspec.json.encode(msgspec.structs.replace(record, seen_name=""))
        encoded = b"\n".join((encoded, _sum(encoded)))
        if not _write_in_place(path, encoded):
            _replace(path, encoded)
        self._settle(path)

    def delete(self, key: AttachmentKey) -> None:
        """Forget an attachment; nothing happens when there is no record of it."""
        path = self._path(key)
        path.unlink(missing_ok=True)
        self._settle(path)

    def set_aside(self) -> list[Path]:
        """The files that are set aside, and those that should be and can't. OSError: can't be read."""
        found = sorted(self._aside.glob("*.json"))
        self._any_aside = bool(found)
        return found

    def _settle(self, path: Path) -> None:
        """There is a good record of what a file that was set aside is about: that one is of no use now."""
        if self._any_aside:
            with contextlib.suppress(OSError):
                (self._aside / path.name).unlink(missing_ok=True)

    def _path(self, key: AttachmentKey) -> Path:
        # Container IDs come from outside and may be longer than a file name.
        digest = sha256(f"{key.container_id}/{key.ifname}".encode("utf-8", "surrogateescape")).hexdigest()
        return self._directory / f"{digest[:40]}.json"

    def _decode(self, path: Path) -> Record | None:
        record = _decode(path)
        if record is not None and record.boot_id == self._boot_id:
            check(record)
            if path != self._path(record.key):
                raise ValueError("a copy: its name is not that of what it holds")
        return record

    def _set_aside(self, path: Path, error: Exception) -> str:
        """Returns what became of it, in words."""
        if self._drop_of_another_boot(path):
            return f"dropped: damaged, and older than this boot: {error}"
        try:
            self._aside.mkdir(mode=0o700, exist_ok=True)
            path.replace(self._aside / path.name)
        except OSError as refused:
            return f"set aside, but left where it is ({refused}): {error}"
        self._any_aside = True
        return f"set aside: {error}"

    def _drop_of_another_boot(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < self._booted:
                path.unlink()
                return True
        return False


def check(record: Record) -> None:
    """Whether a record's parts can be what they are said to be. ValueError: one is not; which.

    What comes from a file or from a pod's kernel, and goes on to paths, addresses and the kernel.
    """
    path = os.fsencode(record.netns)
    bad = [
        name
        for name, good in (
            ("containerId", 0 < len(record.container_id) <= _MOST_TEXT),
            ("ifname", _is_interface(record.ifname)),
            ("seenName", record.seen_name == "" or _is_interface(record.seen_name)),
            ("netns", path.startswith(b"/") and b"\0" not in path and len(path) < _PATH_BYTES),
            ("netns", all(len(part) <= _NAME_BYTES for part in path.split(b"/"))),
            ("ifindex", 0 <= record.ifindex < 1 << 31),
            ("device", 0 <= record.device < 1 << 64),
            ("inode", 0 <= record.inode < 1 << 64),
            ("cookie", record.cookie is None or 0 <= record.cookie < 1 << 64),
            ("addresses", all(len(address) in (4, 16) for address in record.addresses)),
        )
        if not good
    ]
    if bad:
        raise ValueError(f"no record of ours: {', '.join(dict.fromkeys(bad))} can't be such a value")


def _is_interface(name: str) -> bool:
    """As the kernel has it (dev_valid_name)."""
    raw = os.fsencode(name)
    return 0 < len(raw) < 16 and name not in (".", "..") and not re.search(rb"[/:\s\0]", raw)


def _write_in_place(path: Path, encoded: bytes) -> bool:
    """Write a small record in one call, padded with spaces to the old one's length. False: it can't be done.

    To rename a file into its place takes longer than to program a netns, and over an existing one 0.7 ms,
    for ext4 then writes the data out first. One write within a page is never cut short by a signal, SIGKILL
    included; before it, or when it fails, a new file is empty, which a start takes for none.
    """
    if len(encoded) > PAGE_BYTES:
        return False
    try:
        # Somebody may have put something else there: a pipe would be waited at, a link followed.
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            return False
        raise
    try:
        status = os.fstat(descriptor)
        if status.st_size > PAGE_BYTES or not stat.S_ISREG(status.st_mode):
            return False
        try:
            if os.pwrite(descriptor, encoded.ljust(status.st_size), 0) < max(len(encoded), status.st_size):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            if not status.st_size:
                path.unlink(missing_ok=True)
            raise
        return True
    finally:
        os.close(descriptor)


def _replace(path: Path, encoded: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb", opener=_private) as file:
            file.write(encoded)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _decode(path: Path) -> Record | None:
    """None: nothing was written yet."""
    size = path.stat().st_size
    if size == 0:
        return None
    if size > MAX_RECORD_BYTES:
        raise ValueError(f"larger than {MAX_RECORD_BYTES} bytes")
    raw, _, summed = path.read_bytes().partition(b"\n")
    # Versions before this wrote none. Damage that makes sense would bring it under another pod's rules.
    if summed.strip() not in (b"", _sum(raw)):
        raise ValueError("its sum is another one")
    version = msgspec.json.decode(raw, type=_Versioned).version
    if version not in (RECORD_VERSION, RECORD_VERSION - 1):
        raise ValueError(f"version {version} is not one of {RECORD_VERSION - 1}, {RECORD_VERSION}")
    return msgspec.json.decode(raw, type=Record)


def _sum(encoded: bytes) -> bytes:
    return blake2b(encoded, digest_size=8).hexdigest().encode()


class _Versioned(msgspec.Struct):
    version: int


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
