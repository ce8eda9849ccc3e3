"""YAML as Kubernetes reads it: to what JSON could hold, by the YAML 1.1 rules of its own parser.

In: text, untrusted. Out: plain dicts, lists, strings, numbers, booleans. Built from libyaml's events, since
that takes half the time of PyYAML's loader, and since the loader takes duplicate keys and knows no bounds.
"""

import math
import re
from typing import Any, Final

import yaml
from yaml._yaml import CParser
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from daemon.errors import MultiNetworkPolicyError

MAX_DEPTH = 100
# What aliases may add to a document: few lines of them can stand for billions of nodes.
MAX_ALIASED_NODES = 100_000

_TAG = "tag:yaml.org,2002:"
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
}
_NUMBER_STARTS = frozenset("+-.0123456789")
_INTEGER = re.compile(r"[-+]?(?:0b[01]+|0x[0-9a-fA-F]+|0o?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
# Bounded, since it is shown.
_TEMPLATE = re.compile(r"\{\{[^\n{}]{0,60}(?:\}\})?")
_NOT_JSON = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class YamlError(MultiNetworkPolicyError):
    """No YAML, or more than JSON can hold. line: in the text, from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line
        self.message = message


def load_yaml(text: str) -> list[Any]:
    """All documents of a text, empty ones (None) too. Raises YamlError for the first thing wrong."""
    try:
        return _load(text)
    except YamlError as error:
        found = find_template(text)
        if found is None:
            raise
        line, shown = found
        raise YamlError(line, f"{shown}: a template that is not rendered? ({error.message})") from None


def find_template(text: str) -> tuple[int, str] | None:
    """(line from 1, text) of the first braces of a template, as Helm has them; ask only about bad files."""
    found = _TEMPLATE.search(text)
    return (text.count("\n", 0, found.start()) + 1, found[0]) if found else None


def _load(text: str) -> list[Any]:
    try:
        return _Builder(text).build()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        if mark and _is_tab(text, mark.line, mark.column):
            message = "a tab stands in the indentation: YAML takes spaces only"
        raise YamlError(mark.line + 1 if mark else 1, message) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(line, f"the character #x{_code(error.character):04x} is not allowed") from None


def _is_tab(text: str, line: int, column: int) -> bool:
    """Whether a tab indents this line, or stands at this place."""
    lines = text.splitlines()
    found = lines[line] if line < len(lines) else ""
    return "\t" in found[: len(found) - len(found.lstrip())] or found[column : column + 1] == "\t"


def _code(character: int | str | bytes) -> int:
    # The stubs and the C parser disagree on what this is.
    return character if isinstance(character, int) else ord(character)


def resolve(value: str) -> object:
    """What a plain scalar means. Timestamps and sexagesimal numbers are strings, as for Kubernetes."""
    if value in _WORDS:
        return _WORDS[value]
    if value[0] not in _NUMBER_STARTS:
        return value
    plain = value.replace("_", "")
    if _INTEGER.fullmatch(plain):
        return _integer(plain)
    if _FLOAT.fullmatch(plain):
        return _float(plain)
    if _NOT_JSON.fullmatch(value):
        raise ValueError(f"{value} is no number of JSON's")
    return value


def _integer(plain: str) -> int | float:
    digits = plain.lstrip("+-")
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] in "01234567"
    # The length is bounded before Python's slow conversion sees it; such a number is a float in Go.
    number = int(digits[:70], 8 if octal else 0) if len(digits) <= 70 else math.inf
    if number >= 1 << 64:
        return _float(plain)
    return -int(number) if plain[0] == "-" else int(number)


def _float(plain: str) -> int | float:
    try:
        number = float(plain)
    except ValueError:
        raise ValueError(f"{plain[:40]} is no number of JSON's") from None
    if math.isinf(number):
        raise ValueError(f"{plain[:40]} is no number of JSON's")
    # JSON does not tell 80.0 from 80.
    return int(number) if number.is_integer() and abs(number) < 1 << 53 else number


def _tagged(tag: str, value: str) -> object:
    """A scalar with an explicit tag."""
    if tag in ("!", f"{_TAG}str"):
        return value
    wanted: dict[str, tuple[type, ...]] = {
        f"{_TAG}int": (int,),
        f"{_TAG}float": (int, float),
        f"{_TAG}bool": (bool,),
        f"{_TAG}null": (type(None),),
    }
    resolved = resolve(value)
    if tag not in wanted or not isinstance(resolved, wanted[tag]):
        raise ValueError(f"{value[:40]!r} can't have the tag {tag[:80]}")
    return resolved


class _Open:
    """A collection that is being read."""

    __slots__ = ("aliased", "anchor", "key", "merges", "value")

    def __init__(self, value: Any, anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None
        self.merges: list[Any] = []
        self.aliased = 0


_UNFINISHED = object()


class _Builder:
    """Events to values. A stack instead of recursion: a number bounds the depth, not Python's stack."""

    def __init__(self, text: str) -> None:
        self._parser = CParser(text)
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._aliased = 0
        self._documents: list[Any] = []
        self._event: Any = None  # the one at hand; its kinds have no common base with an anchor

    def build(self) -> list[Any]:
        """Read the text to its end."""
        get_event = self._parser.get_event
        while (event := get_event()) is not None:
            self._event = event
            kind = type(event)
            if kind is ScalarEvent:
                self._add_scalar(event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event, {} if kind is MappingStartEvent else [])
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._add_alias(self._event.anchor)
            elif kind is DocumentStartEvent:
                self._anchors = {}
                self._aliased = 0
        return self._documents

    def _fail(self, message: str) -> YamlError:
        return YamlError(self._event.start_mark.line + 1, message)

    def _add_scalar(self, event: Any) -> None:
        value: object = event.value
        try:
            if event.tag is not None:
                value = _tagged(event.tag, event.value)
            elif event.implicit[0]:
                value = resolve(event.value)
        except ValueError as error:
            raise self._fail(str(error)) from None
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        self._add(value)

    def _open(self, event: Any, value: Any) -> None:
        if event.tag not in (None, "!", f"{_TAG}{'map' if type(value) is dict else 'seq'}"):
            raise self._fail(f"the tag {event.tag[:80]} is not allowed")
        if len(self._stack) == MAX_DEPTH:
            raise self._fail(f"nested more than {MAX_DEPTH} deep")
        if event.anchor is not None:
            self._anchors[event.anchor] = (_UNFINISHED, 0)
        self._stack.append(_Open(value, event.anchor))

    def _close(self) -> None:
        done = self._stack.pop()
        for merged in done.merges:
            # Own keys come first, and so do earlier merges.
            for key, value in merged.items():
                done.value.setdefault(key, value)
        if done.anchor is not None:
            self._anchors[done.anchor] = (done.value, _count(done.value, MAX_ALIASED_NODES))
        self._add(done.value)

    def _add_alias(self, anchor: str) -> None:
        value, nodes = self._anchors.get(anchor, (None, -1))
        if nodes < 0:
            raise self._fail(f"the alias *{anchor[:40]} has no anchor")
        if value is _UNFINISHED:
            raise self._fail(f"the alias *{anchor[:40]} stands inside what it means")
        self._aliased += nodes
        if self._aliased > MAX_ALIASED_NODES:
            raise self._fail(f"aliases stand for more than {MAX_ALIASED_NODES} values")
        self._add(value)

    def _add(self, value: Any) -> None:
        if not self._stack:
            self._documents.append(value)
            return
        top = self._stack[-1]
        if type(top.value) is list:
            top.value.append(value)
        elif top.key is None:
            top.key = self._read_key(value, top)
        else:
            key, top.key = top.key, None
            if key == "<<" and not top.merges:
                top.merges = self._read_merges(value)
            else:
                top.value[key] = value

    def _read_key(self, value: Any, top: _Open) -> str:
        """A key as JSON has it: `80:` and `yes:` become strings."""
        if value is None or isinstance(value, dict | list):
            raise self._fail("a key must be a string")
        key = str(value).lower() if isinstance(value, bool) else str(value)
        if key in top.value or (key == "<<" and top.merges):
            raise self._fail(f"the key {key[:80]!r} stands twice in one object")
        return key

    def _read_merges(self, value: Any) -> list[dict[str, Any]]:
        merges = value if isinstance(value, list) else [value]
        if not all(isinstance(item, dict) for item in merges):
            raise self._fail("<< merges objects only")
        return merges


def _count(value: Any, limit: int) -> int:
    """How many nodes a value has; more than `limit` counts as limit + 1."""
    nodes, left = 0, [value]
    while left and nodes <= limit:
        item = left.pop()
        nodes += 1
        if isinstance(item, dict):
            left.extend(item.values())
        elif isinstance(item, list):
            left.extend(item)
    return nodes
