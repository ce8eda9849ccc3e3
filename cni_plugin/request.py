"""CNI_* variables and stdin, checked whole, as one Request.

In: the environment and the bytes of stdin. Out: a Request that is fit for the daemon, or a CniError. It
opens nothing, and never reads `args`, which authors of pods write.
"""

from cni_plugin.errors import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    INVALID_ENVIRONMENT,
    CniError,
    OutOfBoundsError,
)
from cni_plugin.jsontext import JsonError, read_object
from cni_plugin.wire import MAX_CONFIG

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
# A configuration without a version is of the first (CNI specification, and Go plugins do the same).
OLDEST_VERSION = VERSIONS[0]
NEWEST_VERSION = VERSIONS[-1]

DEFAULT_SOCKET = "/run/multi-networkpolicy/daemon.sock"
DEFAULT_TIMEOUT = 30.0
_TIMEOUT_RANGE = (1, 600)
# sun_path of a Unix socket's address, with its final zero (unix(7)).
_MAX_SOCKET_PATH = 107
# Four of these and msgpack's own bytes must fit between wire.MAX_CONFIG and wire.MAX_REQUEST.
_MAX_VARIABLE = 8 << 10
# IFNAMSIZ without its final zero.
_MAX_IFNAME = 15

_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_OLDEST_FOR = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
# What the daemon is told of the environment.
_FORWARDED = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")

_LOWER = "abcdefghijklmnopqrstuvwxyz0123456789"
_ALPHANUMERIC = _LOWER + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME_CHARS = _ALPHANUMERIC + "_.-"

# The attachments that a runtime still has; the second is an older libcni's slip, which is still sent too.
_GC_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")


class Request:
    """One command, checked. Written once, by read_request.

    env: what the daemon is told. config: stdin, byte for byte. timeout: seconds. prev_result: the bytes of
    prevResult as they stand in config, or None. gc_asked: a GC that names the valid attachments.
    """

    __slots__ = (
        "command",
        "config",
        "env",
        "gc_asked",
        "guard",
        "prev_result",
        "socket_path",
        "timeout",
        "version",
    )

    def __init__(self, command: str, env: dict[str, str]) -> None:
        self.command = command
        self.env = env
        self.config = b""
        self.version = NEWEST_VERSION
        self.guard = False
        self.socket_path = DEFAULT_SOCKET
        self.timeout = DEFAULT_TIMEOUT
        self.prev_result: bytes | None = None
        self.gc_asked = False


def read_command(environ: dict[bytes, bytes]) -> str:
    """Return CNI_COMMAND, or "" if it is not set. Error 4: not one of the specification's commands."""
    command = _text(environ, "CNI_COMMAND")
    if command and command not in _REQUIRED:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"unknown CNI_COMMAND: {_shown(command)}",
            f"CNI_COMMAND is one of {', '.join(_REQUIRED)}",
        )
    return command


def read_env(command: str, environ: dict[bytes, bytes]) -> dict[str, str]:
    """Return the variables that the daemon is told. Error 4: one is missing, not UTF-8, or no legal value."""
    missing = [name for name in _REQUIRED[command] if not environ.get(name.encode())]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    env = {}
    for name in _FORWARDED:
        try:
            value = _text(environ, name)
            _check_variable(command, name, value)
        except CniError:
            # A DEL needs only the attachment's key; failing it would leak what the plugins before us hold.
            if command == "DEL" and name not in _REQUIRED["DEL"]:
                continue
            raise
        if value:
            env[name] = value
    return env


def _text(environ: dict[bytes, bytes], name: str) -> str:
    raw = environ.get(name.encode(), b"")
    if len(raw) > _MAX_VARIABLE:
        raise CniError(
            INVALID_ENVIRONMENT, f"{name} has {len(raw)} bytes, at most {_MAX_VARIABLE} are allowed"
        )
    try:
        return raw.decode()
    except UnicodeDecodeError as exc:
        raise CniError(
            INVALID_ENVIRONMENT, f"{name} is not UTF-8: byte {exc.start} is 0x{raw[exc.start]:02x}"
        ) from None


def _check_variable(command: str, name: str, value: str) -> None:
    if not value or command in ("GC", "STATUS"):
        return
    if name == "CNI_CONTAINERID" and not _is_name(value):
        allowed = "allowed are letters, digits, '_', '.' and '-', a letter or digit first"
        raise CniError(INVALID_ENVIRONMENT, f"invalid CNI_CONTAINERID {_shown(value)}", allowed)
    if name == "CNI_IFNAME" and not _is_ifname(value):
        allowed = (
            f"allowed are 1 to {_MAX_IFNAME} bytes without '/', ':' and white space, but not '.' or '..'"
        )
        raise CniError(INVALID_ENVIRONMENT, f"invalid CNI_IFNAME {_shown(value)}", allowed)
    if name == "CNI_NETNS" and not value.startswith("/"):
        raise CniError(
            INVALID_ENVIRONMENT, f"invalid CNI_NETNS {_shown(value)}", "an absolute path is needed"
        )


def _is_name(value: str) -> bool:
    return value[:1] in _ALPHANUMERIC and value != "" and not value.strip(_NAME_CHARS)


def _is_ifname(value: str) -> bool:
    if not 0 < len(value.encode()) <= _MAX_IFNAME or value in (".", ".."):
        return False
    return not any(char in "/:" or char.isspace() or not char.isprintable() for char in value)


def read_request(command: str, env: dict[str, str], stdin: bytes) -> Request:
    """Return the whole request. stdin: at most wire.MAX_CONFIG + 1 bytes are looked at.

    Errors: 6 no JSON object; 7 name, own keys or prevResult (or too large); 1 cniVersion. A DEL is refused
    only for what the specification calls malformed: our own keys have their defaults then.
    """
    request = Request(command, env)
    try:
        values, places, text = _decode(stdin)
    except OutOfBoundsError:
        # An ADD with this input was refused, but the plugins before us did their part and wait for their DEL.
        if command == "DEL":
            return request
        raise
    request.config = stdin
    _check_network_name(values.get("name"))
    request.version = _read_version(command, values.get("cniVersion"))
    if command == "DEL":
        _read_del_keys(request, values)
        return request
    _read_own_keys(request, values)
    if command == "GC":
        request.gc_asked = _read_gc_asked(values)
    if command in ("ADD", "CHECK"):
        _check_prev_result(request, values.get("prevResult"))
        if values.get("prevResult") is not None:
            start, end = places["prevResult"]
            request.prev_result = text[start:end].encode()
    return request


def _decode(stdin: bytes) -> tuple[dict[str, object], dict[str, tuple[int, int]], str]:
    what = "network configuration on stdin"
    if len(stdin) > MAX_CONFIG:
        raise OutOfBoundsError(
            INVALID_CONFIG,
            f"{what} is too large: at most {MAX_CONFIG} bytes are read",
            "shorten it, prevResult included",
        )
    try:
        text = stdin.decode()
        values, places = read_object(text)
    except UnicodeDecodeError as exc:
        raise CniError(
            DECODING_FAILURE, f"{what} is not UTF-8: byte {exc.start} is 0x{stdin[exc.start]:02x}"
        ) from None
    except JsonError as exc:
        found = "" if stdin.strip() else " (it is empty)"
        raise CniError(DECODING_FAILURE, f"{what} is no JSON object: {exc}{found}") from None
    except RecursionError:
        raise OutOfBoundsError(DECODING_FAILURE, f"{what} is nested too deep") from None
    return values, places, text


def _check_network_name(name: object) -> None:
    if name is None or name == "":
        raise CniError(INVALID_CONFIG, "missing network name", "set name in the network configuration")
    if not isinstance(name, str):
        raise _wrong("name", name, "a string")
    if not _is_name(name):
        raise _wrong("name", name, "letters, digits, '_', '.' and '-', a letter or digit first")


def _read_version(command: str, version: object) -> str:
    if version is None or version == "":
        version = OLDEST_VERSION
    if not isinstance(version, str) or version not in VERSIONS:
        supported = " ".join(f'"{known}"' for known in VERSIONS)
        raise CniError(
            INCOMPATIBLE_VERSION,
            "incompatible CNI versions: cniVersion of the configuration is not supported",
            f"config is {_shown(version)}, plugin supports [{supported}]",
        )
    oldest = _OLDEST_FOR.get(command, OLDEST_VERSION)
    if VERSIONS.index(version) < VERSIONS.index(oldest):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"config version does not allow {command}: cniVersion is {version}",
            f"{command} needs cniVersion {oldest} or later",
        )
    return version


def _read_del_keys(request: Request, values: dict[str, object]) -> None:
    """Take over a good socketPath. Multus strips our keys from a DEL, and bad ones must not make it fail."""
    path = values.get("socketPath")
    if _is_socket_path(path):
        request.socket_path = str(path)


def _read_own_keys(request: Request, values: dict[str, object]) -> None:
    """Check every key of ours, and take over those that the plugin obeys; the daemon reads the others."""
    for key, (is_legal, allowed) in _OWN_KEYS.items():
        if key in values and not is_legal(values[key]):
            raise _wrong(key, values[key], allowed)
    request.guard = values.get("guard") is True
    request.socket_path = str(values.get("socketPath", DEFAULT_SOCKET))
    timeout = values.get("timeoutSeconds", DEFAULT_TIMEOUT)
    assert isinstance(timeout, (int, float))
    request.timeout = float(timeout)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_timeout(value: object) -> bool:
    low, high = _TIMEOUT_RANGE
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _is_on_unready(value: object) -> bool:
    return value in ("fail", "deny")


def _is_socket_path(value: object) -> bool:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return False
    # A lone surrogate is legal JSON, but no path.
    return len(value.encode(errors="replace")) <= _MAX_SOCKET_PATH and not any(
        "\ud800" <= c <= "\udfff" for c in value
    )


def _is_net_attach_def(value: object) -> bool:
    if not isinstance(value, str) or value.count("/") != 1:
        return False
    namespace, name = value.split("/")
    return len(namespace) <= 63 and "." not in namespace and _is_dns_name(namespace) and _is_dns_name(name)


def _is_dns_name(value: str) -> bool:
    """Tell whether Kubernetes takes value as an object's name: labels of a-z, 0-9 and '-', joined by dots."""
    labels = value.split(".")
    return len(value) <= 253 and all(
        label and not label.strip(_LOWER + "-") and label[0] != "-" and label[-1] != "-" for label in labels
    )


_OWN_KEYS = {
    "guard": (_is_bool, "true or false"),
    "netAttachDef": (_is_net_attach_def, '"namespace/name" of a net-attach-def'),
    "onUnready": (_is_on_unready, '"fail" or "deny"'),
    "socketPath": (_is_socket_path, f"an absolute path of at most {_MAX_SOCKET_PATH} bytes"),
    "timeoutSeconds": (_is_timeout, f"a number from {_TIMEOUT_RANGE[0]} to {_TIMEOUT_RANGE[1]}"),
    "trackConnections": (_is_bool, "true or false"),
}


def _read_gc_asked(values: dict[str, object]) -> bool:
    """Tell whether a GC names the valid attachments at all: without the key there is nothing to do."""
    asked = False
    for key in _GC_KEYS:
        if key in values:
            asked = True
            _check_attachments(key, values[key])
    return asked


def _check_attachments(key: str, value: object) -> None:
    for item in _objects(key, value):
        for field in ("containerID", "ifname"):
            if not isinstance(item.get(field), str):
                raise _wrong(f"{key}[].{field}", item.get(field), "a string")


def _check_prev_result(request: Request, prev_result: object) -> None:
    """Look only for what the daemon could make no sense of: the result belongs to the plugins before us."""
    if request.guard and request.command == "ADD" and prev_result is not None:
        raise CniError(
            INVALID_CONFIG,
            "prevResult given to a guard",
            'the entry with "guard": true stands first in the list of plugins, the last one goes without it',
        )
    if prev_result is None:
        if request.guard:
            return
        raise CniError(
            INVALID_CONFIG,
            "missing prevResult",
            "multi-networkpolicy is chained: in a list of plugins, put it after the plugin it guards",
        )
    if not isinstance(prev_result, dict):
        raise _wrong("prevResult", prev_result, "an object")
    for field in ("interfaces", "ips"):
        _objects(f"prevResult.{field}", prev_result.get(field))


def _objects(field: str, value: object) -> list[dict[str, object]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise _wrong(field, value, "a list of objects")
    return value


def _wrong(field: str, value: object, allowed: str) -> CniError:
    return CniError(
        INVALID_CONFIG,
        f"invalid {field} in the network configuration: {_shown(value)}",
        f"allowed: {allowed}",
    )


def _shown(value: object) -> str:
    """Return value for a message: short, and on one line whatever it holds."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"
