"""Namespaces that can't be seen for a while, paths that lead elsewhere, names that are no text.

proves: A11
"""

import os
import subprocess
from hashlib import sha256

import pytest

from tests.lab import Lab, objects
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.netns.enroll import add, must
from tests.netns.lifeworld import DENY_ALL, ONLY_A, World, eventually, records
from tests.netns.lostworld import listed, make_world

PLACES = "/run/netns"


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return make_world(lab, backend)


# --- the directory of namespaces is hidden ---------------------------------------------------------------


class Apart(World):
    """A daemon with mounts of its own, in which all pods' paths are."""

    def __init__(self, lab: Lab, backend: str) -> None:
        super().__init__(lab, backend)
        self.daemon.stop()
        self.daemon = lab.daemon(backend=backend, wrapper=["unshare", "-m", "--propagation", "private"])
        self.daemon.apply("pods", [self.object(name) for name in self.attachments])
        self.daemon.apply("network", objects.network("net1"))
        self.daemon.wait_synced()
        self.enroll_all()
        self.daemon.wait_synced()

    def mount(self, *line: str) -> None:
        """Run mount or umount where the daemon is."""
        subprocess.run(["nsenter", "-t", str(self.daemon.pid), "-m", *line], check=True)


@pytest.fixture
def apart(lab: Lab, backend: str) -> Apart:
    return Apart(lab, backend)


def test_a_mount_over_all_namespaces_ends_none(apart: Apart) -> None:
    apart.assert_open("a", "b")
    apart.mount("mount", "-t", "tmpfs", "mnpt-over", PLACES)
    told = poll(lambda: apart.daemon.ctl("status")["problems"], lambda now: "can't be seen" in str(now))
    assert "mounted over it" in str(told)
    assert len(records(apart.daemon)) == 3
    apart.mount("umount", PLACES)
    apart.daemon.apply("policy", DENY_ALL)
    apart.daemon.wait_synced()
    apart.assert_blocked("a", "b")
    assert apart.daemon.ctl("status")["problems"] == []


def test_a_start_that_sees_none_of_them_forgets_none(apart: Apart) -> None:
    apart.daemon.stop()
    plain = list(apart.daemon._line)
    hide = ["sh", "-c", f'mount -t tmpfs mnpt-over {PLACES}; exec "$@"', "sh"]
    apart.daemon._line[4:4] = hide
    apart.daemon.start(wait=False)
    apart.daemon.wait_listening()
    poll(lambda: apart.daemon.ctl("status")["problems"], lambda now: "can't be seen" in str(now))
    apart.daemon.stop()
    assert len(records(apart.daemon)) == 3
    apart.daemon._line[:] = plain
    apart.daemon.apply("policy", DENY_ALL)
    apart.daemon.start()
    apart.daemon.wait_synced()
    apart.assert_blocked("a", "b")


# --- a path that leads elsewhere -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["net", "uts"])
@pytest.mark.parametrize("backend", ["nftables"])
def test_a_process_number_that_is_another_s(lab: Lab, backend: str, kind: str) -> None:
    """A link stands for /proc/PID/ns/net: the pod ended while no daemon ran, its number went to the host."""
    world = World(lab, backend)
    world.daemon.apply("policy", ONLY_A)
    place = lab.folder / "proc-1234-ns-net"
    client = world.attachments["a"]
    real = client.pod.netns
    place.symlink_to(real)
    client.pod.netns = place
    world.enroll_all()
    client.pod.netns = real
    world.daemon.wait_synced()
    world.assert_open("a")
    world.daemon.kill()
    client.pod.end()
    place.unlink()
    place.symlink_to(f"/proc/{os.getpid()}/ns/{kind}")
    world.daemon.start()
    world.daemon.wait_synced()
    assert len(records(world.daemon)) == 2
    new = lab.attach(lab.pod("c"), addresses=list(client.addresses))
    pods = [world.object(name) for name in ("server", "b")]
    world.daemon.apply("pods", [*pods, objects.pod("c", labels={"role": "a"})])
    must(add(world.daemon, new))
    world.attachments["c"] = new
    world.assert_open("c")


# --- names that are no text ------------------------------------------------------------------------------

STRANGE = b"br\xff\xfe"


def test_links_with_names_that_are_no_text(world: World) -> None:
    """A bridge over the interface, a device beside it: told, and all who ask are answered."""
    with inside(world.server.pod.netns):
        subprocess.run([b"ip", b"link", b"add", b"name", STRANGE, b"type", b"bridge"], check=True)
        subprocess.run([b"ip", b"link", b"set", b"net1", b"master", STRANGE], check=True)
    world.daemon.apply("policy", DENY_ALL)
    eventually(lambda: "port of the bridge" in listed(world.daemon, "server")["error"], 15.0)
    for command in (["status"], ["attachments"], ["policies"], ["render", "default/server"]):
        assert world.daemon.run_ctl(*command).returncode == 0, command
    assert "\\xff" in str(world.daemon.ctl("status")) or "\\udcff" in str(world.daemon.ctl("status"))
    world.daemon.restart()
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")


CLAIMS = [
    "container=%80",
    "pod=default/%80",
    "networks=%FF",
    "evidence=%FF",
    "config=%FF",
    "mac=%80",
    "uid=%80",
]


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("backend", ["nftables"])
def test_a_claim_that_is_no_text_is_none(world: World, claim: str) -> None:
    """Of a pod that never had an ADD, and that knows by which name ours are written."""
    stranger = world.lab.attach(world.lab.pod("stranger"))
    by = sha256(os.fsencode(world.daemon.state.resolve())).hexdigest()[:12]
    world.daemon.kill()
    own = "" if claim.startswith("container") else "container=evil&"
    words = f"by={by}&interface=net1&index={stranger.ifindex}&mac={stranger.mac}&{own}{claim}"
    pieces = [words[at : at + 96] for at in range(0, len(words), 96)]
    table = "inet multi-networkpolicy"
    script = [f"add table {table}", f"add chain {table} about"]
    for number, piece in enumerate(pieces, 1):
        script.append(f'add rule {table} about return comment "net1 {number}/{len(pieces)} {piece}"')
    with inside(stranger.pod.netns):
        subprocess.run(["nft", "-f", "-"], input="\n".join(script).encode(), check=True)
    world.daemon.start()
    world.daemon.wait_synced()
    assert len(world.daemon.ctl("attachments")) == 3
    world.assert_open("a")
