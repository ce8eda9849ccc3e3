"""Packets by the thousand in one system call, so that what is timed is the kernel's work and not Python's.

In: sockets and payloads. Out: packets sent. On macvlan and veth the receiver's hooks run in the sender's own
call, so the time of sending is the time of the whole path.
"""

import ctypes
import errno
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from tests.lab.namespaces import inside

_BATCH = 1024  # UIO_MAXIOV: what one sendmmsg takes
_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Header(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Message(ctypes.Structure):
    _fields_ = [("header", _Header), ("sent", ctypes.c_uint)]


class Burst:
    """Packets laid out for sendmmsg; they may be sent many times."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        """Keep the payloads where the kernel will read them."""
        self._payloads = [ctypes.create_string_buffer(payload, len(payload)) for payload in payloads]
        self._iovecs = (_Iovec * len(payloads))()
        self._messages = (_Message * len(payloads))()
        for number, buffer in enumerate(self._payloads):
            self._iovecs[number].base = ctypes.addressof(buffer)
            self._iovecs[number].length = len(buffer)
            self._messages[number].header.iov = ctypes.pointer(self._iovecs[number])
            self._messages[number].header.iov_count = 1

    def send(self, sock: socket.socket) -> float:
        """Send all on a connected or bound socket; returns seconds a packet."""
        total = len(self._messages)
        number, done = sock.fileno(), 0
        begun = time.perf_counter()
        while done < total:
            place = ctypes.byref(self._messages, done * ctypes.sizeof(_Message))
            sent = _libc.sendmmsg(number, place, min(_BATCH, total - done), 0)
            if sent < 0:
                code = ctypes.get_errno()
                if code not in (errno.ENOBUFS, errno.EAGAIN, errno.EINTR):
                    raise OSError(code, f"sendmmsg: {os.strerror(code)}")
                sent = 0
            done += sent
        return (time.perf_counter() - begun) / total


def received(netns: Path) -> int:
    """Return how many UDP datagrams came through to the sockets in a namespace, or would have.

    Those that met a full socket, or none at the port, have passed all filters too.
    """
    with inside(netns):
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    counted = dict(zip(names[1:], map(int, values[1:]), strict=True))
    return counted["InDatagrams"] + counted["RcvbufErrors"] + counted["NoPorts"]
