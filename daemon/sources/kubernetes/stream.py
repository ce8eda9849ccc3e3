"""Watch streams: bytes as they arrive to events, a batch a piece. Pure.

In: pieces of a response's body, cut anywhere. Out: lists of events. Raises BadAnswerError for what is no
event, UnreachableError for a stream that ends within a line, and what an ERROR event says.
"""

from collections.abc import Iterable, Iterator

import msgspec

from daemon.sources.kubernetes.errors import (
    ApiError,
    BadAnswerError,
    UnreachableError,
    refusal_in_stream,
)

MAX_LINE = 16 << 20
"""Bytes of one event. An object has 1.5 MiB in etcd; as JSON it may be some times as long."""


ADDED, MODIFIED, DELETED, BOOKMARK = "ADDED", "MODIFIED", "DELETED", "BOOKMARK"
CHANGES = (ADDED, MODIFIED, DELETED)


class Event(msgspec.Struct, frozen=True):
    """One line. type: ADDED, MODIFIED, DELETED or BOOKMARK; others are for newer clients."""

    type: str
    object: msgspec.Raw


_DECODER = msgspec.json.Decoder(Event)


def read_events(what: str, pieces: Iterable[bytes]) -> Iterator[list[Event]]:
    """The events of a watch, in batches as they came together; also those before something goes wrong."""
    rest = bytearray()  # to which adding is cheap, however small the pieces of a long line
    for piece in pieces:
        head, newline, tail = piece.rpartition(b"\n")
        rest += head if newline else piece
        if newline:
            lines, rest = bytes(rest).split(b"\n"), bytearray(tail)
            yield from _decode_lines(what, lines)
        if len(rest) > MAX_LINE:
            raise BadAnswerError(what, f"a line of more than {MAX_LINE} bytes")
    if rest.strip():
        raise UnreachableError(what, "the stream broke off within an event")


def _decode_lines(what: str, lines: Iterable[bytes]) -> Iterator[list[Event]]:
    batch: list[Event] = []
    failure: ApiError | None = None
    for line in lines:
        if line and not line.isspace():
            try:
                batch.append(_decode(what, line))
            except ApiError as error:
                failure = error
                break
    if batch:
        yield batch
    if failure is not None:
        raise failure


def _decode(what: str, line: bytes) -> Event:
    try:
        event = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswerError(what, f"no watch event: {line[:80]!r}: {error}") from error
    if event.type == "ERROR":
        raise refusal_in_stream(what, bytes(event.object))
    return event
