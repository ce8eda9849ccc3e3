"""The contract of the daemon's socket: names, bounds, framing and the msgpack subset that the plugin speaks.

In: plain values. Out: bytes, and back. It opens no socket, and imports nothing for the plugin's start-up
time; the daemon and mnpctl import it too, and may use the msgpack package for the same bytes.

A connection carries one request and one reply, each a 4-byte big-endian length and one msgpack map that long.
"""

WIRE_VERSION = 1
# A daemon serves the version before its own too: plugin and daemon need not be replaced in one moment.
SERVED_VERSIONS = (WIRE_VERSION,)

# Bounds of a message in bytes, without the four of the length.
MAX_REQUEST = 1 << 20
MAX_REPLY = 1 << 20
MAX_CTL_REPLY = 64 << 20
# What of a plugin's request may be network configuration: the rest is for CNI_* and msgpack's own bytes.
MAX_CONFIG = MAX_REQUEST - (64 << 10)
# Deeper nesting than this is nobody's message, and would cost the decoder its stack.
MAX_DEPTH = 32

KEY_VERSION = "v"
KEY_OP = "op"
KEY_ENV = "env"
KEY_CONFIG = "config"
KEY_TIME_LEFT = "timeLeftMs"
KEY_OK = "ok"
KEY_CODE = "code"
KEY_MSG = "msg"
KEY_DETAILS = "details"
KEY_RESULT = "result"

OP_ADD = "add"
OP_DEL = "del"
OP_CHECK = "check"
OP_GC = "gc"
OP_STATUS = "status"
PLUGIN_OPS = (OP_ADD, OP_DEL, OP_CHECK, OP_GC, OP_STATUS)

OP_STATUS_REPORT = "statusReport"
OP_ATTACHMENTS = "attachments"
OP_POLICIES = "policies"
OP_RENDER = "render"
OP_WAIT = "wait"
CTL_OPS = (OP_STATUS_REPORT, OP_ATTACHMENTS, OP_POLICIES, OP_RENDER, OP_WAIT)

HEADER_BYTES = 4


class WireError(Exception):
    """Bytes that are no message of this contract, or a value that it can't carry; the text says which."""


def frame(body: bytes, limit: int = MAX_REQUEST) -> bytes:
    """Return body with its length in front. WireError if it is over limit bytes."""
    if len(body) > limit:
        raise WireError(f"message of {len(body)} bytes, at most {limit} are allowed")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes, limit: int) -> int:
    """Return the length in bytes that a header announces. WireError if it is cut, or announces over limit."""
    if len(header) != HEADER_BYTES:
        raise WireError(f"length prefix of {len(header)} bytes, {HEADER_BYTES} are needed")
    length = int.from_bytes(header, "big")
    if length > limit:
        raise WireError(f"message of {length} bytes announced, at most {limit} are allowed")
    return length


def pack(value: object) -> bytes:
    """Return value as msgpack: None, bool, 64-bit int, str, bytes, list, tuple, dict; else WireError."""
    out = bytearray()
    _pack(value, out, 0)
    return bytes(out)


def unpack(body: bytes) -> object:
    """Return the one msgpack value that body holds. WireError if it is cut, followed by more, or too deep.

    Floats and extension types are refused too: no message has them, and a float would need another import.
    """
    value, end = _unpack(body, 0, 0)
    if end != len(body):
        raise WireError(f"{len(body) - end} bytes after the message")
    return value


def _pack(value: object, out: bytearray, depth: int) -> None:
    _check_depth(depth)
    if value is None:
        out.append(0xC0)
    elif value is True or value is False:
        out.append(0xC3 if value else 0xC2)
    elif isinstance(value, int):
        _pack_int(value, out)
    elif isinstance(value, str):
        _pack_str(value, out)
    elif isinstance(value, bytes):
        _pack_length(len(value), out, (0xC4, 0xC5, 0xC6))
        out += value
    elif isinstance(value, (list, tuple, dict)):
        _pack_nested(value, out, depth + 1)
    else:
        raise WireError(f"a {type(value).__name__} can't be sent")


def _pack_int(value: int, out: bytearray) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
        return
    code, signed = (0xD0, True) if value < 0 else (0xCC, False)
    for power in range(4):
        bits = 8 << power
        if value < 1 << bits and (not signed or value >= -(1 << (bits - 1))):
            out.append(code + power)
            out += value.to_bytes(bits // 8, "big", signed=signed)
            return
    raise WireError("an integer of more than 64 bits can't be sent")


def _pack_str(value: str, out: bytearray) -> None:
    try:
        text = value.encode()
    except UnicodeEncodeError as exc:
        raise WireError(f"text that is not Unicode can't be sent: {exc.reason}") from None
    if len(text) < 32:
        out.append(0xA0 | len(text))
    else:
        _pack_length(len(text), out, (0xD9, 0xDA, 0xDB))
    out += text


def _pack_nested(
    value: list[object] | tuple[object, ...] | dict[object, object], out: bytearray, depth: int
) -> None:
    is_map = isinstance(value, dict)
    if len(value) < 16:
        out.append((0x80 if is_map else 0x90) | len(value))
    else:
        _pack_length(len(value), out, (0, 0xDE, 0xDF) if is_map else (0, 0xDC, 0xDD))
    if isinstance(value, dict):
        for key, item in value.items():
            _pack(key, out, depth)
            _pack(item, out, depth)
    else:
        for item in value:
            _pack(item, out, depth)


def _pack_length(length: int, out: bytearray, codes: tuple[int, int, int]) -> None:
    """Write the smallest code for lengths of 1, 2 and 4 bytes; code 0: this type has none of that width."""
    for code, width in zip(codes, (1, 2, 4), strict=True):
        if code and length < 1 << (8 * width):
            out.append(code)
            out += length.to_bytes(width, "big")
            return
    raise WireError(f"{length} bytes or items are too many for a message")


# First byte -> (what follows, how many bytes its number or length takes).
_WIDE = {
    0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4),
    0xCC: ("uint", 1), 0xCD: ("uint", 2), 0xCE: ("uint", 4), 0xCF: ("uint", 8),
    0xD0: ("int", 1), 0xD1: ("int", 2), 0xD2: ("int", 4), 0xD3: ("int", 8),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def _unpack(body: bytes, at: int, depth: int) -> tuple[object, int]:
    """Return the value that starts at `at`, and where the next one does."""
    first = _take(body, at, 1)[0]
    at += 1
    if first < 0x80:
        return first, at
    if first >= 0xE0:
        return first - 0x100, at
    if first < 0xC0:
        kind, size = _short_form(first)
        return _unpack_sized(kind, size, body, at, depth)
    if first in _CONSTANTS:
        return _CONSTANTS[first], at
    if first not in _WIDE:
        raise WireError(f"type byte 0x{first:02x} is not of this contract")
    kind, width = _WIDE[first]
    number = int.from_bytes(_take(body, at, width), "big", signed=kind == "int")
    if kind in ("int", "uint"):
        return number, at + width
    return _unpack_sized(kind, number, body, at + width, depth)


def _short_form(first: int) -> tuple[str, int]:
    """Split a first byte that carries its own length."""
    if first >= 0xA0:
        return "str", first & 0x1F
    return ("array" if first >= 0x90 else "map"), first & 0x0F


def _unpack_sized(kind: str, size: int, body: bytes, at: int, depth: int) -> tuple[object, int]:
    if kind == "map":
        return _unpack_map(size, body, at, depth + 1)
    if kind == "array":
        return _unpack_array(size, body, at, depth + 1)
    raw = _take(body, at, size)
    if kind == "bin":
        return raw, at + size
    try:
        return raw.decode(), at + size
    except UnicodeDecodeError:
        raise WireError("text that is not UTF-8") from None


def _unpack_array(size: int, body: bytes, at: int, depth: int) -> tuple[object, int]:
    _check_depth(depth)
    items: list[object] = []
    for _ in range(size):
        item, at = _unpack(body, at, depth)
        items.append(item)
    return items, at


def _unpack_map(size: int, body: bytes, at: int, depth: int) -> tuple[object, int]:
    _check_depth(depth)
    items: dict[object, object] = {}
    for _ in range(size):
        key, at = _unpack(body, at, depth)
        if not isinstance(key, (str, int, bytes)):
            raise WireError(f"a {type(key).__name__} as the key of a map")
        items[key], at = _unpack(body, at, depth)
    return items, at


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise WireError(f"nested deeper than {MAX_DEPTH}")


def _take(body: bytes, at: int, size: int) -> bytes:
    if size > len(body) - at:
        raise WireError(f"cut off: {size} bytes announced, {len(body) - at} are left")
    return body[at : at + size]
