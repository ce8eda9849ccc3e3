"""Records: what a start takes over, drops, or sets aside."""

import errno
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from daemon.attachments import RECORD_VERSION, Record, RecordStore
from daemon.model import AttachmentKey, ContainerPort

BOOT = "7b0b3c9e-0000-4000-8000-000000000001"


def make_record(container: str = "abc", ifname: str = "net1", **changes: object) -> Record:
    record = Record(
        version=RECORD_VERSION,
        boot_id=BOOT,
        container_id=container,
        ifname=ifname,
        netns="/run/netns/x",
        device=4,
        inode=4026532000,
        cookie=17,
        ifindex=5,
        mac="02:00:00:00:00:01",
        addresses=(b"\x0a\0\0\x01", bytes(16)),
        pod_namespace="default",
        pod_name="web",
        pod_uid="u-1",
        labels={"role": "web", "ü": "ß"},
        ports=(ContainerPort("http", 6, 8080),),
        networks=("default/net-a",),
        evidence="config",
        configured="default/net-a",
        config_name="net-a",
        guard=False,
        withdrawn=False,
        track=True,
    )
    return msgspec.structs.replace(record, **changes)


def test_what_was_saved_is_what_a_start_finds(tmp_path: Path) -> None:
    records = [
        make_record(),
        make_record(ifname="net2", cookie=None),
        make_record("def", guard=True, ifindex=0),
    ]
    store = RecordStore(tmp_path, BOOT)
    for record in records:
        store.save(record)
    loaded = RecordStore(tmp_path, BOOT).load()
    assert {r.key: r for r in loaded.records} == {r.key: r for r in records}
    assert loaded.notes == ()


def test_saving_again_replaces_and_deleting_forgets(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, BOOT)
    store.save(make_record())
    store.save(make_record(withdrawn=True))
    assert [r.withdrawn for r in store.load().records] == [True]
    store.delete(AttachmentKey("abc", "net1"))
    store.delete(AttachmentKey("abc", "net1"))
    assert store.load().records == ()


def test_a_record_of_another_boot_is_dropped(tmp_path: Path) -> None:
    RecordStore(tmp_path, "another-boot").save(make_record(boot_id="another-boot"))
    loaded = RecordStore(tmp_path, BOOT).load()
    assert loaded.records == ()
    assert "another boot" in loaded.notes[0][1]
    assert not list(tmp_path.glob("*.json"))


DAMAGE = {
    "truncated": b'{"version": 1, "boot',
    "binary": bytes(range(256)),
    "not an object": b"[]",
    "newer": json.dumps({"version": RECORD_VERSION + 1}).encode(),
    "much older": json.dumps({"version": RECORD_VERSION - 2}).encode(),
    "a field missing": json.dumps({"version": RECORD_VERSION, "bootId": BOOT}).encode(),
    "too large": b'{"version": 1, "x": "' + b"y" * (1 << 20) + b'"}',
}


def test_what_is_damaged_and_older_than_this_boot_is_dropped(tmp_path: Path) -> None:
    """After a power loss: its namespace went with it."""
    store = RecordStore(tmp_path, BOOT)
    (tmp_path / "0000.json").write_bytes(b"{")
    assert store.load().notes[0][1].startswith("set aside")
    (tmp_path / "0001.json").write_bytes(b"{")
    later = RecordStore(tmp_path, BOOT, booted=time.time() + 10)
    assert "older than this boot" in later.load().notes[0][1]
    assert later.set_aside() == []


def test_a_good_record_settles_the_one_that_was_set_aside(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, BOOT)
    store.save(make_record())
    (path,) = tmp_path.glob("*.json")
    path.write_bytes(b"{")
    store.load()
    assert [each.name for each in store.set_aside()] == [path.name]
    store.save(make_record())
    assert store.set_aside() == []


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_or_newer_record_is_set_aside_and_the_others_count(content: bytes, tmp_path: Path) -> None:
    store = RecordStore(tmp_path, BOOT)
    store.save(make_record())
    (tmp_path / "0000.json").write_bytes(content)
    loaded = store.load()
    assert [r.key for r in loaded.records] == [make_record().key]
    assert loaded.notes[0][0] == "0000.json"
    assert (tmp_path / "set-aside" / "0000.json").read_bytes() == content


def test_a_write_that_was_cut_off_leaves_the_old_record(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, BOOT)
    store.save(make_record())
    name = next(tmp_path.glob("*.json"))
    name.with_suffix(".tmp").write_bytes(b'{"version"')
    assert store.load().records == (make_record(),)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_start_forgets_a_record_that_was_never_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path, BOOT)
    store.save(make_record())
    (tmp_path / "0000.json").touch()
    loaded = store.load()
    assert loaded.records == (make_record(),)
    assert [name for name, _ in loaded.notes] == ["0000.json"]
    assert not (tmp_path / "0000.json").exists()


def test_records_are_private_and_any_container_id_makes_a_file_name(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "attachments"
    store = RecordStore(directory, BOOT)
    store.save(make_record("x" * 1000))
    assert directory.stat().st_mode & 0o777 == 0o700
    assert next(directory.glob("*.json")).stat().st_mode & 0o777 == 0o600


def test_a_write_that_fails_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an ADD that is refused for it: on a small file system such files would keep it full."""
    store = RecordStore(tmp_path, "boot")

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="full"):
        store.save(make_record())
    assert list(tmp_path.glob("*.json")) == []
