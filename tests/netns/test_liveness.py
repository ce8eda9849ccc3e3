"""Only DEL or the end of its namespace ends an attachment: renamed, moved away and back, unplugged.

proves: A11
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Attachment, Lab, Target, namespaces
from tests.lab.namespaces import inside
from tests.netns.enroll import add, delete, must
from tests.netns.lifeworld import DENY_ALL, ONLY_A, PORT, World, eventually, records

MAC = "02:00:00:00:77:01"
MISSING = "interface missing"
LOOK_SECONDS = 8.0
"""Longer than the sweep over all links takes to come round."""


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    world = World(lab, backend)
    world.assert_open("a", "b")
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.enroll_all()
    world.assert_blocked("a", "b")
    return world


@pytest.fixture
def elsewhere(lab: Lab) -> Iterator[Path]:
    """A namespace that no runtime made, to which a pod's workload may move its links."""
    path = namespaces.create_namespace(f"{lab.tag}.elsewhere")
    yield path
    namespaces.remove_namespace(path)


def sh(netns: Path, script: str) -> None:
    with inside(netns):
        done = subprocess.run(["sh", "-ec", script], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def listed(world: World, interface: str = "net1", pod: str = "server") -> dict[str, Any]:
    found = [a for a in world.daemon.ctl("attachments", pod) if a["interface"] == interface]
    assert len(found) == 1, found
    return dict(found[0])


def bring_back(world: World, elsewhere: Path, there: str = "net1") -> None:
    """Back into the server's namespace, in working order: the way to it is whole, but for the rules."""
    pod = world.server.pod
    sh(elsewhere, f"ip link set {there} netns {pod.netns.name}")
    addresses = [f"ip addr add {a} dev {there}{' nodad' if ':' in a else ''}" for a in world.server.addresses]
    sh(pod.netns, "; ".join([f"ip link set {there} up", *addresses]))


def take_away(world: World, elsewhere: Path) -> None:
    sh(world.server.pod.netns, f"ip link set net1 netns {elsewhere.name}")


def assert_open_without_policy(world: World) -> None:
    """The way is whole: it was the rules that closed it."""
    world.daemon.remove("policy")
    world.daemon.wait_synced()
    for name in ("a", "b"):
        sh(world.attachments[name].pod.netns, "ip neigh flush all")
    world.assert_open("a", "b")


# --- the same index is the same link ---------------------------------------------------------------------


def test_name_and_mac_changed_at_once(world: World) -> None:
    script = f"ip link set net1 name pod37cd; ip link set pod37cd address {MAC}"
    sh(world.server.pod.netns, script)
    eventually(lambda: "event=renamed" in world.daemon.log or "renamed" in world.daemon.log, LOOK_SECONDS)
    world.daemon.wait_synced()
    for name in ("a", "b"):
        sh(world.attachments[name].pod.netns, "ip neigh flush all")
    world.assert_blocked("a", "b")
    assert listed(world)["state"] == "applied"
    world.daemon.restart()
    world.assert_blocked("a", "b")
    assert listed(world)["state"] == "applied"
    assert_open_without_policy(world)
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")


def test_name_and_mac_changed_while_the_daemon_was_down(world: World) -> None:
    world.daemon.stop()
    sh(world.server.pod.netns, f"ip link set net1 name pod37cd; ip link set pod37cd address {MAC}")
    world.daemon.start()
    world.daemon.wait_synced()
    for name in ("a", "b"):
        sh(world.attachments[name].pod.netns, "ip neigh flush all")
    world.assert_blocked("a", "b")
    assert listed(world)["state"] == "applied"
    assert_open_without_policy(world)


# --- away and back ---------------------------------------------------------------------------------------


def test_away_for_longer_than_the_sweep_and_back(world: World, elsewhere: Path) -> None:
    take_away(world, elsewhere)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    assert MISSING in listed(world)["error"]
    assert len(records(world.daemon)) == 3
    status = world.daemon.ctl("status")
    assert status["attachments"][MISSING] == 1
    assert any(MISSING in problem and "server" in problem for problem in status["problems"])
    bring_back(world, elsewhere)
    world.assert_blocked("a", "b")
    eventually(lambda: listed(world)["state"] == "applied")
    assert not any(MISSING in problem for problem in world.daemon.ctl("status")["problems"])
    assert_open_without_policy(world)


def test_back_under_another_index(world: World, elsewhere: Path) -> None:
    """Its name governs it from the first packet on, then its index does."""
    take_away(world, elsewhere)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    world.daemon.wait_synced()
    index = world.server.ifindex
    sh(world.server.pod.netns, f"ip link add veth7 index {index} type veth peer name veth8")
    bring_back(world, elsewhere)
    world.assert_blocked("a", "b")
    eventually(lambda: listed(world)["state"] == "applied" and listed(world)["ifindex"] != index)
    sh(world.server.pod.netns, "ip link set net1 name again")
    world.assert_blocked("a", "b") if world.view.name == "nftables" else None
    eventually(lambda: "renamed" in world.daemon.log, LOOK_SECONDS)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    assert_open_without_policy(world)


def test_back_under_another_index_and_name(world: World, elsewhere: Path) -> None:
    take_away(world, elsewhere)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    sh(world.server.pod.netns, f"ip link add veth7 index {world.server.ifindex} type veth peer name veth8")
    sh(elsewhere, "ip link set net1 name other")
    bring_back(world, elsewhere, "other")
    eventually(lambda: listed(world)["state"] == "applied", LOOK_SECONDS)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    assert_open_without_policy(world)


@pytest.mark.parametrize("what", ["many names", "many links"])
def test_back_behind_what_ends_a_list(world: World, elsewhere: Path, what: str) -> None:
    """Another index and name, and before it a link that fills the kernel's buffer, or hundreds of links."""
    take_away(world, elsewhere)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    netns, index = world.server.pod.netns, world.server.ifindex
    lines = [f"link add veth7 index {index} type veth peer name veth8 index 5000"]
    if what == "many names":
        lines += [f"link property add dev veth7 altname a{number:0123d}" for number in range(400)]
    else:
        lines += [
            f"link add a{number} index {index + number} type veth peer name b{number} index {5000 + number}"
            for number in range(1, 300)
        ]
    sh(netns, "ip -batch - <<END\n" + "\n".join(lines) + "\nEND")
    sh(elsewhere, "ip link set net1 name other")
    bring_back(world, elsewhere, "other")
    eventually(lambda: listed(world)["state"] != MISSING, LOOK_SECONDS)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")


def test_missing_among_more_links_than_are_looked_at(world: World, elsewhere: Path) -> None:
    """It is not said that it is not there; by its name it is found all the same."""
    take_away(world, elsewhere)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    assert "is not in its namespace" in listed(world)["error"]
    lines = [f"link add a{number} type veth peer name b{number}" for number in range(600)]
    sh(world.server.pod.netns, "ip -batch - <<END\n" + "\n".join(lines) + "\nEND")
    eventually(lambda: "is not among the links" in listed(world)["error"], LOOK_SECONDS)
    bring_back(world, elsewhere)
    eventually(lambda: listed(world)["state"] != MISSING, LOOK_SECONDS)


def test_back_with_nothing_of_its_own_but_the_link_below(world: World, elsewhere: Path) -> None:
    """Another index, name and MAC: what stands on the same link is governed, and is not believed to be it."""
    take_away(world, elsewhere)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    sh(world.server.pod.netns, f"ip link add veth7 index {world.server.ifindex} type veth peer name veth8")
    sh(elsewhere, f"ip link set net1 name other; ip link set other address {MAC}")
    bring_back(world, elsewhere, "other")
    eventually(lambda: "interface-alike" in world.daemon.log, LOOK_SECONDS)
    world.daemon.wait_synced()
    for name in ("a", "b"):
        sh(world.attachments[name].pod.netns, "ip neigh flush all")
    world.assert_blocked("a", "b")
    assert listed(world)["state"] == MISSING
    assert_open_without_policy(world)


def test_away_over_a_restart(world: World, elsewhere: Path) -> None:
    take_away(world, elsewhere)
    world.daemon.restart()
    assert listed(world)["state"] == MISSING
    bring_back(world, elsewhere)
    world.assert_blocked("a", "b")
    eventually(lambda: listed(world)["state"] == "applied")
    assert_open_without_policy(world)


# --- what ends it ----------------------------------------------------------------------------------------


def test_a_del_ends_what_is_missing_within_a_second(world: World) -> None:
    world.lab.detach(world.server)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    must(delete(world.daemon, world.server.pod, "net1"))
    eventually(lambda: world.daemon.run_ctl("attachments", "server").returncode == 1, 1.0)
    eventually(lambda: "net1" not in world.ruleset(world.server.pod), 1.0)
    assert len(records(world.daemon)) == 2


def test_the_end_of_its_namespace_ends_what_is_missing(world: World) -> None:
    world.lab.detach(world.server)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    world.server.pod.end()
    eventually(lambda: "server" not in world.states(), 1.5)


def test_a_lost_del_takes_the_addresses_out_of_the_peers(world: World) -> None:
    """They may be another's by now; and ADD of the same interface takes over."""
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a")
    first = world.attachments["a"]
    pod = first.pod
    world.lab.detach(first)
    eventually(lambda: listed(world, pod="a")["state"] == MISSING, LOOK_SECONDS)
    world.daemon.wait_synced()
    assert f"{first.ipv4} " not in world.ruleset(world.server.pod)
    heir = world.lab.attach(world.lab.pod("heir"), addresses=first.addresses)
    targets = [Target("tcp", address, PORT) for address in (world.server.ipv4, world.server.ipv6)]
    sh(world.server.pod.netns, "ip neigh flush all")
    assert heir.pod.prober.mismatches(dict.fromkeys(targets, False)) == []
    world.lab.detach(heir)
    again = world.lab.attach(pod, addresses=first.addresses)
    must(add(world.daemon, again))
    sh(world.server.pod.netns, "ip neigh flush all")
    world.daemon.wait_synced()
    world.assert_open("a")
    assert listed(world, pod="a")["state"] == "applied"


def test_another_interface_in_the_place_of_a_missing_one(world: World) -> None:
    """What an ADD gives to one attachment is no other's; and each interface is listed once at most."""
    world.lab.detach(world.server)
    eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    second: Attachment = world.lab.attach(world.server.pod, "net1", "net2")
    must(add(world.daemon, second))
    eventually(lambda: listed(world, "net2")["state"] == "applied", LOOK_SECONDS)
    assert listed(world)["state"] == MISSING
    for _ in range(3):
        third = world.lab.attach(world.server.pod, "net1", "net1")
        must(add(world.daemon, third))
        world.lab.detach(third)
        eventually(lambda: listed(world)["state"] == MISSING, LOOK_SECONDS)
    assert len(world.daemon.ctl("attachments", "server")) == 2
    assert listed(world, "net2")["state"] == "applied"
