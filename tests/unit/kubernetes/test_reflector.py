"""The reflector on a scripted server: what it asks, what it tells, how soon it stops."""

import threading
import time
from typing import Any

import pytest

from daemon.sources.kubernetes.reflector import Reflector
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import peer_pods
from tests.lab.polling import poll
from tests.unit.kubernetes.reflector_cases import BRISK, CASES, LONG, PODS, Case
from tests.unit.kubernetes.scripted import (
    Step,
    Written,
    added,
    closes,
    is_silent,
    listing,
    mark,
    page,
    reflecting,
    refuses,
    scripted,
    stream,
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scripts(case: Case) -> None:
    timing = Timing(**{**BRISK, **case.timing})
    with reflecting(case.collection, timing, *case.steps) as (script, sink, _):
        poll(lambda: list(sink.news), lambda news: len(news) >= len(case.news), 5.0)
        poll(lambda: list(script.asked), lambda asked: len(asked) >= len(case.asked), 5.0)
        poll(lambda: list(sink.told), lambda told: len(told) >= len(case.told), 5.0)
        assert sink.news[: len(case.news)] == case.news
        assert script.asked[: len(case.asked)] == case.asked
        if case.told:
            without_live = [line for line in sink.told if line != "stands live" or line in case.told]
            assert without_live[: len(case.told)] == case.told
        if case.reason:
            assert case.reason in sink.reasons


def test_what_is_asked_in_detail() -> None:
    timing = Timing(**{**BRISK, "watch": (300.0, 600.0)})
    with reflecting(peer_pods("n"), timing, refuses(422), page(version=4), stream(hold=True)) as (
        script,
        _,
        _2,
    ):
        poll(lambda: script.paths, lambda paths: len(paths) == 3)
    paths = script.paths
    selector = "spec.nodeName%21%3Dn%2Cspec.nodeName%21%3D%2Cstatus.phase%21%3DSucceeded"
    selector += "%2Cstatus.phase%21%3DFailed%2Cspec.hostNetwork%3Dfalse"
    assert all(f"fieldSelector={selector}" in path for path in paths)
    assert "limit=500" in paths[1]
    seconds = [
        int(path.partition("timeoutSeconds=")[2].partition("&")[0]) for path in paths if "watch=1" in path
    ]
    assert len(seconds) == 2
    assert all(300 <= each <= 600 for each in seconds)
    kinds = [accept.partition(";as=")[2].partition(";")[0] for accept in script.accepted]
    assert kinds == ["PartialObjectMetadata", "PartialObjectMetadataList", "PartialObjectMetadata"]


# --- from other threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps",
    [[is_silent], [listing(version=5)], [stream(added("a", 1), hold=True)], [closes], [refuses(403)]],
    ids=["no answer", "a silent watch", "within a list", "resting", "refused"],
)
def test_stop_ends_it_quickly(steps: list[Step]) -> None:
    timing = Timing(**{**LONG, "silence": 60.0})
    with reflecting(PODS, timing, *steps) as (script, _, reflector):
        poll(lambda: script.asked, bool)
        threading.Event().wait(0.05)
        began = time.monotonic()
        reflector.stop()
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize(
    "first",
    [is_silent, listing(("a", 1), version=50), closes, refuses(403)],
    ids=["no answer", "a silent watch", "resting", "refused"],
)
def test_start_over_lists_again(first: Step) -> None:
    timing = Timing(**{**LONG, "silence": 60.0})
    with reflecting(PODS, timing, first, listing(("b", 7), version=8)) as (script, sink, reflector):
        poll(lambda: script.asked, bool)
        threading.Event().wait(0.05)
        reflector.start_over()
        poll(lambda: sink.news, lambda news: news[-1:] == ["listed b@7"], 2.0)
        assert "the server's history is another one" in sink.reasons or first is is_silent


def test_start_over_many_times_and_then_stop() -> None:
    """However the calls meet the thread, it is never left interrupted, and never left alive."""
    for _ in range(20):
        with reflecting(PODS, Timing(**LONG), *[listing(version=5)] * 200) as (script, sink, reflector):
            callers = [threading.Thread(target=reflector.start_over) for _ in range(4)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            count = len(sink.news)
            reflector.start_over()
            poll(lambda: sink.news, lambda news, count=count: len(news) > count, 15.0)  # type: ignore[misc]
            assert script.asked


def test_all_start_over_from_within_their_own_thread() -> None:
    """The source makes all collections start over, also the one that has noticed."""
    steps = [stream(mark(50, ends=True)), page(version=30), listing(("b", 20), version=30)]
    with scripted(*steps) as (_, client):
        sink = Written()
        reflector = Reflector(PODS, client.connect(), sink, Timing(**BRISK))
        sink.on_history = reflector.start_over
        thread = threading.Thread(target=reflector.run)
        thread.start()
        try:
            poll(lambda: sink.news, lambda news: news == ["listed", "history", "listed b@20"])
        finally:
            reflector.stop()
            thread.join(3.0)
        assert not thread.is_alive()


def test_events_of_a_closed_stream_count_no_more() -> None:
    """What still comes out of a stream after start_over() belongs to the old history."""
    gate = threading.Event()

    def late(exchange: Any) -> None:
        exchange.begin()
        exchange.chunk(mark(50, ends=True))
        gate.wait(3.0)
        exchange.chunk(added("old", 51))

    with reflecting(PODS, Timing(**BRISK), late, listing(("b", 7), version=8)) as (_, sink, reflector):
        poll(lambda: sink.news, lambda news: news == ["listed"])
        reflector.start_over()
        gate.set()
        poll(lambda: sink.news, lambda news: len(news) > 1)
        assert sink.news == ["listed", "listed b@7"]
