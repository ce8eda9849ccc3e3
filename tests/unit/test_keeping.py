"""Which last valid versions are kept, when they are written, and what becomes of them.

proves: A4
"""

import errno
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from daemon.sources import keeping
from daemon.sources.keeping import LINGER_SECONDS, PACE_SECONDS, RETRY_SECONDS, SETTLE_SECONDS, Keeping
from daemon.sources.keptfiles import KeptFiles, file_name
from tests.unit.keptpolicies import RULES, Clock, Life, key_of, make_policy


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def life(tmp_path: Path, clock: Clock) -> Life:
    return Life(tmp_path, clock)


def again(life: Life, **bounds: int) -> Life:
    """The daemon is started anew."""
    return Life(life.files.directory, life.clock, **bounds)


def test_what_governs_is_kept_and_nothing_else(life: Life) -> None:
    for name in ("p", "q"):
        life.put(name)
    life.governs(p=True)
    life.work()
    assert life.kept("p", "q") == ["p"]
    assert again(life).recalled("p") == make_policy("p")


def test_an_edit_is_written_after_a_moment_and_many_at_once(life: Life) -> None:
    life.put("p")
    life.governs(p=True)
    life.work()
    before = again(life).recalled("p")
    for rule in RULES:
        life.put("p", make_policy(rules=[rule]))
        life.work(SETTLE_SECONDS / 10)
    assert again(life).recalled("p") == before
    life.work(SETTLE_SECONDS)
    found = again(life).recalled("p")
    assert found is not None
    assert found.ingress == make_policy(rules=[RULES[-1]]).ingress


def test_what_counts_in_the_place_of_another_is_written_at_once_and_governs_nothing(life: Life) -> None:
    life.put("p", last=True)
    life.work(0)
    assert life.kept("p") == ["p"]
    life.governs()
    life.work(10 * LINGER_SECONDS)
    assert life.kept("p") == ["p"]


def test_one_that_never_was_valid_is_not_kept(life: Life) -> None:
    life.governs(p=True, q=True)
    life.void("p")
    life.put("q", make_policy("q", selector={"matchExpressions": "nonsense"}), last=True)
    life.work(10)
    assert life.kept("p", "q") == []


def test_five_hundred_at_once_are_written_one_by_one(life: Life) -> None:
    for number in range(500):
        life.put(f"p{number}")
    life.governs(**{f"p{number}": True for number in range(500)})
    assert life.kept(*(f"p{number}" for number in range(500))) == []
    life.put("broken", last=True)
    life.work(SETTLE_SECONDS + 10 * PACE_SECONDS)
    assert len(life.files.names) <= 12
    # What is broken already comes before all others.
    assert life.kept("broken") == ["broken"]
    life.work(500 * PACE_SECONDS)
    assert len(life.files.names) == 501


def test_what_is_the_same_is_not_written_again(life: Life) -> None:
    life.put("p")
    life.governs(p=True)
    life.work()
    path = life.files.directory / file_name(key_of("p"))
    before = path.stat()
    later = again(life)
    later.put("p")
    later.governs(p=True)
    later.work()
    assert path.stat() == before


# --- it goes ---------------------------------------------------------------------------------------------


def test_it_goes_with_its_object(life: Life) -> None:
    life.put("p")
    life.governs(p=True)
    life.work()
    life.keeping.remove(key_of("p"))
    life.work()
    assert life.kept("p") == []


def test_it_goes_a_while_after_it_governs_nothing_more(life: Life) -> None:
    life.put("p")
    life.governs(p=True)
    life.work()
    life.governs(p=False)
    life.work(LINGER_SECONDS / 2)
    # A pod that is restarted costs no write.
    life.governs(p=True)
    life.work(LINGER_SECONDS)
    assert life.kept("p") == ["p"]
    life.governs(p=False)
    life.work(LINGER_SECONDS + 1)
    assert life.kept("p") == []


def test_after_a_restart_what_is_gone_or_governs_nothing_goes_too(life: Life) -> None:
    names = ("gone", "idle", "governing", "broken")
    for name in names:
        life.put(name)
    life.governs(**dict.fromkeys(names, True))
    life.work()
    later = again(life)
    for name in ("idle", "governing"):
        later.put(name)
    version = later.recalled("broken")
    later.put("broken", version, last=True)
    # Not all has been read yet.
    later.work(10 * LINGER_SECONDS)
    assert later.kept(*names) == list(names)
    later.governs(governing=True)
    later.work(1)
    assert later.kept(*names) == ["idle", "governing", "broken"]
    later.work(LINGER_SECONDS)
    assert later.kept(*names) == ["governing", "broken"]


def test_one_that_comes_again_while_files_of_the_gone_are_deleted(life: Life) -> None:
    names = [f"p{number}" for number in range(50)]
    for name in names:
        life.put(name)
    life.governs(**dict.fromkeys(names, True))
    life.work(10)
    later = again(life)
    later.governs()
    later.work(0.5)
    assert 0 < len(later.files.names) < 50
    later.put("p7")
    later.governs(p7=True)
    later.work(10)
    assert later.kept(*names) == ["p7"]


def test_another_object_of_that_name_has_nothing_of_it(life: Life) -> None:
    life.put("p", uid="first")
    life.governs(p=True)
    life.work()
    later = again(life)
    assert later.recalled("p", "second") is None
    assert later.recalled("p", "") is None
    later.void("p", uid="second")
    later.work()
    assert later.kept("p") == []


def test_nothing_is_recalled_of_what_this_run_has_been_told_of(life: Life) -> None:
    for name in ("p", "q", "r"):
        life.put(name)
    life.governs(p=True, q=True, r=True)
    life.work()
    later = again(life)
    later.put("p")
    assert later.recalled("p") is None
    later.keeping.remove(key_of("p"))
    assert later.recalled("p") is None
    assert later.recalled("q") is not None
    # All has been read: whatever comes from now on is new.
    later.governs()
    assert later.recalled("r") is None


def test_what_a_file_gave(life: Life) -> None:
    for name, file in (("p", b"a.yaml"), ("q", b"a.yaml"), ("r", b"b.yaml"), ("s", b"")):
        life.keeping.put(key_of(name), make_policy(name), last=True, file=file)
    life.work()
    later = again(life)
    assert {version.key.name for version in later.keeping.given(b"a.yaml")} == {"p", "q"}
    assert later.keeping.given(b"c.yaml") == ()
    assert later.keeping.given(b"") == ()
    later.keeping.put(key_of("p"), make_policy("p"), last=False, file=b"b.yaml")
    assert [version.key.name for version in later.keeping.given(b"a.yaml")] == ["q"]


# --- what goes wrong -------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_tried_again(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(name: str, content: bytes) -> None:
        tries.append(life.clock.now)
        raise OSError(errno.ENOSPC, "No space left on device")

    write = life.files.write
    monkeypatch.setattr(life.files, "write", refuse)
    life.put("p", last=True)
    life.put("q", last=True)
    life.work(300)
    (note,) = life.keeping.notes()
    assert "No space left on device" in note
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps[: len(RETRY_SECONDS)] == pytest.approx(list(RETRY_SECONDS), abs=0.1)
    assert len(tries) < 15
    monkeypatch.setattr(life.files, "write", write)
    life.work(RETRY_SECONDS[-1] + 1)
    assert life.kept("p", "q") == ["p", "q"]
    assert life.keeping.notes() == []


def test_what_can_not_be_deleted_is_tried_again(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "idle", "ownerless"):
        life.put(name)
    life.governs(gone=True, idle=True, ownerless=True)
    life.work()
    later = again(life)
    delete = later.files.delete
    later.put("gone")
    later.put("idle")
    later.governs()

    def refuse(name: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(later.files, "delete", refuse)
    later.keeping.remove(key_of("gone"))
    later.work(2 * LINGER_SECONDS)
    assert "Read-only" in later.keeping.notes()[0]
    assert len(later.files.names) == 3
    monkeypatch.setattr(later.files, "delete", delete)
    later.work(4 * LINGER_SECONDS)
    assert later.kept("gone", "idle", "ownerless") == []


def test_one_too_many_is_told(life: Life) -> None:
    few = again(life, max_files=2)
    for name in ("p", "q", "r"):
        few.put(name, last=True)
    few.work()
    assert few.kept("p", "q", "r") == ["p", "q"]
    assert few.keeping.notes() == [
        "MultiNetworkPolicy ns/r: not kept over a restart: more than there is room for"
    ]
    few.keeping.remove(key_of("p"))
    few.put("r", last=True)
    few.work()
    assert few.kept("q", "r") == ["q", "r"]
    assert few.keeping.notes() == []


def test_more_bytes_than_there_is_room_for_close(life: Life) -> None:
    few = again(life, max_total=2000)
    few.put("p", make_policy(rules=RULES * 10), last=True)
    few.work()
    found = again(life).recalled("p")
    assert found is not None
    assert found.ingress == ()
    assert "permits nothing" in found.problems[0].message
    # One that takes all the room has others isolate at least.
    few.put("q", make_policy("q", rules=RULES), last=True)
    few.put("r", make_policy("r", rules=RULES), last=True)
    few.work()
    kept = [again(life).recalled(name) for name in ("q", "r")]
    assert [policy.ingress for policy in kept if policy] == [make_policy("q", rules=RULES).ingress, ()]


def test_what_was_set_aside_is_told_until_it_is_of_no_use(life: Life) -> None:
    names = ("broken", "mended", "gone")
    for name in names:
        life.put(name)
    life.governs(**dict.fromkeys(names, True))
    life.work()
    for name in names:
        (life.files.directory / file_name(key_of(name))).write_bytes(b"{")
    later = again(life)
    for name in names:
        assert later.recalled(name) is None
    assert len(later.keeping.notes()) == 3
    later.void("broken")
    later.put("mended")
    later.governs(mended=True)
    later.work(2 * LINGER_SECONDS)
    # Whose it was is not known where no object has the name: it may be in a file that can't be read.
    told = "\n".join(later.keeping.notes())
    assert "set aside, no last valid version" in told
    assert [file_name(key_of(name)) in told for name in names] == [True, False, True]
    later.put("broken")
    later.put("gone")
    later.work(2 * LINGER_SECONDS)
    assert later.keeping.notes() == []


def test_many_notes_are_counted(life: Life) -> None:
    none = again(life, max_files=0)
    for number in range(keeping.MAX_TOLD + 5):
        none.put(f"p{number}", last=True)
    none.work(10)
    assert len(none.keeping.notes()) == keeping.MAX_TOLD + 1
    assert "5 more" in none.keeping.notes()[-1]


# --- the thread ------------------------------------------------------------------------------------------


def test_its_thread_works_and_ends_and_the_rest_is_written_then(tmp_path: Path) -> None:
    files = KeptFiles(tmp_path / "policies")
    found = Keeping(files, time.monotonic)
    thread = threading.Thread(target=found.run)
    thread.start()
    found.put(key_of("p"), make_policy("p"), last=True)
    deadline = time.monotonic() + 10
    while not files.names and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(files.names) == 1
    names = [f"p{number}" for number in range(100)]
    for name in names:
        found.put(key_of(name), make_policy(name), last=False)
    found.governs({("ns", name): True for name in names})
    found.stop()
    thread.join(10)
    assert not thread.is_alive()
    found.flush(time.monotonic() + 10)
    assert len(files.names) == 101


def test_the_last_words_have_an_end(life: Life) -> None:
    for number in range(100):
        life.put(f"p{number}", last=True)
    life.keeping.flush(life.clock.now)
    assert life.files.names == frozenset()


def test_nothing_is_left_of_what_came_and_went(life: Life) -> None:
    life.governs()
    for number in range(100):
        name = f"p{number}"
        life.put(name)
        life.governs(**{name: True})
        life.work()
        life.put(name, last=True)
        life.keeping.remove(key_of(name))
        life.governs(**{name: False})
        life.work(2 * LINGER_SECONDS)
    held: dict[str, Any] = vars(life.keeping)
    sizes = {name: len(each) for name, each in held.items() if isinstance(each, dict | set | list)}
    assert {name: size for name, size in sizes.items() if size} == {}
