"""Legacy tables by the kernel's own interface: how large one is, its outline, and whether it holds a name.

In: a family and a table, in the current netns. Out: numbers, or yes and no. It needs no library, makes no
table, reads none that is larger than MAX_TABLE_BYTES, and changes nothing.
"""

import ctypes
import errno
import os
import socket
import struct

from daemon.errors import DataplaneError, OversizeError
from daemon.libc import LIBC

MAX_TABLE_BYTES = 16 << 20
"""50,000 rules. A privileged pod can fill its own tables; to read them must not stop all other pods."""

TABLE = "mangle"
"""The one with both hooks of ours at the right place (shape.DISPATCHES)."""
FORMER_TABLE = "filter"
"""The one that older versions of this wrote."""

_NAMES = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
_NAMES_BYTES = 4096
"""There are five tables at the most."""
# Address family, protocol level; the options' numbers are those of ip_tables.h and ip6_tables.h.
LEVELS = {4: (socket.AF_INET, 0), 6: (socket.AF_INET6, 41)}
_GET_INFO, _GET_ENTRIES = 64, 65

_NAME_BYTES = 32
INFO = struct.Struct("=32s I 5I 5I I I")
"""struct ipt_getinfo: name, hooks, where they start, where they end, number of entries, size."""
_ENTRIES_HEAD = 40
"""struct ipt_get_entries: name, size, and padding up to the entries."""


def in_use(family: int, table: str = TABLE) -> bool:
    """Whether there is such a table in this netns; a kernel without legacy tables has none."""
    try:
        # As file object it would take three times as long, on each ADD.
        names = os.open(_NAMES[family], os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataplaneError(f"open {_NAMES[family]}: {error.strerror}") from error
    try:
        return table.encode() in os.read(names, _NAMES_BYTES).split()
    except OSError as error:
        raise DataplaneError(f"read {_NAMES[family]}: {error.strerror}") from error
    finally:
        os.close(names)


def require_readable(family: int, table: str = TABLE) -> int:
    """The size of a table in bytes.

    DataplaneError: there is none. OversizeError: it is larger than is read.
    """
    *_, entries, size = INFO.unpack(outline(family, table))
    if size > MAX_TABLE_BYTES:
        raise OversizeError(
            f"somebody has put {entries} rules into the IPv{family} {table} table: {size} bytes, and "
            f"{MAX_TABLE_BYTES} are the most that is read"
        )
    return int(size)


def outline(family: int, table: str = TABLE) -> bytes:
    """How many rules a table has, how large they are, and where hooks start; 8 µs, however many.

    It is another one when a rule comes or goes, not when one is exchanged for another of its size.
    DataplaneError: there is no table.
    """
    buffer = ctypes.create_string_buffer(table.encode(), INFO.size)
    _ask(family, _GET_INFO, buffer, table)
    return buffer.raw


def holds_chain(family: int, name: str, table: str = TABLE) -> bool:
    """Whether a table holds a user's chain of that name, or something that looks like it."""
    size = require_readable(family, table)
    buffer = ctypes.create_string_buffer(_ENTRIES_HEAD + size)
    struct.pack_into("=32sI", buffer, 0, table.encode(), size)
    _ask(family, _GET_ENTRIES, buffer, table)
    return name.encode() + b"\0" in buffer.raw


def _ask(family: int, option: int, buffer: "ctypes.Array[ctypes.c_char]", table: str) -> None:
    kind, level = LEVELS[family]
    length = ctypes.c_uint32(len(buffer))
    try:
        with socket.socket(kind, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as sock:
            refused = LIBC.getsockopt(sock.fileno(), level, option, buffer, ctypes.byref(length))
    except OSError as error:
        raise DataplaneError(f"open a socket for the IPv{family} {table} table: {error.strerror}") from error
    if refused:
        number = ctypes.get_errno() or errno.EIO
        raise DataplaneError(f"read the IPv{family} {table} table: {os.strerror(number)}")
