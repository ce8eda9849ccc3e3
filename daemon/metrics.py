"""Metrics and health over HTTP, for Prometheus and probes: `/metrics`, `/healthz`, `/readyz`.

In: the daemon's status map, asked of the dataplane at each request. Out: text. Every metric is declared
here, once; labels are bounded (state, backend, version), never names of pods. Served from a thread of its
own: when it can't be, enforcement goes on without it.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

from daemon.log import get_logger
from daemon.scrapes import Reply, ScrapeServer

log = get_logger(__name__)

Status = Mapping[str, Any]
ANSWER_SECONDS = 5.0
"""A dataplane that does not answer for so long is not healthy."""
RETRY_SECONDS = 10.0
"""Between tries to listen, when the address is taken."""
_PREFIX = "multi_networkpolicy_"
_PATHS = ("/metrics", "/healthz", "/readyz")


class Metric(NamedTuple):
    """One metric. values: label text ("" or `{name="value"}`) and number, out of a status map."""

    name: str
    kind: str
    help: str
    values: Callable[[Status], Iterator[tuple[str, float]]]


def _one(key: str) -> Callable[[Status], Iterator[tuple[str, float]]]:
    return lambda status: iter([("", float(status[key]))])


def _length(key: str) -> Callable[[Status], Iterator[tuple[str, float]]]:
    return lambda status: iter([("", float(len(status[key])))])


def _by_backend(key: str) -> Callable[[Status], Iterator[tuple[str, float]]]:
    return lambda status: iter([(f'{{backend="{status["backend"]}"}}', float(status[key]))])


def _states(status: Status) -> Iterator[tuple[str, float]]:
    for state, count in sorted(status["attachments"].items()):
        yield f'{{state="{state}"}}', float(count)


def _version(status: Status) -> Iterator[tuple[str, float]]:
    yield f'{{version="{status["version"]}"}}', 1.0


def _cost(key: str) -> Callable[[Status], Iterator[tuple[str, float]]]:
    def values(status: Status) -> Iterator[tuple[str, float]]:
        if key in status["sourceCost"]:
            yield "", float(status["sourceCost"][key])

    return values


def _requests(status: Status) -> Iterator[tuple[str, float]]:
    for verb, count in status["sourceCost"].get("requests", {}).items():
        yield f'{{verb="{verb}"}}', float(count)


def _behind(status: Status) -> Iterator[tuple[str, float]]:
    yield "", float(bool(status["behind"]))


METRICS = (
    Metric("build_info", "gauge", "The daemon's version.", _version),
    Metric("ready", "gauge", "1 when the source has been read as a whole.", _one("ready")),
    Metric("behind", "gauge", "1 while the source is out of date, and nothing relaxes.", _behind),
    Metric("api_requests_total", "counter", "Requests to the API server.", _requests),
    Metric("api_errors_total", "counter", "Requests that came to nothing.", _cost("errors")),
    Metric("api_received_bytes_total", "counter", "Bytes of answers.", _cost("bytes")),
    Metric("api_watches", "gauge", "Open watches.", _cost("watches")),
    Metric("attachments", "gauge", "Attachments on this node by state.", _states),
    Metric("policies", "gauge", "Policies that the source holds.", _one("policies")),
    Metric("problems", "gauge", "Things reported now: objects, files, netns.", _one("problemCount")),
    Metric(
        "set_aside", "gauge", "Things that wait for an operator since records were lost.", _length("setAside")
    ),
    Metric("adds_waiting", "gauge", "ADDs that wait for their pod or the source.", _one("waitingAdds")),
    Metric("netns_pending", "gauge", "Network namespaces not as desired now.", _length("pending")),
    Metric("programs_applied_total", "counter", "Programs committed.", _by_backend("applied")),
    Metric(
        "programs_failed_total", "counter", "Programs that could not be committed.", _by_backend("failed")
    ),
    Metric("tampered_total", "counter", "Changes by others of what was programmed.", _by_backend("tampered")),
)


def exposition(status: Status) -> str:
    """All metrics in Prometheus' text format, version 0.0.4."""
    lines: list[str] = []
    for metric in METRICS:
        name = _PREFIX + metric.name
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        lines += [f"{name}{labels} {value:g}" for labels, value in metric.values(status)]
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Serves `address` ("host:port", IPv6 in brackets).

    `ask`: the status map within so many seconds, or TimeoutError.
    """

    def __init__(self, address: str, ask: Callable[[float], Status]) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._ask = ask
        self._stopping = threading.Event()
        self._server: ScrapeServer | None = None
        self._listening = threading.Event()

    def run(self) -> None:
        """Listen and serve until stop(); an address that is taken is tried again and again."""
        while not self._stopping.is_set():
            try:
                server = self._server = ScrapeServer(self._address, self._answer)
            except OSError as error:
                where = f"{self._address[0]}:{self._address[1]}"
                log.error("metrics-not-served", extra={"address": where, "error": str(error)})
                self._stopping.wait(RETRY_SECONDS)
                continue
            self._listening.set()
            log.info("metrics", extra={"address": f"{self._address[0]}:{server.port}"})
            server.run()

    def port(self, timeout: float) -> int:
        """The port that it listens on, after waiting for that; 0 was asked for where any will do."""
        if not self._listening.wait(timeout) or self._server is None:
            raise TimeoutError
        return self._server.port

    def stop(self) -> None:
        """End run()."""
        self._stopping.set()
        if self._server is not None:
            self._server.stop()

    def _answer(self, paths: Sequence[str]) -> list[Reply]:
        """One look at the status for all of them."""
        status: Status | None = None
        if any(path in _PATHS for path in paths):
            with contextlib.suppress(TimeoutError):
                status = self._ask(ANSWER_SECONDS)
        return [_reply(path, status) for path in paths]


def _reply(path: str, status: Status | None) -> Reply:
    if path not in _PATHS:
        return Reply(HTTPStatus.NOT_FOUND, "try /metrics, /healthz or /readyz\n")
    if status is None:
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, "the dataplane does not answer\n")
    if path == "/metrics":
        return Reply(HTTPStatus.OK, exposition(status))
    if path == "/readyz" and status["readyz"]:
        return Reply(HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{line}\n" for line in status["readyz"]))
    return Reply(HTTPStatus.OK, "ok\n")
