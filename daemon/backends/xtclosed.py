"""A legacy table in the place of one that is too large to be read: what is isolated is dropped, and no more.

In: the gates of a program, in the current netns. Out: the table in the kernel, by its own interface. Whatever
stood in it is gone, others' rules too: there were more than anybody reads, and to leave what policies isolate
open for their sake would be worse. It is the last resort: all of ours is written into the new table next.
"""

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator

from daemon.backends.shape import DISPATCHES
from daemon.backends.xtsockopt import INFO, LEVELS, TABLE, outline
from daemon.errors import DataplaneError
from daemon.libc import LIBC
from daemon.model import Direction
from daemon.planner import Gate

_SET_REPLACE = 64
_HOOKS = 5
_PREROUTING, _POSTROUTING = 0, 4
_HOOK_NUMBERS = {"prerouting": _PREROUTING, "postrouting": _POSTROUTING}
_IFNAME_BYTES = 16

_REPLACE = struct.Struct("=32s I I I 5I 5I I Q")
"""struct ipt_replace up to the entries: name, hooks, entries, size, where hooks start and where their last
rule is, how many counters the kernel shall give back, and where to."""
_ADDRESSES = {4: 16, 6: 64}
_HEAD = {4: 84, 6: 136}
"""struct ipt_ip and ip6t_ip6."""
_ENTRY = {4: 112, 6: 168}
_STANDARD = struct.Struct("=H 29s B i 4x")
_ERROR = struct.Struct("=H 29s B 32s")
_COUNTER_BYTES = 16
_DROP, _ACCEPT = -1, -2


def close_table(family: int, gates: Iterable[Gate]) -> None:
    """Replace the table. DataplaneError: refused, or there is none."""
    drops = {number: list(_drops(family, hook, gates)) for hook, number in _HOOK_NUMBERS.items()}
    entries, count = b"", 1
    starts: list[int] = []
    ends: list[int] = []
    for number in range(_HOOKS):
        starts.append(len(entries))
        entries += b"".join(drops.get(number, ()))
        ends.append(len(entries))
        entries += _entry(family, _STANDARD.pack(_STANDARD.size, b"", 0, _ACCEPT))
        count += 1 + len(drops.get(number, ()))
    entries += _entry(family, _ERROR.pack(_ERROR.size, b"ERROR", 0, b"ERROR"))
    *_, before, _ = INFO.unpack(outline(family))
    counters = ctypes.create_string_buffer(max(1, before) * _COUNTER_BYTES)
    head = _REPLACE.pack(
        TABLE.encode(),
        (1 << _HOOKS) - 1,
        count,
        len(entries),
        *starts,
        *ends,
        before,
        ctypes.addressof(counters),
    )
    _put(family, head + entries)


def _drops(family: int, hook: str, gates: Iterable[Gate]) -> Iterator[bytes]:
    target = _STANDARD.pack(_STANDARD.size, b"", 0, _DROP)
    direction = DISPATCHES[hook]
    for gate in gates:
        chain = gate.chain(direction)
        if chain is not None and chain.isolated:
            yield _entry(family, target, gate.ifname, direction)


def _entry(family: int, target: bytes, ifname: str = "", direction: Direction = Direction.INGRESS) -> bytes:
    """struct ipt_entry or ip6t_entry without matches."""
    name = os.fsencode(ifname)
    mask = b"\xff" * min(len(name) + 1, _IFNAME_BYTES) if name else b""
    here, nowhere = (name.ljust(_IFNAME_BYTES, b"\0"), mask.ljust(_IFNAME_BYTES, b"\0")), bytes(_IFNAME_BYTES)
    incoming = direction is Direction.INGRESS
    names = here[0] + nowhere if incoming else nowhere + here[0]
    masks = here[1] + nowhere if incoming else nowhere + here[1]
    head = (bytes(_ADDRESSES[family]) + names + masks).ljust(_HEAD[family], b"\0")
    size = _ENTRY[family]
    offsets = struct.pack("=I H H", 0, size, size + len(target))
    return (head + offsets).ljust(size, b"\0") + target


def _put(family: int, blob: bytes) -> None:
    kind, level = LEVELS[family]
    buffer = ctypes.create_string_buffer(blob, len(blob))
    try:
        with socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
            refused = LIBC.setsockopt(sock.fileno(), level, _SET_REPLACE, buffer, ctypes.c_uint32(len(blob)))
    except OSError as error:
        raise DataplaneError(f"open a socket for the IPv{family} {TABLE} table: {error.strerror}") from error
    if refused:
        number = ctypes.get_errno() or errno.EIO
        raise DataplaneError(f"replace the IPv{family} {TABLE} table: {os.strerror(number)}")
