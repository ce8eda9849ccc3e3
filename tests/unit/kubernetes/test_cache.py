"""Collections merged: which view counts, what stays when something can't be decoded, what is no change.

proves: A4, A7, D4
"""

from typing import Any

import pytest

from daemon.model import (
    Change,
    ClusterObject,
    ContainerPort,
    Namespace,
    ObjectKey,
    Pod,
    Policy,
    Problem,
    Selector,
)
from daemon.sources.kubernetes import cache as cache_module
from daemon.sources.kubernetes.cache import Cache
from daemon.sources.kubernetes.watched import Seen

NS, POD = ObjectKey("Namespace", "", "a"), ObjectKey("Pod", "a", "p")
POLICY = ObjectKey("MultiNetworkPolicy", "a", "x")
HTTP = (ContainerPort("http", 6, 80),)
BAD = Problem("spec", "what?")


@pytest.fixture
def cache() -> Cache:
    return Cache(["own", "peers", "rest"])


def seen(key: ObjectKey, found: ClusterObject | None, version: int = 1, uid: str = "u", **more: Any) -> Seen:
    return Seen(key, uid, str(version), found, **more)


def bad(key: ObjectKey, version: int = 1, uid: str = "u") -> Seen:
    return seen(key, None, version, uid, problem=BAD)


def put(cache: Cache, name: str, one: Seen) -> list[ClusterObject | None]:
    changes = list(cache.put(name, one))
    assert {change.key for change in changes} <= {one.key}
    return [change.object for change in changes]


def pod(uid: str = "u", **more: Any) -> Pod:
    return Pod("a", "p", uid, more.pop("labels", {}), **more)


def policy(**more: Any) -> Policy:
    fields: dict[str, Any] = {
        "networks": ("a/net1",),
        "pod_selector": Selector(),
        "ingress": (),
        "egress": None,
    } | more
    return Policy("a", "x", **fields)


def test_new_other_same_and_gone(cache: Cache) -> None:
    one, two = Namespace("a", {"x": "1"}), Namespace("a", {"x": "2"})
    assert put(cache, "rest", seen(NS, one)) == [one]
    # Another version that means the same.
    assert put(cache, "rest", seen(NS, Namespace("a", {"x": "1"}), 2)) == []
    assert cache.view("rest")[NS].version == "2"
    assert put(cache, "rest", seen(NS, two, 3)) == [two]
    assert list(cache.remove("rest", NS)) == [Change(NS, None)]
    assert list(cache.remove("rest", NS)) == []
    assert dict(cache.view("rest")) == {}


def test_one_of_which_nothing_is_kept_is_gone(cache: Cache) -> None:
    assert put(cache, "peers", seen(POD, None)) == []
    assert dict(cache.view("peers")) == {}
    put(cache, "peers", seen(POD, pod()))
    assert put(cache, "peers", seen(POD, None, 2)) == [None]
    assert dict(cache.view("peers")) == {}


# --- two views of one object -----------------------------------------------------------------------------


def test_the_earlier_view_counts(cache: Cache) -> None:
    slim, full = pod(), pod(ports=HTTP)
    assert put(cache, "peers", seen(POD, slim)) == [slim]
    assert put(cache, "own", seen(POD, full)) == [full]
    # What the other one says now is not looked at.
    assert put(cache, "peers", seen(POD, pod(labels={"x": "1"}))) == []
    assert list(cache.remove("peers", POD)) == []
    put(cache, "peers", seen(POD, slim))
    assert list(cache.remove("own", POD)) == [Change(POD, slim)]
    assert list(cache.remove("peers", POD)) == [Change(POD, None)]


def test_views_that_are_equal_change_nothing(cache: Cache) -> None:
    put(cache, "peers", seen(POD, pod()))
    assert put(cache, "own", seen(POD, pod())) == []
    assert list(cache.remove("own", POD)) == []


def test_references(cache: Cache) -> None:
    assert cache.reference(POD) == ""
    put(cache, "peers", seen(POD, pod("p"), uid="p"))
    assert cache.reference(POD) == "p"
    put(cache, "own", seen(POD, pod("o"), uid="o"))
    assert cache.reference(POD) == "o"


# --- what can't be decoded -------------------------------------------------------------------------------


def test_the_last_version_stays(cache: Cache) -> None:
    put(cache, "rest", seen(POLICY, policy()))
    assert put(cache, "rest", bad(POLICY, 2)) == []
    assert cache.view("rest")[POLICY].object == policy()
    assert cache.view("rest")[POLICY].version == "2"
    assert cache.problems[POLICY] == Problem("spec", "what?; its last version stays in force")
    assert put(cache, "rest", bad(POLICY, 3)) == []
    assert put(cache, "rest", seen(POLICY, policy(egress=()), 4)) == [policy(egress=())]
    assert dict(cache.problems) == {}


def test_one_that_never_could_be_decoded_counts_as_absent(cache: Cache) -> None:
    for version in (1, 2):
        assert put(cache, "rest", bad(POLICY, version)) == []
        assert cache.problems[POLICY].message == "what?; it counts as absent"
    assert POLICY in cache.view("rest")
    assert list(cache.remove("rest", POLICY)) == []
    assert dict(cache.problems) == {}


def test_another_object_of_that_name_keeps_nothing(cache: Cache) -> None:
    put(cache, "rest", seen(POLICY, policy()))
    assert put(cache, "rest", bad(POLICY, 2, "v")) == [None]
    assert cache.problems[POLICY].message == "what?; it counts as absent"


def test_each_collection_has_its_own_problem_with_an_object(cache: Cache) -> None:
    put(cache, "own", bad(POD))
    put(cache, "peers", seen(POD, pod()))
    assert cache.problems[POD] == Problem("spec", "what?; it counts as absent")
    list(cache.remove("peers", POD))
    assert dict(cache.problems) == {POD: Problem("spec", "what?; it counts as absent")}
    put(cache, "peers", seen(POD, pod()))
    put(cache, "peers", bad(POD, 2))
    # The view that counts is the one that is told of.
    assert cache.problems[POD].message == "what?; it counts as absent"
    list(cache.remove("own", POD))
    assert dict(cache.problems) == {POD: Problem("spec", "what?; its last version stays in force")}
    list(cache.remove("peers", POD))
    assert dict(cache.problems) == {}


def test_a_policy_without_a_good_selector_keeps_its_last_one(cache: Cache) -> None:
    put(cache, "rest", seen(POLICY, policy()))
    broken = policy(pod_selector=None, ingress=None, problems=(BAD,))
    (kept,) = put(cache, "rest", seen(POLICY, broken, 2))
    assert isinstance(kept, Policy)
    assert (kept.pod_selector, kept.ingress) == (Selector(), ())
    assert kept.problems[0] == BAD
    # Twice in a row, too.
    assert put(cache, "rest", seen(POLICY, broken, 3)) == []
    # But not that of another object.
    assert put(cache, "rest", seen(POLICY, broken, 4, "v")) == [broken]


# --- container ports -------------------------------------------------------------------------------------


def test_ports_of_a_pod_of_which_only_metadata_is_known(cache: Cache) -> None:
    put(cache, "peers", seen(POD, pod()))
    assert cache.lacks_ports("peers", POD)
    with_ports = pod(ports=HTTP)
    assert list(cache.put_ports(POD, "u", HTTP)) == [Change(POD, with_ports)]
    assert not cache.lacks_ports("peers", POD)
    assert list(cache.put_ports(POD, "u", HTTP)) == []
    # They stay when its labels change.
    changed = pod(labels={"x": "1"}, ports=HTTP)
    assert put(cache, "peers", seen(POD, pod(labels={"x": "1"}), 2)) == [changed]
    assert list(cache.remove("peers", POD)) == [Change(POD, None)]
    put(cache, "peers", seen(POD, pod(), 3))
    assert cache.lacks_ports("peers", POD)


def test_no_ports_are_an_answer_as_well(cache: Cache) -> None:
    put(cache, "peers", seen(POD, pod()))
    assert list(cache.put_ports(POD, "u", ())) == []
    assert not cache.lacks_ports("peers", POD)


def test_ports_that_come_too_late(cache: Cache) -> None:
    assert not cache.lacks_ports("peers", POD)
    assert list(cache.put_ports(POD, "u", HTTP)) == []
    put(cache, "peers", seen(POD, pod("v"), uid="v"))
    assert list(cache.put_ports(POD, "u", HTTP)) == []
    assert cache.lacks_ports("peers", POD)


def test_another_pod_of_that_name_has_ports_of_its_own(cache: Cache) -> None:
    put(cache, "peers", seen(POD, pod()))
    list(cache.put_ports(POD, "u", HTTP))
    assert put(cache, "peers", seen(POD, pod("v"), 2, "v")) == [pod("v")]
    assert cache.lacks_ports("peers", POD)
    # Nothing of the first is kept, should its UID ever come again.
    assert put(cache, "peers", seen(POD, pod(), 3)) == [pod()]
    assert cache.lacks_ports("peers", POD)


def test_of_many_that_can_not_be_decoded_the_first_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are gone through with each update."""
    monkeypatch.setattr(cache_module, "MOST_TOLD", 3)
    made = Cache(["own", "rest"])
    for number in range(5):
        list(made.put("own" if number < 2 else "rest", bad(ObjectKey("Pod", "a", f"p{number}"))))
    assert len(made.problems) == 3
    assert len(made.told()) == 4
    assert made.told()["more"] == (Problem("", "2 more objects can't be decoded"),)
    list(made.remove("own", ObjectKey("Pod", "a", "p0")))
    list(made.remove("rest", ObjectKey("Pod", "a", "p2")))
    assert sorted(made.told()) == ["Pod a/p1", "Pod a/p3", "Pod a/p4"]
