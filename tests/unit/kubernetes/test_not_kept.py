"""More policies than are kept of a namespace: closed while any is missing, then open; others notice nothing.

proves: E8, A13, F3
"""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import pytest

from daemon.model import AttachmentKey, Change, CommonRules, Namespace, ObjectKey, Pod, Subject
from daemon.policy.ruleset import OPEN, Ruleset
from daemon.sources.kubernetes import pages, reflector
from daemon.sources.kubernetes.allowance import NOT_KEPT, Allowance
from daemon.sources.kubernetes.reflector import Reflector
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import POLICIES, identify
from daemon.store import Store
from tests.lab.polling import poll
from tests.unit.kubernetes.reflector_cases import BRISK
from tests.unit.kubernetes.scripted import Script, Step, mark, refuses, says, scripted
from tests.unit.kubernetes.serving import Exchange
from tests.unit.kubernetes.sized import event, raw
from tests.unit.kubernetes.stated import Told

pytestmark = pytest.mark.unit

SHUT = ObjectKey(POLICIES.kind, "ns", NOT_KEPT)
HERE, THERE = AttachmentKey("c1", "net1"), AttachmentKey("c2", "net1")
CLOSED = Ruleset((), ())
MOST = 4000
"""Room for two policies of 1,300 bytes."""


class Feed:
    """A watch that sends what a test gives it, when it does."""

    def __init__(self, *lines: bytes) -> None:
        self._lines: queue.Queue[bytes] = queue.Queue()
        self.send(*lines)

    def send(self, *lines: bytes) -> None:
        for line in lines:
            self._lines.put(line)

    def __call__(self, exchange: Exchange) -> None:
        exchange.begin()
        while not exchange.server.over.is_set():
            try:
                exchange.chunk(self._lines.get(timeout=0.05))
            except queue.Empty:
                continue


@dataclass
class Cluster:
    """A state that a reflector feeds, and what a store makes of it for a pod in `ns` and one in `other`."""

    told: Told
    script: Script
    feed: Feed
    store: Store = field(default_factory=lambda: Store(CommonRules()))
    taken: int = 0

    def __post_init__(self) -> None:
        for key, namespace in ((HERE, "ns"), (THERE, "other")):
            pod = Pod(namespace, "p", "u", {}, local=True)
            self.store.apply([Change(ObjectKey("Pod", *pod.ref), pod)])
            self.store.attach(key, pod.ref, "u", Subject(namespace, {}, (), (f"{namespace}/x",)), ())

    def rulesets(self) -> tuple[Ruleset, Ruleset]:
        for update in self.told.updates[self.taken :]:
            self.taken += 1
            self.store.apply(update.changes)
        return self.store.ruleset(HERE), self.store.ruleset(THERE)

    def wait(self, here: Ruleset) -> None:
        """Until it is so, while the other namespace's pod is as open as ever."""
        poll(self.rulesets, lambda found: found[0] == here)
        assert self.rulesets()[1] == OPEN

    def resolve(self, kind_goes: bool = False, ending: tuple[str, ...] = ()) -> None:
        """As the chores do it, once all that leave are due."""
        self.told.state.resolve_leaving(kind_goes, ending, threading.TIMEOUT_MAX)

    def leaves(self) -> None:
        poll(lambda: self.told.state._departures.keys, lambda keys: SHUT in keys)

    def sync(self, *there: msgspec.Raw, seconds: float = 1.0) -> bool:
        """A barrier, while the server has these."""
        found = [identify(POLICIES, one) for one in there]
        listed = {key: (metadata.uid, metadata.resource_version) for key, metadata in found}
        state = self.told.state
        state.begin_round()
        assert state.expect(POLICIES, listed, "20", state.newest(POLICIES))
        return state.wait_settled(seconds)


@contextmanager
def cluster(*steps: Step, feed: Feed, **timing: Any) -> Iterator[Cluster]:
    """The reflector of policies, with these steps of a server; the last of them is the feed."""
    told = Told().complete()
    with scripted(*steps, feed) as (script, client):
        times = Timing(**{**BRISK, **timing})
        running = Reflector(POLICIES, client.connect(), told.state, times, Allowance(MOST))
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            yield Cluster(told, script, feed)
        finally:
            running.stop()
            thread.join(3.0)
            assert not thread.is_alive()


# Lists are not in the order of versions.
VERSIONS = {"a": 1, "b": 4, "c": 3, "d": 8}
A, B, C, D = (raw(name, 1300, version) for name, version in VERSIONS.items())
LISTED = [event("ADDED", name, 1300, VERSIONS[name]) for name in "abc"]


def streamed(*lines: bytes) -> tuple[list[Step], Feed]:
    return [], Feed(*lines, mark(5, ends=True))


def paged(*lines: bytes) -> tuple[list[Step], Feed]:
    items = [msgspec.json.decode(line)["object"] for line in lines]
    more = [*(f"m{at}" for at in range(1, len(items))), ""]
    bodies = [
        {"metadata": {"resourceVersion": "5", "continue": token}, "items": [item]}
        for token, item in zip(more, items, strict=True)
    ]
    return [refuses(422), *map(says, bodies)], Feed()


Form: TypeAlias = Callable[..., tuple[list[Step], Feed]]
FORMS: list[Form] = [streamed, paged]


@contextmanager
def flooded(form: Form = streamed, **timing: Any) -> Iterator[Cluster]:
    """Of a, b and c there is no room for c."""
    steps, feed = form(*LISTED)
    with cluster(*steps, feed=feed, **timing) as made:
        made.wait(CLOSED)
        yield made


@pytest.mark.parametrize("form", FORMS)
def test_it_is_closed_while_one_is_missing_and_open_afterwards(form: Form) -> None:
    with flooded(form) as found:
        assert found.told.names == [NOT_KEPT, "a", "b"]
        assert found.store.problems()[SHUT][0].message.startswith("of its policies 1 is not kept")
        found.feed.send(event("DELETED", "c", 1300, 6))
        found.leaves()
        assert found.rulesets()[0] == CLOSED  # until it is known that its kind is there
        found.resolve()
        found.wait(OPEN)
        assert found.told.names == ["a", "b"]
        assert SHUT not in found.store.problems()
        assert {change.key.namespace for change in found.told.changes_since(0)} <= {"", "ns"}


@pytest.mark.parametrize("form", FORMS)
def test_a_barrier_after_a_list_of_which_most_is_not_kept(form: Form) -> None:
    listed = [event("ADDED", name, 1300, version) for name, version in (("c", 2), ("d", 4), ("e", 3))]
    steps, feed = form(*listed[:1], event("ADDED", "x", 3900, 3), *listed[1:2], event("ADDED", "y", 1300, 1))
    with cluster(*steps, feed=feed) as found:
        found.wait(CLOSED)
        rest = (raw("c", 1300, 2), raw("x", 3900, 3), raw("d", 1300, 4), raw("y", 1300, 1))
        assert found.sync(*rest)


@pytest.mark.parametrize("form", FORMS)
def test_a_barrier_before_the_first_list(form: Form) -> None:
    """A daemon that has just started: what will not be kept is expected like all."""
    gate = threading.Event()
    steps, feed = form(*LISTED)
    first, *rest = [*steps, feed]

    def late(exchange: Exchange) -> None:
        gate.wait(3.0)
        first(exchange)

    with cluster(late, *rest[:-1], feed=rest[-1] if rest else Feed()) as found:
        found.told.state.begin_round()
        listed = {ObjectKey(POLICIES.kind, "ns", name): (f"u-{name}", str(VERSIONS[name])) for name in "abc"}
        assert found.told.state.expect(POLICIES, listed, "20", "")
        assert not found.told.state.wait_settled(0.05)
        gate.set()
        assert found.told.state.wait_settled(3.0)


@pytest.mark.parametrize("form", FORMS)
def test_a_barrier_does_not_wait_for_what_is_not_kept(form: Form) -> None:
    with flooded(form) as found:
        assert found.sync(A, B, C)
        assert not found.sync(A, B, C, D, seconds=0.05)  # which has not come yet
        waiting = threading.Thread(target=found.sync, args=(A, B, C, D), kwargs={"seconds": 3.0})
        waiting.start()
        found.feed.send(event("ADDED", "d", 1300, 8))
        waiting.join(2.0)
        assert not waiting.is_alive()
        assert not found.sync(A, D, seconds=0.05)  # b is still there
        found.feed.send(event("DELETED", "c", 1300, 9), event("DELETED", "d", 1300, 10))
        found.leaves()
        assert not found.sync(A, B, seconds=0.05)  # it is still closed
        found.resolve()
        assert found.sync(A, B)


def test_an_edit_closes_and_another_one_opens() -> None:
    steps, feed = streamed(*LISTED[:2])
    with cluster(*steps, feed=feed) as found:
        poll(lambda: found.told.names, lambda names: names == ["a", "b"])
        feed.send(event("MODIFIED", "b", 2000, 6))
        poll(lambda: found.told.names, lambda names: names == [NOT_KEPT, "a"])
        changed = [change.key.name for change in found.told.changes_since(0)]
        assert changed[-2:] == [NOT_KEPT, "b"]
        feed.send(event("MODIFIED", "b", 1000, 7))
        found.leaves()
        found.resolve()
        poll(lambda: found.told.names, lambda names: names == ["a", "b"])


def test_what_goes_with_its_kind_opens_nothing() -> None:
    with flooded() as found:
        found.feed.send(*(event("DELETED", name, 1300, at) for name, at in (("a", 6), ("b", 7), ("c", 8))))
        found.leaves()
        found.resolve(kind_goes=True)
        found.wait(CLOSED)
        assert SHUT in found.told.model


def test_what_goes_with_its_namespace_opens_nothing_before_the_last_pod_has_ended() -> None:
    """A13."""
    with flooded() as found:
        found.feed.send(event("DELETED", "c", 1300, 6))
        found.leaves()
        found.resolve(ending=("ns",))
        poll(lambda: found.told.model, lambda model: SHUT not in model)
        found.wait(CLOSED)
        found.store.apply([Change(ObjectKey("Namespace", "", "ns"), Namespace("ns", {}, terminating=False))])
        assert found.rulesets()[0] == OPEN


def test_it_comes_back_in_its_last_moment() -> None:
    with flooded() as found:
        found.feed.send(event("DELETED", "c", 1300, 6))
        found.leaves()
        found.feed.send(event("ADDED", "d", 1300, 8))
        poll(lambda: found.told.state._departures.keys, lambda keys: SHUT not in keys)
        found.resolve()
        found.wait(CLOSED)


# --- lists -----------------------------------------------------------------------------------------------


def test_all_is_listed_again_when_half_is_free_again() -> None:
    again = Feed(event("ADDED", "b", 1300, 2), event("ADDED", "c", 1300, 3), mark(9, ends=True))
    with flooded(again=0.0) as found:
        found.script.add(again)
        found.feed.send(event("DELETED", "a", 1300, 6))
        found.leaves()
        found.resolve()
        poll(lambda: found.told.names, lambda names: names == ["b", "c"])
        assert found.script.asked == ["watch v1beta2 multi-networkpolicies initial"] * 2
        # Nobody else is held up by it.
        assert not any(update.behind for update in found.told.updates)
        told = [update.problems["policies"] for update in found.told.updates if "policies" in update.problems]
        assert sum("room again" in problem.message for (problem,) in told) == 1


def test_it_is_not_listed_again_before_a_while() -> None:
    with flooded(again=60.0) as found:
        found.feed.send(event("DELETED", "a", 1300, 6), event("DELETED", "b", 1300, 7), mark(8))
        poll(lambda: found.told.state._departures.keys, lambda keys: len(keys) == 2)
        threading.Event().wait(0.1)
        assert len(found.script.asked) == 1


def test_each_time_after_twice_as_long() -> None:
    """A tenant can cause it, and every node of the cluster does it."""
    with scripted() as (_, client):
        timing = Timing(**{**BRISK, "again": 1.0, "most_again": 6.0})
        allowance = Allowance(MOST)
        one = Reflector(POLICIES, client.connect(), Told().state, timing, allowance)
        waits = []
        for _ in range(5):
            allowance._worth.add("ns")
            one._listed_at = -100.0
            waits.append(one._again)
            assert one._lists_again()
        assert waits == [1.0, 2.0, 4.0, 6.0, 6.0]
        allowance.begin()
        one._list_ended({}, "7")
        assert one._again == 1.0


def test_a_page_that_is_too_long_is_asked_for_in_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server counts objects, not bytes."""
    for module in (pages, reflector):
        monkeypatch.setattr(module, "MOST_BYTES", 20_000)

    def answer(name: str, size: int, more: str) -> Step:
        item = msgspec.json.decode(raw(name, size, namespace=name))
        return says({"metadata": {"resourceVersion": "5", "continue": more}, "items": [item]})

    steps = [refuses(422), answer("a", 600, "m"), answer("b", 30_000, "m"), answer("b", 30_000, "m")]
    with cluster(*steps, answer("b", 1000, "n"), answer("c", 600, ""), feed=Feed()) as found:
        poll(lambda: found.told.names, lambda names: names == ["a", "b", "c"])
        limits = [path.partition("limit=")[2].partition("&")[0] for path in found.script.paths[1:6]]
        assert limits == ["25", "50", "25", "12", "24"]
        tokens = [path.partition("continue=")[2] for path in found.script.paths[1:6]]
        assert tokens == ["", "m", "m", "m", "n"]


def test_one_object_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pages, reflector):
        monkeypatch.setattr(module, "MOST_BYTES", 200)
    answer = says({"metadata": {"resourceVersion": "5"}, "items": [msgspec.json.decode(A)]})
    with cluster(refuses(422), *[answer] * 6, feed=Feed()) as found:
        poll(lambda: found.told.last.problems, lambda problems: "policies" in problems)
        assert "more than 200 bytes" in found.told.last.problems["policies"][0].message
