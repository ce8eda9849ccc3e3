"""HTTP with the API server, by requests: one connection a user, bounded in time and size, counted.

In: paths and queries. Out: bodies, or pieces of a stream; whatever goes wrong is an ApiError. It knows no
kinds. No proxy and no netrc of the environment is looked at.
"""

import http.client
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import requests
import urllib3
from requests.adapters import HTTPAdapter

from daemon.sources.kubernetes.errors import TooLongError, UnauthorizedError, UnreachableError, refusal
from daemon.sources.kubernetes.login import Identity, Login
from daemon.sources.kubernetes.sockets import Line, make_pool_class

MAX_ERROR = 64 << 10
PIECE = 1 << 16
RATE_SECONDS = 60.0
MAX_WRAPPERS = 16


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, and bytes of a body.

    read: silence that an ordinary request puts up with. total: what it may take as a whole, however fast it
    drips. watch: the same for a stream; servers end it long before.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 120.0
    watch: float = 900.0
    body: int = 256 << 20


_USUAL = Limits()
BRIEF_SECONDS = 5.0
"""Silence that somebody who waits for the answer puts up with."""


# A peer that is gone without a word is noticed after 30 s, whatever the timeouts above say.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
]

# ValueError: what can't be sent at all, such as a header in no known encoding.
_FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,
)

JSON = "application/json"
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class Cost:
    """What we cost the API server; all connections count here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, int] = {}
        self._errors = 0
        self._bytes = 0
        self._recent: deque[float] = deque()
        self._watches = 0

    def count(self, verb: str) -> None:
        """One more request was sent."""
        with self._lock:
            self._requests[verb] = self._requests.get(verb, 0) + 1
            now = time.monotonic()
            self._recent.append(now)
            self._trim(now)

    def received(self, size: int) -> None:
        """So many bytes of bodies have come, before any decompression."""
        with self._lock:
            self._bytes += size

    def failed(self) -> None:
        """A request came to nothing."""
        with self._lock:
            self._errors += 1

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While a watch is open."""
        with self._lock:
            self._watches += 1
        try:
            yield
        finally:
            with self._lock:
                self._watches -= 1

    @property
    def bytes_received(self) -> int:
        """All bytes of bodies until now."""
        return self._bytes

    def summary(self) -> dict[str, Any]:
        """Counted since the start: requests by verb, the rate over the last minute, and the rest."""
        with self._lock:
            self._trim(time.monotonic())
            return {
                "requests": dict(sorted(self._requests.items())),
                "requestsPerSecond": round(len(self._recent) / RATE_SECONDS, 3),
                "errors": self._errors,
                "bytes": self._bytes,
                "watches": self._watches,
            }

    def _trim(self, now: float) -> None:
        while self._recent and self._recent[0] < now - RATE_SECONDS:
            self._recent.popleft()


class _Adapter(HTTPAdapter):
    """TLS by our context alone: requests would add its own bundle of public CAs to it."""

    def __init__(self, identity: Identity, line: Line) -> None:
        self._identity = identity
        self._line = line
        super().__init__(pool_connections=1, pool_maxsize=1)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """HTTPAdapter's hook."""
        if self._identity.server_name:
            kwargs["server_hostname"] = self._identity.server_name
        super().init_poolmanager(
            *args, ssl_context=self._identity.context, socket_options=_SOCKET_OPTIONS, **kwargs
        )
        self.poolmanager.pool_classes_by_scheme = {"https": make_pool_class(self._line)}

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """HTTPAdapter's hook: some versions replace the context by one of their own."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """HTTPAdapter's hook: what to trust stands in the context."""
        conn.cert_reqs = "CERT_REQUIRED"


class _Session(requests.Session):
    """Nothing from the environment, no headers but ours, no redirects."""

    def __init__(self, identity: Identity, line: Line) -> None:
        super().__init__()
        self.trust_env = False
        self.headers.clear()
        self.headers["Accept-Encoding"] = "gzip"
        self.mount("https://", _Adapter(identity, line))

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Session's hook: it reads a redirect's whole body, even when it is not to be followed."""


class Connection:
    """One user's requests, one at a time, over one kept-alive connection; interrupt() from any thread."""

    def __init__(self, login: Login, cost: Cost, user_agent: str, limits: Limits) -> None:
        self._login = login
        self._cost = cost
        self._agent = user_agent
        self._limits = limits
        self._line = Line()
        self._session: requests.Session | None = None
        self._identity: Identity | None = None

    def get(
        self,
        what: str,
        path: str,
        query: Mapping[str, str] | None = None,
        accept: str = JSON,
        most: int | None = None,
    ) -> bytes:
        """The body of a GET, of `most` bytes at the most. Raises ApiError; TooLongError for more."""
        return self._exchange(what, "GET", path, query or {}, {"Accept": accept}, None, most)

    def send(self, what: str, method: str, path: str, body: bytes, content_type: str) -> bytes:
        """POST or PATCH a body; the answer's. Raises ApiError."""
        headers = {"Accept": JSON, "Content-Type": content_type}
        return self._exchange(what, method, path, {}, headers, body)

    def _exchange(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        body: bytes | None,
        most: int | None = None,
    ) -> bytes:
        self._line.begin(self._limits.total)
        most = self._limits.body if most is None else min(most, self._limits.body)
        collected = bytearray()
        with self._open(what, method, path, query, headers, self._limits.read, body) as pieces:
            for piece in pieces:
                collected += piece
                if len(collected) > most:
                    self._cost.failed()
                    raise TooLongError(what, f"an answer of more than {most} bytes")
        return bytes(collected)

    @contextmanager
    def stream(
        self, what: str, path: str, query: Mapping[str, str], accept: str, silence: float
    ) -> Iterator[Iterator[bytes]]:
        """The body of a GET as pieces, as they come; silence: seconds without any that end it.

        Raises ApiError.
        """
        self._line.begin(self._limits.watch)
        with (
            self._open(what, "GET", path, query, {"Accept": accept}, silence, None) as pieces,
            self._cost.watching(),
        ):
            yield pieces

    def interrupt(self) -> None:
        """End the exchange that is going on, and all later ones, with UnreachableError."""
        self._line.cut()

    def resume(self) -> None:
        """Take requests again after interrupt()."""
        self._line.mend()

    def close(self) -> None:
        """Give the connection back."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._line.close()

    @contextmanager
    def _open(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str],
        headers: Mapping[str, str],
        silence: float,
        body: bytes | None,
    ) -> Iterator[Iterator[bytes]]:
        if because := self._line.ended_because:
            raise UnreachableError(what, because)
        session, identity = self._prepare()
        sent = {"User-Agent": self._agent, **headers}
        if identity.authorization:
            sent["Authorization"] = identity.authorization
        self._cost.count("WATCH" if "watch" in query else method)
        with self._translate(what):
            response = session.request(
                method,
                f"{identity.server}{path}",
                params=dict(query),
                data=body,
                headers=sent,
                timeout=(self._limits.connect, silence),
                stream=True,
                allow_redirects=False,
            )
        try:
            if not 200 <= response.status_code < 300:
                self._refuse(what, response, identity)
            yield self._pieces(what, response)
        finally:
            response.close()

    def _prepare(self) -> tuple[requests.Session, Identity]:
        """A session with the credentials as they are now; a new one when what TLS needs has changed."""
        identity, before = self._login.identity(), self._identity
        same = before is not None and (
            before.context is identity.context
            and before.server == identity.server
            and before.server_name == identity.server_name
        )
        self._identity = identity
        if self._session is None or not same:
            self.close()
            self._session = _Session(identity, self._line)
        return self._session, identity

    def _refuse(self, what: str, response: requests.Response, identity: Identity) -> None:
        body = bytearray()
        try:
            for piece in self._pieces(what, response):
                body += piece
                if len(body) > MAX_ERROR:
                    break
        except UnreachableError:
            # The status counts, even where its explanation breaks off.
            if self._line.ended_because:
                raise
        else:
            self._cost.failed()
        error = refusal(what, response.status_code, response.headers, bytes(body))
        if isinstance(error, UnauthorizedError):
            self._login.forget(identity)
        raise error

    def _pieces(self, what: str, response: requests.Response) -> Iterator[bytes]:
        """What comes with one read each, so that a stream's events come as the server flushes them."""
        counted = 0
        while True:
            with self._translate(what):
                piece: bytes = response.raw.read1(PIECE, decode_content=True)
            now: int = response.raw.tell()
            self._cost.received(now - counted)
            counted = now
            # After an interruption nothing counts any more, although something may have come.
            if because := self._line.ended_because:
                self._cost.failed()
                raise UnreachableError(what, because)
            if not piece:
                return
            yield piece

    @contextmanager
    def _translate(self, what: str) -> Iterator[None]:
        """What requests, urllib3, http.client and ssl raise, as UnreachableError."""
        try:
            yield
        except _FAILURES as error:
            self._cost.failed()
            server = self._identity.server if self._identity is not None else ""
            because = self._line.ended_because or f"{server}: {_reason(error)}"
            # Whatever state it is in: the next request shall not find out.
            self.close()
            raise UnreachableError(what, because) from error


class Client:
    """Makes connections that share credentials and counters."""

    def __init__(self, login: Login, user_agent: str, limits: Limits = _USUAL) -> None:
        self._login = login
        self._agent = user_agent
        self._limits = limits
        self.cost = Cost()

    def connect(self, brief: bool = False) -> Connection:
        """A new connection, for one thread's use; nothing is sent yet. brief: somebody waits for answers."""
        limits = self._limits
        if brief:
            limits = msgspec.structs.replace(
                limits, read=min(limits.read, BRIEF_SECONDS), total=min(limits.total, 2 * BRIEF_SECONDS)
            )
        return Connection(self._login, self.cost, self._agent, limits)


def _reason(error: BaseException) -> str:
    """The innermost cause: requests and urllib3 wrap it in the names of their objects."""
    for _ in range(MAX_WRAPPERS):
        around = (getattr(error, "reason", None), error.__cause__, *error.args)
        inner = next((each for each in around if isinstance(each, Exception)), None)
        if inner is None:
            break
        error = inner
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer broke off"
    if isinstance(error, TimeoutError):
        return "timed out"
    text = error.strerror if isinstance(error, OSError) else ""
    return text or str(error).strip() or type(error).__name__
