"""Logs are events with fields, one a line, on stderr.

In: `log.info("applied", extra={"netns": path})`. Out: text for people or JSON for programs. Values from
outside are escaped and cut, so that no label, path or client can forge a line or flood the log.
"""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from math import isfinite
from typing import Any, TextIO

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")

MAX_FIELD = 2000
"""Characters of one value; a traceback gets ten times as many."""

SELDOM_SECONDS = 30.0

_ROOT = "daemon"


class EventLogger(logging.LoggerAdapter[logging.Logger]):
    """Keeps the fields of an event apart from LogRecord's own names, which `extra` must not overwrite."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """LoggerAdapter's hook: what is passed on to the logger."""
        return msg, {**kwargs, "extra": {"fields": dict(kwargs.get("extra") or {})}}


def get_logger(name: str) -> EventLogger:
    """The logger of a module; pass `__name__`."""
    return EventLogger(logging.getLogger(name), {})


class Seldom:
    """An event that outsiders can cause as often as they like.

    Logged when it happens, but then not again for `seconds`; the next line says how often it was in between.
    """

    def __init__(
        self, log: EventLogger, event: str, level: int = logging.WARNING, seconds: float = SELDOM_SECONDS
    ) -> None:
        self._log = log
        self._event = event
        self._level = level
        self._seconds = seconds
        self._next = 0.0
        self._times = 0

    def say(self, **fields: Any) -> None:
        """It happened; fields: of this time."""
        self._times += 1
        now = time.monotonic()
        if now >= self._next:
            self._log.log(self._level, self._event, extra={"times": self._times, **fields})
            self._next, self._times = now + self._seconds, 0


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Send this package's events to a stream (default: stderr). form: of FORMATS. level: of LEVELS."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger(_ROOT)
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False
    # A full disk or a closed pipe behind stderr must not print tracebacks about itself to the same stderr.
    logging.raiseExceptions = False


class TextFormatter(logging.Formatter):
    """`2024-05-01T10:00:00.123Z info applied netns=/run/netns/a rules=3`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields = _fields(self, record)
        pairs = "".join(f" {_bare(key)}={_bare(_text(value, key))}" for key, value in fields.items())
        return f"{_time(record)} {record.levelname.lower()} {_escape(record.getMessage()[:MAX_FIELD])}{pairs}"


class JsonFormatter(logging.Formatter):
    """`{"time": …, "level": …, "event": …, "module": …, fields…}`; no field replaces one of those four."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage()[:MAX_FIELD],
            "module": record.name,
        }
        for key, value in _fields(self, record).items():
            plain = (
                value is None
                or isinstance(value, bool | int)
                or (isinstance(value, float) and isfinite(value))
            )
            name = f"{key}_" if key in ("time", "level", "event", "module") else key
            line[name] = value if plain else _text(value, key)
        # ASCII only: lone surrogates of file names stay escapes.
        return json.dumps(line)


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    fields = dict(getattr(record, "fields", {}))
    if record.exc_info and record.exc_info[0] is not None:
        fields["traceback"] = formatter.formatException(record.exc_info)
    return fields


def _time(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _text(value: object, key: str) -> str:
    text = value if isinstance(value, str) else str(value)
    limit = MAX_FIELD * 10 if key == "traceback" else MAX_FIELD
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


def _bare(text: str) -> str:
    """A word as it is; anything else in quotes."""
    escaped = _escape(text)
    if escaped and not any(mark in escaped for mark in ' "='):
        return escaped
    return '"' + escaped.replace('"', '\\"') + '"'


def _escape(text: str) -> str:
    """Without control characters, line separators and terminal sequences."""
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
        for char in text
    )
