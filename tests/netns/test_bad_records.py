"""Records that say what is not so, and state directories that take none: told, and nothing opens.

proves: E7
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Daemon, Lab
from tests.netns.lifeworld import DENY_ALL, World, eventually, records
from tests.netns.lostworld import edit, listed, make_world, record_of, set_aside


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return make_world(lab, backend)


# --- records that say what is not so ---------------------------------------------------------------------


def test_an_index_of_another_link_moves_no_rules_there(world: World) -> None:
    """E7: the other link belongs to nobody of ours."""
    other = world.lab.attach(world.server.pod, "net1", "other")
    world.daemon.kill()
    edit(record_of(world.daemon, "server"), ifindex=other.ifindex)
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.start()
    world.assert_blocked("a", "b")
    assert listed(world.daemon, "server")["ifindex"] == world.server.ifindex
    text = world.ruleset(world.server.pod)
    assert "net1" in text
    assert "other" not in text


NO_RECORDS = {
    "a path with NUL": {"netns": "/run/netns/a\0b"},
    "a path that is too long": {"netns": "/run/" + "x" * 5000},
    "a name in it that is too long": {"netns": "/run/" + "x" * 300},
    "a path that is none": {"netns": "x"},
    "no address": {"addresses": ["AAA="]},
    "a name that no interface has": {"ifname": "a/b"},
    "an index that none has": {"ifindex": 1 << 40},
    "a negative inode": {"inode": -1},
}


@pytest.mark.parametrize("changes", NO_RECORDS.values(), ids=NO_RECORDS.keys())
@pytest.mark.parametrize("backend", ["nftables"])
def test_no_record_keeps_the_daemon_from_starting(world: World, changes: dict[str, Any]) -> None:
    world.daemon.kill()
    edit(record_of(world.daemon, "server"), **changes)
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.start()
    assert len(world.daemon.ctl("attachments")) == 3
    world.assert_blocked("a", "b")


@pytest.mark.parametrize("backend", ["nftables"])
def test_a_copy_of_a_record_is_none(world: World) -> None:
    world.daemon.kill()
    path = record_of(world.daemon, "server")
    shutil.copy(path, path.with_name("backup.json"))
    edit(path.with_name("backup.json"), netns=str(world.attachments["a"].pod.netns))
    world.daemon.start()
    assert len(world.daemon.ctl("attachments")) == 3
    assert any("backup.json" in line for line in set_aside(world.daemon))


@pytest.mark.parametrize(("old", "new"), [("default/net1", "default/net9"), ("default", "defaumt")])
@pytest.mark.parametrize("backend", ["nftables"])
def test_damage_that_makes_sense_is_damage(world: World, old: str, new: str) -> None:
    """One letter, and another pod's rules would count: the sum tells, and the kernel is asked."""
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.daemon.kill()
    path = record_of(world.daemon, "server")
    path.write_text(path.read_text().replace(f'"{old}"', f'"{new}"'))
    world.daemon.start()
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    assert any("sum" in line for line in world.daemon.log.splitlines() if "set aside" in line)


@pytest.mark.parametrize("backend", ["nftables"])
def test_something_else_in_a_record_s_place_is_replaced(world: World) -> None:
    """A pipe would be waited at for ever; a link would be written through."""
    path = record_of(world.daemon, "server")
    path.unlink()
    os.mkfifo(path)
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    eventually(path.is_file)
    elsewhere = path.with_suffix(".elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    world.daemon.remove("policy")
    world.daemon.wait_synced()
    eventually(lambda: path.is_file() and not path.is_symlink())
    assert elsewhere.read_bytes() == before


@pytest.mark.parametrize("backend", ["nftables"])
def test_a_directory_left_there_keeps_nobody_from_starting(world: World) -> None:
    world.daemon.stop()
    (world.daemon.state / "attachments" / "x.tmp").mkdir()
    world.daemon.start()
    assert len(world.daemon.ctl("attachments")) == 3


@pytest.mark.parametrize("backend", ["nftables"])
def test_a_state_directory_that_is_taken_away_is_made_anew(world: World) -> None:
    shutil.rmtree(world.daemon.state)
    # One that is empty is about to be written.
    eventually(lambda: [bool(path.stat().st_size) for path in records(world.daemon)] == [True] * 3, 15.0)
    assert "records-lost" in world.daemon.log
    world.daemon.kill()
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.start()
    assert {item["state"] for item in world.daemon.ctl("attachments")} == {"applied"}
    assert set_aside(world.daemon) == []
    world.assert_blocked("a", "b")


# --- where there can be no records -----------------------------------------------------------------------


def read_only(folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "mnpt-ro", str(folder)], check=True)


def full(folder: Path) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "mnpt-full", str(folder)], check=True
    )


@pytest.mark.parametrize(("mount", "words"), [(read_only, "mount it writable"), (full, "free space there")])
@pytest.mark.parametrize("deep", ["", "some/where"])
def test_a_state_directory_that_takes_nothing(
    tmp_path: Path, mount: Callable[[Path], None], words: str, deep: str
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    mount(folder)
    try:
        code, said = start(tmp_path, folder / deep)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert code == 1
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize("inside", ["", "attachments", "lock"])
def test_a_state_directory_that_is_something_else(tmp_path: Path, inside: str) -> None:
    state = tmp_path / "state"
    if inside == "lock":
        (state / inside).mkdir(parents=True)
    else:
        (state / inside).parent.mkdir(parents=True, exist_ok=True)
        (state / inside).write_text("")
    code, said = start(tmp_path, state)
    assert code == 1
    assert f"the state directory {state} can't be used" in said
    assert "--state-dir" in said
    assert "Traceback" not in said


def start(folder: Path, state: Path) -> tuple[int, str]:
    """How a daemon ends that can't start, and what it says."""
    daemon = Daemon(folder / "daemon", options=[f"--state-dir={state}"])
    daemon.start(wait=False)
    return daemon.wait_ended(), daemon.log
