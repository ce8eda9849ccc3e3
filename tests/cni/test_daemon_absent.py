"""The daemon is not there, or not ready, or ends in the middle: an ADD waits, or fails; it never opens.

proves: A6
"""

import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.cni.node import Node, finish, plain
from tests.cni.run_plugin import GC_EMPTY, SLACK, Done
from tests.lab import Attachment, DaemonError, objects
from tests.lab.polling import poll

KILLS = 30


@pytest.fixture(autouse=True)
def _running(node: Node) -> Iterator[None]:
    """Each test leaves a daemon for the next."""
    yield
    try:
        node.daemon.wait_listening()
    except DaemonError:
        node.daemon.start()


def assert_succeeded(attachment: Attachment, done: Done, node: Node) -> None:
    """With the previous result on stdout, and the policy in force."""
    assert done.code == 0, done
    assert json.loads(done.out) == attachment.result()
    node.assert_governed(plain(attachment))


# --- a daemon that is down -------------------------------------------------------------------------------


def test_add_waits_for_a_daemon_that_comes_up(node: Node) -> None:
    attachment = node.attached()
    node.daemon.stop()
    child = node.start_plugin(attachment)
    # Control: without a daemon the ADD is not over.
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    node.assert_open(plain(attachment))
    node.daemon.start(wait=False)
    assert_succeeded(attachment, finish(child), node)


def test_cnitools_add_waits_too_and_the_guard_first(node: Node) -> None:
    """The guard holds the whole chain: macvlan makes no interface that nobody would govern."""
    pod, chain = node.pod(), node.chain(guard=True)
    chain["plugins"][0]["timeoutSeconds"] = 1
    node.daemon.stop()
    begun = time.monotonic()
    run = node.refused("add", chain, pod)
    assert time.monotonic() - begun < 1 + SLACK
    assert "not reachable" in run.stderr
    assert node.ruleset(pod) == ""
    node.daemon.start()
    node.assert_governed(node.add(pod, chain))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_daemon_that_never_comes_is_11_by_the_deadline(how: str, node: Node) -> None:
    attachment = node.attached()
    getattr(node.daemon, how)()
    done = node.plugin("ADD", attachment, timeoutSeconds=1.5)
    assert done.error()["code"] == 11
    assert 1.3 < done.seconds < 1.5 + SLACK
    for says in ("multi-networkpolicyd", str(node.daemon.socket), "see that the daemon runs"):
        assert says in done.words()


def test_del_succeeds_with_a_dead_daemon_and_the_next_one_keeps_its_rules_till_the_pod_ends(
    node: Node,
) -> None:
    """A DEL that is lost is none: the interface is missing, and restricted should it come back."""
    pod, chain = node.pod(), node.chain(guard=True, ipam=node.host_local())
    addresses = node.add(pod, chain)
    node.assert_governed(addresses)
    node.daemon.kill()
    begun = time.monotonic()
    node.delete(pod, chain)
    assert time.monotonic() - begun < 5 + SLACK
    assert not any((node.ipam_folder / "net1" / address.replace(":", "_")).exists() for address in addresses)
    assert len(node.records(pod)) == 1
    node.daemon.start()
    # By itself it looks for lost interfaces every 5 s; a runtime's GC makes it look now.
    assert node.plugin("GC", node.attached(), **GC_EMPTY).code == 0
    poll(lambda: node.daemon.ctl("attachments", pod.name)[0]["state"], lambda state: "missing" in state)
    assert "net1" in node.ruleset(pod)
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


# --- a daemon that is not ready --------------------------------------------------------------------------


def test_status_is_50_when_the_daemon_is_down(node: Node) -> None:
    pod, chain = node.pod(), node.chain("1.1.0")
    assert node.lab.cnitool("status", chain, pod).code == 0
    node.daemon.stop()
    assert "not reachable" in node.refused("status", chain, pod).stderr
    done = node.plugin("STATUS", node.attached(), cniVersion="1.1.0")
    assert done.error()["code"] == 50


def test_until_the_source_is_read_status_is_50_and_add_waits(node: Node) -> None:
    attachment = node.attached()
    node.daemon.stop()
    aside = node.daemon.folder / "aside"
    node.daemon.manifests.rename(aside)
    try:
        node.daemon.start(wait=False)
        node.daemon.wait_listening()
        status = node.plugin("STATUS", attachment, cniVersion="1.1.0")
        assert status.error()["code"] == 50
        assert "not ready" in status.words()
        assert "not ready" in node.refused("status", node.chain("1.1.0"), attachment.pod).stderr
        late = node.plugin("ADD", attachment, timeoutSeconds=1)
        assert late.error()["code"] == 11
        assert node.ruleset(attachment.pod) == ""
        child = node.start_plugin(attachment)
    finally:
        aside.rename(node.daemon.manifests)
    assert_succeeded(attachment, finish(child), node)
    assert node.plugin("STATUS", attachment, cniVersion="1.1.0").code == 0


# --- a daemon that ends in the middle --------------------------------------------------------------------


def test_killed_while_an_add_waits_for_its_pod(node: Node) -> None:
    attachment = node.lab.attach(node.lab.pod("late"))
    child = node.start_plugin(attachment)
    poll(lambda: node.waiting, lambda count: count == 1, 0.9)
    node.daemon.kill()
    node.daemon.apply("late", objects.pod("late", labels={"role": "server"}, networks="net1"))
    node.daemon.start(wait=False)
    assert_succeeded(attachment, finish(child), node)


def test_stopped_while_an_add_waits_for_its_pod(node: Node) -> None:
    """SIGTERM: what waits is told to try again later."""
    attachment = node.lab.attach(node.lab.pod("never-known"))
    child = node.start_plugin(attachment)
    poll(lambda: node.waiting, lambda count: count == 1, 0.9)
    assert node.daemon.stop() == 0
    done = finish(child)
    assert done.error()["code"] == 11
    assert node.ruleset(attachment.pod) == ""


def test_killed_at_random_moments_of_an_add(node: Node) -> None:
    """Whatever the moment: success means governed, and else there is an error."""
    chance = random.Random(4)
    outcomes: dict[int, list[Attachment]] = {0: [], 1: []}
    for _ in range(KILLS):
        attachment = node.attached()
        child = node.start_plugin(attachment, timeoutSeconds=20)
        time.sleep(chance.uniform(0.0, 0.02))
        node.daemon.kill()
        node.daemon.start(wait=False)
        done = finish(child)
        if done.code != 0:
            assert done.error()["code"] == 11
        outcomes[done.code].append(attachment)
    node.wait_synced()
    node.assert_governed([address for a in outcomes[0] for address in plain(a)])
    assert len(outcomes[0]) > KILLS // 2
    for attachment in outcomes[1]:
        assert len(node.records(attachment.pod)) <= 1


# --- a runtime that gives up -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_add_whose_plugin_was_killed_is_not_carried_out_later(number: int, node: Node) -> None:
    name = f"orphan-{int(number)}"
    attachment = node.lab.attach(node.lab.pod(name))
    child = node.start_plugin(attachment)
    poll(lambda: node.waiting, lambda count: count == 1, 0.9)
    child.send_signal(number)
    finish(child)
    node.daemon.apply(name, objects.pod(name, labels={"role": "server"}, networks="net1"))
    node.wait_synced()
    poll(lambda: node.waiting, lambda count: count == 0)
    assert node.records(attachment.pod) == []
    assert node.ruleset(attachment.pod) == ""
    # Control: the same ADD of a plugin that lives is carried out.
    assert node.plugin("ADD", attachment).code == 0
    assert node.ruleset(attachment.pod)


def test_a_del_ends_the_add_that_still_waits(node: Node) -> None:
    attachment = node.lab.attach(node.lab.pod("deleted-early"))
    child = node.start_plugin(attachment)
    poll(lambda: node.waiting, lambda count: count == 1, 0.9)
    assert node.plugin("DEL", attachment).code == 0
    done = finish(child)
    assert done.error()["code"] == 11
    assert "DEL" in done.words()
    assert node.records(attachment.pod) == []
    assert node.ruleset(attachment.pod) == ""
