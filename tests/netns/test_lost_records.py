"""Records that were lost or damaged: the kernel's word is gone on from, and believed no more than a pod's.

Nothing is called clean meanwhile.

proves: A11, C5
"""

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Attachment, Lab, Pod, Target, objects
from tests.lab.namespaces import ROOT, inside
from tests.netns.enroll import add, add_guard, delete, must
from tests.netns.lifeworld import DENY_ALL, ONLY_A, PORT, World, eventually
from tests.netns.lostworld import listed, make_world, record_of, set_aside


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return make_world(lab, backend)


def truncate(world: World) -> None:
    path = record_of(world.daemon, "server")
    path.write_bytes(path.read_bytes()[:100])


def unlink(world: World) -> None:
    record_of(world.daemon, "server").unlink()


def wipe(world: World) -> None:
    shutil.rmtree(world.daemon.state)


LOSSES = [truncate, unlink, wipe]


# --- a later edit counts ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lose", LOSSES)
def test_a_later_edit_closes_what_was_open(world: World, lose: Callable[[World], None]) -> None:
    world.daemon.kill()
    lose(world)
    world.daemon.start()
    assert listed(world.daemon, "server")["state"] == "adopted"
    world.assert_open("a", "b")
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    assert any("default/server" in line and "Restart" in line for line in set_aside(world.daemon))
    run = world.daemon.run_ctl("wait", "--synced")
    assert run.returncode == 0
    assert "default/server" in run.stderr
    assert "record was lost" in run.stderr
    # Once more: what was adopted is an attachment like others, but for what it may say of itself.
    world.daemon.restart()
    assert listed(world.daemon, "server")["state"] == "adopted"
    world.assert_blocked("a", "b")


@pytest.mark.parametrize("lose", LOSSES)
def test_an_edit_made_meanwhile_closes_what_was_open(world: World, lose: Callable[[World], None]) -> None:
    world.daemon.kill()
    lose(world)
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.start()
    world.assert_blocked("a", "b")


def test_what_was_isolated_stays_so_and_follows_edits(world: World) -> None:
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    world.daemon.kill()
    unlink(world)
    world.daemon.start()
    world.assert_blocked("a", "b")
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")


def test_a_pod_that_is_not_known_any_more_is_denied(world: World) -> None:
    """Its labels were in its record: nobody knows which policies select it."""
    world.daemon.kill()
    unlink(world)
    world.daemon.apply("pods", [world.object("a"), world.object("b")])
    world.daemon.start()
    world.assert_blocked("a", "b")
    assert any("denied both ways" in line for line in set_aside(world.daemon))
    world.daemon.apply("pods", [world.object(name) for name in world.attachments])
    world.daemon.wait_synced()
    world.assert_open("a", "b")


def test_one_of_two_in_a_namespace(world: World) -> None:
    second = world.lab.attach(world.server.pod, "net1", "net2")
    must(add(world.daemon, second))
    world.daemon.wait_synced()
    world.daemon.kill()
    record_of(world.daemon, "server", "net2").unlink()
    world.daemon.start()
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    target = Target("tcp", second.ipv4, PORT)
    assert world.attachments["a"].pod.prober.mismatches({target: False}) == []
    states = {item["interface"]: item["state"] for item in world.daemon.ctl("attachments", "server")}
    assert states == {"net1": "applied", "net2": "adopted"}


def test_the_backend_was_changed_too(world: World) -> None:
    world.daemon.kill()
    wipe(world)
    world.daemon.choose_backend({"nftables": "iptables", "iptables": "nftables"}[world.view.name])
    world.daemon.start()
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")


def test_a_guard_without_record_goes_on_denying(world: World) -> None:
    pod = world.lab.pod("guarded")
    world.daemon.apply("guarded", objects.pod("guarded"))
    world.daemon.wait_synced()
    must(add_guard(world.daemon, pod, "net1"))
    world.daemon.wait_synced()
    world.daemon.kill()
    wipe(world)
    world.daemon.start()
    guarded = world.lab.attach(pod)
    pod.prober.serve(PORT)
    target = Target("tcp", guarded.ipv4, PORT)
    assert world.attachments["a"].pod.prober.mismatches({target: False}) == []
    must(add(world.daemon, guarded))
    assert world.attachments["a"].pod.prober.mismatches({target: True}) == []
    assert listed(world.daemon, "guarded")["state"] == "applied"


# --- clean again -----------------------------------------------------------------------------------------


def test_ready_says_what_is_set_aside_until_it_is_not(lab: Lab, backend: str) -> None:
    daemon = lab.daemon(backend=backend, options=["--metrics-address=127.0.0.1:19476"])
    attachment = lab.attach(lab.pod("server"))
    daemon.apply("all", [objects.pod("server"), objects.network("net1")])
    daemon.wait_synced()
    must(add(daemon, attachment))
    daemon.wait_synced()
    eventually(lambda: readiness() == (200, "ok\n"))
    daemon.kill()
    record_of(daemon, "server").write_text("{")
    daemon.start()
    eventually(lambda: readiness()[0] == 503 and "default/server" in readiness()[1])
    assert "not ready, though ADDs go on" in daemon.run_ctl("status").stdout.splitlines()[0]
    must(add(daemon, attachment))
    eventually(lambda: readiness() == (200, "ok\n"))
    # One that nothing is found of: only an operator can say that nothing is lost.
    daemon.kill()
    (daemon.state / "attachments" / "0000.json").write_text("{")
    daemon.start()
    eventually(lambda: readiness()[0] == 503 and "delete the file" in readiness()[1])
    assert "multi_networkpolicy_set_aside 1" in fetched("/metrics")[1]
    (daemon.state / "attachments/set-aside/0000.json").unlink()
    eventually(lambda: readiness() == (200, "ok\n"))


def fetched(path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:19476{path}", timeout=5) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def readiness() -> tuple[int, str]:
    return fetched("/readyz")


def test_del_and_the_end_of_the_namespace_end_what_was_adopted(world: World) -> None:
    world.daemon.kill()
    wipe(world)
    world.daemon.start()
    assert len(set_aside(world.daemon)) == 3
    must(delete(world.daemon, world.server.pod, "net1"))
    world.lab.detach(world.server)
    eventually(lambda: len(set_aside(world.daemon)) == 2, 1.5)
    world.attachments["a"].pod.end()
    eventually(lambda: len(set_aside(world.daemon)) == 1, 1.5)


def test_what_went_meanwhile_is_not_adopted(world: World) -> None:
    world.daemon.kill()
    wipe(world)
    world.lab.detach(world.server)
    world.attachments["a"].pod.end()
    world.daemon.start()
    assert [item["pod"] for item in world.daemon.ctl("attachments")] == ["default/b"]


# --- what a pod claims -----------------------------------------------------------------------------------


def test_an_adopted_one_is_no_peer_until_the_source_says_the_same(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")
    world.daemon.kill()
    record_of(world.daemon, "a").unlink()
    world.daemon.start()
    world.assert_blocked("a", "b")
    first = world.attachments["a"]
    status = [objects.status_entry("default/net1", "net1", [first.ipv4, first.ipv6])]
    world.daemon.apply("pods", [world.object("server"), world.object("a", status=status), world.object("b")])
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")
    assert set_aside(world.daemon) == []
    assert listed(world.daemon, "a")["state"] == "applied"


def forge(world: World, evil: Pod, attachment: Attachment, victim: Attachment) -> None:
    """A privileged pod puts a table into its namespace, that says of it what ours says of the victim."""

    def put(*old: tuple[str, str], text: str) -> str:
        for before, after in old:
            text = text.replace(before, after)
        return text

    hexed = {address: bytes(map(int, address.split("."))).hex() for address in (victim.ipv4, attachment.ipv4)}
    pairs = ((hexed[victim.ipv4], hexed[attachment.ipv4]), (victim.mac.replace(":", "%3A"), "x"))
    if world.view.name == "nftables":
        with inside(victim.pod.netns):
            text = subprocess.run(
                ["nft", "list", "table", "inet", "multi-networkpolicy"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        with inside(evil.netns):
            subprocess.run(["nft", "-f", "-"], input=put(*pairs, text=text), text=True, check=True)
        return
    with inside(victim.pod.netns):
        text = subprocess.run(["iptables-legacy-save"], capture_output=True, text=True, check=True).stdout
    with inside(evil.netns):
        subprocess.run(["iptables-legacy-restore"], input=put(*pairs, text=text), text=True, check=True)


@pytest.mark.parametrize("victim_is_there", [True, False])
def test_a_forged_imprint_makes_nobody_a_peer(world: World, victim_is_there: bool) -> None:
    """It says that the pod is `a`, with its own address: it is not let in as `a`, and `a` is not shut out."""
    evil = world.lab.attach(world.lab.pod("evil"))
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a")
    forge(world, evil.pod, evil, world.attachments["a"])
    world.daemon.kill()
    if not victim_is_there:
        record_of(world.daemon, "a").unlink()
        first = world.attachments["a"]
        status = [objects.status_entry("default/net1", "net1", [first.ipv4, first.ipv6])]
        pods = [world.object("server"), world.object("a", status=status), world.object("b")]
        world.daemon.apply("pods", pods)
    world.daemon.start()
    world.daemon.wait_synced()
    assert len(world.daemon.ctl("attachments")) == 4, "the forged one is adopted, for what it is worth"
    target = Target("tcp", world.server.ipv4, PORT)
    assert evil.pod.prober.mismatches({target: False}) == []
    world.assert_open("a")
    world.assert_blocked("b")
    text = world.ruleset(world.server.pod)
    assert f"{evil.ipv4} " not in text
    assert f"{evil.ipv4}\n" not in text


def test_what_another_daemon_governs_is_told_of_once(
    lab: Lab, backend: str, world: World, tmp_path: Path
) -> None:
    """Whichever paths lead to a namespace: /var/run is a link to /run as a rule."""
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    paths = f"--netns-paths={ROOT}/{lab.tag}.*,{link}/{lab.tag}.*"
    other = lab.daemon(backend=backend, options=[paths])
    assert len(set_aside(other)) == len(world.attachments)
    assert other.log.count(" left-alone ") == len(world.attachments)
