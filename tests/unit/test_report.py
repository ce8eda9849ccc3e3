"""What is told of an attachment of which a direction is closed while the source is out of date.

proves: F4
"""

from pathlib import Path
from typing import Any, cast

import pytest

from daemon.backends.choice import Choice
from daemon.backends.fake import FakeBackend
from daemon.model import Block, Change, CommonRules, ObjectKey, Policy, Port, Rule, Selector
from daemon.policy.budget import Budget
from daemon.reconcile import Attachment, Reconciler
from daemon.registry import Registry
from daemon.report import Report
from daemon.slices import ended
from daemon.sources.base import Finding
from daemon.store import Store
from daemon.upkeep import Upkeep
from tests.unit.test_records import make_record

pytestmark = pytest.mark.unit

POD = ObjectKey("Pod", "default", "web")


def put(store: Store, by: int) -> None:
    """Ten ranges, moved: then and now together are cut into nineteen."""
    ranges = tuple((n + by, n + by + 12) for n in range(0, 200, 20))
    rule = Rule((Block("ranges", 4, ranges),), (Port(6, (80, 80)),))
    policy = Policy("default", "p", ("default/net-a",), Selector(), (rule,), None)
    store.apply([Change(policy.key, policy)])


def test_a_direction_that_is_closed_for_want_of_room(tmp_path: Path) -> None:
    store, backend = Store(CommonRules(), Budget()), FakeBackend()
    store._budget = Budget(1000, 15)
    reconciler = Reconciler(store, backend, lambda: 0.0, lambda sandbox: None)
    registry = Registry(store, cast("Any", None), reconciler)
    upkeep = Upkeep(store, registry, reconciler, cast("Any", None), tmp_path)
    report = Report(store, registry, reconciler, upkeep, Choice(backend, (), ""), "")
    attachment = Attachment(make_record())
    registry.attach(attachment)
    put(store, 0)
    store.hold()
    put(store, 10)
    assert report.problems() == []
    store.ruleset(attachment.key)
    (line,) = report.problems()
    assert line.startswith("default/web net1: ingress: what was allowed when the source fell behind")
    (told,) = report.findings()[POD]
    assert told == Finding("TooMuchToHold", line.removeprefix("default/web "))
    (described,) = ended(report.attachments({}))
    assert described["notes"] == [line.removeprefix("default/web net1: ")]
    store.release()
    assert report.problems() == []
