"""Watch streams, cut everywhere, and what is no event."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from daemon.sources.kubernetes.errors import (
    ApiError,
    BadAnswerError,
    ForbiddenError,
    GoneError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
)
from daemon.sources.kubernetes.stream import MAX_LINE, Event, read_events

ADDED = b'{"type":"ADDED","object":{"metadata":{"name":"a\\u00fc","x":"\xc3\xbc {}"}}}'
DELETED = b'{"type":"DELETED","object":{"metadata":{"name":"b"}}}'
MARK = b'{"object":{"metadata":{"resourceVersion":"7"}},"type":"BOOKMARK"}'
THREE = b"\n".join((ADDED, DELETED, MARK)) + b"\n"


def read(pieces: Iterable[bytes]) -> list[Event]:
    return [event for batch in read_events("watch pods", pieces) for event in batch]


def types(pieces: Iterable[bytes]) -> list[str]:
    return [event.type for event in read(pieces)]


def failure(content: bytes) -> tuple[list[str], ApiError]:
    """The types of the events before it, and what goes wrong."""
    found: list[str] = []
    try:
        for batch in read_events("watch pods", [content]):
            found += [event.type for event in batch]
    except ApiError as error:
        return found, error
    raise AssertionError(f"nothing went wrong: {found}")


def error_event(**status: Any) -> bytes:
    return json.dumps({"type": "ERROR", "object": {"kind": "Status", **status}}).encode() + b"\n"


# --- whole, and cut --------------------------------------------------------------------------------------

WHOLE: list[tuple[bytes, list[str]]] = [
    (b"", []),
    (b"\n\n \n", []),
    (ADDED + b"\n", ["ADDED"]),
    (THREE, ["ADDED", "DELETED", "BOOKMARK"]),
    (THREE.replace(b"\n", b"\r\n"), ["ADDED", "DELETED", "BOOKMARK"]),
    (b"\n\r\n" + THREE.replace(b"\n", b"\n\n"), ["ADDED", "DELETED", "BOOKMARK"]),
    (b'{"type":"LATER","object":{}}\n', ["LATER"]),
    (b'{"type":"ADDED","more":1,"object":null}\n', ["ADDED"]),
]


@pytest.mark.parametrize(("content", "want"), WHOLE)
def test_events_whole_and_byte_by_byte(content: bytes, want: list[str]) -> None:
    assert types([content]) == want
    assert types(bytes([each]) for each in content) == want


def test_events_cut_at_every_position() -> None:
    whole = read([THREE])
    for at in range(len(THREE) + 1):
        assert read([THREE[:at], THREE[at:]]) == whole, at
        assert read([THREE[:at], b"", THREE[at : at + 9], THREE[at + 9 :]]) == whole, at


def test_the_object_is_as_it_was_sent() -> None:
    assert bytes(read([THREE])[0].object) == b'{"metadata":{"name":"a\\u00fc","x":"\xc3\xbc {}"}}'


def test_what_came_together_is_one_batch() -> None:
    line = ADDED + b"\n"
    batches = read_events("watch pods", [line * 3, line[:9], line[9:] + line, line])
    assert [len(batch) for batch in batches] == [3, 2, 1]


def test_an_event_is_given_before_the_next_piece_is_asked_for() -> None:
    asked: list[int] = []

    def pieces() -> Iterable[bytes]:
        for number in range(2):
            asked.append(number)
            yield ADDED + b"\n"

    next(iter(read_events("watch pods", pieces())))
    assert asked == [0]


# --- what is no event ------------------------------------------------------------------------------------

NO_EVENTS = [
    b"x",
    b"[]",
    b'"ADDED"',
    b"null",
    b"{}",
    b'{"type":"ADDED"}',
    b'{"type":1,"object":{}}',
    b'{"type":"ADDED","object":{}} x',
    b'{"type":"ADDED","object":{}',
    b'{"type":"\xff","object":{}}',
    b"[" * 100_000,
    b"<html>502</html>",
]


@pytest.mark.parametrize("line", NO_EVENTS, ids=lambda line: repr(line[:30]))
def test_what_is_no_event(line: bytes) -> None:
    found, error = failure(ADDED + b"\n" + line + b"\n" + DELETED + b"\n")
    assert (found, type(error)) == (["ADDED"], BadAnswerError)
    assert len(str(error)) < 400


@pytest.mark.parametrize("rest", [ADDED, ADDED[:-1], b"{", b"x"])
def test_a_line_without_an_end(rest: bytes) -> None:
    found, error = failure(DELETED + b"\n" + rest)
    assert (found, type(error)) == (["DELETED"], UnreachableError)


def test_a_line_has_a_most() -> None:
    most = b'{"type":"ADDED","object":"' + b"x" * (MAX_LINE - 40)
    piece = 1 << 16
    pieces = [most[at : at + piece] for at in range(0, len(most), piece)]
    assert types([*pieces, b'"}\n']) == ["ADDED"]
    taken = 0

    def endless() -> Iterable[bytes]:
        nonlocal taken
        while True:
            taken += piece
            yield b"x" * piece

    with pytest.raises(BadAnswerError, match=f"more than {MAX_LINE} bytes"):
        read(endless())
    assert taken <= MAX_LINE + piece
    # Also behind the end of another one.
    with pytest.raises(BadAnswerError, match=f"more than {MAX_LINE} bytes"):
        read([ADDED + b"\n" + b"x" * (MAX_LINE + 1)])


# --- ERROR events ----------------------------------------------------------------------------------------

ERRORS: list[tuple[bytes, type[RefusedError], int, float, str]] = [
    (error_event(code=410, reason="Expired", message="too old"), GoneError, 410, 0.0, "too old"),
    (error_event(reason="Expired"), GoneError, 410, 0.0, ""),
    (error_event(reason="Gone"), GoneError, 410, 0.0, ""),
    (error_event(code=403, message="no"), ForbiddenError, 403, 0.0, "no"),
    (error_event(code=401), UnauthorizedError, 401, 0.0, ""),
    (error_event(code=500, reason="Expired"), RefusedError, 500, 0.0, ""),
    (error_event(code=429, details={"retryAfterSeconds": 7}), RefusedError, 429, 7.0, ""),
    (error_event(code=503, details={"retryAfterSeconds": 10**9}), RefusedError, 503, 300.0, ""),
    (error_event(code=503, details={"retryAfterSeconds": -1}), RefusedError, 503, 0.0, ""),
    (error_event(code=503, details={"retryAfterSeconds": "9"}), RefusedError, 503, 0.0, ""),
    (error_event(code=503, details=None), RefusedError, 503, 0.0, ""),
    (error_event(message="x" * 9999), RefusedError, 500, 0.0, "x"),
    (b'{"type":"ERROR","object":{}}\n', RefusedError, 500, 0.0, ""),
    (b'{"type":"ERROR","object":5}\n', RefusedError, 500, 0.0, "without a Status"),
    (b'{"type":"ERROR","object":{"code":"410"}}\n', RefusedError, 500, 0.0, "without a Status"),
]


@pytest.mark.parametrize(("line", "kind", "status", "wait", "text"), ERRORS)
def test_error_events(line: bytes, kind: type[RefusedError], status: int, wait: float, text: str) -> None:
    found, error = failure(ADDED + b"\n" + line + DELETED + b"\n")
    assert (found, type(error), error.what) == (["ADDED"], kind, "watch pods")
    assert isinstance(error, RefusedError)
    assert (error.status, error.retry_after) == (status, wait)
    assert text in str(error)
    assert len(str(error)) < 600
