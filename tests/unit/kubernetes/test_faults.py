"""The fault proxy itself: what it forwards, what it does instead, what it remembers."""

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.lab.faults import Answer, Fault, FaultProxy, error_event, status
from tests.lab.polling import poll
from tests.unit.kubernetes.serving import Exchange, Server, serve

PODS, WATCH = "/api/v1/pods?limit=1", "/api/v1/pods?watch=1"
LINES = [
    b'{"type":"%s","object":{"n":%d}}\n' % (kind, n)
    for n, kind in enumerate([b"ADDED", b"BOOKMARK", b"ADDED"])
]


def answer(exchange: Exchange) -> None:
    """As an API server: a stream for a watch, else what was asked."""
    if "watch=1" not in exchange.path:
        asked = [
            exchange.command,
            exchange.path,
            exchange.headers.get("Authorization"),
            exchange.body.decode(),
        ]
        exchange.reply(201 if exchange.command == "POST" else 200, {"asked": asked}, X_Own="yes")
        return
    exchange.begin()
    for line in LINES:
        # Cut anywhere: the proxy's unit is the line all the same.
        exchange.chunk(line[:7])
        exchange.chunk(line[7:])
    if "short=1" in exchange.path:
        exchange.chunk(b"")
    else:
        exchange.idle()


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    ca = trustme.CA()
    path = tmp_path_factory.mktemp("upstream") / "ca.crt"
    ca.cert_pem.write_to_path(str(path))
    with serve(ca.issue_cert("127.0.0.1")) as server:
        server.answer = answer
        yield server, path


@pytest.fixture
def proxy(upstream: tuple[Server, Path], tmp_path: Path) -> Iterator[FaultProxy]:
    server, ca = upstream
    with FaultProxy(tmp_path, server.url, ca) as made:
        yield made


def connect(proxy: FaultProxy, timeout: float = 5.0) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=str(proxy.ca_file))
    return http.client.HTTPSConnection(
        "127.0.0.1", int(proxy.url.rpartition(":")[2]), timeout=timeout, context=context
    )


def ask(
    proxy: FaultProxy, path: str = PODS, method: str = "GET", body: bytes | None = None
) -> tuple[int, bytes]:
    with contextlib.closing(connect(proxy)) as client:
        client.request(method, path, body, {"Authorization": "Bearer t"})
        found = client.getresponse()
        return found.status, found.read()


def lines(proxy: FaultProxy, count: int, path: str = WATCH) -> list[bytes]:
    """So many lines of a stream, fewer where it ends."""
    with contextlib.closing(connect(proxy)) as client:
        client.request("GET", path)
        found = client.getresponse()
        return [line for _ in range(count) if (line := found.readline())]


def test_a_request_is_forwarded_whole(proxy: FaultProxy) -> None:
    code, body = ask(proxy, "/api/v1/pods?a=%2C", "POST", b"{}")
    assert (code, json.loads(body)["asked"]) == (201, ["POST", "/api/v1/pods?a=%2C", "Bearer t", "{}"])
    (asked,) = proxy.requests()
    assert (asked.method, asked.plural, asked.query, asked.watches) == ("POST", "pods", {"a": ","}, False)
    assert asked.headers["Authorization"] == "Bearer t"


def test_a_connection_is_kept(proxy: FaultProxy) -> None:
    with contextlib.closing(connect(proxy)) as client:
        client.connect()
        used = client.sock
        for _ in range(3):
            client.request("GET", PODS)
            assert client.getresponse().read()
            assert client.sock is used


def test_a_stream_comes_as_it_is_sent(proxy: FaultProxy) -> None:
    # The server says nothing after these, and does not end.
    assert lines(proxy, 3) == LINES
    assert lines(proxy, 9, f"{WATCH}&short=1") == LINES


def test_an_answer_instead(proxy: FaultProxy) -> None:
    rule = proxy.add(
        Fault(answer=status(429, "slow down", Retry_After="7")), plural="pods", watch=False, times=1
    )
    with contextlib.closing(connect(proxy)) as client:
        client.request("GET", PODS)
        found = client.getresponse()
        assert (found.status, found.headers["Retry-After"]) == (429, "7")
        assert json.loads(found.read())["message"] == "slow down"
    assert ask(proxy)[0] == 200
    assert rule.hits == 1
    with proxy.fault(Fault(answer=Answer(200, b"<html>"))):
        assert ask(proxy) == (200, b"<html>")
    assert ask(proxy)[0] == 200


@pytest.mark.parametrize(
    ("match", "hit"),
    [
        ({}, True),
        ({"method": "GET"}, True),
        ({"method": "POST"}, False),
        ({"path": "/api/v1"}, True),
        ({"path": "/apis"}, False),
        ({"plural": "pods"}, True),
        ({"plural": "pod"}, False),
        ({"query": {"limit": "1"}}, True),
        ({"query": {"limit": None}}, True),
        ({"query": {"limit": "2"}}, False),
        ({"query": {"watch": None}}, False),
        ({"watch": True}, False),
        ({"times": 0}, False),
    ],
)
def test_which_requests_a_rule_takes(proxy: FaultProxy, match: dict[str, object], hit: bool) -> None:
    proxy.add(Fault(answer=status(500)), **match)
    assert ask(proxy)[0] == (500 if hit else 200)


def test_the_first_rule_counts_and_all_can_go(proxy: FaultProxy) -> None:
    proxy.add(Fault(answer=status(401)), times=1)
    proxy.add(Fault(answer=status(403)))
    assert [ask(proxy)[0], ask(proxy)[0]] == [401, 403]
    proxy.clear()
    assert ask(proxy)[0] == 200


def test_closed_without_an_answer(proxy: FaultProxy) -> None:
    with proxy.fault(Fault(close=True)), pytest.raises(http.client.RemoteDisconnected):
        ask(proxy)


def test_held_without_an_answer(proxy: FaultProxy) -> None:
    proxy.add(Fault(hold=True))
    with contextlib.closing(connect(proxy, timeout=0.2)) as client:
        client.request("GET", PODS)
        with pytest.raises(TimeoutError):
            client.getresponse()


def test_delayed(proxy: FaultProxy) -> None:
    proxy.add(Fault(delay=0.2))
    began = time.monotonic()
    assert ask(proxy)[0] == 200
    assert time.monotonic() - began >= 0.2


def test_a_stream_broken_within_a_line(proxy: FaultProxy) -> None:
    proxy.add(Fault(after=1, end="line"))
    with contextlib.closing(connect(proxy)) as client:
        client.request("GET", WATCH)
        found = client.getresponse()
        assert found.readline() == LINES[0]
        half = LINES[1][: len(LINES[1]) // 2]
        with pytest.raises(http.client.IncompleteRead) as caught:
            found.read()
        assert caught.value.partial == half


@pytest.mark.parametrize(("end", "orderly"), [("close", False), ("stream", True)])
def test_a_stream_ended_after_a_line(proxy: FaultProxy, end: str, orderly: bool) -> None:
    proxy.add(Fault(after=2, end=end))  # type: ignore[arg-type]
    with contextlib.closing(connect(proxy)) as client:
        client.request("GET", WATCH)
        found = client.getresponse()
        assert [found.readline(), found.readline()] == LINES[:2]
        if orderly:
            assert found.read() == b""
        else:
            with pytest.raises(http.client.IncompleteRead):
                found.read()


def test_a_stream_that_falls_silent(proxy: FaultProxy) -> None:
    proxy.add(Fault(after=1, end="hold"))
    with contextlib.closing(connect(proxy, timeout=0.2)) as client:
        client.request("GET", WATCH)
        found = client.getresponse()
        assert found.readline() == LINES[0]
        with pytest.raises(TimeoutError):
            found.readline()


def test_lines_that_the_server_never_sent(proxy: FaultProxy) -> None:
    proxy.add(Fault(after=1, insert=error_event(500, "", "broken")), times=1)
    first, inserted, *rest = lines(proxy, 4)
    assert [first, *rest] == LINES
    assert json.loads(inserted)["object"]["code"] == 500
    proxy.add(Fault(insert=b"no json\n", end="stream"), times=1)
    assert lines(proxy, 9) == [b"no json\n"]
    proxy.add(Fault(after=3, replay=True), times=1)
    assert lines(proxy, 4) == [*LINES, LINES[0]]
    proxy.add(Fault(no_bookmarks=True), times=1)
    assert lines(proxy, 2) == [LINES[0], LINES[2]]


def test_nothing_listens_for_a_while(proxy: FaultProxy) -> None:
    url = proxy.url
    with contextlib.closing(connect(proxy)) as client:
        client.request("GET", WATCH)
        found = client.getresponse()
        assert found.readline() == LINES[0]
        proxy.refuse()
        with pytest.raises((http.client.IncompleteRead, OSError)):
            found.read()
    with pytest.raises(ConnectionRefusedError):
        ask(proxy)
    proxy.listen()
    assert proxy.url == url
    assert ask(proxy)[0] == 200


def test_another_certificate(proxy: FaultProxy) -> None:
    old = connect(proxy)
    proxy.renew_certificate()
    with pytest.raises(ssl.SSLCertVerificationError):
        old.connect()
    assert ask(proxy)[0] == 200


def test_a_client_that_leaves_ends_the_stream_at_the_server(
    proxy: FaultProxy, upstream: tuple[Server, Path]
) -> None:
    server, _ = upstream
    ended: list[bool] = []

    def watched(exchange: Exchange) -> None:
        exchange.begin()
        exchange.chunk(LINES[0])
        exchange.connection.settimeout(5.0)
        ended.append(not exchange.rfile.read(1))

    server.answer = watched
    try:
        assert lines(proxy, 1) == [LINES[0]]
        poll(lambda: list(ended), lambda found: found == [True])
    finally:
        server.answer = answer
