"""A directory looked at by hand, with a clock of our own: quiet, writers, swaps, network file systems."""

import os
import threading
from pathlib import Path

import pytest

from daemon.sources.directory import Directory
from daemon.sources.mounts import Mounts, remote_devices


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "manifests"
    path.mkdir()
    return path


def is_local(device: int) -> bool:
    return False


def test_on_a_network_file_system_a_change_is_read_after_quiet(folder: Path) -> None:
    """Who writes there can't be told; but what this machine was seen to close is whole."""
    directory = Directory(str(folder), lambda device: device == folder.stat().st_dev)
    path = folder / "a.yaml"
    path.write_text("one")
    assert directory.look(0.0).contents == {}
    assert directory.unsettled() == {"a.yaml"}
    path.write_text("one, two")
    assert directory.look(0.2).contents == {}
    assert directory.look(0.4).contents == {"a.yaml": b"one, two"}
    path.write_text("three")
    assert directory.look(1.0, closed=["a.yaml"]).contents == {"a.yaml": b"three"}


MOUNTINFO = r"""
21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 21 0:36 / /mnt/a rw shared:1 - nfs4 server:/x rw
41 21 0:37 / /mnt/b\040c rw master:1 propagate_from:2 - fuse.sshfs x rw
42 21 0:38 / /run rw - tmpfs tmpfs rw
broken
"""


def test_remote_devices() -> None:
    assert remote_devices(MOUNTINFO) == {os.makedev(0, 36), os.makedev(0, 37)}
    assert Mounts().is_remote(os.stat("/proc").st_dev) is False


def test_quiet_is_counted_from_the_last_change(folder: Path) -> None:
    path = folder / "a.yaml"
    path.write_text("x")
    directory = Directory(str(folder), is_local)
    assert list(directory.look(0.0).contents) == ["a.yaml"]
    path.unlink()
    assert directory.look(1.0).gone == []
    assert directory.unsettled() == {"a.yaml"}
    assert directory.next_due() == pytest.approx(1.2)
    assert directory.look(1.15).gone == []
    path.touch()
    assert directory.look(1.19).contents == {}
    assert directory.look(1.3).contents == {}
    assert directory.look(1.4).contents == {"a.yaml": b""}
    path.unlink()
    directory.look(2.0)
    assert directory.look(2.2).gone == ["a.yaml"]
    assert directory.unsettled() == set()
    assert directory.look(9.0) == Directory(str(folder), is_local).look(9.0)


def test_a_file_that_stays_open_for_writing_is_read_after_a_longer_quiet(folder: Path) -> None:
    directory = Directory(str(folder), is_local)
    with (folder / "a.yaml").open("w") as file:
        file.write("x")
        file.flush()
        assert directory.look(0.0).contents == {}
        assert directory.unsettled() == set()
        assert directory.look(4.9).contents == {}
        assert directory.look(5.0).contents == {"a.yaml": b"x"}
    assert directory.look(5.1, closed=["a.yaml"]).contents == {"a.yaml": b"x"}


def test_a_look_never_sees_half_of_a_swap(folder: Path) -> None:
    names = [f"{index}.yaml" for index in range(40)]
    for version in ("..0", "..1"):
        (folder / version).mkdir()
        for name in names:
            (folder / version / name).write_text(version)
    for name in names:
        (folder / name).symlink_to(f"..data/{name}")
    (folder / "..data").symlink_to("..0")
    stop = threading.Event()

    def swap() -> None:
        turn = 0
        while not stop.wait(0.001):
            turn += 1
            (folder / "..next").symlink_to(f"..{turn % 2}")
            (folder / "..next").rename(folder / "..data")

    directory, state, seen = Directory(str(folder), is_local), dict[str, bytes](), set[bytes]()
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for turn in range(300):
            state.update(directory.look(float(turn)).contents)
            assert len(set(state.values())) == 1
            seen |= set(state.values())
    finally:
        stop.set()
        thread.join()
    assert len(seen) == 2


def test_a_second_write_within_the_clocks_tick_is_seen(folder: Path) -> None:
    path = folder / "a.yaml"
    directory = Directory(str(folder), is_local)
    for turn in range(100):
        path.write_text(f"{turn:05d}")
        assert directory.look(float(turn)).contents == {"a.yaml": f"{turn:05d}".encode()}
