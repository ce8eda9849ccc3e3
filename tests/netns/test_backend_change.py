"""Another backend on a node with pods: their rules change hands, and nothing opens or stalls meanwhile.

`backend` is the one that programs first, `other` the one that comes after it.

proves: E5
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon import netns
from daemon.desired import make_program
from daemon.planner import GateRequest, Program, make_plan
from daemon.policy.ruleset import Members, Ruleset
from tests.conftest import BACKENDS
from tests.lab import Attachment, Lab, Pod, Target, objects
from tests.lab.kernelview import VIEWS
from tests.netns.enroll import add, add_guard, check, delete, must
from tests.netns.governed import make_backend
from tests.netns.lifeworld import DENY_ALL, ONLY_A, PORT, World
from tests.netns.siege import Siege


@pytest.fixture(scope="module")
def other(backend: str) -> str:
    return next(name for name in BACKENDS if name != backend)


class Node(World):
    """Pods of every kind: governed (the server), open (a), guarded, and withdrawn by DEL with a live link."""

    def __init__(self, lab: Lab, backend: str) -> None:
        super().__init__(lab, backend)
        self.guarded = lab.pod("guarded")
        must(add_guard(self.daemon, self.guarded, "net1"))
        self.attachments |= {"guarded": lab.attach(self.guarded), "withdrawn": self._withdrawn(lab)}
        for name in ("guarded", "withdrawn", "a"):
            self.attachments[name].pod.prober.serve(PORT)
        self.enroll("server", "a", "b")

    def _withdrawn(self, lab: Lab) -> Attachment:
        attachment = lab.attach(lab.pod("withdrawn"))
        shut = {"podSelector": {"matchLabels": {"role": "withdrawn"}}}
        self.daemon.apply("withdrawn", [self.object("withdrawn"), objects.policy("shut", shut)])
        self.daemon.wait_synced()
        must(add(self.daemon, attachment))
        must(delete(self.daemon, attachment.pod, "net1"))
        return attachment

    def enroll(self, *names: str) -> None:
        for name in names:
            must(add(self.daemon, self.attachments[name]))

    @property
    def programmed(self) -> list[Pod]:
        return [attachment.pod for attachment in self.attachments.values()]

    def assert_as_before(self) -> None:
        """What is allowed is open, in both families, and nothing else is."""
        for source, wanted in (
            ("a", {"server": True, "guarded": False, "withdrawn": False}),
            ("b", {"server": False, "a": True}),
        ):
            targets = {
                Target("tcp", address, PORT): want
                for name, want in wanted.items()
                for address in (self.attachments[name].ipv4, self.attachments[name].ipv6)
            }
            assert self.attachments[source].pod.prober.mismatches(targets) == []

    def assert_programmed_by(self, backend: str, not_by: str) -> None:
        """By the kernel's own listings."""
        for pod in self.programmed:
            assert VIEWS[backend].tracks in VIEWS[backend].listing(pod.netns), pod.name
            assert VIEWS[not_by].listing(pod.netns) == "", pod.name


@pytest.fixture
def siege(lab: Lab, backend: str) -> Iterator[Siege[Node]]:
    made = Siege(Node(lab, backend))
    try:
        yield made
    finally:
        made.end()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_rules_change_hands_under_floods(siege: Siege[Node], backend: str, other: str, how: str) -> None:
    """The new ones are there before the old ones go, so at no moment is there less than one of them."""
    node, daemon = siege.world, siege.world.daemon
    daemon.apply("policy", ONLY_A)
    daemon.wait_synced()
    node.assert_as_before()
    node.assert_programmed_by(backend, not_by=other)
    for name, before in ((other, backend), (backend, other)):
        with siege.watched():
            getattr(daemon, how)()
            daemon.choose_backend(name)
            daemon.start()
        node.assert_programmed_by(name, not_by=before)
        node.assert_as_before()
        must(check(daemon, node.server))
        status = daemon.ctl("status")
        assert (status["backend"], status["backendBecause"]) == (name, f"--backend {name}")
        assert status["problems"] == []
    # The guard that changed hands twice still is one that an ADD opens.
    daemon.apply("guarded", node.object("guarded"))
    daemon.wait_synced()
    must(add(daemon, node.attachments["guarded"]))
    guarded = Target("tcp", node.attachments["guarded"].ipv4, PORT)
    assert node.attachments["a"].pod.prober.mismatches({guarded: True}) == []


def test_auto_keeps_to_the_one_that_was_used(lab: Lab, backend: str) -> None:
    """A node that was told once, or could do no better then, does not change hands by itself."""
    world = World(lab, backend)
    world.daemon.apply("policy", ONLY_A)
    world.enroll_all()
    world.daemon.choose_backend("auto")
    world.daemon.restart()
    status = world.daemon.ctl("status")
    assert (status["backend"], status["backendBecause"]) == (backend, "it was used before and works")
    assert "rewritten" in world.daemon.log
    world.assert_open("a")
    world.assert_blocked("b")


def test_auto_begins_with_nftables(lab: Lab) -> None:
    daemon = lab.daemon(backend="auto")
    status = daemon.ctl("status")
    assert (status["backend"], status["backendBecause"]) == ("nftables", "it works here, and is preferred")


# --- rules of both at once -------------------------------------------------------------------------------


def shut(*ifnames: str) -> Program:
    """A program that lets nothing new in by these interfaces."""
    gates = [GateRequest(ifname, 4711, "somebody", Ruleset((), None)) for ifname in ifnames]
    return make_program(gates, lambda _: Members(), True)


def put_beside(pod: Pod, backend: str, program: Program, folder: Path) -> None:
    """Rules of another backend, as a daemon that ended in the middle of a change would leave them."""
    with netns.entered(str(pod.netns), None):
        make_backend(backend, folder / "xtables.lock").apply(make_plan(program, None))


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    made = World(lab, backend)
    made.daemon.apply("policy", ONLY_A)
    made.daemon.wait_synced()
    made.enroll_all()
    made.assert_open("a")
    made.assert_blocked("b")
    return made


def test_rules_of_both_are_told_by_check_and_repaired_by_a_restart(
    world: World, other: str, tmp_path: Path
) -> None:
    server = world.server.pod
    must(check(world.daemon, world.server))
    put_beside(server, other, shut("net1"), tmp_path)
    if other == "iptables":  # by name, and so net1's; nftables' go by index
        world.assert_blocked("a")
    reply = check(world.daemon, world.server)
    assert reply["ok"] is False
    assert f"rules of the {other} backend too" in reply["msg"]
    assert VIEWS[other].listing(server.netns), "CHECK changes nothing"
    world.daemon.restart()
    assert VIEWS[other].listing(server.netns) == ""
    assert "rival-removed" in world.daemon.log
    must(check(world.daemon, world.server))
    assert world.daemon.ctl("status")["problems"] == []
    world.assert_open("a")
    world.assert_blocked("b")


def test_rules_of_both_where_the_other_governs_more_stay_and_are_reported(
    world: World, other: str, tmp_path: Path
) -> None:
    """An interface that this daemon does not know: it has no rules of its own to put in their place."""
    server = world.server.pod
    put_beside(server, other, shut("net7"), tmp_path)
    before = VIEWS[other].listing(server.netns)
    assert "net7" in before
    world.daemon.restart()
    assert VIEWS[other].listing(server.netns) == before
    (problem,) = world.daemon.ctl("status")["problems"]
    stay = f"rules of the {other} backend stay: they govern more (egress-net7, ingress-net7)"
    assert problem == f"{server.netns}: {stay}"
    assert "rival-left" in world.daemon.log
    world.assert_open("a")
    world.assert_blocked("b")


def test_an_add_where_the_other_left_rules_takes_their_place(
    lab: Lab, backend: str, other: str, tmp_path: Path
) -> None:
    """Records may be lost while the pod lives: what stands there goes once an ADD has programmed net1."""
    world = World(lab, backend)
    put_beside(world.server.pod, other, shut("net1"), tmp_path)
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    must(add(world.daemon, world.server))
    assert VIEWS[other].listing(world.server.pod.netns) == ""
    world.assert_blocked("a", "b")
    world.daemon.remove("policy")
    world.daemon.wait_synced()
    world.assert_open("a", "b")
