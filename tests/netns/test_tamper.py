"""What somebody changes of ours in a pod's namespace is found, restored and told; nobody else pays for it."""

import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import netns
from daemon.backends import nftmessages
from daemon.backends.nfnetlink import (
    NLM_F_CREATE,
    SUBSYS_NFTABLES,
    Message,
    general,
    string,
    u32,
)
from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.backends.nftables import NftablesBackend
from daemon.commits import Commits
from daemon.desired import make_program
from daemon.errors import OversizeError
from daemon.netlink import attr
from daemon.planner import (
    ChainSpec,
    Gate,
    GateRequest,
    Program,
    SetKind,
    SetSpec,
    make_plan,
)
from daemon.policy.ruleset import Members, Ruleset
from daemon.rivals import Rivals
from daemon.standing import Standing
from tests.lab import Lab, is_blocked, objects
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.netns.enroll import add, check, must
from tests.netns.lifeworld import ONLY_A, World
from tests.netns.meddler import Meddler

REAPER = Reaper()
RESTORED_SECONDS = 4.0
"""2 s are promised; a loaded machine may take as long again."""


class Watched(World):
    """A server whose ingress is for `a` alone, enrolled, and untouched at first."""

    def __init__(self, lab: Lab, backend: str) -> None:
        super().__init__(lab, backend)
        self.daemon.apply("policy", ONLY_A)
        self.daemon.wait_synced()
        self.enroll_all()
        self.pristine = self.ruleset(self.server.pod)
        self.edits = 0

    def state(self) -> str:
        return self.states()["server"]

    def assert_restored(self) -> None:
        """Rule by rule, and for packets of both families."""
        poll(lambda: self.ruleset(self.server.pod), self.pristine.__eq__, RESTORED_SECONDS)
        # Somebody else's rule before ours is in no listing of ours.
        poll(lambda: self.verdicts("b"), lambda found: all(map(is_blocked, found)), RESTORED_SECONDS)
        self.assert_open("a")

    def edit(self) -> None:
        """An edit that makes new rules for a moment, and ends where it began."""
        self.edits += 1
        more = {"from": [{"ipBlock": {"cidr": f"192.0.2.{self.edits}/32"}}], "ports": [{"port": 80}]}
        spec = {**ONLY_A["spec"], "ingress": [*ONLY_A["spec"]["ingress"], more]}
        for policy in (objects.policy("only-a", spec, networks="net1"), ONLY_A):
            self.daemon.apply("policy", policy)
            self.daemon.wait_synced()


@pytest.fixture
def world(lab: Lab, backend: str) -> Watched:
    return Watched(lab, backend)


def by_an_edit(world: Watched, tamper: Callable[[], None]) -> None:
    tamper()
    world.edit()


def by_a_look_of_another(world: Watched, tamper: Callable[[], None]) -> None:
    """CHECK says so, unless the watch has been there before it."""
    before = world.found
    tamper()
    reply = check(world.daemon, world.server)
    assert not reply["ok"] or world.found > before


def by_an_add(world: Watched, tamper: Callable[[], None]) -> None:
    tamper()
    must(add(world.daemon, world.server))
    world.assert_blocked("b")


def by_a_start(world: Watched, tamper: Callable[[], None]) -> None:
    world.daemon.stop()
    tamper()
    world.daemon.start()


def by_waiting(world: Watched, tamper: Callable[[], None]) -> None:
    tamper()


WAYS = (by_an_edit, by_a_look_of_another, by_an_add, by_a_start, by_waiting)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_others_change_is_found_restored_and_told(
    way: Callable[[Watched, Callable[[], None]], None], world: Watched
) -> None:
    """Some ways to tamper, one after the other; the watch alone meets all of them."""
    every = (*world.view.tampered, world.view.emptied)
    for number, script in enumerate(every if way is by_waiting else every[:: len(every) // 3]):
        before = 0 if way is by_a_start else world.found
        way(world, lambda script=script: world.tamper(script))  # type: ignore[misc]
        world.assert_restored()
        assert world.found > before, script
        (told,) = (line for line in world.status["problems"] if "somebody change" in line)
        assert str(world.server.pod.netns) in told
        if number % 4 == 3:
            world.daemon.restart()  # a namespace has so many repairs in a row only
    assert "tampered" in world.daemon.log


def test_an_intruder_among_our_rules_is_taken_out_by_waiting(world: Watched) -> None:
    for script, _ in world.view.strange:
        before = world.found
        world.tamper(script)
        limit = RESTORED_SECONDS if world.view.name == "nftables" or "-A" in script else 40.0
        poll(lambda: world.ruleset(world.server.pod), world.pristine.__eq__, limit)
        assert world.found > before, script


# --- the race ------------------------------------------------------------------------------------------


def test_who_changes_something_right_after_our_commit_is_not_believed(lab: Lab) -> None:
    """As often as the pod wins the race, as often it is seen."""
    pod = lab.pod("racer")
    standing = Standing(netns.identify(str(pod.netns)))
    commits = Commits(NftablesBackend(REAPER), Rivals(), time.monotonic)
    commits.commit(standing, program(0), set())
    won = blessed = 0
    with Meddler(pod.netns, "flush after others") as racer:
        for number in range(1, 101):
            commits.commit(standing, program(number), set())
            poll(lambda: _rules_of_prerouting(pod.netns) == 0, bool, 5.0)
            won += 1
            blessed += commits.untouched(standing)
    assert (won, blessed) == (100, 0)
    assert racer.times >= 100
    assert not commits.confirm(standing)
    commits.commit(standing, program(0), set())
    assert commits.untouched(standing)
    assert commits.tampered_total > 50


FRIENDS = SetSpec("friends", SetKind.HOSTS, 4, frozenset(), "nobody yet")
FRIENDLY = Program(
    {"net1": Gate("net1", 7, "c0ffee net1", ChainSpec(True), None)}, {"friends": FRIENDS}, track=True
)


def program(number: int) -> Program:
    closed = Ruleset((), () if number % 2 else None)
    return make_program([GateRequest("net1", 7, "c0ffee net1", closed)], lambda _: Members(), True)


def _rules_of_prerouting(path: Path) -> int:
    with inside(path):
        line = ["nft", "list", "chain", "inet", "multi-networkpolicy", "prerouting"]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.count("jump")


def test_who_flushes_after_each_commit_of_the_daemon_has_nothing_for_good(lab: Lab) -> None:
    world = Watched(lab, "nftables")
    with Meddler(world.server.pod.netns, "flush after others") as racer:
        for _ in range(10):
            world.edit()
    # On a loaded machine it sleeps through some commits.
    assert racer.times > 0
    poll(lambda: world.ruleset(world.server.pod), world.pristine.__eq__, 10.0)
    world.assert_blocked("b")
    poll(world.state, "applied".__eq__, 10.0)


# --- tables that somebody owns -------------------------------------------------------------------------

OWNER, PERSIST = 2, 4


def owned(flags: int) -> list[Message]:
    """Our table deleted and made anew, as somebody's own."""
    name = attr(1, string(nftmessages.TABLE))
    new = Message(SUBSYS_NFTABLES << 8, NLM_F_CREATE, general(1) + name + attr(2, u32(flags)), "own table")
    return [nftmessages.delete_table(), new]


def test_a_table_that_somebody_owns_is_told_and_taken_back_when_he_lets_go(lab: Lab) -> None:
    """That it goes with the owner's socket is told by no generation."""
    world = Watched(lab, "nftables")
    with inside(world.server.pod.netns):
        owner = NetfilterSocket(REAPER)
    with owner:
        owner.transact(owned(OWNER))
        poll(lambda: world.status["problems"], lambda told: "not permitted" in str(told), 10.0)
        assert world.state() != "applied"
        assert check(world.daemon, world.server)["ok"] is False
    poll(lambda: world.ruleset(world.server.pod), world.pristine.__eq__, 20.0)
    world.assert_blocked("b")
    poll(world.state, "applied".__eq__, 10.0)


def test_a_table_that_was_left_with_flags_is_made_anew(lab: Lab) -> None:
    pod = lab.pod("left")
    backend = NftablesBackend(REAPER)
    with inside(pod.netns):
        backend.apply(make_plan(program(1), None))
        with NetfilterSocket(REAPER) as somebody:
            somebody.transact(owned(OWNER | PERSIST))
        poll(lambda: backend.differences(program(1)), lambda text: "chain prerouting is missing" in text)
        assert "belongs to somebody" in backend.differences(program(1))
        backend.apply(make_plan(program(1), None))
        assert backend.differences(program(1)) == ""


# --- more than is read ---------------------------------------------------------------------------------


def nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def test_what_is_filled_up_is_told_and_made_anew(lab: Lab) -> None:
    """Whoever fills a namespace is not read to the end, and keeps nobody from programming it."""
    pod = lab.pod("filled")
    backend = NftablesBackend(REAPER)
    table = "inet multi-networkpolicy"
    elements = ", ".join(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(20_000))
    more = {
        "set friends has far more elements than 0": f"add element {table} friends {{ {elements} }}",
        "has far more rules than ours": f"add rule {table} prerouting accept\n" * 5_000,
    }
    with inside(pod.netns):
        backend.apply(make_plan(FRIENDLY, None))
        for said, text in more.items():
            nft(text)
            assert said in backend.differences(FRIENDLY)
            backend.apply(make_plan(FRIENDLY, None))
            assert backend.differences(FRIENDLY) == ""
        nft("add table inet full\n" + "".join(f"add chain inet full c{n:0100d}\n" for n in range(10_000)))
        with pytest.raises(OversizeError):
            backend.differences(FRIENDLY)
        backend.apply(make_plan(FRIENDLY, None))
        nft("delete table inet full")
        assert backend.differences(FRIENDLY) == ""


# --- its price -----------------------------------------------------------------------------------------


def test_a_pod_that_commits_without_end_costs_others_nothing(world: Watched, lab: Lab) -> None:
    other = lab.attach(lab.pod("other"))
    world.daemon.apply("more", [world.object("other")])
    world.daemon.wait_synced()

    def latencies() -> tuple[float, float]:
        """Medians of an ADD of another pod and of an edit that concerns all, in seconds."""
        adds, edits = [], []
        for _ in range(10):
            adds.append(_timed(lambda: must(add(world.daemon, other))))
            edits.append(_timed(world.edit))
        return statistics.median(adds), statistics.median(edits)

    calm = latencies()
    with Meddler(world.server.pod.netns, f"flush {world.view.name}") as meddler:
        poll(world.state, "tampered".__eq__, 30.0)
        busy = latencies()
        assert world.status["attachments"].get("tampered") == 1
        assert check(world.daemon, world.server)["ok"] is False
    assert meddler.times > 20
    # It has a core for itself; the generous rest is for a machine with two.
    assert busy[0] < 3 * calm[0] + 0.05, (calm, busy)
    assert busy[1] < 3 * calm[1] + 0.2, (calm, busy)
    poll(world.state, "applied".__eq__, 30.0)
    world.assert_restored()


def _timed(work: Callable[[], None]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def test_who_edits_his_own_table_without_end_is_no_tamperer(lab: Lab) -> None:
    world = Watched(lab, "nftables")
    with Meddler(world.server.pod.netns, "own table") as meddler:
        begun = time.monotonic()
        while time.monotonic() < begun + 4.0:
            world.edit()
            assert world.state() == "applied"
    assert meddler.times > 100
    assert world.found == 0
    world.assert_blocked("b")
    world.tamper(world.view.tampered[2])
    world.assert_restored()


def test_others_own_things_are_no_tampering(world: Watched) -> None:
    for script in world.view.foreign:
        world.tamper(script)
        world.edit()
    must(check(world.daemon, world.server))
    assert world.found == 0
