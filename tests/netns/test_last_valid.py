"""A policy that breaks keeps its last valid version in force, whatever becomes of the daemon.

proves: A4
"""

import json
import subprocess
from pathlib import Path

import pytest

from tests.lab import Lab, objects
from tests.netns.enroll import add, must
from tests.netns.lifeworld import DENY_ALL, PORT, World, eventually

GOOD = json.dumps(DENY_ALL)
OTHER = {"podSelector": {"matchLabels": {"role": "nobody"}}, "policyTypes": ["Ingress"]}


def with_selector(operator: str) -> str:
    selector = {"matchExpressions": [{"key": "role", "operator": operator, "values": ["server"]}]}
    spec = {"podSelector": selector, "policyTypes": ["Ingress"]}
    return json.dumps(objects.policy("deny", spec, networks="net1"))


TORN = "kind: MultiNetworkPolicy\nmetadata:\n\tname: deny\n"
"""Not even names can be read."""
BREACHES = {
    "a tab": TORN,
    "operator in": with_selector("in"),
    "a list for policy-for": GOOD.replace('"net1"', '["net1"]'),
}


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    made = World(lab, backend)
    made.enroll_all()
    made.daemon.apply("policy", GOOD)
    made.daemon.wait_synced()
    made.assert_blocked("a", "b")
    eventually(lambda: len(kept(made)) == 1)
    return made


def kept(world: World) -> list[Path]:
    return list((world.daemon.state / "policies").glob("*.json"))


@pytest.mark.parametrize("breach", BREACHES)
def test_what_broke_stays_closed_over_restarts(world: World, breach: str) -> None:
    world.daemon.apply("policy", BREACHES[breach])
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    for end in (world.daemon.stop, world.daemon.kill):
        end()
        world.daemon.start()
        world.assert_blocked("a", "b")
        assert world.status["ready"]
        assert any("in force" in line for line in world.status["problems"])
    # Mended: as the file says; gone: open.
    world.daemon.apply("policy", objects.policy("deny", OTHER, networks="net1"))
    world.daemon.wait_synced()
    world.assert_open("a", "b")
    world.daemon.apply("policy", GOOD)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    world.daemon.remove("policy")
    world.daemon.wait_synced()
    world.assert_open("a", "b")
    eventually(lambda: kept(world) == [])


@pytest.mark.parametrize("breach", BREACHES)
def test_what_breaks_while_no_daemon_runs_stays_closed(world: World, breach: str) -> None:
    world.daemon.kill()
    world.daemon.apply("policy", BREACHES[breach])
    world.daemon.start()
    world.assert_blocked("a", "b")
    # Also for a pod that comes now.
    late = world.lab.attach(world.lab.pod("late"))
    world.daemon.apply("late", objects.pod("late"))
    world.daemon.wait_synced()
    world.attachments["server"] = late
    late.pod.prober.serve(PORT)
    must(add(world.daemon, late))
    world.assert_blocked("a", "b")


def test_what_was_removed_while_no_daemon_ran_is_gone(world: World) -> None:
    world.daemon.kill()
    world.daemon.remove("policy")
    world.daemon.apply("other", "a:\n\tb")
    world.daemon.start()
    world.assert_open("a", "b")
    eventually(lambda: kept(world) == [])


@pytest.mark.parametrize("breach", BREACHES)
def test_one_that_never_was_valid_governs_nothing(world: World, breach: str) -> None:
    world.daemon.remove("policy")
    world.daemon.wait_synced()
    world.daemon.apply("again", BREACHES[breach])
    world.daemon.wait_synced()
    world.assert_open("a", "b")
    world.daemon.restart()
    world.assert_open("a", "b")


@pytest.mark.parametrize("backend", ["nftables"])
def test_a_damaged_file_is_set_aside_and_told(world: World) -> None:
    world.daemon.kill()
    (path,) = kept(world)
    path.write_bytes(path.read_bytes()[:-20])
    world.daemon.apply("policy", TORN)
    world.daemon.start()
    assert any("set aside, no last valid version" in line for line in world.status["problems"])
    assert "Traceback" not in world.daemon.log
    world.daemon.apply("policy", GOOD)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    eventually(lambda: not any("set aside" in line for line in world.status["problems"]))


@pytest.mark.parametrize("backend", ["nftables"])
def test_a_full_disk_ends_no_enforcement(world: World) -> None:
    """It is told, tried again, and edits count meanwhile."""
    folder = world.daemon.state / "policies"
    line = ["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "mnpt-full", str(folder)]
    world.daemon.stop()
    subprocess.run(line, check=True)
    try:
        world.daemon.start()
        world.assert_blocked("a", "b")
        eventually(lambda: any("can't be kept: No space" in each for each in world.status["problems"]))
        world.daemon.remove("policy")
        world.daemon.wait_synced()
        world.assert_open("a", "b")
        world.daemon.apply("policy", GOOD)
        world.daemon.wait_synced()
        world.assert_blocked("a", "b")
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    eventually(lambda: not any("can't be kept" in each for each in world.status["problems"]), 20)
