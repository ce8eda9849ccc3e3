"""Barriers: when the caches hold what was listed."""

import random

import pytest

from daemon.model import ObjectKey
from daemon.sources.kubernetes.cache import Entry
from daemon.sources.kubernetes.expectations import Expectations

A, B = ObjectKey("Pod", "x", "a"), ObjectKey("Pod", "x", "b")


def entry(uid: str = "u", version: int = 5) -> Entry:
    return Entry(uid, str(version), None)


def listed(uid: str = "u", version: int = 5) -> dict[ObjectKey, tuple[str, str]]:
    return {A: (uid, str(version))}


def expect(
    wanted: dict[ObjectKey, tuple[str, str]], at: int = 9, held: dict[ObjectKey, Entry] | None = None
) -> Expectations:
    found = Expectations()
    found.expect("pods", wanted, str(at), held or {})
    return found


def finished(found: Expectations) -> bool:
    return found.done


def test_nothing_is_done() -> None:
    assert Expectations().done
    assert expect({}).done


@pytest.mark.parametrize(
    ("held", "done"),
    [
        (entry(), True),
        (entry(version=6), True),
        (entry(version=10), True),
        (entry(version=4), False),
        (entry(uid="v"), False),
        (entry(uid="v", version=10), False),
        (None, False),
    ],
)
def test_what_is_held_already(held: Entry | None, done: bool) -> None:
    assert expect(listed(), held={A: held} if held else {}).done is done


@pytest.mark.parametrize(
    ("now", "gone", "done"),
    [
        (entry(), "", True),
        (entry(version=7), "", True),
        (entry(version=4), "", False),
        (entry(uid="v"), "", False),
        (None, "", False),
        # Deleted after the list was made, or replaced.
        (None, "u", True),
        (entry(uid="v", version=8), "u", True),
        # That was the one before.
        (None, "t", False),
        (entry(uid="u"), "t", True),
    ],
)
def test_what_comes(now: Entry | None, gone: str, done: bool) -> None:
    found = expect(listed())
    found.touched("pods", B, entry(), "")
    found.touched("others", A, entry(), "u")
    assert not finished(found)
    found.touched("pods", A, now, gone)
    assert finished(found) is done


def test_what_was_deleted_between_the_list_and_its_arrival() -> None:
    found = Expectations()
    found.touched("pods", A, None, "u")
    found.expect("pods", listed(), "9", {})
    assert finished(found)
    # Another one of that name is waited for.
    found.expect("pods", listed(uid="v"), "9", {})
    assert not finished(found)
    # As is one of another collection.
    other = Expectations()
    other.touched("others", A, None, "u")
    other.expect("pods", listed(), "9", {})
    assert not finished(other)


def test_surplus() -> None:
    found = expect({}, held={A: entry()})
    assert not finished(found)
    found.touched("pods", A, entry(version=8))
    assert not finished(found)
    found.touched("pods", A, None, "u")
    assert finished(found)
    # Replaced, it is not what was surplus.
    found = expect({}, held={A: entry()})
    found.touched("pods", A, entry(uid="v", version=12), "u")
    assert finished(found)


def test_what_came_after_the_list_is_no_surplus() -> None:
    assert expect({}, at=9, held={A: entry(version=10)}).done
    assert not expect({}, at=9, held={A: entry(version=9)}).done


class World:
    """A server's history, a cache that follows it some events behind, and a list made at some version."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.log: list[tuple[ObjectKey, str]] = []  # (key, uid, or "" for its end); the version is the place
        self.applied = 0
        self.held: dict[ObjectKey, Entry] = {}

    def state(self, version: int) -> dict[ObjectKey, tuple[str, str]]:
        """(uid, resourceVersion) of what there was at a version."""
        found: dict[ObjectKey, tuple[str, str]] = {}
        for number, (key, uid) in enumerate(self.log[:version], 1):
            if uid:
                found[key] = (uid, str(number))
            else:
                del found[key]
        return found

    def change(self) -> None:
        """Something is created, modified or deleted at the server."""
        key = ObjectKey("Pod", "x", self.chance.choice("abc"))
        present = self.state(len(self.log)).get(key)
        if present is None:
            self.log.append((key, f"u{len(self.log)}"))
        else:
            self.log.append((key, "" if self.chance.random() < 0.4 else present[0]))

    def follow(self, expectations: Expectations) -> None:
        """The cache takes one event over."""
        if self.applied == len(self.log):
            return
        key, uid = self.log[self.applied]
        self.applied += 1
        before = self.held.pop(key, None)
        if uid:
            self.held[key] = Entry(uid, str(self.applied), None)
        gone = before.uid if before is not None and not uid else ""
        expectations.touched("pods", key, self.held.get(key), gone)

    def step(self, expectations: Expectations) -> None:
        if self.chance.random() < 0.5:
            self.change()
        else:
            self.follow(expectations)


class Naive:
    """The same by replaying the history: which keys have not yet been as the list has them, or later."""

    def __init__(self, world: World, at: int) -> None:
        self.world, self.at, self.listed = world, at, world.state(at)
        self.surplus = {
            key: entry.uid
            for key, entry in world.held.items()
            if key not in self.listed and int(entry.version) <= at
        }
        self.waiting = {*self.listed, *self.surplus}
        self.look()

    def look(self) -> None:
        """Take those off that are by now."""
        now = self.world.state(self.world.applied)
        for key in list(self.waiting):
            if key in self.listed:
                arrived = self.world.applied >= int(self.listed[key][1])
            else:
                arrived = key not in now or now[key][0] != self.surplus[key]
            if arrived:
                self.waiting.discard(key)


@pytest.mark.parametrize("block", range(10))
def test_walks(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        world = World(random.Random(seed))
        for _ in range(12):
            world.step(Expectations())
        expectations = Expectations()
        # Things go on while the list is asked for, and while its answer is under way.
        for _ in range(world.chance.randrange(5)):
            world.step(expectations)
        at = len(world.log)
        for _ in range(world.chance.randrange(5)):
            world.step(expectations)
        expectations.expect("pods", world.state(at), str(at), world.held)
        naive = Naive(world, at)
        assert expectations.done is not bool(naive.waiting), seed
        for _ in range(30):
            world.step(expectations)
            naive.look()
            assert expectations.done is not bool(naive.waiting), seed
