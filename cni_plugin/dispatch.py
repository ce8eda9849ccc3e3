"""The CNI commands: from environment and stdin to an exit code and what is printed.

In: the environment, and how to read stdin. Out: an Outcome. It writes to no stream, and whatever happens it
leaves one JSON object for stdout, or nothing where CNI wants nothing.
"""

from _json import encode_basestring_ascii
from posix import stat
from time import monotonic

from cni_plugin.client import ask
from cni_plugin.errors import (
    INTERNAL,
    INVALID_NETNS,
    PLUGIN_NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
)
from cni_plugin.request import NEWEST_VERSION, VERSIONS, Request, read_command, read_env, read_request
from cni_plugin.wire import MAX_CONFIG, OP_ADD, OP_CHECK, OP_DEL, OP_GC, OP_STATUS

# typing would cost an import; type checkers know this name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ABOUT = (
    b"multi-networkpolicy: the CNI plugin that puts MultiNetworkPolicies in force before ADD returns.\n"
    b"CNI protocol versions supported: " + ", ".join(VERSIONS).encode() + b"\n"
)

# A runtime that gave up kills us, but our request would live on in the daemon: each command has a bound of
# its own.
_CHECK_SECONDS = 10.0
_STATUS_SECONDS = 5.0
_NO_RETRY = 1e-9
# Ours is the first DEL of the list, and must leave the others their share of the runtime's patience.
_DEL_SECONDS = 5.0
_DEL_CONNECT_SECONDS = 1.0

_OPS = {"ADD": OP_ADD, "CHECK": OP_CHECK, "DEL": OP_DEL, "GC": OP_GC, "STATUS": OP_STATUS}


class Outcome:
    """exit_code, and the bytes for stdout and stderr."""

    __slots__ = ("exit_code", "stderr", "stdout")

    def __init__(self, exit_code: int, stdout: bytes = b"", stderr: bytes = b"") -> None:
        self.exit_code = exit_code
        self.stdout = stdout
        self.stderr = stderr


def run(environ: dict[bytes, bytes], read_stdin: "Callable[[int], bytes]") -> Outcome:
    """Carry out the command in environ. read_stdin: gives at most so many bytes of stdin. Never raises."""
    version = NEWEST_VERSION
    try:
        command = read_command(environ)
        if command == "":
            return Outcome(0, stderr=ABOUT)
        if command == "VERSION":
            return Outcome(0, _version_result())
        env = read_env(command, environ)
        request = read_request(command, env, read_stdin(MAX_CONFIG + 1))
        version = request.version
        return Outcome(0, _carry_out(request, environ))
    except CniError as exc:
        return Outcome(1, _error(version, exc))
    except BaseException as exc:  # noqa: BLE001 - whatever happens, the runtime finds a CNI error on stdout
        unforeseen = CniError(
            INTERNAL, f"{type(exc).__name__}: {exc}", "this is a bug in multi-networkpolicy"
        )
        return Outcome(1, _error(version, unforeseen))


def _carry_out(request: Request, environ: dict[bytes, bytes]) -> bytes:
    """Return what CNI wants on stdout."""
    if request.command == "DEL":
        _delete(request)
    elif request.command == "GC":
        _collect(request)
    elif request.command == "STATUS":
        _report_status(request)
    elif request.command == "CHECK":
        _refuse_own_netns(request, environ)
        _ask(request, min(request.timeout, _CHECK_SECONDS))
    else:
        _refuse_own_netns(request, environ)
        _ask(request, request.timeout)
        return _result(request)
    return b""


def _ask(request: Request, seconds: float, connect_seconds: float = 0.0) -> None:
    begun = monotonic()
    retry_until = begun + (connect_seconds or seconds)
    ask(request.socket_path, _OPS[request.command], request.env, request.config, begun + seconds, retry_until)


def _delete(request: Request) -> None:
    """Tell the daemon, if there is one: it would find out later that the interface or the netns is gone."""
    try:
        _ask(request, _DEL_SECONDS, _DEL_CONNECT_SECONDS)
    except CniError:
        # Runtimes stop at the first DEL that fails, and the address of the plugin before us would leak.
        return


def _collect(request: Request) -> None:
    """A GC only tidies the daemon's records, never rules; without a daemon nothing is left undone.

    Its own start drops the same records, and it watches the netns of each. So an absent daemon is no
    failure: runtimes collect when they start, before the daemon does, and would log an error that nobody
    can act on.
    """
    if not request.gc_asked:
        return
    try:
        _ask(request, _DEL_SECONDS, _DEL_CONNECT_SECONDS)
    except CniError as exc:
        if exc.code != TRY_AGAIN_LATER:
            raise


def _report_status(request: Request) -> None:
    """50 if an ADD would fail now. No retries: a runtime asks again by itself."""
    try:
        _ask(request, min(request.timeout, _STATUS_SECONDS), connect_seconds=_NO_RETRY)
    except CniError as exc:
        if exc.code != TRY_AGAIN_LATER:
            raise
        raise CniError(PLUGIN_NOT_AVAILABLE, exc.msg, exc.details) from None


def _refuse_own_netns(request: Request, environ: dict[bytes, bytes]) -> None:
    """Error 8: CNI_NETNS is the network namespace that this process runs in, most likely the node's own.

    A path that does not resolve here is the daemon's to judge: it may live in another mount namespace.
    """
    if environ.get(b"CNI_NETNS_OVERRIDE", b"").lower() in (b"1", b"true"):
        return
    path = request.env["CNI_NETNS"]
    try:
        asked, own = stat(path), stat("/proc/self/ns/net")
    except (OSError, ValueError):
        return
    if (asked.st_dev, asked.st_ino) == (own.st_dev, own.st_ino):
        raise CniError(
            INVALID_NETNS,
            f"CNI_NETNS {path} is the plugin's own network namespace",
            "give the pod's; CNI_NETNS_OVERRIDE=1 allows it nevertheless",
        )


def _result(request: Request) -> bytes:
    """Return prevResult as it was written. A guard stands first and has none: it made nothing, and says so.

    Every version takes a result with nothing in it but its version; the next plugin ignores it (macvlan),
    or needs an explicit master and cniVersion 0.3.0 or later (ipvlan, which converts it, and older ones
    can't be without an address).
    """
    if request.prev_result is not None:
        return request.prev_result
    return b'{"cniVersion": ' + _quoted(request.version) + b"}\n"


def _version_result() -> bytes:
    supported = b", ".join(_quoted(version) for version in VERSIONS)
    return b'{"cniVersion": ' + _quoted(NEWEST_VERSION) + b', "supportedVersions": [' + supported + b"]}\n"


def _error(version: str, exc: CniError) -> bytes:
    text = b'{"cniVersion": ' + _quoted(version) + b', "code": ' + str(exc.code).encode()
    text += b', "msg": ' + _quoted(exc.msg)
    if exc.details:
        text += b', "details": ' + _quoted(exc.details)
    return text + b"}\n"


def _quoted(text: str) -> bytes:
    return encode_basestring_ascii(text).encode()
