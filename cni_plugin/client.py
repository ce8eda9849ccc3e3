"""One question to the daemon over its Unix socket, under one deadline.

In: the socket's path, how to make a request, the deadlines. Out: nothing if the daemon said yes, else a
CniError. It is the only module that opens a socket. It never waits longer than the deadline, whatever the
other end does.
"""

from _socket import AF_UNIX, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_STREAM, socket
from time import monotonic, sleep

from cni_plugin.errors import INTERNAL, TRY_AGAIN_LATER, CniError
from cni_plugin.wire import (
    HEADER_BYTES,
    KEY_CODE,
    KEY_CONFIG,
    KEY_DETAILS,
    KEY_ENV,
    KEY_MSG,
    KEY_OK,
    KEY_OP,
    KEY_TIME_LEFT,
    KEY_VERSION,
    MAX_REPLY,
    SERVED_VERSIONS,
    WIRE_VERSION,
    WireError,
    body_length,
    frame,
    pack,
    unpack,
)

# How long to wait before an absent daemon is tried again.
_POLL_SECONDS = 0.1
_SEE = "see that the daemon runs on this node, and where its socket is"
# No daemon yet, a dead one's socket, a full backlog, or one that ended while it had our request.
_PASSING = (FileNotFoundError, ConnectionError, BlockingIOError)


def ask(path: str, op: str, env: dict[str, str], config: bytes, deadline: float, retry_until: float) -> None:
    """Return once the daemon has said yes. deadline, retry_until: seconds of time.monotonic().

    Errors: the daemon's own; 11 if it can't be reached, gives no answer in time, or speaks another version;
    999 if what it answers is nonsense.
    """
    begun = monotonic()
    while True:
        try:
            _read_answer(path, _exchange(path, op, env, config, deadline))
            return
        except TimeoutError:
            raise _unreachable(path, "no answer in time", begun) from None
        except PermissionError as exc:
            raise _unreachable(
                path, exc.strerror or str(exc), begun, "run the plugin as root, as runtimes do"
            ) from None
        except OSError as exc:
            cause = exc.strerror or str(exc)
            if not isinstance(exc, _PASSING) or monotonic() + _POLL_SECONDS >= retry_until:
                raise _unreachable(path, cause, begun) from None
        except WireError as exc:
            raise CniError(
                INTERNAL,
                f"nonsense from {path}: {exc}",
                "is it the socket of multi-networkpolicyd? See its log",
            ) from None
        sleep(_POLL_SECONDS)


def _unreachable(path: str, cause: str, begun: float, remedy: str = _SEE) -> CniError:
    return CniError(
        TRY_AGAIN_LATER,
        f"multi-networkpolicyd is not reachable at {path}: {cause}",
        f"waited {monotonic() - begun:.1f} s; {remedy}",
    )


def _exchange(path: str, op: str, env: dict[str, str], config: bytes, deadline: float) -> bytes:
    """Return the body of one reply. Errors: OSError, TimeoutError at the deadline, WireError."""
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        left = _set_timeout(connection, deadline)
        connection.connect(path)
        message = {
            KEY_VERSION: WIRE_VERSION,
            KEY_OP: op,
            KEY_ENV: env,
            KEY_CONFIG: config,
            KEY_TIME_LEFT: int(left * 1000),
        }
        try:  # noqa: SIM105 - contextlib would cost an import
            connection.sendall(frame(pack(message)), MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            # A daemon that refuses early does not read it all, but its reason lies in the socket.
            pass
        header = _receive(connection, HEADER_BYTES, deadline)
        return _receive(connection, body_length(header, MAX_REPLY), deadline)
    finally:
        connection.close()


def _receive(connection: socket, size: int, deadline: float) -> bytes:
    body = bytearray()
    while len(body) < size:
        _set_timeout(connection, deadline)
        part = connection.recv(min(size - len(body), 65536))
        if not part:
            raise ConnectionResetError(f"connection closed after {len(body)} of {size} bytes of the answer")
        body += part
    return bytes(body)


def _set_timeout(connection: socket, deadline: float) -> float:
    """Bound the next call by the deadline. Return the seconds that are left."""
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return left


def _read_answer(path: str, body: bytes) -> None:
    reply = unpack(body)
    if not isinstance(reply, dict):
        raise WireError(f"a {type(reply).__name__} is no reply")
    if reply.get(KEY_VERSION) not in SERVED_VERSIONS:
        raise CniError(
            TRY_AGAIN_LATER,
            f"the daemon at {path} speaks version {reply.get(KEY_VERSION)!r:.40} of the socket's protocol",
            f"this plugin speaks {WIRE_VERSION}: install plugin and daemon of one release",
        )
    if reply.get(KEY_OK) is True:
        return
    code, msg, details = reply.get(KEY_CODE), reply.get(KEY_MSG), reply.get(KEY_DETAILS, "")
    if type(code) is not int or code < 1 or not isinstance(msg, str) or not isinstance(details, str):
        raise WireError("a reply without ok, and without code and msg")
    raise CniError(code, msg, details)
