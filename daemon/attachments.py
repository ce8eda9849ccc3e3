"""The durable records: one small file an attachment, so that a restarted daemon takes its attachments over.

In: Records. Out: files in a directory, and the Records read from it. Rules are never touched here.

Intent is recorded before the kernel is programmed, by one write and without fsync: a network
namespace does not survive the power loss that fsync guards against, and a record carries the boot id that
it belongs to.
"""

import errno
import os
from hashlib import sha256
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


class Record(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of one attachment.

    netns, device, inode, cookie: the namespace's path and identity (cookie None: the kernel has none).
    ifindex 0: a guard, whose device does not exist yet. addresses: those of ADD's result.
    pod_*: "" without identity. labels, ports: of the last pod object seen with that UID (A11).
    networks: the net-attach-defs whose policies govern it; candidates: those that it may be of, () in a
    record of before: the same; chosen: which of them by network-status; evidence: how they were found;
    configured, config_name: the keys `netAttachDef` and `name` of the plugin's configuration. withdrawn: DEL
    came, the link may live on. unready: everything is denied until the source is read. serial: later records
    have higher ones. digest, generation: of what was applied last to the whole netns; "" and 0 where that is
    not known.
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
    serial: int = 0
    digest: str = ""
    generation: int = 0
    candidates: tuple[Network, ...] = ()
    chosen: Network = ""

    @property
    def known(self) -> Candidates:
        """What is known of the net-attach-def that it is of."""
        networks = self.candidates or (
            (self.configured,) if self.configured in self.networks else self.networks
        )
        also = tuple(network for network in self.networks if network not in networks)
        return Candidates(networks, self.evidence, also, self.chosen)

    @property
    def key(self) -> AttachmentKey:
        """(containerID, ifname)."""
        return AttachmentKey(self.container_id, self.ifname)


class Loaded(msgspec.Struct, frozen=True):
    """What a start finds. notes: (file name, reason) of each record that was dropped or set aside."""

    records: tuple[Record, ...]
    notes: tuple[tuple[str, str], ...]


class RecordStore:
    """The directory of records. Raises OSError where the directory can't be used."""

    def __init__(self, directory: Path, boot_id: str) -> None:
        self._directory = directory
        self._aside = directory / "set-aside"
        self._boot_id = boot_id
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

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
        for path in sorted(self._directory.glob("*.json")):
            try:
                record = _decode(path)
            except (msgspec.MsgspecError, ValueError, OSError) as error:
                self._set_aside(path)
                notes.append((path.name, f"set aside, its rules stay as they are: {error}"))
                continue
            if record is not None and record.boot_id == self._boot_id:
                records.append(record)
                continue
            path.unlink(missing_ok=True)
            empty = "empty, so its ADD neither programmed nor answered"
            notes.append((path.name, f"dropped: {empty if record is None else 'of another boot'}"))
        for leftover in self._directory.glob("*.tmp"):
            leftover.unlink(missing_ok=True)
        return Loaded(tuple(records), tuple(notes))

    def save(self, record: Record) -> None:
        """Write or replace one record, atomically as far as this process can be killed in the middle."""
        path = self._path(record.key)
        encoded = msgspec.json.encode(record)
        if not _write_in_place(path, encoded):
            _replace(path, encoded)

    def delete(self, key: AttachmentKey) -> None:
        """Forget an attachment; nothing happens when there is no record of it."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: AttachmentKey) -> Path:
        # Container IDs come from outside and may be longer than a file name.
        digest = sha256(f"{key.container_id}/{key.ifname}".encode("utf-8", "surrogateescape")).hexdigest()
        return self._directory / f"{digest[:40]}.json"

    def _set_aside(self, path: Path) -> None:
        self._aside.mkdir(mode=0o700, exist_ok=True)
        path.replace(self._aside / path.name)


def _write_in_place(path: Path, encoded: bytes) -> bool:
    """Write a small record in one call, padded with spaces to the old one's length. False: it can't be done.

    To rename a file into its place takes longer than to program a netns, and over an existing one 0.7 ms,
    for ext4 then writes the data out first. One write within a page is never cut short by a signal, SIGKILL
    included; before it, or when it fails, a new file is empty, which a start takes for none.
    """
    if len(encoded) > PAGE_BYTES:
        return False
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        there = os.fstat(descriptor).st_size
        if there > PAGE_BYTES:
            return False
        if os.pwrite(descriptor, encoded.ljust(there), 0) < max(len(encoded), there):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
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
    raw = path.read_bytes()
    version = msgspec.json.decode(raw, type=_Versioned).version
    if version not in (RECORD_VERSION, RECORD_VERSION - 1):
        raise ValueError(f"version {version} is not one of {RECORD_VERSION - 1}, {RECORD_VERSION}")
    return msgspec.json.decode(raw, type=Record)


class _Versioned(msgspec.Struct):
    version: int


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
