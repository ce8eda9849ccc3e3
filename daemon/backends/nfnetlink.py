"""nfnetlink's part of the wire format: messages, batches, refusals. Pure; nfsocket.py carries them.

In: message bodies (nftmessages.py and ipset.py make them). Out: bytes for the kernel, and what its answers
say. It knows no table, chain or set of ours.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from daemon.netlink import NLM_F_REQUEST, Answer, attr, attributes, error_number, pack

NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_ACK_TLVS = 0x200

NLA_F_NESTED = 0x8000

SUBSYS_IPSET = 6
SUBSYS_NFTABLES = 10

MAX_NEST_BYTES = 60_000
"""A nested attribute's length has 16 bits."""

_BATCH_BEGIN = 16
_BATCH_END = 17
_IPSET_ERRORS = {
    4097: "ipset: another protocol version",
    4098: "ipset: no such type of set, or no such revision of it: is its module there?",
    4099: "ipset: too many sets",
    4100: "ipset: in use",
    4101: "ipset: the second set does not exist",
    4102: "ipset: sets of different types",
    4103: "ipset: is there already, or is not there",
    4104: "ipset: bad prefix length",
    4106: "ipset: bad family",
    4108: "ipset: referred to by others",
    4109: "ipset: no IPv4 address",
    4110: "ipset: no IPv6 address",
    4352: "ipset: the set is full",
    4353: "ipset: an element that can't be",
}


class Message(NamedTuple):
    """One netlink message without its sequence number. subject: what it is about, for errors and listings."""

    type: int
    flags: int
    body: bytes
    subject: str


# --- encoding --------------------------------------------------------------------------------------------


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(parts))


def string(text: str) -> bytes:
    """A NUL-terminated string."""
    # A pod may give its links names that are no text.
    return text.encode(errors="surrogateescape") + b"\0"


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
    out = [pack(_BATCH_BEGIN, NLM_F_REQUEST, first, begin)]
    last = len(messages) - 1
    for index, message in enumerate(messages):
        flags = message.flags | NLM_F_REQUEST | (NLM_F_ACK if index == last else 0)
        out.append(pack(message.type, flags, first + 1 + index, message.body))
    out.append(pack(_BATCH_END, NLM_F_REQUEST, first + 2 + last, general(0, SUBSYS_NFTABLES)))
    return b"".join(out)


# --- decoding --------------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """The kernel's complaint. offset.

    Of the attribute at fault within the message, 0 when it does not say.
    """

    errno: int
    text: str
    offset: int


def refusal(answer: Answer) -> Refusal | None:
    """What an NLMSG_ERROR says; None: it is an acknowledgement."""
    number = error_number(answer)
    if number == 0:
        return None
    extended: dict[int, bytes] = {}
    if answer.flags & NLM_F_ACK_TLVS:
        # After the error comes the header of the message at fault; its payload is left out (NETLINK_CAP_ACK).
        extended = attributes(answer.body, 20)
    text = extended.get(1, b"").rstrip(b"\0").decode(errors="replace")
    offset = int.from_bytes(extended.get(2, b"\0"), "little" if struct.pack("=H", 1) == b"\1\0" else "big")
    return Refusal(number, text, offset)


def error_text(number: int) -> str:
    """What an error number means; ipset has some of its own."""
    return _IPSET_ERRORS.get(number) or os.strerror(number)
