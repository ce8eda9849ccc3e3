"""Metrics and health over real HTTP on loopback."""

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from daemon.metrics import METRICS, MetricsServer, exposition

STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "ready": True,
    "notReadyBecause": "",
    "behind": "",
    "refused": [],
    "sourceCost": {"requests": {"GET": 4, "WATCH": 5}, "errors": 1, "bytes": 3000, "watches": 5},
    "backend": "nftables",
    "attachments": {"applied": 3, "guard": 1},
    "policies": 4,
    "waitingAdds": 0,
    "pending": ["/run/netns/x"],
    "applied": 7,
    "failed": 1,
    "tampered": 2,
    "problems": ["a", "b"],
}


class Serving:
    """A server on a free port of loopback; `status` may be changed, None: the dataplane hangs."""

    def __init__(self) -> None:
        self.status: dict[str, Any] | None = dict(STATUS)
        self.server = MetricsServer("127.0.0.1:0", self._ask)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def _ask(self, seconds: float) -> dict[str, Any]:
        if self.status is None:
            raise TimeoutError
        return self.status

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
    serving.status = {**STATUS, "ready": False, "notReadyBecause": "not read yet"}
    assert serving.get("/readyz") == (503, "not read yet\n")
    assert serving.get("/healthz")[0] == 200
    serving.status = {**STATUS, "refused": ["policies: not installed", "own pods: not granted"]}
    assert serving.get("/readyz") == (503, "policies: not installed\nown pods: not granted\n")
    assert serving.get("/healthz")[0] == 200
    serving.status = None
    assert serving.get("/healthz")[0] == 503
    assert serving.get("/metrics")[0] == 503


def test_another_path_is_not_found(serving: Serving) -> None:
    code, text = serving.get("/")
    assert code == 404
    assert "/metrics" in text
