"""Settings' values that take more than a line to check, and what is said of bad ones.

In: values as a configuration file holds them. Out: the same, or ValueError with what was expected.
"""

from typing import Any

from daemon.decode.blocks import parse_cidr


def read_text(value: Any) -> str:
    """A string without control characters. ValueError: it is none."""
    if not isinstance(value, str):
        raise ValueError("expected a string (put it in quotes)")
    if any(not char.isprintable() for char in value):
        raise ValueError("must not contain control characters")
    return value


def read_address(value: Any) -> str:
    """An address as "host:port", or "" for none. ValueError: it is none."""
    text = read_text(value)
    if not text:
        return text
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed) or not port.isascii() or not port.isdecimal():
        raise ValueError("expected host:port or [address]:port, or nothing for none")
    if not 0 < int(port[:6]) <= 65535:
        raise ValueError("the port must be from 1 to 65535")
    return text


def read_prefixes(value: Any) -> list[str]:
    """A list of IPv6 prefixes. ValueError: it is none."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of IPv6 prefixes, as in [fe80::/10, fd00::/8]")
    for item in value:
        if parse_cidr(item)[0] != 6:
            raise ValueError(f"{item} is no IPv6 prefix")
    return value


def read_globs(value: Any) -> list[str]:
    """A list of absolute paths, which may hold *, and "auto". ValueError: it is none."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of paths, as in [auto, /run/other/*]")
    for item in value:
        if not read_text(item).startswith("/") and item != "auto":
            raise ValueError(f"{item} is neither an absolute path nor auto")
    return value


def parse_list(text: str) -> list[str]:
    """The items of a flag or a variable, between commas."""
    return [item for item in (part.strip() for part in text.split(",")) if item]


def shown(value: Any) -> str:
    """A setting's value for people: bounded, in one line."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        text = ",".join(value)
    else:
        text = "" if value is None else value if isinstance(value, str) else repr(value)
    return text[:200] if text.isprintable() else repr(text[:200])


def explain(error: ValueError, value: Any) -> str:
    """What is wrong with a value, and the value itself where that does not name it."""
    said = str(error)
    if said.startswith("expected"):
        # A text with commas looks like a list, which it is on a command line.
        is_list = "expected a list" in said and isinstance(value, str)
        return f"{said}, not {value[:200]!r}" if is_list else f"{said}, not {shown(value) or 'nothing'}"
    parts = value if isinstance(value, list) else [value]
    return said if any(str(part) in said for part in parts) else f"{said}: {shown(value)}"


def explain_file(error: Exception) -> str:
    """Why a file can't be read, in words that name no module of Python."""
    if isinstance(error, UnicodeDecodeError):
        return f"no text in UTF-8 (byte {error.start + 1})"
    return str((error.strerror if isinstance(error, OSError) else None) or error)
