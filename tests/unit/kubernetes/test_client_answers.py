"""Answers of a server, real ones on loopback: refusals, broken ones, endless ones, none."""

import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from daemon.sources.kubernetes.client import Client, Connection, Limits
from daemon.sources.kubernetes.errors import (
    BadAnswerError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    UnauthorizedError,
    UnreachableError,
)
from daemon.sources.kubernetes.kubeconfig import EXEC_VERSIONS, Access, ExecPlugin
from daemon.sources.kubernetes.login import Login
from tests.unit.kubernetes.serving import (
    CA,
    HOST,
    LIMITS,
    Answer,
    Exchange,
    Server,
    connect,
    failure,
    pem,
    refusal_of,
    watch,
)

# --- what the server says --------------------------------------------------------------------------------

REFUSALS: list[tuple[int, dict[str, Any], Any, type[RefusedError], float, str]] = [
    (400, {}, {"message": "what?"}, InvalidRequestError, 0.0, "400 what?"),
    (401, {}, {"message": "Unauthorized"}, UnauthorizedError, 0.0, "401 Unauthorized"),
    (403, {}, {"message": "no right"}, ForbiddenError, 0.0, "403 no right"),
    (404, {}, b"404 page not found\n", NotFoundError, 0.0, "404 404 page not found"),
    (410, {}, {"code": 410, "message": "old"}, GoneError, 0.0, "410 old"),
    (422, {}, {"message": "field"}, InvalidRequestError, 0.0, "422 field"),
    (429, {"Retry_After": "7"}, b"slow", RefusedError, 7.0, "429 slow"),
    (503, {"Retry_After": "0"}, b"", RefusedError, 0.0, "503"),
    (503, {"Retry_After": "99999999999999"}, b"", RefusedError, 300.0, "503"),
    (503, {"Retry_After": "9" * 4000}, b"", RefusedError, 300.0, "503"),
    (503, {"Retry_After": "-1"}, b"", RefusedError, 0.0, "503"),
    (503, {"Retry_After": "soon"}, b"", RefusedError, 0.0, "503"),
    (503, {"Retry_After": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"", RefusedError, 0.0, "503"),
    (500, {}, b"\xff\xfe", RefusedError, 0.0, "500"),
    (500, {}, b"[" * 60_000, RefusedError, 0.0, "500"),
    (500, {}, b"x" * 60_000, RefusedError, 0.0, "500 xxx"),
    (304, {}, b"", RefusedError, 0.0, "304"),
]


@pytest.mark.parametrize(("status", "headers", "body", "kind", "wait", "text"), REFUSALS)
def test_refusals(
    server: Server,
    connection: Connection,
    status: int,
    headers: dict[str, Any],
    body: Any,
    kind: type[RefusedError],
    wait: float,
    text: str,
) -> None:
    server.answer = lambda exchange: exchange.reply(status, body, **headers)
    error = failure(connection)
    assert type(error) is kind
    assert isinstance(error, RefusedError)
    assert (error.status, error.retry_after) == (status, wait)
    assert text in str(error)
    assert len(str(error)) < 600
    # A stream is refused in the same way.
    with pytest.raises(kind), watch(connection):
        pass


def test_401_makes_a_plugin_be_asked_again(server: Server, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    plugin = ExecPlugin(EXEC_VERSIONS[0], "/bin/cat", (str(answer),))

    def say(token: str) -> None:
        answer.write_text(json.dumps({"apiVersion": plugin.version, "status": {"token": token}}))

    say("one")
    with connect(Access(server.url, authority=pem(CA), plugin=plugin), LIMITS) as connection:
        connection.get("list pods", "/")
        say("two")
        connection.get("list pods", "/")
        assert server.header("Authorization") == "Bearer one"
        server.answer = lambda exchange: exchange.reply(401)
        assert isinstance(failure(connection), UnauthorizedError)
        server.answer = Exchange.reply
        connection.get("list pods", "/")
        assert server.header("Authorization") == "Bearer two"


def test_a_status_counts_without_its_explanation(server: Server, connection: Connection) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.send_response(503)
        exchange.send_header("Content-Length", "100")
        exchange.send_header("Retry-After", "3")
        exchange.end_headers()
        exchange.wfile.write(b"over")
        exchange.close_connection = True

    server.answer = answer
    error = failure(connection)
    assert isinstance(error, RefusedError)
    assert (error.status, error.retry_after) == (503, 3.0)


# --- bodies ----------------------------------------------------------------------------------------------


def test_a_compressed_body(server: Server, client: Client, connection: Connection) -> None:
    content = json.dumps({"items": list(range(5000))}).encode()
    packed = gzip.compress(content)
    server.answer = lambda exchange: exchange.reply(body=packed, Content_Encoding="gzip")
    assert connection.get("list pods", "/") == content
    # What came over the wire.
    assert client.cost.bytes_received == len(packed) < len(content)

    def answer(exchange: Exchange) -> None:
        exchange.send_response(200)
        exchange.send_header("Transfer-Encoding", "chunked")
        exchange.send_header("Content-Encoding", "gzip")
        exchange.end_headers()
        for at in range(0, len(packed), 1000):
            exchange.chunk(packed[at : at + 1000])
        exchange.chunk(b"")

    server.answer = answer
    assert connection.get("list pods", "/") == content
    assert client.cost.bytes_received == 2 * len(packed)


BOMB = gzip.compress(b"\0" * (64 << 20))
TOO_LARGE = [(b"x" * (LIMITS.body + 1), {}), (BOMB, {"Content_Encoding": "gzip"})]


@pytest.mark.parametrize(("body", "headers"), TOO_LARGE, ids=["long", "bomb"])
def test_bodies_have_a_most(
    server: Server, client: Client, connection: Connection, body: bytes, headers: dict[str, Any]
) -> None:
    server.answer = lambda exchange: exchange.reply(body=body, **headers)
    error = failure(connection)
    assert isinstance(error, BadAnswerError)
    assert error.message == f"an answer of more than {LIMITS.body} bytes"
    assert client.cost.summary()["errors"] == 1


def test_a_body_of_just_that_size(server: Server, connection: Connection) -> None:
    server.answer = lambda exchange: exchange.reply(body=b"x" * LIMITS.body)
    assert len(connection.get("list pods", "/")) == LIMITS.body


def raw(content: bytes) -> Any:
    def answer(exchange: Exchange) -> None:
        exchange.wfile.write(content)
        exchange.close_connection = True

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN = [
    (b"", "Remote end closed connection"),
    (b"SSH-2.0-x\r\n\r\n", ""),
    (b"HTTP/1.1 999999 x\r\n\r\n", ""),
    (HEAD + b"".join(b"A%d: b\r\n" % number for number in range(300)) + b"\r\n", ""),
    (HEAD + b"A: " + b"x" * 70_000 + b"\r\n\r\n", ""),
    (HEAD + b"Content-Length: 10\r\n\r\nabc", "the answer broke off"),
    (CHUNKED, "the answer broke off"),
    (CHUNKED + b"3\r\nabc\r\n", "the answer broke off"),
    (CHUNKED + b"30\r\nabc", "the answer broke off"),
    (CHUNKED + b"zz\r\nabc\r\n", "the answer broke off"),
    (CHUNKED + b"-5\r\nabc\r\n", "the answer broke off"),
    (CHUNKED + b"7" * 70_000, ""),
    (HEAD + b"Content-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc", ""),
]


@pytest.mark.parametrize(("content", "word"), BROKEN, ids=[repr(content[-40:]) for content, _ in BROKEN])
def test_broken_answers(
    server: Server, client: Client, connection: Connection, content: bytes, word: str
) -> None:
    server.answer = raw(content)
    error = failure(connection)
    assert type(error) is UnreachableError
    assert word in error.message
    assert error.message.startswith(f"{server.url}: ")
    assert client.cost.summary()["errors"] == 1
    # And the connection is good for the next one.
    server.answer = Exchange.reply
    assert connection.get("list pods", "/") == b"{}"


def test_an_answer_without_a_body(server: Server, connection: Connection) -> None:
    server.answer = raw(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert connection.get("list pods", "/") == b""


# --- time ------------------------------------------------------------------------------------------------


def timed(access: Access, limits: Limits) -> tuple[str, float]:
    started = time.monotonic()
    with connect(access, limits) as connection:
        error = failure(connection)
    assert type(error) is UnreachableError
    return error.message, time.monotonic() - started


def half(exchange: Exchange) -> None:
    exchange.begin()
    exchange.chunk(b"half")
    exchange.idle()


@pytest.mark.parametrize("answer", [Exchange.idle, half])
def test_silence(server: Server, answer: Answer) -> None:
    server.answer = answer
    message, seconds = timed(Access(server.url, authority=pem(CA)), Limits(read=0.3))
    assert message == f"{server.url}: timed out"
    assert 0.25 < seconds < 5


def test_silence_that_outlasts_the_deadline(server: Server) -> None:
    server.answer = half
    message, seconds = timed(Access(server.url, authority=pem(CA)), Limits(read=20.0, total=0.3))
    assert message == "not done in 0.3 s"
    assert seconds < 5


@pytest.mark.parametrize(
    "start", [HEAD + b"A: ", HEAD + b"Content-Length: 9999\r\n\r\n", CHUNKED + b"fff\r\n", CHUNKED]
)
def test_a_server_that_drips(server: Server, start: bytes) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.wfile.write(start)
        while not exchange.server.over.wait(0.05):
            exchange.wfile.write(b"0")

    server.answer = drip
    started = time.monotonic()
    with connect(Access(server.url, authority=pem(CA)), Limits(total=0.5)) as connection:
        assert failure(connection).message == "not done in 0.5 s"
        assert 0.45 < time.monotonic() - started < 5
        # The deadline was that exchange's.
        server.answer = Exchange.reply
        assert connection.get("list pods", "/") == b"{}"


def test_a_stream_that_drips_has_its_time_too(server: Server) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.begin()
        while not exchange.server.over.wait(0.05):
            exchange.chunk(b" ")

    server.answer = drip
    access = Access(server.url, authority=pem(CA))
    reason = pytest.raises(UnreachableError, match=r"not done in 0\.5 s")
    with connect(access, Limits(watch=0.5)) as connection, reason, watch(connection) as pieces:
        list(pieces)


def test_nobody_there() -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        url = f"https://{HOST}:{port}"
        # It accepts, and says nothing to our TLS.
        message, seconds = timed(Access(url, authority=pem(CA)), Limits(connect=0.2))
        assert message == f"{url}: timed out"
        assert seconds < 5
    assert refusal_of(Access(url, authority=pem(CA))) == f"{url}: Connection refused"


UNKNOWN = ["https://absent.invalid", f"https://{'a' * 64}.invalid"]


@pytest.mark.parametrize("url", UNKNOWN)
def test_an_unknown_host(url: str) -> None:
    reason = refusal_of(Access(url))
    assert reason.startswith(f"{url}: ")
    assert "object at" not in reason
    assert len(reason) < 200


@pytest.mark.parametrize("agent", ["a\nb", "a€"])
def test_a_header_that_can_not_be_sent(server: Server, agent: str) -> None:
    access = Access(server.url, authority=pem(CA))
    connection = Client(Login(lambda: access), agent, LIMITS).connect()
    assert type(failure(connection)) is UnreachableError
    connection.close()
