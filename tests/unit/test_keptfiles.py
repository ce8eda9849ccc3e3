"""The directory of kept versions: whole files or none, and nothing that lies there is trusted.

proves: A4
"""

import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.sources.keptfiles import MAX_ASIDE, KeptFiles, file_name
from daemon.sources.lastvalid import Version, encode
from tests.unit.keptpolicies import RULES, key_of, make_policy


def content_of(name: str = "p", size: int = 1, uid: str = "u") -> bytes:
    found = encode(Version(make_policy(name, RULES[:1] * size), uid), 1 << 22)
    assert found is not None
    return found


@pytest.fixture
def files(tmp_path: Path) -> KeptFiles:
    return KeptFiles(tmp_path / "policies")


def test_what_is_written_is_read_by_the_next_and_private(files: KeptFiles) -> None:
    name = file_name(key_of("p"))
    files.write(name, content_of())
    path = files.directory / name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.directory.stat().st_mode) == 0o700
    assert [p.name for p in files.directory.iterdir()] == [name]
    found = KeptFiles(files.directory).read(key_of("p"))
    assert found is not None
    assert found.policy.name == "p"
    files.delete(name)
    files.delete(name)
    assert name not in files
    assert files.read(key_of("p")) is None
    assert files.aside == {}


WORDS = ("one", "two")
WRITER = """
import sys
from pathlib import Path
from daemon.sources.keptfiles import KeptFiles
directory, name, *contents = sys.argv[1:]
files, contents = KeptFiles(Path(directory)), [Path(content).read_bytes() for content in contents]
files.write(name, contents[0])
print("!", flush=True)
while True:
    for content in contents:
        files.write(name, content)
"""


def test_a_kill_between_two_writes_leaves_one_of_them(files: KeptFiles, tmp_path: Path) -> None:
    """Either content in turn, killed at any moment."""
    name, contents = file_name(key_of("p")), [content_of(size=1), content_of(size=400)]
    (tmp_path / "one").write_bytes(contents[0])
    (tmp_path / "two").write_bytes(contents[1])
    line = [sys.executable, "-c", WRITER, str(files.directory), name, *(str(tmp_path / n) for n in WORDS)]
    for turn in range(6):
        with subprocess.Popen(line, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.read(1)
            time.sleep(turn * 0.0017)
            child.kill()
        found = KeptFiles(files.directory)
        assert found.content(name) in contents
        assert found.read(key_of("p")) is not None
        assert [p.suffix for p in found.directory.iterdir()] == [".json"]


STRANGE = {
    "damaged": content_of()[:-9],
    "empty": b"",
    "of another format": content_of().replace(b'"format":1', b'"format":2'),
    "about another": content_of("q"),
    "no text": bytes(range(256)),
    "a record": b'{"version": 1, "bootId": "x"}',
}


@pytest.mark.parametrize("what", STRANGE)
def test_what_can_not_be_used_is_set_aside_and_told(files: KeptFiles, what: str) -> None:
    name = file_name(key_of("p"))
    files.write(name, STRANGE[what])
    files.write(file_name(key_of("q")), content_of("q"))
    fresh = KeptFiles(files.directory)
    assert fresh.read(key_of("p")) is None
    assert name not in fresh
    assert list(fresh.aside) == [name]
    assert (fresh.directory / "set-aside" / name).read_bytes() == STRANGE[what]
    assert [version.key for version in fresh.scan()] == [key_of("q")]
    # A good one in its place ends that.
    fresh.write(name, content_of())
    assert fresh.aside == {}


def test_a_scan_sets_aside_too(files: KeptFiles) -> None:
    files.write(file_name(key_of("p")), b"{")
    files.write("stranger.json", content_of())
    assert list(files.scan()) == []
    assert set(files.aside) == {file_name(key_of("p")), "stranger.json"}


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("make", [make_folder, make_pipe, make_link])
def test_what_is_no_plain_file(files: KeptFiles, make: Callable[[Path], None]) -> None:
    files.directory.mkdir()
    make(files.directory / file_name(key_of("p")))
    fresh = KeptFiles(files.directory)
    assert fresh.read(key_of("p")) is None
    assert list(fresh.aside) == [file_name(key_of("p"))]
    assert Path("/etc/passwd").exists()
    fresh.write(file_name(key_of("p")), content_of())
    assert fresh.read(key_of("p")) is not None


def test_what_is_set_aside_is_bounded(files: KeptFiles) -> None:
    for number in range(MAX_ASIDE + 10):
        files.write(f"{number}.json", b"{")
    assert list(files.scan()) == []
    assert len(list((files.directory / "set-aside").iterdir())) == MAX_ASIDE


def test_a_directory_that_can_not_be_used_is_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "policies").write_text("no directory")
    files = KeptFiles(tmp_path / "policies")
    assert files.names == frozenset()
    assert files.read(key_of("p")) is None
    with pytest.raises(OSError, match="File exists"):
        files.write(file_name(key_of("p")), content_of())
    (tmp_path / "policies").unlink()
    files.write(file_name(key_of("p")), content_of())
    assert files.read(key_of("p")) is not None


def test_bounds_one_past(tmp_path: Path) -> None:
    one = content_of()
    files = KeptFiles(tmp_path / "p", max_file=len(one), max_files=2, max_total=2 * len(one) - 1)
    assert files.room("a.json") == len(one)
    files.write("a.json", one)
    # In bytes: what is there already may be written again.
    assert (files.room("b.json"), files.room("a.json")) == (len(one) - 1, len(one))
    files.write("b.json", one[:-1])
    assert files.room("c.json") == 0
    # In number.
    assert [files.has_place(f"{name}.json") for name in "abc"] == [True, True, False]
    # As they are found.
    again = KeptFiles(tmp_path / "p", max_file=len(one), max_files=2, max_total=2 * len(one) - 1)
    assert not again.has_place("c.json")
    assert again.room("a.json") == len(one)
    # One that is larger than any that would be written.
    name = file_name(key_of("p"))
    files.write(name, one + b" ")
    assert files.content(name) is None
    assert files.read(key_of("p")) is None
    assert "larger than" in files.aside[name]


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file may become larger than so many bytes; what is written of one until then stays written."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    yield 4096
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_write_that_fails_in_the_middle_leaves_what_there_was(files: KeptFiles, small_disk: int) -> None:
    name, one, two = file_name(key_of("p")), content_of(), content_of(size=400)
    assert len(one) < small_disk < len(two)
    files.write(name, one)
    with pytest.raises(OSError, match="File too large"):
        files.write(name, two)
    assert files.content(name) == one
    assert [p.name for p in files.directory.iterdir()] == [name]
