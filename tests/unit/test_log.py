"""Logs: one line an event, whatever stands in the fields."""

import io
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemon import log as logs

log = logs.get_logger("daemon.test")


@pytest.fixture
def capture() -> Iterator[Callable[[str, str], io.StringIO]]:
    root = logging.getLogger("daemon")
    before = (root.handlers[:], root.level, root.propagate, logging.raiseExceptions)

    def start(form: str, level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        logs.configure(form, level, stream)
        return stream

    yield start
    root.handlers[:], root.level, root.propagate, logging.raiseExceptions = before


FIELDS: list[tuple[dict[str, Any], str]] = [
    ({}, ""),
    ({"a": "b", "n": 5}, " a=b n=5"),
    ({"a": ""}, ' a=""'),
    ({"a": "b c"}, ' a="b c"'),
    ({"a": 'b"c'}, ' a="b\\"c"'),
    ({"a": "x=1"}, ' a="x=1"'),
    ({"a": "b\nerror forged"}, ' a="b\\nerror forged"'),
    ({"a": "\x1b[31m"}, " a=\\x1b[31m"),
    ({"a": "\u2028"}, " a=\\u2028"),
    ({"a": "\udcff"}, " a=\\udcff"),
    ({"a": "back\\slash"}, " a=back\\\\slash"),
    ({"a\nb": 1}, " a\\nb=1"),
    ({"a": None, "b": True}, " a=None b=True"),
    # Names that logging keeps for itself.
    (
        {"name": "x", "msg": 1, "args": 2, "message": 3, "exc_info": 4},
        " name=x msg=1 args=2 message=3 exc_info=4",
    ),
]


@pytest.mark.parametrize(("fields", "text"), FIELDS)
def test_text(capture: Callable[..., io.StringIO], fields: dict[str, Any], text: str) -> None:
    stream = capture("text")
    log.info("applied", extra=fields)
    (line,) = stream.getvalue().splitlines()
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == f"info applied{text}"


@pytest.mark.parametrize(("fields", "_text"), FIELDS)
def test_json(capture: Callable[..., io.StringIO], fields: dict[str, Any], _text: str) -> None:
    stream = capture("json")
    log.warning("applied", extra=fields)
    assert stream.getvalue().count("\n") == 1
    found = json.loads(stream.getvalue())
    assert {key: found[key] for key in ("level", "event", "module")} == {
        "level": "warning",
        "event": "applied",
        "module": "daemon.test",
    }
    assert {key: found[key] for key in fields} == fields


def test_a_field_never_replaces_the_event(capture: Callable[..., io.StringIO]) -> None:
    stream = capture("json")
    log.info("applied", extra={"event": "forged", "level": "x", "time": 0})
    found = json.loads(stream.getvalue())
    assert (found["event"], found["event_"], found["level"]) == ("applied", "forged", "info")


def test_numbers_stay_numbers_and_odd_ones_are_legal_json(capture: Callable[..., io.StringIO]) -> None:
    stream = capture("json")
    log.info("x", extra={"n": 1.5, "inf": float("inf"), "list": [1]})
    found = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert (found["n"], found["inf"], found["list"]) == (1.5, "inf", "[1]")


@pytest.mark.parametrize("form", logs.FORMATS)
def test_values_are_cut(capture: Callable[..., io.StringIO], form: str) -> None:
    stream = capture(form)
    log.info("x" * 100_000, extra={"a": "y" * 1_000_000})
    assert len(stream.getvalue()) < 3 * logs.MAX_FIELD
    assert "1000000 characters" in stream.getvalue()


@pytest.mark.parametrize("form", logs.FORMATS)
def test_an_exception_is_one_line(capture: Callable[..., io.StringIO], form: str) -> None:
    stream = capture(form)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("failed", extra={"a": 1})
    (line,) = stream.getvalue().splitlines()
    assert "Traceback" in line
    assert "two" in line


@pytest.mark.parametrize("level", logs.LEVELS)
def test_levels(capture: Callable[..., io.StringIO], level: str) -> None:
    stream = capture("text", level)
    for name in logs.LEVELS:
        getattr(log, name)(name)
    assert len(stream.getvalue().splitlines()) == len(logs.LEVELS) - logs.LEVELS.index(level)


def test_a_broken_stream_does_not_raise(capture: Callable[..., io.StringIO]) -> None:
    capture("text").close()
    log.info("nobody hears this")


def test_what_outsiders_cause_is_told_seldom(capture: Callable[[str], io.StringIO]) -> None:
    stream = capture("text")
    often = logs.Seldom(log, "flooded", seconds=0.2)
    for number in range(50):
        often.say(number=number)
    deadline = time.monotonic() + 10.0
    while stream.getvalue().count("flooded") < 2:
        assert time.monotonic() < deadline
        often.say(number=99)
        time.sleep(0.01)
    first, second = stream.getvalue().splitlines()[:2]
    assert "flooded times=1 number=0" in first
    times = re.search(r"times=(\d+) number=\d+", second)
    assert times is not None
    assert int(times[1]) > 1
