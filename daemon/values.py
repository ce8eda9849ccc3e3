"""Settings' values that take more than a line to check.

In: values as a configuration file holds them. Out: the same, or ValueError with what was expected.
"""

from typing import Any

from daemon.decode.blocks import parse_cidr


def read_text(value: Any) -> str:
    """A string without control characters. ValueError: it is none."""
    if not isinstance(value, str):
        raise ValueError("expected a string; put it in quotes")
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
        raise ValueError("expected a list of IPv6 prefixes")
    for item in value:
        if parse_cidr(item)[0] != 6:
            raise ValueError(f"{item} is no IPv6 prefix")
    return value


def read_globs(value: Any) -> list[str]:
    """A list of absolute paths, which may hold *, and "auto". ValueError: it is none."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("expected a list of paths, which may hold *")
    for item in value:
        if not read_text(item).startswith("/") and item != "auto":
            raise ValueError(f"{item} is no absolute path, and not auto")
    return value
