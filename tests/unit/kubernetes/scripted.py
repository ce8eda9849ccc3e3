"""An API server that follows a script, a step a request, and a sink that writes down what it is told."""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit

import trustme

from daemon.sources.kubernetes.client import Client, Connection, Limits
from daemon.sources.kubernetes.kubeconfig import Access
from daemon.sources.kubernetes.reflector import Reflector
from daemon.sources.kubernetes.sink import Standing
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import Collection, Seen
from tests.unit.kubernetes.serving import HOST, Exchange, Server, make_client, pem, serve

Step: TypeAlias = Callable[[Exchange], None]

CA = trustme.CA()
CERTIFICATE = CA.issue_cert(HOST)
LIMITS = Limits(connect=2.0, read=2.0, total=5.0, watch=30.0)

# --- what the server says --------------------------------------------------------------------------------


def thing(name: str, version: int | str, **more: Any) -> dict[str, Any]:
    """An object of any kind; uid by its name."""
    return {"metadata": {"name": name, "uid": f"u-{name}", "resourceVersion": str(version), **more}}


def event(kind: str, name: str, version: int | str, **more: Any) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": thing(name, version, **more)}).encode() + b"\n"


def added(name: str, version: int | str, **more: Any) -> bytes:
    return event("ADDED", name, version, **more)


def mark(version: int | str, ends: bool = False) -> bytes:
    """A bookmark; ends: that of a streaming list."""
    notes = {"annotations": {"k8s.io/initial-events-end": "true"}} if ends else {}
    body = {"metadata": {"resourceVersion": str(version), **notes}}
    return json.dumps({"type": "BOOKMARK", "object": body}).encode() + b"\n"


def failed(code: int, reason: str = "", **details: Any) -> bytes:
    """An ERROR event."""
    body = {"kind": "Status", "code": code, "reason": reason, "message": "made up", "details": details}
    return json.dumps({"type": "ERROR", "object": body}).encode() + b"\n"


def stream(*lines: bytes, hold: bool = False, breaks: bool = False) -> Step:
    """A watch: these lines, each by itself, and its end; hold: no end; breaks: without the last chunk."""

    def answer(exchange: Exchange) -> None:
        exchange.begin()
        for line in lines:
            exchange.chunk(line)
        if hold:
            exchange.idle()
        elif breaks:
            exchange.close_connection = True
        else:
            exchange.chunk(b"")

    return answer


def listing(*names: tuple[str, int], version: int) -> Step:
    """A streaming list that goes on, silently."""
    return stream(*(added(name, at) for name, at in names), mark(version, ends=True), hold=True)


def page(*names: tuple[str, int], version: int | str, more: str = "") -> Step:
    """A page of a list."""
    items = [thing(name, at) for name, at in names]
    return says({"metadata": {"resourceVersion": str(version), "continue": more}, "items": items})


def says(body: Any, status: int = 200, **headers: str) -> Step:
    """One whole answer."""
    return lambda exchange: exchange.reply(status, body, **headers)


def refuses(status: int, message: str = "made up", **headers: str) -> Step:
    """No."""
    return says({"kind": "Status", "code": status, "message": message}, status, **headers)


def closes(exchange: Exchange) -> None:
    """The connection, without an answer."""
    exchange.close_connection = True


def is_silent(exchange: Exchange) -> None:
    """Half-open: nothing ever comes."""
    exchange.idle()


# --- what it was asked -----------------------------------------------------------------------------------


class Script:
    """Steps by their order; after the last one every request is left hanging."""

    def __init__(self, server: Server, steps: Iterable[Step]) -> None:
        self.server = server
        self.asked: list[str] = []
        self.paths: list[str] = []
        self.accepted: list[str] = []
        self.at: list[float] = []
        self._steps = list(steps)
        self._lock = threading.Lock()
        server.answer = self._answer

    def _answer(self, exchange: Exchange) -> None:
        with self._lock:
            self.asked.append(describe(exchange.path))
            self.paths.append(exchange.path)
            self.accepted.append(exchange.headers["Accept"])
            self.at.append(time.monotonic())
            step = self._steps.pop(0) if self._steps else is_silent
        step(exchange)

    def add(self, *steps: Step) -> None:
        """More of them."""
        with self._lock:
            self._steps += steps


def describe(path: str) -> str:
    """`watch pods initial`, `watch pods 7`, `list pods`, `list pods after more`, `head pods`."""
    url = urlsplit(path)
    query = {key: values[0] for key, values in parse_qs(url.query).items()}
    version, plural = url.path.split("/")[-2:]
    plural = f"{version} {plural}" if plural.startswith("multi") else plural
    if "hostNetwork" in query.get("fieldSelector", ""):
        plural += " of no host"
    if query.get("watch") == "1":
        initial = query.get("sendInitialEvents") == "true"
        assert initial == (query.get("resourceVersionMatch") == "NotOlderThan")
        assert query["allowWatchBookmarks"] == "true"
        return f"watch {plural} {'initial' if initial else query['resourceVersion']}"
    if query.get("limit") == "1":
        return f"head {plural}"
    more = query.get("continue", "")
    return f"list {plural}" + (f" after {more}" if more else "")


class Written:
    """A sink. told: a line for each call."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.standings: list[Standing] = []
        self.on_history: Callable[[], None] = lambda: None

    def listed(self, collection: Collection, seen: Iterable[Seen]) -> None:
        del collection
        self.told.append(" ".join(["listed", *(f"{one.key.name}@{one.version}" for one in seen)]))

    def changed(self, collection: Collection, changes: Iterable[tuple[bool, Seen]]) -> None:
        del collection
        news = (f"{'-' if gone else '+'}{one.key.name}@{one.version}" for gone, one in changes)
        self.told.append(" ".join(["changed", *news]))

    def stands(self, collection: Collection, standing: Standing) -> None:
        del collection
        self.standings.append(standing)
        flags = {"live": standing.live, "owes": standing.owes_list, "refused": standing.refused}
        self.told.append(f"stands {' '.join(flag for flag, holds in flags.items() if holds)}".strip())

    def history_changed(self) -> None:
        self.told.append("history")
        self.on_history()

    @property
    def news(self) -> list[str]:
        """Without standings."""
        return [line for line in self.told if not line.startswith("stands")]

    @property
    def reasons(self) -> list[str]:
        return [standing.reason for standing in self.standings]


@contextmanager
def scripted(*steps: Step) -> Iterator[tuple[Script, Client]]:
    """A server with a script, and a client of it."""
    with serve(CERTIFICATE) as server:
        yield Script(server, steps), make_client(Access(server.url, authority=pem(CA)), LIMITS)


@contextmanager
def reflecting(
    collection: Collection, timing: Timing, *steps: Step
) -> Iterator[tuple[Script, Written, Reflector]]:
    """A reflector in its thread, which must end by itself."""
    with scripted(*steps) as (script, client):
        sink = Written()
        connection: Connection = client.connect()
        reflector = Reflector(collection, connection, sink, timing)
        failures: list[BaseException] = []

        def run() -> None:
            try:
                reflector.run()
            except BaseException as error:  # noqa: BLE001 - told below, whatever it is
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield script, sink, reflector
        finally:
            reflector.stop()
            thread.join(3.0)
            assert not thread.is_alive(), "the reflector does not stop"
            assert not failures, f"the reflector died: {failures}"
