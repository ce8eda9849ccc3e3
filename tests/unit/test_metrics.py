"""Metrics and health over real HTTP on loopback."""

import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from daemon import scrapes
from daemon.metrics import METRICS, MetricsServer, exposition

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "ready": True,
    "notReadyBecause": "",
    "behind": "",
    "refused": [],
    "setAside": [],
    "readyz": [],
    "sourceCost": {"requests": {"GET": 4, "WATCH": 5}, "errors": 1, "bytes": 3000, "watches": 5},
    "backend": "nftables",
    "attachments": {"applied": 3, "guard": 1},
    "policies": 4,
    "waitingAdds": 0,
    "pending": ["/run/netns/x"],
    "applied": 7,
    "failed": 1,
    "tampered": 2,
    "problemCount": 2,
}


class Serving:
    """A server on a free port of loopback; `status` may be changed, None: the dataplane hangs."""

    def __init__(self) -> None:
        self.status: dict[str, Any] | None = dict(STATUS)
        self.asked = 0
        self.server = MetricsServer("127.0.0.1:0", self._ask)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def _ask(self, seconds: float) -> dict[str, Any]:
        self.asked += 1
        if self.status is None:
            raise TimeoutError
        return self.status

    def connect(self, *sent: bytes) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.server.port(5.0)), timeout=10)
        for piece in sent:
            client.sendall(piece)
        return client

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.server.port(5.0)}{path}", timeout=5
            ) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def serving() -> Iterator[Serving]:
    made = Serving()
    yield made
    made.server.stop()
    made.thread.join(5)
    assert not made.thread.is_alive()


def test_every_metric_is_told_with_help_and_type(serving: Serving) -> None:
    code, text = serving.get("/metrics")
    assert code == 200
    for metric in METRICS:
        assert f"# TYPE multi_networkpolicy_{metric.name} {metric.kind}" in text
    assert 'multi_networkpolicy_attachments{state="applied"} 3' in text
    assert "multi_networkpolicy_netns_pending 1" in text
    assert 'multi_networkpolicy_api_requests_total{verb="WATCH"} 5' in text
    assert "multi_networkpolicy_api_watches 5" in text
    assert 'multi_networkpolicy_programs_failed_total{backend="nftables"} 1' in text


def test_a_source_without_an_api_server_has_no_figures_of_one() -> None:
    lines = exposition({**STATUS, "sourceCost": {}}).splitlines()
    assert not [line for line in lines if "_api_" in line and not line.startswith("#")]


def test_the_format_is_prometheus() -> None:
    line = re.compile(r'# (HELP|TYPE) \w+ .+|[a-z_]+(\{[a-z]+="[^"]*"\})? [0-9.e+]+')
    assert [text for text in exposition(STATUS).splitlines() if not line.fullmatch(text)] == []


def test_ready_and_healthy(serving: Serving) -> None:
    assert serving.get("/readyz") == (200, "ok\n")
    assert serving.get("/healthz") == (200, "ok\n")
    serving.status = {**STATUS, "ready": False, "readyz": ["not read yet"]}
    assert serving.get("/readyz") == (503, "not read yet\n")
    assert serving.get("/healthz")[0] == 200
    serving.status = {**STATUS, "readyz": ["policies: not installed", "own pods: not granted"]}
    assert serving.get("/readyz") == (503, "policies: not installed\nown pods: not granted\n")
    assert serving.get("/healthz")[0] == 200
    serving.status = {**STATUS, "readyz": ["a file named \udcff"]}
    assert serving.get("/readyz") == (503, "a file named \\udcff\n")
    serving.status = None
    assert serving.get("/healthz")[0] == 503
    assert serving.get("/metrics")[0] == 503


def test_another_path_is_not_found(serving: Serving) -> None:
    code, text = serving.get("/")
    assert code == 404
    assert "/metrics" in text


def received(client: socket.socket) -> bytes:
    """All that comes until the end, however that comes."""
    with client:
        parts = []
        try:
            while part := client.recv(1 << 16):
                parts.append(part)
        except ConnectionResetError:
            pass
        return b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /healthz HTTP/1.0\r\n\r\n", b"200 OK"),
        (b"GET /healthz?verbose=1 HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK"),
        (b"GET /healthz HTTP/1.1\n\n", b"200 OK"),
        (b"GET /\xff\xfe HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405 Method Not Allowed"),
        (b"GET /healthz\r\n\r\n", b"400 Bad Request"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request"),
        (b"\r\n\r\n", b"400 Bad Request"),
        (b"GET /" + b"x" * (scrapes.MAX_HEAD - 5), b"431 Request Header Fields Too Large"),
    ],
    ids=lambda value: repr(value[:30]),
)
def test_each_request_gets_its_answer(serving: Serving, sent: bytes, status: bytes) -> None:
    assert received(serving.connect(sent)).startswith(b"HTTP/1.1 " + status + b"\r\n")


def test_one_byte_less_than_the_most_is_no_reason(serving: Serving) -> None:
    head = b"GET /healthz HTTP/1.1\r\nX: "
    sent = head + b"x" * (scrapes.MAX_HEAD - len(head) - 5)
    client = serving.connect(sent)
    client.sendall(b"\r\n\r\n")
    assert received(client).startswith(b"HTTP/1.1 200")


def test_a_request_in_pieces(serving: Serving) -> None:
    assert received(serving.connect(b"GE", b"T /heal", b"thz HTTP/1.1\r\n\r", b"\n")).endswith(b"ok\n")


def test_who_drips_has_no_longer_than_others(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrapes, "CLIENT_SECONDS", 0.5)
    client, begun = serving.connect(b"GET /healthz HTTP/1.1\r\n"), time.monotonic()

    def drip() -> None:
        while time.monotonic() < begun + 10:
            client.sendall(b"x")
            time.sleep(0.02)

    with pytest.raises(OSError, match=r"reset|pipe"):
        drip()
    assert 0.4 < time.monotonic() - begun < 5
    client.close()


def test_one_past_the_bound_gets_the_place_of_who_was_slow_longest(
    serving: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    slow = [serving.connect(b"GET /met") for _ in range(scrapes.MAX_CLIENTS)]
    assert serving.get("/healthz") == (200, "ok\n")
    assert received(slow[0]) == b""
    slow[1].sendall(b"rics HTTP/1.1\r\n\r\n")
    assert received(slow[1]).startswith(b"HTTP/1.1 200")
    for client in slow[2:]:
        client.close()
    assert [record.message for record in caplog.records].count("metrics-clients-dropped") == 1


def test_far_more_slow_clients_than_there_are_places(serving: Serving) -> None:
    slow = [serving.connect(b"GET /met") for _ in range(30 * scrapes.MAX_CLIENTS)]
    assert serving.get("/healthz") == (200, "ok\n")
    for client in slow:
        client.close()
    assert serving.get("/metrics")[0] == 200


def test_many_who_ask_at_once_cost_one_look(serving: Serving) -> None:
    assert serving.get("/healthz")[0] == 200
    before, begun = serving.asked, time.monotonic()
    request = b"GET /metrics HTTP/1.1\r\n\r\n"
    for _ in range(10):
        clients = [serving.connect(request) for _ in range(scrapes.MAX_CLIENTS // 2)]
        assert all(received(client).startswith(b"HTTP/1.1 200") for client in clients)
    assert serving.asked - before <= (time.monotonic() - begun) / scrapes.ASK_SECONDS + 1


def test_who_does_not_take_the_answer_is_dropped(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scrapes, "CLIENT_SECONDS", 0.5)
    assert serving.status is not None
    serving.status = {**serving.status, "readyz": ["x" * (16 << 20)]}
    client = serving.connect(b"GET /readyz HTTP/1.1\r\n\r\n")
    deadline = time.monotonic() + 10
    while "metrics-clients-dropped" not in [record.message for record in caplog.records]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(received(client)) < 16 << 20
    assert serving.get("/healthz")[0] == 200
