"""An HTTPS server on loopback that answers as a test says, with certificates of a CA of its own."""

import contextlib
import http.server
import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest
import trustme

from daemon.sources.kubernetes.client import JSON, Client, Connection, Limits
from daemon.sources.kubernetes.errors import ApiError, UnreachableError
from daemon.sources.kubernetes.kubeconfig import Access, Material
from daemon.sources.kubernetes.login import Login

HOST = "127.0.0.1"
AGENT = "multi-networkpolicyd/0.1.0 (node)"


CA, OTHER_CA = trustme.CA(), trustme.CA()
LEAF = CA.issue_cert(HOST)
LIMITS = Limits(body=1 << 20)
"""Times as they are; what tests of time need is theirs."""


class Exchange(http.server.BaseHTTPRequestHandler):
    """One request at the server: what was asked, and ways to answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 10
    server: "Server"
    body = b""

    def reply(self, status: int = 200, body: bytes | Mapping[str, Any] = b"{}", **headers: str | int) -> None:
        """A whole answer; headers are named with underscores."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content_Length": len(content)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def begin(self) -> None:
        """The head of a stream."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, content: bytes) -> None:
        """A piece of a stream, at once; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def idle(self, seconds: float = 10.0) -> None:
        """Say nothing, until the test is over."""
        self.server.over.wait(seconds)
        self.close_connection = True

    def parse_request(self) -> bool:
        """BaseHTTPRequestHandler's, before it looks for a method by the verb."""
        if not super().parse_request():
            return False
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self)
        # The client ends connections whenever it likes.
        with contextlib.suppress(OSError):
            self.server.answer(self)
            self.wfile.flush()
        return False

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (given)
        """Quiet."""


Answer: TypeAlias = Callable[[Exchange], None]


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """`answer` may be changed at any time; `seen`: all requests; `over`: the test is."""

    daemon_threads = False

    def __init__(self, certificate: trustme.LeafCert, client_ca: trustme.CA | None = None) -> None:
        self.answer: Answer = Exchange.reply
        self.seen: list[Exchange] = []
        self.over = threading.Event()
        super().__init__((HOST, 0), Exchange)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            client_ca.configure_trust(context)
        self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.server_port}"

    def header(self, name: str, number: int = -1) -> str:
        """A header of a request, "" where it was not sent."""
        found: str = self.seen[number].headers.get(name, "")
        return found


@contextmanager
def serve(certificate: trustme.LeafCert, client_ca: trustme.CA | None = None) -> Iterator[Server]:
    """A server that runs."""
    server = Server(certificate, client_ca)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def speak_and_idle(exchange: Exchange) -> None:
    """A stream of which three bytes come."""
    exchange.begin()
    exchange.chunk(b"123")
    exchange.idle()


def pem(ca: trustme.CA) -> Material:
    """A CA as a kubeconfig has it."""
    return Material(ca.cert_pem.bytes())


def make_client(access: Access, limits: Limits) -> Client:
    """A client that follows nothing."""
    return Client(Login(lambda: access), AGENT, limits)


@contextmanager
def connect(access: Access, limits: Limits) -> Iterator[Connection]:
    """One connection."""
    connection = make_client(access, limits).connect()
    try:
        yield connection
    finally:
        connection.close()


def watch(connection: Connection, silence: float = 5.0) -> Any:
    """A stream under a usual name."""
    return connection.stream("watch pods", "/api/v1/pods", {"watch": "1"}, JSON, silence)


def failure(connection: Connection) -> ApiError:
    """What a GET of that connection raises."""
    with pytest.raises(ApiError) as caught:
        connection.get("list pods", "/api/v1/pods")
    assert caught.value.what == "list pods"
    return caught.value


def refusal_of(access: Access) -> str:
    """The words of a server that can't be reached, or is not trusted."""
    with connect(access, LIMITS) as connection:
        error = failure(connection)
    assert type(error) is UnreachableError
    return error.message
