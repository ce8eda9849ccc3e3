"""A kernel that refuses: sockets and tables that fail at a chosen step, by the seams that backends offer.

In: a fault, and at which step it strikes. Out: what a backend would see of such a kernel. A step is one thing
that is asked of the kernel: a netlink batch or a message outside of one, a table that is opened or committed,
the tables' lock. What is refused, or was never sent, does not reach the kernel; where an answer is lost, it
did.
"""

import contextlib
import errno
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from daemon.backends.xtables import Table, Tables
from daemon.backends.xtsockopt import TABLE
from daemon.errors import DataplaneError, TransactionError
from tests.contract.backends import Seams

_NETLINK_NETFILTER = 12
_NLMSG_ERROR = 2
_BATCH_BEGIN = 16
_KERNEL = (0, 0)
"""The kernel's address."""

_NLM_F_ACK, _NLM_F_CAPPED = 0x4, 0x100
_header = struct.Struct("=IHHII")


class How(StrEnum):
    """What becomes of the step."""

    REFUSED = "refused"
    UNSENT = "closed before"
    LOST = "answer lost"


@dataclass(frozen=True)
class Fault:
    """lasting: every later step fails too; else only this one. element: only what holds these bytes fails."""

    how: How
    number: int
    lasting: bool = True
    element: bytes = b""

    def __str__(self) -> str:
        what = "element " if self.element else ""
        return f"{what}{self.how} {errno.errorcode[self.number]} {'lasting' if self.lasting else 'once'}"


class Switchboard:
    """Counts the steps, and says which fail."""

    def __init__(self) -> None:
        self.steps = 0
        self._fault: Fault | None = None
        self._at = 0

    @property
    def seams(self) -> Seams:
        """What a backend under test is made with."""
        return Seams(lambda: _Socket(self), _Tables(self))

    def arm(self, fault: Fault, at: int) -> None:
        """From now on, the step of this number (the next one is 0) fails."""
        self.steps, self._fault, self._at = 0, fault, at

    def disarm(self) -> None:
        """The kernel is well again."""
        self._fault = None

    def strike(self, *messages: bytes) -> Fault | None:
        """One step; how it fails, if it does."""
        number = self.steps
        self.steps += 1
        fault = self._fault
        if fault is None:
            return None
        if fault.element:
            return fault if any(fault.element in message for message in messages) else None
        return fault if number == self._at or (fault.lasting and number > self._at) else None


class _Socket(socket.socket):
    """A netlink socket to the kernel of the current netns, with the switchboard between."""

    def __init__(self, board: Switchboard) -> None:
        super().__init__(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._board = board
        self._answers: deque[bytes] = deque()
        self._lost = 0

    def send(self, wire: Any, flags: int = 0) -> int:
        messages = list(_split(bytes(wire)))
        is_batch = _header.unpack_from(messages[0])[1] == _BATCH_BEGIN
        passed: list[bytes] = []
        for step in [messages] if is_batch else [[message] for message in messages]:
            fault = self._board.strike(*step)
            if fault is None:
                passed += step
            elif fault.how is How.REFUSED:
                self._answers += _refusals(step, fault)
            elif fault.how is How.UNSENT:
                raise OSError(fault.number, os.strerror(fault.number))
            else:
                passed += step
                self._lost = fault.number
        if passed:
            super().send(b"".join(passed), flags)
        return len(wire)

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Any]:
        if self._lost:
            raise OSError(self._lost, os.strerror(self._lost))
        return (self._answers.popleft(), _KERNEL) if self._answers else super().recvfrom(size, flags)

    def recv(self, size: int, flags: int = 0) -> bytes:
        return self.recvfrom(size, flags)[0]


def _split(wire: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(wire):
        length = _header.unpack_from(wire, at)[0]
        yield wire[at : at + length]
        at += length + 3 & ~3


def _refusals(step: list[bytes], fault: Fault) -> Iterator[bytes]:
    """As the kernel has it: it complains of one message, or of the batch, and answers the last one."""
    at_fault = step[0]
    if fault.element:
        at_fault = next(message for message in step if fault.element in message)
    elif fault.number != errno.EPERM:
        at_fault = step[len(step) // 2]
    yield _error(at_fault, fault.number)
    for message in step[1:]:
        if message is not at_fault and _header.unpack_from(message)[2] & _NLM_F_ACK:
            yield _error(message, 0)


def _error(message: bytes, number: int) -> bytes:
    sequence = _header.unpack_from(message)[3]
    body = struct.pack("=i", -number) + message[: _header.size]
    return _header.pack(_header.size + len(body), _NLMSG_ERROR, _NLM_F_CAPPED, sequence, 0) + body


class _Tables(Tables):
    """Legacy tables, with the switchboard between."""

    def __init__(self, board: Switchboard) -> None:
        super().__init__()
        self._board = board

    def open(self, family: int, name: str = TABLE) -> Table:
        if fault := self._board.strike():
            raise DataplaneError(f"open the IPv{family} {name} table: {os.strerror(fault.number)}")
        return _Table(self._board, family, name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        if self._board.strike():
            raise DataplaneError("the lock is held by another process")
        with super().locked():
            yield


class _Table(Table):
    def __init__(self, board: Switchboard, family: int, name: str) -> None:
        super().__init__(family, name)
        self._board = board

    def commit(self) -> None:
        fault = self._board.strike()
        if fault is None or fault.how is How.LOST:
            # libiptc puts the rules in force, then their counters; when that fails it says that all did.
            super().commit()
        if fault is not None:
            subject = f"commit {self._subject}"
            raise TransactionError(fault.number, os.strerror(fault.number), subject)
