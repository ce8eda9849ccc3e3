"""A proxy in front of a real API server that does what a real one can't be asked for.

In: rules, which say what goes wrong for which requests. Out: the server's own answers otherwise, streams
piece by piece as they come, and a record of all requests. It ends TLS with a certificate of its own, so that
clients trust `ca_file`; whom they are is the server's business (Authorization passes through).
"""

import contextlib
import http.client
import http.server
import queue
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import trustme

from tests.lab.faultrules import Answer, Asked, Fault, Rule, error_event, status

__all__ = ["Answer", "Asked", "Fault", "FaultProxy", "Rule", "error_event", "status"]

HOST = "127.0.0.1"
UPSTREAM_TIMEOUT = 600.0
_HOP = {"connection", "transfer-encoding", "content-length", "host", "keep-alive"}


class FaultProxy:
    """Use it in a `with` block. `folder` takes its CA; `upstream_ca` is read anew for each request."""

    def __init__(self, folder: Path, upstream: str, upstream_ca: Path) -> None:
        """Make the certificate and choose a port; nothing listens yet."""
        folder.mkdir(parents=True, exist_ok=True)
        self.ca_file = folder / "proxy-ca.crt"
        self._upstream = urlsplit(upstream)
        self._upstream_ca = upstream_ca
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.renew_certificate()
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._requests: list[Asked] = []
        self._first: dict[str, bytes] = {}
        self._open: set[socket.socket] = set()
        self._port = 0
        self._listener: _Listener | None = None
        self._over = threading.Event()

    def __enter__(self) -> Self:
        """Listen."""
        self.listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        self._over.set()
        self.refuse()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"https://{HOST}:{self._port}"

    def renew_certificate(self) -> None:
        """Another CA, and a certificate of it for all connections from now on."""
        ca = trustme.CA(organization_name="proxy")
        ca.issue_cert(HOST, "localhost").configure_cert(self._context)
        ca.cert_pem.write_to_path(str(self.ca_file))

    # --- what goes wrong ---------------------------------------------------------------------------------

    def add(self, fault: Fault, **match: Any) -> Rule:
        """From now on; of several rules for a request the first counts. `match`: see Rule."""
        rule = Rule(fault=fault, **match)
        with self._lock:
            self._rules.append(rule)
        return rule

    def remove(self, *rules: Rule) -> None:
        """These no longer; streams that are open stay as they are."""
        with self._lock:
            self._rules = [rule for rule in self._rules if rule not in rules]

    def clear(self) -> None:
        """No rule at all."""
        with self._lock:
            self._rules.clear()

    @contextmanager
    def fault(self, fault: Fault, **match: Any) -> Iterator[Rule]:
        """For the time of a block."""
        rule = self.add(fault, **match)
        try:
            yield rule
        finally:
            self.remove(rule)

    def listen(self) -> None:
        """Take connections, on the same port as before."""
        if self._listener is None:
            self._listener = _Listener(self, self._context, self._port)
            self._port = self._listener.server_port
            threading.Thread(target=self._listener.serve_forever, args=(0.02,), daemon=True).start()

    def refuse(self) -> None:
        """Take no connections until listen(), and break the open ones."""
        if self._listener is not None:
            self._listener.shutdown()
            self._listener.server_close()
            self._listener = None
        self.break_connections()

    def break_connections(self) -> None:
        """End all connections without a word."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)

    # --- what was asked ----------------------------------------------------------------------------------

    def requests(self, **match: Any) -> list[Asked]:
        """All of them in order, or those that match as a Rule does."""
        rule = Rule(fault=Fault(), **match)
        with self._lock:
            return [asked for asked in self._requests if rule.takes(asked)]

    def forget_requests(self) -> None:
        """Record from now on."""
        with self._lock:
            self._requests.clear()

    # --- for the exchanges -------------------------------------------------------------------------------

    def take(self, asked: Asked) -> Fault:
        """Record a request; what shall go wrong with it."""
        with self._lock:
            self._requests.append(asked)
            for rule in self._rules:
                if rule.takes(asked):
                    rule.hits += 1
                    return rule.fault
        return Fault()

    def passed(self, path: str, line: bytes) -> None:
        """An event was let through."""
        with self._lock:
            self._first.setdefault(path, line)

    def first(self, path: str) -> bytes:
        """The first event that ever was on a path."""
        with self._lock:
            return self._first.get(path, b"")

    def track(self, connection: socket.socket, opened: bool) -> None:
        """A client's connection begins or ends."""
        with self._lock:
            (self._open.add if opened else self._open.discard)(connection)

    def pause(self, seconds: float = UPSTREAM_TIMEOUT) -> None:
        """Wait, but not beyond the end of all."""
        self._over.wait(seconds)

    @property
    def over(self) -> bool:
        """Whether all ends."""
        return self._over.is_set()

    def connect(self) -> http.client.HTTPSConnection:
        """A new connection to the server."""
        context = ssl.create_default_context(cafile=str(self._upstream_ca))
        host, port = self._upstream.hostname or HOST, self._upstream.port
        return http.client.HTTPSConnection(host, port, timeout=UPSTREAM_TIMEOUT, context=context)


class _Listener(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, proxy: FaultProxy, context: ssl.SSLContext, port: int) -> None:
        self.proxy = proxy
        self._context = context
        super().__init__((HOST, port), _Exchange)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Without the handshake, which is up to the connection's own thread."""
        connection, address = super().get_request()
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def _say_nothing(self, request: Any, client_address: Any) -> None:
        """Clients break off as they like."""

    handle_error = _say_nothing  # BaseServer's

    def shutdown_request(self, request: Any) -> None:
        """BaseServer's, when a connection is over."""
        self.proxy.track(request, opened=False)
        super().shutdown_request(request)


class _Exchange(http.server.BaseHTTPRequestHandler):
    """One client's connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Listener

    def setup(self) -> None:
        """BaseRequestHandler's."""
        self.server.proxy.track(self.request, opened=True)
        self.request.settimeout(10.0)
        self.request.do_handshake()
        self.request.settimeout(None)
        super().setup()

    def parse_request(self) -> bool:
        """BaseHTTPRequestHandler's, before it looks for a method by the verb."""
        if not super().parse_request():
            return False
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        asked = Asked(self.command, url.path, dict(parse_qsl(url.query)), dict(self.headers.items()))
        try:
            self._answer(asked, self.server.proxy.take(asked), body)
            self.wfile.flush()
        except (OSError, http.client.HTTPException, ssl.SSLError):
            self.close_connection = True
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (given)
        """Quiet."""

    def _answer(self, asked: Asked, fault: Fault, body: bytes) -> None:
        if fault.delay:
            self.server.proxy.pause(fault.delay)
        if fault.hold:
            self._stay_silent()
        elif fault.close:
            self.close_connection = True
        elif fault.answer is not None:
            self._say(fault.answer.status, fault.answer.headers, fault.answer.body)
        else:
            self._forward(asked, fault, body)

    def _say(self, code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _stay_silent(self) -> None:
        """Swallow whatever comes, until the client leaves or all ends."""
        self.close_connection = True
        while not self.server.proxy.over and not self._has_left(0.1):
            pass

    def _has_left(self, seconds: float) -> bool:
        """Nothing is sent during an answer: what can be read then is the end."""
        return bool(select.select([self.request], [], [], seconds)[0])

    # --- the real answer ---------------------------------------------------------------------------------

    def _forward(self, asked: Asked, fault: Fault, body: bytes) -> None:
        upstream = self.server.proxy.connect()
        try:
            headers = {name: value for name, value in asked.headers.items() if name.lower() not in _HOP}
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            given = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            if answer.status == 200 and asked.watches:
                self._stream(asked, fault, answer, given, upstream)
            else:
                self._say(answer.status, given, answer.read())
        finally:
            upstream.close()

    def _stream(
        self,
        asked: Asked,
        fault: Fault,
        answer: http.client.HTTPResponse,
        headers: Mapping[str, str],
        upstream: http.client.HTTPSConnection,
    ) -> None:
        self.send_response(200)
        for name, value in {**headers, "Transfer-Encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        reader = threading.Thread(target=_read_lines, args=(answer, pieces.put), daemon=True)
        reader.start()
        try:
            self._pass_on(asked, fault, pieces)
        finally:
            if upstream.sock is not None:
                socket.socket.shutdown(upstream.sock, socket.SHUT_RDWR)
            reader.join(5.0)

    def _pass_on(self, asked: Asked, fault: Fault, pieces: "queue.SimpleQueue[bytes]") -> None:
        """Lines, until one side ends or the fault does it. Waits for the last line that it would break."""
        passed, inserted = 0, False
        while True:
            if passed >= fault.after and not inserted:
                inserted = True
                if not self._insert(asked, fault):
                    return
            try:
                line = pieces.get(timeout=0.05)
            except queue.Empty:
                if self._has_left(0.0) or self.server.proxy.over:
                    self.close_connection = True
                    return
                continue
            if not line:
                self._chunk(b"")
                return
            if fault.end == "line" and passed >= fault.after:
                self._chunk(line[: len(line) // 2])
                self.close_connection = True
                return
            if fault.no_bookmarks and line.startswith(b'{"type":"BOOKMARK"'):
                continue
            self._chunk(line)
            passed += 1
            self.server.proxy.passed(asked.path, line)

    def _insert(self, asked: Asked, fault: Fault) -> bool:
        """What happens between two events; False: nothing comes after it."""
        for line in (fault.insert, self.server.proxy.first(asked.path) if fault.replay else b""):
            if line:
                self._chunk(line)
        if fault.end == "hold":
            self._stay_silent()
        elif fault.end == "stream":
            self._chunk(b"")
        elif fault.end == "close":
            self.close_connection = True
        return fault.end in ("", "line")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()


def _read_lines(answer: http.client.HTTPResponse, put: Callable[[bytes], None]) -> None:
    """Each line of a stream, then an empty one, however it ends."""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        for line in answer:
            put(line)
    put(b"")
