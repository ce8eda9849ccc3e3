"""Netlink's wire format: headers and attributes, there and back. Pure.

In: kinds and payloads. Out: bytes for the kernel, and what stands in its answers. It knows no family: links
are netns.py's, netfilter's messages backends/nfnetlink.py's.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

NLM_F_REQUEST = 0x1
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLA_TYPE_MASK = 0x3FFF

_header = struct.Struct("=IHHII")
_attribute = struct.Struct("=HH")


class Answer(NamedTuple):
    """One message from the kernel; body without the netlink header."""

    type: int
    flags: int
    sequence: int
    body: bytes


def pack(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message with its header."""
    # Bodies are sequences of padded attributes, so the next header is aligned.
    return _header.pack(16 + len(body), kind, flags, sequence, 0) + body


def attr(kind: int, payload: bytes) -> bytes:
    """One attribute, padded to 4 bytes."""
    return _attribute.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def answers(buffer: bytes) -> Iterator[Answer]:
    """The messages in one received datagram."""
    at = 0
    while at + 16 <= len(buffer):
        length, kind, flags, sequence, _ = _header.unpack_from(buffer, at)
        yield Answer(kind, flags, sequence, buffer[at + 16 : at + length])
        at += max(16, length + 3 & ~3)


def error_number(answer: Answer) -> int:
    """The errno of an NLMSG_ERROR; 0: it is an acknowledgement."""
    return -int(struct.unpack_from("=i", answer.body)[0])


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
