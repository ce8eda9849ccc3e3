"""How long a reflector rests between tries, and what ends a rest: never a storm, and never too late."""

import threading
import time

import pytest

from daemon.sources.kubernetes.errors import ApiError, NotFoundError, RefusedError, UnreachableError
from daemon.sources.kubernetes.reflector import Reflector
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import NAMESPACES
from tests.lab.polling import poll
from tests.unit.kubernetes.reflector_cases import BRISK, LONG, PODS
from tests.unit.kubernetes.scripted import (
    Step,
    Written,
    closes,
    failed,
    listing,
    mark,
    page,
    reflecting,
    refuses,
    scripted,
    stream,
)


def rests(error: ApiError, count: int, timing: Timing) -> list[list[float]]:
    """The pauses after so many failures in a row, 200 tries each."""
    found = []
    with scripted() as (_, client):
        reflector = Reflector(PODS, client.connect(), Written(), timing)
        for _ in range(count):
            reflector._failures += 1  # the bounds of chance can't be seen from outside
            found.append([reflector._pause(error) for _ in range(200)])
    return found


@pytest.mark.parametrize(
    ("error", "most", "asked"),
    [
        (UnreachableError("watch pods", "x"), 30.0, 0.0),
        (NotFoundError("watch pods", 404, "x"), 10.0, 0.0),
        (RefusedError("watch pods", 429, "x", 7.0), 30.0, 7.0),
    ],
)
def test_rests_grow_by_chance_up_to_a_most(error: ApiError, most: float, asked: float) -> None:
    for number, pauses in enumerate(rests(error, 40, Timing())):
        longest = min(most, 0.8 * 2**number)
        assert asked + 0.1 * longest <= min(pauses) <= max(pauses) <= asked + longest
        # Full jitter: not all nodes at once.
        assert max(pauses) - min(pauses) > 0.5 * longest


def test_retry_after_is_honoured() -> None:
    steps = [refuses(429, Retry_After="1"), listing(version=5)]
    with reflecting(PODS, Timing(**BRISK), *steps) as (script, sink, reflector):
        poll(lambda: sink.reasons, bool)
        # Others hear from the server meanwhile: that does not count here, it has answered.
        reflector.nudge()
        poll(lambda: sink.news, bool)
        assert script.at[1] - script.at[0] >= 1.0


def test_retry_after_of_an_event() -> None:
    steps = [stream(mark(5, ends=True), failed(429, "TooManyRequests", retryAfterSeconds=1)), page(version=5)]
    with reflecting(PODS, Timing(**BRISK), *steps) as (script, _, _2):
        poll(lambda: script.at, lambda at: len(at) > 1)
        assert script.at[1] - script.at[0] >= 1.0


def test_a_nudge_ends_a_rest_if_nobody_answered() -> None:
    with reflecting(PODS, Timing(**LONG), closes, closes, listing(version=5)) as (script, sink, reflector):
        for count in (1, 2):
            poll(lambda: script.asked, lambda asked, count=count: len(asked) == count)  # type: ignore[misc]
            poll(lambda: sink.reasons, bool)
            reflector.nudge()
        poll(lambda: sink.news, lambda news: news == ["listed"])


@pytest.mark.parametrize(
    "steps",
    [[refuses(403)], [refuses(500)], [refuses(404)], [stream(mark(5, ends=True), breaks=True)]],
    ids=["403", "500", "404", "broke off"],
)
def test_a_nudge_ends_no_other_rest(steps: list[Step]) -> None:
    with reflecting(PODS, Timing(**LONG), *steps) as (script, sink, reflector):
        poll(lambda: sink.reasons, lambda reasons: reasons[-1:] not in ([], [""]))
        for _ in range(20):
            reflector.nudge()
        threading.Event().wait(0.1)
        assert len(script.asked) == 1


def test_a_server_that_answers_again_is_not_rested_from_for_the_time_that_it_was_away() -> None:
    """In its first seconds it may refuse: its caches are cold."""
    timing = Timing(**{**BRISK, "first_rest": 0.05, "most_rest": 600.0})
    with reflecting(PODS, timing, *[closes] * 12, refuses(403), listing(version=5)) as (
        script,
        sink,
        reflector,
    ):
        for count in range(1, 13):
            poll(lambda: script.asked, lambda asked, count=count: len(asked) >= count)  # type: ignore[misc]
            poll(lambda: sink.reasons, bool)
            reflector.nudge()
        # The thirteenth rest in a row would be 20 s at least.
        poll(lambda: sink.news, lambda news: news == ["listed"], 10.0)


def test_watches_closed_at_once_do_not_spin() -> None:
    """Not even two collections that wake each other: each one's success is the other's nudge."""
    steps = [stream(mark(5, ends=True)), *[page(version=5), stream(mark(6))] * 500]
    timing = Timing(**{**BRISK, "steady": 5.0, "first_rest": 0.5, "most_rest": 5.0})
    with (
        reflecting(PODS, timing, *steps) as (script, sink, one),
        reflecting(NAMESPACES, timing, *steps) as (other_script, other_sink, other),
    ):
        ends = time.monotonic() + 0.5
        seen = 0
        while time.monotonic() < ends:
            told = len(sink.told) + len(other_sink.told)
            if told != seen:
                seen = told
                one.nudge()
                other.nudge()
            threading.Event().wait(0.001)
        assert len(script.asked) + len(other_script.asked) <= 16


def test_lists_that_are_gone_at_once_do_not_spin() -> None:
    steps = [stream(mark(5, ends=True), failed(410, "Expired"))] * 500
    timing = Timing(**{**BRISK, "steady": 5.0, "first_rest": 0.2, "most_rest": 5.0})
    with reflecting(PODS, timing, *steps) as (script, _, _2):
        threading.Event().wait(0.5)
        # The first is listed anew at once, then it rests longer and longer.
        assert 2 <= len(script.asked) <= 12


def test_a_steady_watch_makes_failures_forgotten() -> None:
    """Otherwise a cluster of short troubles, days apart, would make the last one a long one."""
    timing = Timing(**{**BRISK, "silence": 0.1, "steady": 0.05, "first_rest": 0.02, "most_rest": 60.0})
    steady = [page(version=5), stream(hold=True)]  # which silence ends after 0.1 s
    with reflecting(PODS, timing, listing(version=5), *steady * 12, listing(version=5)) as (script, _, _2):
        # With failures that add up the tenth rest alone would be 2 to 20 s.
        poll(lambda: script.asked, lambda asked: len(asked) >= 24, 8.0)
