"""The registry: one key in several namespaces, and ADDs that are taken back."""

from pathlib import Path

import msgspec
import pytest

from daemon.attachments import Record, RecordStore
from daemon.backends.fake import FakeBackend
from daemon.model import CommonRules
from daemon.reconcile import Attachment, Reconciler
from daemon.registry import Registry
from daemon.standing import State
from daemon.store import Store
from tests.unit.test_records import BOOT, make_record


class Node:
    """A registry, and what it has written down."""

    def __init__(self, folder: Path) -> None:
        self.records = RecordStore(folder, BOOT)
        store = Store(CommonRules())
        self.reconciler = Reconciler(store, FakeBackend(), lambda: 0.0, lambda sandbox: None)
        self.registry = Registry(store, self.records, self.reconciler)

    def add(self, cookie: int, **changes: object) -> Attachment:
        attachment = made(cookie, **changes)
        self.registry.replace(attachment)
        attachment.state = State.APPLIED
        return attachment

    def saved(self) -> dict[int | None, Record]:
        return {record.cookie: record for record in self.records.load().records}


def made(cookie: int, **changes: object) -> Attachment:
    """An attachment in a namespace of its own, always under the same key."""
    record = make_record(cookie=cookie, inode=cookie, netns=f"/run/netns/{cookie}")
    return Attachment(msgspec.structs.replace(record, **changes))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_each_left_behind_has_a_key_and_a_record_of_its_own(node: Node) -> None:
    for cookie in (1, 2, 3, 4):
        node.add(cookie, serial=7)
    assert len(node.registry.attachments) == 4
    saved = node.saved()
    assert {record.key for record in saved.values()} == node.registry.attachments.keys()
    assert [saved[cookie].withdrawn for cookie in (1, 2, 3, 4)] == [True, True, True, False]
    for attachment in list(node.registry.attachments.values()):
        node.registry.drop_sandbox(node.registry.sandbox(attachment))
    assert node.registry.attachments == {}
    assert node.saved() == {}


def test_another_namespace_inherits_nothing(node: Node) -> None:
    """What was applied elsewhere says nothing of this one."""
    node.add(1, digest="d", generation=9, serial=7)
    assert node.add(2, serial=8).record.digest == ""
    assert node.saved()[2].serial == 8


def test_an_add_that_is_taken_back_leaves_the_first_as_it_was(node: Node) -> None:
    first = node.add(1, serial=7)
    second = made(2)
    replaced = node.registry.replace(second)
    assert replaced is not None
    node.registry.undo(second, replaced)
    assert list(node.registry.attachments.values()) == [first]
    assert not first.record.withdrawn
    assert node.saved() == {1: first.record}
    assert node.registry.sandbox(first).attachments == {"net1": first}
    assert len(node.reconciler.sandboxes) == 1


def test_a_full_disk_leaves_no_stray_record(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    first = node.add(1)
    save = node.records.save

    def refuse(record: Record) -> None:
        if record.cookie == 2:
            raise OSError(28, "No space left on device")
        save(record)

    monkeypatch.setattr(node.records, "save", refuse)
    with pytest.raises(OSError, match="No space"):
        node.registry.replace(made(2))
    assert node.saved() == {1: first.record}
    assert list(node.registry.attachments.values()) == [first]


def test_one_that_is_gone_already_is_let_go_of_twice(node: Node) -> None:
    first = node.add(1)
    again = Attachment(msgspec.structs.replace(first.record, labels={}))
    node.registry.detach(again)
    assert list(node.registry.attachments.values()) == [first]
