"""nfnetlink's wire format: attributes, messages, batches, and a socket that carries them.

In: message bodies (nftables.py and others make them). Out: bytes to the kernel of the current netns, and
what it answers. It knows no table, chain or set of ours, must not wait longer than DEADLINE_SECONDS for the
kernel, and must not keep a socket: one pins its namespace, so it is used once and given to a Reaper
(closing may block, see there).
"""

import errno
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Self

from daemon.errors import DataplaneError, TransactionError

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_ACK_TLVS = 0x200

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SUBSYS_NFTABLES = 10

DEADLINE_SECONDS = 2.0
"""The kernel answers a batch before send() returns; anything near this is a kernel that does not work."""

MAX_DUMP_BYTES = 64 << 20
"""A privileged pod can fill its own netns with tables; a dump of them must not fill our memory."""

MAX_NEST_BYTES = 60_000
"""A nested attribute's length has 16 bits."""

_NETLINK_NETFILTER = 12
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_BATCH_BEGIN = 16
_BATCH_END = 17
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_RECEIVE_BYTES = 1 << 17
_SEND_DEFAULT = 100_000
_DUMP_TRIES = 5

_header = struct.Struct("=IHHII")
_attribute = struct.Struct("=HH")


class Message(NamedTuple):
    """One netlink message without its sequence number. subject: what it is about, for errors and listings."""

    type: int
    flags: int
    body: bytes
    subject: str


# --- encoding --------------------------------------------------------------------------------------------


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return _attribute.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(parts))


def string(text: str) -> bytes:
    """A NUL-terminated string."""
    return text.encode() + b"\0"


def u32(number: int) -> bytes:
    """A number as netfilter has it: big-endian; negative ones as two's complement."""
    return (number & 0xFFFFFFFF).to_bytes(4, "big")


def general(family: int, resource: int = 0) -> bytes:
    """The nfgenmsg that starts every body."""
    return struct.pack(">BBH", family, 0, resource)


def chunks(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The parts joined into pieces that each fit into one nested attribute."""
    piece: list[bytes] = []
    size = 0
    for part in parts:
        if size + len(part) > MAX_NEST_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(part)
        size += len(part)
    if piece:
        yield b"".join(piece)


def encode_batch(messages: Sequence[Message], first: int, generation: int | None = None) -> bytes:
    """One transaction. Message i has sequence number first + 1 + i; the last one asks for an acknowledgement.

    generation: the kernel refuses the batch (ERESTART) when somebody committed since; None: no matter.
    """
    begin = general(0, SUBSYS_NFTABLES)
    if generation is not None:
        begin += attr(1, u32(generation))
    out = [_pack(_BATCH_BEGIN, NLM_F_REQUEST, first, begin)]
    last = len(messages) - 1
    for index, message in enumerate(messages):
        flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if index == last else 0)
        out.append(_pack(message.type, flags, first + 1 + index, message.body))
    out.append(_pack(_BATCH_END, NLM_F_REQUEST, first + 2 + last, general(0, SUBSYS_NFTABLES)))
    return b"".join(out)


def _pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    # Bodies are sequences of padded attributes, so the next header is aligned.
    return _header.pack(16 + len(body), kind, flags, sequence, 0) + body


# --- decoding --------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One message from the kernel; body without the netlink header."""

    type: int
    flags: int
    sequence: int
    body: bytes


class Refusal(NamedTuple):
    """The kernel's complaint. offset.

    Of the attribute at fault within the message, 0 when it does not say.
    """

    errno: int
    text: str
    offset: int


def answers(buffer: bytes) -> Iterator[Answer]:
    """The messages in one received datagram."""
    at = 0
    while at + 16 <= len(buffer):
        length, kind, flags, sequence, _ = _header.unpack_from(buffer, at)
        yield Answer(kind, flags, sequence, buffer[at + 16 : at + length])
        at += max(16, length + 3 & ~3)


def attributes(body: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes of a body from `start` on; of one kind the last."""
    return dict(attribute_list(body, start))


def attribute_list(body: bytes, start: int = 0) -> list[tuple[int, bytes]]:
    """The attributes of a body in order."""
    return [(kind & NLA_TYPE_MASK, value) for kind, value in raw_attributes(body, start)]


def raw_attributes(body: bytes, start: int = 0) -> list[tuple[int, bytes]]:
    """The attributes of a body in order; kinds with their flags (NLA_F_NESTED) as they stand there."""
    found = []
    while start + 4 <= len(body):
        length, kind = _attribute.unpack_from(body, start)
        found.append((kind, body[start + 4 : start + length]))
        start += max(4, length + 3 & ~3)
    return found


def refusal(answer: Answer) -> Refusal | None:
    """What an NLMSG_ERROR says; None: it is an acknowledgement."""
    number = -int(struct.unpack_from("=i", answer.body)[0])
    if number == 0:
        return None
    extended: dict[int, bytes] = {}
    if answer.flags & NLM_F_ACK_TLVS:
        # After the error comes the header of the message at fault; its payload is left out (NETLINK_CAP_ACK).
        extended = attributes(answer.body, 20)
    text = extended.get(1, b"").rstrip(b"\0").decode(errors="replace")
    offset = int.from_bytes(extended.get(2, b"\0"), "little" if struct.pack("=H", 1) == b"\1\0" else "big")
    return Refusal(number, text, offset)


# --- the socket ------------------------------------------------------------------------------------------


class Reaper:
    """Closes sockets in threads of its own: closing one with deletions pending waits for RCU (15 ms)."""

    def __init__(self, threads: int = 2) -> None:
        self._queue: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        for number in range(threads):
            threading.Thread(target=self._run, name=f"reaper-{number}", daemon=True).start()

    def take(self, sock: socket.socket) -> None:
        """Close it soon."""
        self._queue.put(sock)

    def _run(self) -> None:
        while True:
            self._queue.get().close()


class NetfilterSocket:
    """A netlink socket of the netns in which it was opened; a context manager, for use in one thread."""

    def __init__(self, reaper: Reaper) -> None:
        """DataplaneError: the kernel has no netfilter netlink."""
        self._reaper = reaper
        self._sequence = 0
        try:
            self._sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        except OSError as error:
            raise DataplaneError(f"open a netfilter socket: {error}") from error
        self._sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sock.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)

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

    def request(self, message: Message) -> Answer:
        """Ask for one message. TransactionError with the kernel's errno when it has none."""
        self._sequence += 1
        self._send(_pack(message.type, message.flags | NLM_F_REQUEST, self._sequence, message.body))
        for answer in self._receive(time.monotonic() + DEADLINE_SECONDS):
            if answer.sequence == self._sequence:
                self._raise(message, answer)
                return answer
        raise DataplaneError(f"{message.subject}: no answer")

    def dump(self, message: Message) -> list[bytes]:
        """All bodies (without nfgenmsg) that a dump gives, from one consistent state."""
        for _ in range(_DUMP_TRIES):
            found = self._dump(message)
            if found is not None:
                return found
        raise DataplaneError(f"{message.subject}: changed during each of {_DUMP_TRIES} dumps")

    def _dump(self, message: Message) -> list[bytes] | None:
        self._sequence += 1
        self._send(_pack(message.type, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, message.body))
        bodies: list[bytes] = []
        size, whole = 0, True
        for answer in self._receive(time.monotonic() + DEADLINE_SECONDS):
            whole = whole and not answer.flags & NLM_F_DUMP_INTR
            if answer.type == _NLMSG_DONE:
                return bodies if whole else None
            self._raise(message, answer)
            bodies.append(answer.body[4:])
            size += len(answer.body)
            if size > MAX_DUMP_BYTES:
                raise DataplaneError(f"{message.subject}: more than {MAX_DUMP_BYTES} bytes in this netns")
        raise DataplaneError(f"{message.subject}: the dump did not end")

    def _raise(self, message: Message, answer: Answer) -> None:
        refused = refusal(answer) if answer.type == _NLMSG_ERROR else None
        if refused is not None:
            raise TransactionError(refused.errno, os.strerror(refused.errno), message.subject, refused.text)

    def _send(self, wire: bytes) -> None:
        try:
            if len(wire) > _SEND_DEFAULT:
                # The kernel takes a batch as one piece; FORCE: beyond net.core.wmem_max.
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 2 * len(wire))
                self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 2 * len(wire))
            self._sock.settimeout(DEADLINE_SECONDS)
            self._sock.send(wire)
        except OSError as error:
            raise DataplaneError(f"send {len(wire)} bytes to netfilter: {error}") from error

    def _outcome(self, first: int, last: int) -> tuple[int, Refusal] | None:
        """The first refusal by sequence number, None when the batch was committed."""
        refused: tuple[int, Refusal] | None = None
        for answer in self._receive(time.monotonic() + DEADLINE_SECONDS):
            if answer.type != _NLMSG_ERROR or not first <= answer.sequence <= last:
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
            left = deadline - time.monotonic()
            if left <= 0:
                raise DataplaneError(f"netfilter did not answer within {DEADLINE_SECONDS:g} s")
            self._sock.settimeout(left)
            try:
                buffer = self._sock.recv(_RECEIVE_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                # ENOBUFS: more complaints than the buffer held; what came of the batch is not known then.
                raise DataplaneError(f"read netfilter's answer: {error}") from error
            yield from answers(buffer)


def _transaction_error(
    messages: Sequence[Message], sequence: int, complaint: Refusal, first: int
) -> TransactionError:
    index = sequence - first - 1
    subject = messages[index].subject if index >= 0 else "the batch as a whole"
    if index >= 0 and complaint.offset > 16 and " set " in subject:
        subject += _at_fault(messages[index].body[complaint.offset - 16 :])
    text = "somebody else committed" if complaint.errno == errno.ERESTART else os.strerror(complaint.errno)
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
