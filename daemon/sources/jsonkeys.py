"""Keys that stand twice in one object of a JSON document. Pure.

In: bytes that are valid JSON. Out: where the first such key stands. msgspec takes the last of them and says
nothing, while other readers of the same file take the first: YAML refuses them, and so do we.
"""

import re
from collections.abc import Sequence
from json import JSONDecodeError, JSONDecoder

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],]')
_BETWEEN = re.compile(rb"[ \t\r\n]*,[ \t\r\n]*")
_MOST_PLACES = 8


class _Twice(Exception):  # noqa: N818  # never leaves this module
    """An object has a key twice."""


def find_repeated(document: bytes) -> tuple[int, str] | None:
    """Where a key is that its object has already, and the key; None: there is none.

    Costs a few times what decoding the document costs. RecursionError: nested too deep.
    """
    try:
        _DECODER.decode(document.decode())
    except (_Twice, JSONDecodeError):
        return _search(document)
    return None


def frame(document: bytes, items: Sequence[bytes]) -> bytes:
    """A document without these values, which stand one behind the other in a list of it.

    So what is large and looked through by itself need not be looked through again. Where they stand in
    several places, it does not matter which of them is left. All of it where they are not found soon.
    """
    start = -1
    for _ in range(_MOST_PLACES if items else 0):
        start = document.find(items[0], start + 1)
        if start < 0:
            break
        end = _end(document, start, items)
        if end is not None:
            return document[:start] + document[end:]
    return document


def _end(document: bytes, start: int, items: Sequence[bytes]) -> int | None:
    """Where the last of values ends of which the first is at `start`; None: the others are not there."""
    for number, item in enumerate(items):
        if number:
            comma = _BETWEEN.match(document, start)
            if comma is None:
                return None
            start = comma.end()
        if not document.startswith(item, start):
            return None
        start += len(item)
    return start


def _require_single(pairs: list[tuple[str, object]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) < len(pairs):
        raise _Twice


# Numbers may have more digits than int() takes, and none is needed.
_DECODER = JSONDecoder(object_pairs_hook=_require_single, parse_int=len, parse_float=len, strict=False)
_KEYS = JSONDecoder(strict=False)


def _search(document: bytes) -> tuple[int, str] | None:
    """The same token by token, by which it is known where it is."""
    known: list[set[str] | None] = []  # keys of each object that is open; None: a list
    wants_key = False
    for token in _TOKEN.finditer(document):
        match token[0]:
            case b"{":
                known.append(set())
                wants_key = True
            case b"[":
                known.append(None)
                wants_key = False
            case b"}" | b"]":
                known.pop()
                wants_key = False
            case b",":
                wants_key = known[-1] is not None
            case text if wants_key and (keys := known[-1]) is not None:
                key = _KEYS.decode(text.decode())
                if key in keys:
                    return token.start(), key
                keys.add(key)
                wants_key = False
            case _:
                pass
    return None
