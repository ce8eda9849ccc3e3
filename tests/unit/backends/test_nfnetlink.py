"""The wire format: numbers, batches, and what a refusal says."""

import struct

import pytest

from daemon.backends import nfnetlink as nl
from daemon.backends.nfnetlink import Message
from daemon.netlink import NLM_F_REQUEST, Answer, answers, attr, attributes


@pytest.mark.parametrize(
    ("number", "want"),
    [(0, "00000000"), (1, "00000001"), (-3, "fffffffd"), (0xFFFFFF00, "ffffff00")],
)
def test_numbers_are_big_endian(number: int, want: str) -> None:
    assert nl.u32(number).hex() == want


@pytest.mark.parametrize("size", [1, 16, 28, 52])
def test_pieces_fit_a_nested_attribute(size: int) -> None:
    parts = [bytes([number % 256]) * size for number in range(10_000)]
    pieces = list(nl.chunks(parts))
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(nl.nest(3, piece)) < 1 << 16 for piece in pieces)
    assert list(nl.chunks([])) == []


def test_batch_is_framed_and_only_its_last_message_asks_for_an_answer() -> None:
    messages = [Message(0x0A00, nl.NLM_F_CREATE, nl.general(1), name) for name in "abc"]
    found = list(answers(nl.encode_batch(messages, 10)))
    assert [a.type for a in found] == [16, 0x0A00, 0x0A00, 0x0A00, 17]
    assert [a.sequence for a in found] == [10, 11, 12, 13, 14]
    assert [bool(a.flags & nl.NLM_F_ACK) for a in found] == [False, False, False, True, False]
    assert all(a.flags & NLM_F_REQUEST for a in found)


def test_batch_can_insist_on_a_generation() -> None:
    begin = next(answers(nl.encode_batch([Message(0, 0, b"", "a")], 1, generation=7)))
    assert attributes(begin.body, 4) == {1: nl.u32(7)}


def error(number: int, text: str = "", offset: int | None = None) -> Answer:
    body = struct.pack("=i", -number) + bytes(16)
    if text:
        body += attr(1, nl.string(text))
    if offset is not None:
        body += attr(2, struct.pack("=I", offset))
    return Answer(2, nl.NLM_F_ACK_TLVS if text or offset is not None else 0, 1, body)


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (error(0), None),
        (error(2), nl.Refusal(2, "", 0)),
        (error(17, "overlaps"), nl.Refusal(17, "overlaps", 0)),
        (error(17, "overlaps", 300), nl.Refusal(17, "overlaps", 300)),
        (error(17, offset=60), nl.Refusal(17, "", 60)),
    ],
)
def test_refusals(answer: Answer, want: nl.Refusal | None) -> None:
    assert nl.refusal(answer) == want
