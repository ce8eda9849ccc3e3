"""What a daemon that was started anew makes of policies that the API server gives and that can't be decoded.

proves: A4
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.model import ObjectKey, Policy, Problem
from daemon.sources.kubernetes.cache import Cache
from daemon.sources.kubernetes.sink import Callbacks
from daemon.sources.kubernetes.state import ClusterState
from daemon.sources.kubernetes.watched import NAMESPACES, NET_ATTACH_DEFS, POLICIES, Seen, own_pods, peer_pods
from tests.unit.keptpolicies import Clock, Life, key_of, make_policy
from tests.unit.kubernetes.stated import bad_policy, policy

KEY = key_of("p")
MALFORMED = {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}


class Node:
    """A cache with its memory; what it has governs something. restart(): all but the disk is lost."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.directory = directory
        self.restart()

    def restart(self) -> None:
        self.life = Life(self.directory, self.clock)
        self.cache = Cache(["rest"], self.life.keeping)
        self.counts: Policy | None = None

    def put(self, found: Policy | None, uid: str = "u", version: int = 1) -> None:
        problem = Problem("spec", "what?") if found is None else None
        for change in self.cache.put("rest", Seen(KEY, uid, str(version), found, problem)):
            assert change.object is None or isinstance(change.object, Policy)
            self.counts = change.object
        self.life.governs(p=self.counts is not None)
        self.life.work()

    def remove(self) -> None:
        for change in self.cache.remove("rest", KEY):
            self.counts = change.object if isinstance(change.object, Policy) else None
        self.life.work()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


BROKEN = [None, make_policy(selector=MALFORMED)]
"""It can't be decoded; its selector can't be."""


@pytest.mark.parametrize("broken", BROKEN)
def test_its_last_version_stays_over_restarts(node: Node, broken: Policy | None) -> None:
    node.put(make_policy())
    node.put(broken, version=2)
    for _ in range(3):
        node.restart()
        node.put(broken, version=2)
        assert node.counts is not None
        assert node.counts.pod_selector == make_policy().pod_selector
        # As it is told in a daemon that was not restarted.
        told = [*node.cache.problems.values(), *node.counts.problems]
        assert any("stays in force" in problem.message for problem in told)
    node.put(make_policy(networks="net2"), version=3)
    assert node.counts == make_policy(networks="net2")
    assert dict(node.cache.problems) == {}


@pytest.mark.parametrize("broken", BROKEN)
def test_one_that_breaks_while_no_daemon_runs(node: Node, broken: Policy | None) -> None:
    node.put(make_policy())
    node.restart()
    node.put(broken, version=2)
    assert node.counts is not None
    assert node.counts.pod_selector is not None


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("restarted", [False, True])
def test_another_object_of_its_name_never_was_valid(
    node: Node, broken: Policy | None, restarted: bool
) -> None:
    node.put(make_policy())
    if restarted:
        node.restart()
    node.put(broken, uid="v", version=2)
    assert node.counts is None or node.counts.pod_selector is None
    assert node.life.kept("p") == []
    node.restart()
    node.put(broken, uid="u", version=2)
    assert node.counts is None or node.counts.pod_selector is None


def test_an_object_without_uid_has_no_past(node: Node) -> None:
    node.life.put("p", last=True, uid="")
    node.life.work()
    node.restart()
    node.put(None, uid="")
    assert node.counts is None


@pytest.mark.parametrize("broken", BROKEN)
def test_one_that_is_gone_is_forgotten(node: Node, broken: Policy | None) -> None:
    node.put(make_policy())
    node.put(broken, version=2)
    node.remove()
    assert node.counts is None
    assert node.life.kept("p") == []


def test_one_that_never_was_valid_governs_nothing(node: Node) -> None:
    for _ in range(2):
        node.put(None)
        assert node.counts is None
        assert node.life.kept("p") == []
        node.restart()


def test_nobody_else_is_remembered(node: Node) -> None:
    key = ObjectKey("Pod", "ns", "p")
    assert list(node.cache.put("rest", Seen(key, "u", "1", None, Problem("", "what?")))) == []
    assert list(node.cache.remove("rest", key)) == []
    node.life.work()
    assert node.life.files.names == frozenset()


def test_the_state_asks_the_memory_that_its_owner_has(tmp_path: Path) -> None:
    clock, key = Clock(), ObjectKey("MultiNetworkPolicy", "default", "x")
    good = policy("x", {"podSelector": {}})
    first, second = Life(tmp_path, clock), Life(tmp_path, clock)
    for life, seen in ((first, good), (second, msgspec.structs.replace(bad_policy("x"), uid=good.uid))):
        found: list[Any] = []
        callbacks = Callbacks(
            lambda update, found=found: found.extend(update.changes),  # type: ignore[misc]
            lambda: None,
            lambda: None,
            lambda: None,
            life.keeping,
        )
        always = (own_pods("n"), POLICIES, NET_ATTACH_DEFS, NAMESPACES)
        state = ClusterState(always, peer_pods("n"), callbacks)
        state.listed(POLICIES, [seen])
        assert [change.key for change in found] == [key]
        assert found[0].object.pod_selector is not None
        life.keeping.governs({("default", "x"): True})
        life.work()
