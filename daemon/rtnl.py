"""Asking rtnetlink what is in the current network namespace, which belongs to a pod.

In: message types and bodies. Out: what the kernel answers, and whether that was all. A list that the kernel
ended early (one message of it was larger than its buffer), that changed meanwhile, or that is longer than is
read is never taken for a whole one. It changes nothing.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import NamedTuple, Self, TypeAlias

from daemon.netlink import (
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Answer,
    answers,
    attr,
    error_number,
    pack,
)

GETLINK = 18

_IFNAME, _EXT_MASK = 3, 29
_SKIP_STATISTICS = 1 << 3

_RECEIVE_BYTES = 1 << 17
"""More than one message can have: a link may have 64 KiB of further names."""
_DUMP_TRIES = 3
_NAMES = "/proc/thread-self/net/dev"
_NAMES_HEADER = 2


class Ended(StrEnum):
    """Why a list ended. LONG: more bytes than were asked for. EARLY: the kernel had more, and gave up."""

    WHOLE = "whole"
    LONG = "longer than is read"
    EARLY = "ended early"
    CHANGED = "changed while it was read"


class Dump(NamedTuple):
    """What the kernel listed: bodies without headers."""

    bodies: list[bytes]
    ended: Ended

    @property
    def whole(self) -> bool:
        """Whether that was all."""
        return self.ended is Ended.WHOLE


Connect: TypeAlias = Callable[[], socket.socket]
"""Opens a socket to rtnetlink in the current netns. Tests hand over one with a kernel of their own."""


def connect() -> socket.socket:
    """A netlink socket to rtnetlink in the current netns. OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


class Route:
    """A socket to rtnetlink in the netns where it was made; a context manager, for use in one thread.

    Of several dumps the first has a small buffer in the kernel, unless it says how large it must be.
    """

    def __init__(self, connect: Connect = connect) -> None:
        """OSError."""
        self._sequence = 0
        self._connect = connect
        self._sock = connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def ask(self, kind: int, body: bytes) -> bytes:
        """The one answer's body. OSError, with the kernel's errno where it refuses."""
        self._send(kind, 0, body)
        answer = next(self._answers())
        if answer.type == NLMSG_ERROR:
            raise _error(error_number(answer))
        return answer.body

    def dump(self, kind: int, body: bytes, most: int) -> Dump:
        """What the kernel lists, up to `most` bytes; nothing where it doesn't know the kind. OSError."""
        found = self._dump(kind, body, most)
        for _ in range(1, _DUMP_TRIES):
            if found.ended is not Ended.CHANGED:
                break
            found = self._dump(kind, body, most)
        return found

    def _dump(self, kind: int, body: bytes, most: int) -> Dump:
        self._send(kind, NLM_F_DUMP, body)
        bodies: list[bytes] = []
        size, changed = 0, False
        for answer in self._answers():
            changed = changed or bool(answer.flags & NLM_F_DUMP_INTR)
            if answer.type == NLMSG_DONE:
                # Its payload is an errno as an error's is.
                early = len(answer.body) >= 4 and error_number(answer) != 0
                return Dump(bodies, Ended.EARLY if early else Ended.CHANGED if changed else Ended.WHOLE)
            if answer.type == NLMSG_ERROR:
                if error_number(answer) == errno.EOPNOTSUPP:
                    break
                raise _error(error_number(answer))
            bodies.append(answer.body)
            size += len(answer.body)
            if size > most:
                # What is not read to its end is in the way of the next one.
                self._sock.close()
                self._sock = self._connect()
                return Dump(bodies, Ended.LONG)
        return Dump(bodies, Ended.WHOLE)

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._sock.send(pack(kind, NLM_F_REQUEST | flags, self._sequence, body))

    def _answers(self) -> Iterator[Answer]:
        """What the kernel, which is number 0, answers: a privileged pod may send to any socket in its netns.

        BlockingIOError where there is none: it comes before the request's send() returns, and the next part
        of a dump before the one before is received.
        """
        while True:
            reply, _, flags, (sender, _) = self._sock.recvmsg(_RECEIVE_BYTES, 0, socket.MSG_DONTWAIT)
            if sender != 0:
                continue
            if flags & socket.MSG_TRUNC:
                raise _error(errno.EMSGSIZE)
            yield from (answer for answer in answers(reply) if answer.sequence == self._sequence)


def link_body(index: int = 0, name: str = "") -> bytes:
    """Asks for one link, by either, or with neither for all."""
    # Without a mask the kernel's buffer is a small one, and a dump ends before what does not fit, silently.
    mask = attr(_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS))
    named = attr(_IFNAME, os.fsencode(name) + b"\0") if name else b""
    return struct.pack("=BxHiII", 0, 0, index, 0, 0) + mask + named


def names(most: int) -> tuple[list[str], bool]:
    """The names of the links of the current netns, and whether that are all: of `most` bytes at most.

    OSError. The kernel lists these whatever else the links have; it must be the thread's own netns.
    """
    with open(_NAMES, "rb") as file:
        raw = file.read(most)
        whole = not file.read(1)
    lines = raw.splitlines(keepends=True)[_NAMES_HEADER:]
    return [os.fsdecode(line.split(b":")[0].strip()) for line in lines if line.endswith(b"\n")], whole


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
