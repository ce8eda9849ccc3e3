"""A socket to netfilter that carries nfnetlink's messages.

In: messages. Out: what the kernel of the current netns answers. It must not wait longer than
DEADLINE_SECONDS for the kernel, and must not keep a socket: one pins its namespace, so it is used once and
given to a Reaper (closing may block, see there).
"""

import errno
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self, TypeAlias

from daemon.backends.nfnetlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    Message,
    Refusal,
    encode_batch,
    error_text,
    refusal,
)
from daemon.errors import DataplaneError, OversizeError, TransactionError
from daemon.netlink import NLM_F_REQUEST, NLMSG_ERROR, Answer, answers, attribute_list, attributes, pack
from daemon.slices import Pausing, ended

DEADLINE_SECONDS = 2.0
"""The kernel answers a batch before send() returns; anything near this is a kernel that does not work."""

MAX_DUMP_BYTES = 64 << 20
"""A privileged pod can fill its own netns with tables; a dump of them must not fill our memory."""

_NETLINK_NETFILTER = 12
_NLMSG_DONE = 3
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 17
_SEND_DEFAULT = 100_000
_DUMP_TRIES = 5
_IPSET_LINE = 9


MAX_UNCLOSED = 64
"""Sockets that wait for their end: each is a descriptor."""


class Reaper:
    """Closes sockets in threads of its own: closing one with deletions pending waits for RCU (15 ms)."""

    def __init__(self, threads: int = 2) -> None:
        self._queue: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"reaper-{number}", daemon=True).start()

    def take(self, sock: socket.socket) -> None:
        """Close it soon; where too many wait for that, now."""
        if self._queue.qsize() < MAX_UNCLOSED:
            self._queue.put(sock)
        else:
            sock.close()

    def _run(self) -> None:
        while True:
            self._queue.get().close()


Connect: TypeAlias = Callable[[], socket.socket]
"""Opens a socket to netfilter in the current netns. Tests hand over one whose kernel refuses things."""


def connect() -> socket.socket:
    """A netlink socket to netfilter in the current netns. Raises OSError."""
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)


class NetfilterSocket:
    """A netlink socket of the netns in which it was opened; a context manager, for use in one thread."""

    def __init__(self, reaper: Reaper, connect: Connect = connect) -> None:
        """DataplaneError: the kernel has no netfilter netlink."""
        self._reaper = reaper
        self._connect = connect
        self._sequence = 0
        self._sock = self._open()

    def _open(self) -> socket.socket:
        try:
            sock = self._connect()
        except OSError as error:
            raise DataplaneError(f"open a netfilter socket: {error}") from error
        sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        return sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reaper.take(self._sock)

    def transact(self, messages: Sequence[Message], generation: int | None = None) -> None:
        """Commit all messages or none. TransactionError: refused; DataplaneError.

        The outcome is not known.
        """
        if not messages:
            return
        first = self._sequence + 1
        self._sequence = first + len(messages) + 1
        wire = encode_batch(messages, first, generation)
        self._send(wire)
        refused = self._outcome(first, first + len(messages))
        if refused is not None:
            raise _transaction_error(messages, *refused, first)

    def perform(self, messages: Sequence[Message]) -> None:
        """Do one thing after the other, sent at once, each whether or not those before it were refused.

        TransactionError: the first refusal; the others may have been done. DataplaneError: the outcome is
        not known.
        """
        if not messages:
            return
        first = self._sequence + 1
        self._sequence += len(messages)
        flags = NLM_F_REQUEST | NLM_F_ACK
        self._send(b"".join(pack(m.type, m.flags | flags, first + i, m.body) for i, m in enumerate(messages)))
        refused: TransactionError | None = None
        waiting = len(messages)
        for answer in self._receive(time.monotonic() + DEADLINE_SECONDS):
            if answer.type != NLMSG_ERROR or not first <= answer.sequence < first + len(messages):
                continue
            complaint = refusal(answer)
            if complaint is not None and refused is None:
                refused = _refused(messages[answer.sequence - first], complaint, answer)
            waiting -= 1
            if not waiting:
                break
        if refused is not None:
            raise refused

    def request(self, message: Message) -> Answer:
        """Ask for one message. TransactionError with the kernel's errno when it has none."""
        self._sequence += 1
        self._send(pack(message.type, message.flags | NLM_F_REQUEST, self._sequence, message.body))
        for answer in self._receive(time.monotonic() + DEADLINE_SECONDS):
            if answer.sequence == self._sequence:
                self._raise(message, answer)
                return answer
        raise DataplaneError(f"{message.subject}: no answer")

    def dump(self, message: Message, most: int = MAX_DUMP_BYTES) -> list[bytes]:
        """All bodies (without nfgenmsg) that a dump gives, from one consistent state.

        OversizeError: they are more than `most` bytes.
        """
        return ended(self.dumping(message, most))

    def dumping(self, message: Message, most: int = MAX_DUMP_BYTES) -> Pausing[list[bytes]]:
        """`dump` that pauses behind each piece: the kernel takes up to 10 ms for one of a large set."""
        for _ in range(_DUMP_TRIES):
            found = yield from self._dump(message, min(most, MAX_DUMP_BYTES))
            if found is not None:
                return found
        raise DataplaneError(f"{message.subject}: changed during each of {_DUMP_TRIES} dumps")

    def _dump(self, message: Message, most: int) -> Pausing[list[bytes] | None]:
        self._sequence += 1
        self._send(pack(message.type, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, message.body))
        bodies: list[bytes] = []
        size, whole = 0, True
        while True:
            for answer in self._receive_one(time.monotonic() + DEADLINE_SECONDS):
                whole = whole and not answer.flags & NLM_F_DUMP_INTR
                if answer.type == _NLMSG_DONE:
                    return bodies if whole else None
                self._raise(message, answer)
                bodies.append(answer.body[4:])
                size += len(answer.body)
                if size > most:
                    # A dump that is not read to its end is in the way of the next one.
                    self._reaper.take(self._sock)
                    self._sock = self._open()
                    raise OversizeError(f"{message.subject}: more than {most} bytes in this netns")
            yield

    def _raise(self, message: Message, answer: Answer) -> None:
        refused = refusal(answer) if answer.type == NLMSG_ERROR else None
        if refused is not None:
            raise TransactionError(refused.errno, error_text(refused.errno), message.subject, refused.text)

    def _send(self, wire: bytes) -> None:
        try:
            if len(wire) > _SEND_DEFAULT:
                # The kernel takes a batch as one piece; FORCE: beyond net.core.wmem_max.
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(wire))
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 2 * len(wire))
            self._sock.send(wire)
        except OSError as error:
            raise DataplaneError(f"send {len(wire)} bytes to netfilter: {error}") from error

    def _outcome(self, first: int, last: int) -> tuple[int, Refusal] | None:
        """The first refusal by sequence number, None when the batch was committed."""
        refused: tuple[int, Refusal] | None = None
        for answer in self._receive(time.monotonic() + DEADLINE_SECONDS):
            if answer.type != NLMSG_ERROR or not first <= answer.sequence <= last:
                continue
            complaint = refusal(answer)
            if complaint is not None and refused is None:
                refused = (answer.sequence, complaint)
            # A complaint about the batch as a whole carries the number of its begin, and nothing comes
            # after it.
            if answer.sequence == last or (complaint is not None and answer.sequence == first):
                return refused
        return refused

    def _receive(self, deadline: float) -> Iterator[Answer]:
        while True:
            yield from self._receive_one(deadline)

    def _receive_one(self, deadline: float) -> Iterator[Answer]:
        """What the kernel sends at once. DataplaneError: nothing until the deadline."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise DataplaneError(f"netfilter did not answer within {DEADLINE_SECONDS:g} s")
            try:
                buffer, (sender, _) = self._sock.recvfrom(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                # The answer comes before send() returns, as a rule, and the rest of a dump by being read.
                self._wait(left)
                continue
            except OSError as error:
                # ENOBUFS: more complaints than the buffer held; what came of the batch is not known then.
                raise DataplaneError(f"read netfilter's answer: {error}") from error
            # A privileged pod may send to any socket in its netns; the kernel is number 0.
            if sender == 0:
                yield from answers(buffer)
                return

    def _wait(self, seconds: float) -> None:
        # Not select(): a daemon with many clients has descriptors beyond what that takes.
        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        poller.poll(seconds * 1000)


def _refused(message: Message, complaint: Refusal, answer: Answer) -> TransactionError:
    subject = message.subject
    line = _line_at_fault(answer.body)
    if line:
        subject += f", element {line}"
    return TransactionError(complaint.errno, error_text(complaint.errno), subject, complaint.text)


def _line_at_fault(body: bytes) -> int:
    """ipset sends the whole message back, with the number of the element at fault; 0: it did not."""
    try:
        return int.from_bytes(attributes(body, 4 + 16 + 4).get(_IPSET_LINE, b""), "big")
    except struct.error:
        return 0


def _transaction_error(
    messages: Sequence[Message], sequence: int, complaint: Refusal, first: int
) -> TransactionError:
    index = sequence - first - 1
    subject = messages[index].subject if index >= 0 else "the batch as a whole"
    if index >= 0 and complaint.offset > 16 and " set " in subject:
        subject += _at_fault(messages[index].body[complaint.offset - 16 :])
    text = "somebody else committed" if complaint.errno == errno.ERESTART else error_text(complaint.errno)
    return TransactionError(complaint.errno, text, subject, complaint.text)


def _at_fault(attribute: bytes) -> str:
    """Name a set element by its key where the complaint points at one: LIST_ELEM { KEY { VALUE } }."""
    try:
        outer = attributes(attribute_list(attribute)[0][1])
        key = attributes(outer[1])[1]
    except (KeyError, IndexError, struct.error):
        return ""
    if len(key) in (4, 16):
        family = socket.AF_INET if len(key) == 4 else socket.AF_INET6
        return f", element {socket.inet_ntop(family, key)}"
    return f", element {key.hex()}"
