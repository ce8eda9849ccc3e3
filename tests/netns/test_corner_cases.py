"""Corners of an attachment's life that bad luck leads to: damage, full disks, reuse, partial news."""

import json
import resource
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.lab import Lab, objects
from tests.netns.enroll import add, add_guard, delete, must
from tests.netns.lifeworld import DENY_ALL, World, eventually, records


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return World(lab, backend)


@contextmanager
def full_disk(directory: Path) -> Iterator[None]:
    """A file system without a free byte over a directory that the daemon writes to."""
    line = ["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "mnpt-full", str(directory)]
    subprocess.run(line, check=True)
    try:
        kept = directory / "ballast"
        with kept.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


# --- records ---------------------------------------------------------------------------------------------


def test_a_damaged_records_rules_stay_though_its_netns_has_another_attachment(world: World) -> None:
    """DESIGN: a damaged record is set aside, its rules stay."""
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    pod = world.server.pod
    second = world.lab.attach(pod, "net1", "net2")
    must(add(world.daemon, world.server))
    must(add(world.daemon, second))
    world.assert_blocked("a")
    world.daemon.stop()
    damaged = [path for path in records(world.daemon) if '"ifname":"net1"' in path.read_text()]
    assert len(damaged) == 1
    damaged[0].write_text("{")
    world.assert_blocked("a")
    world.daemon.start()
    world.assert_blocked("a")


def test_a_netns_path_that_is_hidden_at_start_does_not_lose_the_attachment(world: World) -> None:
    """A start without the mount is a mistake of the set-up: once mended, enforcement must go on."""
    world.enroll_all()
    world.daemon.stop()
    hidden = world.server.pod.netns
    subprocess.run(["mount", "--bind", "/dev/null", str(hidden)], check=True)
    try:
        world.daemon.start(wait=False)
        eventually(lambda: "apply-failed" in world.daemon.log, 10.0)
    finally:
        subprocess.run(["umount", str(hidden)], check=True)
    world.daemon.restart()
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    assert "server" in world.states()


def test_a_full_disk_does_not_end_the_daemon_when_unready_attachments_converge(
    lab: Lab, backend: str
) -> None:
    daemon = lab.daemon(backend=backend)
    attachment = lab.attach(lab.pod("server"))
    daemon.stop()
    daemon.manifests.rename(daemon.folder / "aside")
    daemon.start(wait=False)
    daemon.wait_listening()
    must(add(daemon, attachment, timeout=1.0, onUnready="deny"))
    (daemon.folder / "aside" / "pods.yaml").write_text(json.dumps(objects.list_of([objects.pod("server")])))
    with full_disk(daemon.state / "attachments"):
        (daemon.folder / "aside").rename(daemon.manifests)
        daemon.wait_synced()
        assert [item["state"] for item in daemon.ctl("attachments")] == ["applied"]


# --- not ready -------------------------------------------------------------------------------------------


def test_an_unready_attachment_converges_when_its_pod_was_known_before_the_rest(
    lab: Lab, backend: str
) -> None:
    """The source hands over what it has while a file keeps changing: complete only later."""
    daemon = lab.daemon(backend=backend)
    attachment = lab.attach(lab.pod("server"))
    daemon.stop()
    daemon.apply("pods", [objects.pod("server")])
    restless = daemon.manifests / "z.yaml"
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(0.05):
            restless.write_bytes(b"")

    restless.write_bytes(b"")
    thread = threading.Thread(target=touch)
    thread.start()
    try:
        daemon.start(wait=False)
        daemon.wait_listening()
        assert not daemon.ctl("status")["ready"]
        must(add(daemon, attachment, timeout=1.5, onUnready="deny"))
        assert not daemon.ctl("status")["ready"]
    finally:
        ended.set()
        thread.join()
    daemon.wait_synced()
    assert [item["state"] for item in daemon.ctl("attachments")] == ["applied"]


# --- the same names again --------------------------------------------------------------------------------


def test_a_guard_again_leaves_a_governed_interface_as_it_is(world: World) -> None:
    """ADD again is idempotent: the runtime repeats the whole list, the guard first."""
    world.enroll_all()
    world.assert_open("a")
    must(add_guard(world.daemon, world.server.pod, "net1"))
    world.assert_open("a")
    must(add(world.daemon, world.server))
    world.assert_open("a")


def test_an_add_of_the_same_key_elsewhere_opens_nothing_where_it_was(world: World) -> None:
    """Rules go with the link or the netns, and not because an ID is used again."""
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    must(add(world.daemon, world.server))
    world.assert_blocked("a")
    elsewhere = world.lab.pod("server", suffix="-again")
    again = world.lab.attach(elsewhere)
    body = {
        "cniVersion": "1.0.0",
        "name": "net1",
        "netAttachDef": "default/net1",
        "prevResult": again.result(),
    }
    env = {
        "CNI_CONTAINERID": world.server.pod.container_id,
        "CNI_NETNS": str(elsewhere.netns),
        "CNI_IFNAME": "net1",
        "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=server",
    }
    must(world.daemon.cni("add", env, body))
    world.daemon.wait_synced()
    world.assert_blocked("a")


def test_a_netns_of_two_paths_is_reached_by_the_one_that_is_left(world: World) -> None:
    pod = world.server.pod
    other = pod.netns.with_name(pod.netns.name + "-other")
    other.touch()
    subprocess.run(["mount", "--bind", str(pod.netns), str(other)], check=True)
    try:
        must(add(world.daemon, world.server))
        second = world.lab.attach(pod, "net1", "net2")
        env = {
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": str(other),
            "CNI_IFNAME": "net2",
            "CNI_ARGS": "K8S_POD_NAMESPACE=default;K8S_POD_NAME=server",
        }
        body = {
            "cniVersion": "1.0.0",
            "name": "net1",
            "netAttachDef": "default/net1",
            "prevResult": second.result(),
        }
        must(world.daemon.cni("add", env, body))
        subprocess.run(["umount", str(pod.netns)], check=True)
        # Sooner than the next sweep: the reconciler is the first to find the path gone.
        world.daemon.apply("policy", DENY_ALL)
        world.daemon.wait_synced()
        found = [item for item in world.daemon.ctl("attachments") if item["interface"] == "net2"]
        subprocess.run(["mount", "--bind", str(other), str(pod.netns)], check=True)
        assert [item["isolated"] for item in found] == [["ingress"]]
    finally:
        subprocess.run(["umount", str(other)], check=True)
        other.unlink()


def test_a_crash_between_two_records_of_one_interface_leaves_the_newer(world: World) -> None:
    """ADD of another container writes its record, then removes the old one: both may stand."""
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    must(add(world.daemon, world.server))
    record = records(world.daemon)[0]
    world.daemon.stop()
    older = record.with_name(f"0{record.name}")
    older.write_text(record.read_text().replace(world.server.pod.container_id, "older"))
    world.daemon.start()
    assert len(world.daemon.ctl("attachments")) == 1
    world.server.pod.end()
    eventually(lambda: world.daemon.ctl("attachments") == [], 3.0)


def test_an_index_given_to_another_interface_does_not_end_the_attachment(world: World) -> None:
    """Somebody asked for the number of the last one: what has it is restricted, until the DEL comes."""
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    must(add(world.daemon, world.server))
    world.lab.detach(world.server)
    index = str(world.server.ifindex)
    line = ["ip", "-n", world.server.pod.netns.name, "link", "add", "net2", "index", index]
    subprocess.run([*line, "type", "veth", "peer", "name", "far"], check=True)
    eventually(lambda: "renamed" in world.daemon.log or "interface-missing" in world.daemon.log, 8.0)
    assert len(world.daemon.ctl("attachments")) == 1
    assert "ingress-net1" in world.ruleset(world.server.pod)
    subprocess.run(["ip", "-n", world.server.pod.netns.name, "link", "del", "net2"], check=True)
    must(delete(world.daemon, world.server.pod, "net1"))
    eventually(lambda: world.daemon.ctl("attachments") == [], 1.0)


# --- bad clients -----------------------------------------------------------------------------------------


def test_a_request_nested_deeply_hurts_nobody_else(world: World) -> None:
    """The version is shown in the refusal: deeper than Python's repr goes."""
    for depth in (900, 1000, 1020):
        frame = b"\x82\xa1v" + b"\x91" * depth + b"\x01" + b"\xa2op\xa6status"
        with socket.socket(socket.AF_UNIX) as client, suppress(ConnectionError):
            client.settimeout(10)
            client.connect(str(world.daemon.socket))
            client.sendall(len(frame).to_bytes(4, "big") + frame)
            client.recv(1 << 16)
    assert world.daemon.ctl("status")["ready"]


def test_clients_that_use_up_the_descriptors_lose_no_attachment(world: World) -> None:
    world.enroll_all()
    pid = world.daemon.pid
    limit = len(list(Path(f"/proc/{pid}/fd").iterdir())) + 8
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    clients = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in clients:
        client.connect(str(world.daemon.socket))
    # Idle clients are dropped after 5 s: this long the sweeps and the server have no descriptor.
    eventually(lambda: "client-too-slow" in world.daemon.log, 10.0)
    for client in clients:
        client.close()
    assert world.states() == {"server": "applied", "a": "applied", "b": "applied"}
