"""A daemon that ends and starts again: rules stay, attachments are taken over, and nothing opens in between.

proves: A11
"""

import os
import signal
import subprocess
import time

import pytest

from tests.lab import Lab, Target, objects
from tests.netns.enroll import add, check, must
from tests.netns.lifeworld import DENY_ALL, ONLY_A, PORT, World


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return World(lab, backend)


# --- the daemon's end and start --------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_daemon_that_ended_leaves_its_rules_and_takes_them_over(how: str, world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    getattr(world.daemon, how)()
    world.assert_open("a")
    world.assert_blocked("b")
    world.daemon.start()
    assert world.states() == {"server": "applied", "a": "applied", "b": "applied"}
    world.assert_open("a")
    world.assert_blocked("b")
    must(check(world.daemon, world.server))


def test_an_edit_made_while_the_daemon_was_dead_is_applied_at_start(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    world.daemon.kill()
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.start()
    world.assert_blocked("a", "b")


def test_tampering_while_the_daemon_was_dead_is_repaired_at_start(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    world.daemon.kill()
    world.tamper(world.view.emptied)
    world.assert_open("b")
    world.daemon.start()
    world.assert_blocked("b")
    world.assert_open("a")


def test_an_untouched_netns_is_taken_over_without_a_write(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    world.daemon.stop()
    before = world.view.numbered(world.server.pod.netns)
    world.daemon.start()
    assert world.view.numbered(world.server.pod.netns) == before
    assert "rewritten=False" in world.daemon.log or "rewritten=false" in world.daemon.log


def test_a_second_daemon_on_the_same_state_is_refused(world: World) -> None:
    line = [*world.daemon._line]
    second = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert "held by another" in second.stderr
    must(world.daemon.cni("status", {}, {"cniVersion": "1.1.0", "name": "n"}))


def test_sigterm_ends_it_within_five_seconds_even_with_adds_waiting(world: World) -> None:
    os.kill(world.daemon.pid, signal.SIGTERM)
    started = time.monotonic()
    assert world.daemon.stop() == 0
    assert time.monotonic() - started < 5


def test_an_add_before_the_source_is_read_denies_or_fails(lab: Lab, backend: str) -> None:
    """onUnready: with a source that can't be read yet."""
    daemon = lab.daemon(backend=backend)
    attachment = lab.attach(lab.pod("server"))
    daemon.stop()
    daemon.manifests.rename(daemon.folder / "aside")
    daemon.start(wait=False)
    daemon.wait_listening()
    reply = add(daemon, attachment, timeout=1.0)
    assert (reply["ok"], reply["code"]) == (False, 11)
    client = lab.attach(lab.pod("a"))
    attachment.pod.prober.serve(PORT)
    probe = Target("tcp", attachment.ipv4, PORT)
    assert client.pod.prober.mismatches({probe: True}) == []
    must(add(daemon, attachment, timeout=1.0, onUnready="deny"))
    assert client.pod.prober.mismatches({probe: False}) == []
    # Of what a run before has programmed nobody knows whether a denial would be the same or less.
    daemon.stop()
    daemon.start(wait=False)
    daemon.wait_listening()
    reply = add(daemon, attachment, timeout=1.0, onUnready="deny")
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "not even by onUnready: deny: " in reply["msg"]
    assert f"{daemon.manifests} does not exist: make it" in reply["msg"]
    assert client.pod.prober.mismatches({probe: False}) == []
    (daemon.folder / "aside").rename(daemon.manifests)
    daemon.apply("pods", [objects.pod("server"), objects.pod("a")])
    daemon.wait_synced()
    assert client.pod.prober.mismatches({probe: True}) == []
