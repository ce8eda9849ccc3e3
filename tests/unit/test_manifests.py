"""The manifests source on a real directory: what counts when, and the barrier."""

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon.model import ObjectKey
from daemon.sources.base import Update
from daemon.sources.directory import SUFFIXES
from daemon.sources.manifests import ManifestsSource

DEADLINE = 20.0
"""Seconds until a test gives up; nothing waits so long when all is well."""


def pod(name: str, label: str = "") -> str:
    labels = f"\n  labels: {{a: '{label}'}}" if label else ""
    return f"apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}{labels}\n"


class Listener:
    """A source, what it has said, and when."""

    def __init__(self, directory: Path) -> None:
        self.updates: queue.Queue[Update] = queue.Queue()
        self.source = ManifestsSource(directory, self.updates.put)
        self.pods: dict[str, str] = {}
        self.history: list[dict[str, str]] = []
        self.last = Update()
        self.tokens: list[int] = []

    def wait(self, reached: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not reached():
            try:
                update = self.updates.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"not in {DEADLINE} s: {what}; pods {self.pods}, {self.last.problems}")
            self.take(update)

    def take(self, update: Update) -> None:
        self.last = update
        self.tokens += update.tokens
        for change in update.changes:
            if change.key.kind != "Pod":
                continue
            if change.object is None:
                del self.pods[change.key.name]
            else:
                self.pods[change.key.name] = change.object.labels.get("a", "")  # type: ignore[union-attr]
        self.history.append(dict(self.pods))

    def wait_pods(self, **pods: str) -> None:
        self.wait(lambda: self.pods == pods, f"pods {pods}")

    def sync(self, token: int) -> None:
        self.source.request_sync(token)
        self.wait(lambda: token in self.tokens, f"barrier {token}")

    def is_complete(self) -> bool:
        return self.last.complete

    def wait_complete(self) -> None:
        self.wait(lambda: self.last.complete, "complete")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


@pytest.fixture
def make() -> Iterator[Callable[[Path], Listener]]:
    made: list[Listener] = []

    def start(folder: Path) -> Listener:
        listener = Listener(folder)
        made.append(listener)
        listener.source.start()
        return listener

    yield start
    for listener in made:
        assert listener.source.stop(10)


@pytest.fixture
def listener(folder: Path, make: Callable[[Path], Listener]) -> Listener:
    found = make(folder)
    found.wait_complete()
    return found


def test_the_first_update_is_whole(folder: Path, make: Callable[[Path], Listener]) -> None:
    for index in range(50):
        (folder / f"{index}.yaml").write_text(pod(f"p{index}"))
    (folder / "other.txt").write_text(pod("x"))
    (folder / "deeper.yaml").mkdir()
    (folder / "deeper.yaml" / "a.yaml").write_text(pod("y"))
    listener = make(folder)
    listener.wait_complete()
    assert len(listener.history) == 1
    assert set(listener.pods) == {f"p{index}" for index in range(50)}
    assert list(listener.last.problems) == ["deeper.yaml"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_moved_and_removed(folder: Path, listener: Listener, suffix: str) -> None:
    text = pod("a") if suffix != ".json" else '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}'
    path = folder / f"a{suffix}"
    path.write_text(text)
    listener.wait_pods(a="")
    path.unlink()
    listener.wait_pods()
    aside = folder / "aside"
    aside.write_text(text)
    aside.rename(path)
    listener.wait_pods(a="")
    path.rename(aside)
    listener.wait_pods()


def test_a_half_written_file_is_never_read(folder: Path, listener: Listener) -> None:
    path = folder / "a.yaml"
    path.write_text(pod("a", "1"))
    listener.wait_pods(a="1")
    with path.open("w") as file:
        for index in range(3):
            file.write(("---\n" if index else "") + pod(f"b{index}"))
            file.flush()
            listener.sync(100 + index)
            assert listener.pods == {"a": "1"}
    listener.wait_pods(b0="", b1="", b2="")
    assert {"b0": ""} not in listener.history


def test_a_truncated_file_keeps_its_content_while_it_is_filled(folder: Path, listener: Listener) -> None:
    path = folder / "a.yaml"
    path.write_text(pod("a", "1"))
    listener.wait_pods(a="1")
    for turn in range(2, 12):
        path.write_text("")
        path.write_text(pod("a", str(turn)))
        listener.wait_pods(a=str(turn))
    assert {} not in listener.history[2:]
    # The control: one that stays empty does count.
    path.write_text("")
    listener.wait_pods()


def test_a_rename_in_two_steps_keeps_the_content(folder: Path, listener: Listener) -> None:
    path, backup = folder / "a.yaml", folder / "a.yaml~"
    path.write_text(pod("a", "1"))
    listener.wait_pods(a="1")
    for turn in range(2, 8):
        path.rename(backup)
        path.write_text(pod("a", str(turn)))
        listener.wait_pods(a=str(turn))
    assert {} not in listener.history[2:]


def test_a_swapped_config_map_is_read_as_one(folder: Path, make: Callable[[Path], Listener]) -> None:
    def fill(version: int) -> str:
        real = folder / f"..{version}"
        real.mkdir()
        for name in ("a", "b", "c"):
            (real / f"{name}.yaml").write_text(pod(name, str(version)))
        return real.name

    (folder / "..data").symlink_to(fill(0))
    for name in ("a", "b", "c"):
        (folder / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")
    listener = make(folder)
    listener.wait_pods(a="0", b="0", c="0")
    for version in range(1, 15):
        (folder / "..data_tmp").symlink_to(fill(version))
        (folder / "..data_tmp").rename(folder / "..data")
        listener.sync(version)
        assert listener.pods == dict.fromkeys("abc", str(version))
    assert all(len(set(pods.values())) == 1 for pods in listener.history)


def test_a_link_target_edited_in_place_counts(tmp_path: Path, folder: Path, listener: Listener) -> None:
    target = tmp_path / "target"
    target.write_text(pod("a", "1"))
    (folder / "a.yaml").symlink_to(target)
    listener.wait_pods(a="1")
    target.write_text(pod("a", "2"))
    listener.wait_pods(a="2")


def test_a_dangling_link_is_nothing(folder: Path, listener: Listener) -> None:
    (folder / ".#a.yaml").symlink_to("user@host.1234")
    listener.sync(1)
    assert listener.last.problems == {}


def test_pipes_and_other_files_do_not_block(folder: Path, listener: Listener) -> None:
    os.mkfifo(folder / "a.yaml")
    listener.wait(lambda: "a.yaml" in listener.last.problems, "problem")
    (folder / "b.yaml").write_text(pod("b"))
    listener.wait_pods(b="")


def test_a_name_that_is_no_utf8(folder: Path, listener: Listener) -> None:
    with open(os.fsencode(folder) + b"/\xff.yaml", "w") as file:
        file.write("a: [")
    listener.wait(lambda: "\\xff.yaml#1" in listener.last.problems, "problem")


def test_a_directory_that_comes_later_and_is_replaced(
    tmp_path: Path, make: Callable[[Path], Listener]
) -> None:
    folder = tmp_path / "later"
    listener = make(folder)
    listener.wait(lambda: str(folder) in listener.last.problems, "problem")
    assert not listener.is_complete()
    listener.source.request_sync(1)
    folder.mkdir()
    (folder / "a.yaml").write_text(pod("a", "1"))
    listener.wait_pods(a="1")
    listener.wait(lambda: 1 in listener.tokens, "barrier")
    assert listener.is_complete()
    folder.rename(tmp_path / "away")
    listener.wait(lambda: str(folder) in listener.last.problems, "problem")
    listener.sync(2)
    assert listener.pods == {"a": "1"}
    folder.mkdir()
    (folder / "b.yaml").write_text(pod("b"))
    listener.wait_pods(b="")
    assert listener.last.problems == {}
    # The watch follows: a change in the new directory is seen at once, one in the old never.
    (folder / "c.yaml").write_text(pod("c"))
    listener.wait_pods(b="", c="")
    (tmp_path / "away" / "a.yaml").write_text(pod("a", "9"))
    listener.sync(3)
    assert listener.pods == {"b": "", "c": ""}


def test_the_barrier_holds_everything_there_was(folder: Path, listener: Listener) -> None:
    """Edits of every kind, each followed by a barrier and nothing else."""
    path, other = folder / "a.yaml", folder / "b.yaml"
    for turn in range(1, 40):
        path.write_text(pod("a", str(turn)))
        listener.sync(10 * turn)
        assert listener.pods == {"a": str(turn)}
    other.write_text(pod("b"))
    path.unlink()
    listener.sync(1)
    assert listener.pods == {"b": ""}
    other.write_text("")
    listener.sync(2)
    assert listener.pods == {}
    path.write_text("a: [")
    listener.sync(3)
    assert list(listener.last.problems) == ["a.yaml#1"]


def test_barriers_hold_while_edits_go_on(folder: Path, listener: Listener) -> None:
    stop = threading.Event()

    def edit() -> None:
        turn = 0
        while not stop.wait(0.002):
            turn += 1
            (folder / "busy.yaml").write_text(pod("busy", str(turn)) if turn % 3 else "")

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        for turn in range(1, 30):
            (folder / "a.yaml").write_text(pod("a", str(turn)))
            listener.sync(turn)
            assert listener.pods["a"] == str(turn)
    finally:
        stop.set()
        thread.join()


def test_the_barrier_waits_for_the_start(folder: Path, make: Callable[[Path], Listener]) -> None:
    (folder / "a.yaml").write_text(pod("a"))
    (folder / "empty.yaml").write_text("")
    listener = make(folder)
    listener.sync(1)
    assert listener.last.complete
    assert listener.pods == {"a": ""}


def test_stop_ends_the_thread(folder: Path) -> None:
    listener = Listener(folder)
    listener.source.start()
    assert listener.source.stop(10)
    listener.source.request_sync(1)
    assert not any(thread.name == "source" for thread in threading.enumerate())


def test_an_edit_of_one_in_ten_thousand_objects_is_in_force_within_a_second(
    folder: Path, listener: Listener
) -> None:
    def write(label: str) -> None:
        texts = (pod(f"p{index}", label if index == 5000 else "same") for index in range(10_000))
        (folder / "a.yaml").write_text("---\n".join(texts))

    write("one")
    listener.wait(lambda: listener.pods.get("p5000") == "one", "10,000 pods")
    write("two")
    before = time.monotonic()
    listener.wait(lambda: listener.pods.get("p5000") == "two", "edit")
    assert time.monotonic() - before < 1
    assert [change.key for change in listener.last.changes] == [ObjectKey("Pod", "default", "p5000")]


def a_file(path: Path) -> None:
    path.write_text("")


def to_itself(path: Path) -> None:
    path.symlink_to(path)


TROUBLES = [
    (None, "does not exist: make it, or name another one with --source; ADDs wait until then"),
    (a_file, "is no directory: make it one, or name another one with --source; ADDs wait until then"),
    (to_itself, "can't be read: Too many levels of symbolic links: mend that, or name another"),
]


@pytest.mark.parametrize(("place", "said"), TROUBLES)
def test_a_directory_that_never_was_read_is_named_with_the_remedy(
    tmp_path: Path,
    make: Callable[[Path], Listener],
    place: Callable[[Path], None] | None,
    said: str,
) -> None:
    path = tmp_path / "none"
    if place is not None:
        place(path)
    listener = make(path)
    listener.wait(lambda: listener.last.problems, "a word about the directory")
    assert listener.last.because.startswith(f"{path} {said}")
    (problem,) = listener.last.problems[str(path)]
    assert problem.message.startswith(said)


def test_one_that_was_read_is_said_to_go_on(
    folder: Path, listener: Listener, events: list[tuple[str, dict[str, Any]]]
) -> None:
    folder.rename(folder.with_name("away"))
    listener.wait(lambda: listener.last.problems, "a word about the directory")
    (problem,) = listener.last.problems[str(folder)]
    assert (problem.message, listener.last.because) == ("does not exist; what it held stays in force", "")
    folder.with_name("away").rename(folder)
    listener.wait(lambda: not listener.last.problems, "its end")
    told = [(name, fields["place"], fields["problem"]) for name, fields in events]
    assert told == [
        (name, str(folder), "does not exist; what it held stays in force")
        for name in ("manifest-problem", "manifest-problem-gone")
    ]


def test_problems_of_files_and_their_end_are_logged(
    folder: Path, listener: Listener, events: list[tuple[str, dict[str, Any]]]
) -> None:
    (folder / "bad.yaml").write_text("a: [")
    listener.wait(lambda: listener.last.problems, "a word about the file")
    (folder / "bad.yaml").write_text(pod("p"))
    listener.wait(lambda: not listener.last.problems, "its end")
    assert [name for name, _ in events] == ["manifest-problem", "manifest-problem-gone"]
