"""Whose address it is: what authors of pods write about addresses lets nobody in as somebody else.

proves: C5, A11

In the manifests a pod has no node: it is one of this node from its first ADD here on.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Attachment, Lab, objects
from tests.netns.enroll import add, delete, environment, must
from tests.netns.lifeworld import ONLY_A, World

FROM_A = [{"podSelector": {"matchLabels": {"role": "a"}}}]


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    made = World(lab, backend)
    made.daemon.apply("policy", ONLY_A)
    made.daemon.wait_synced()
    return made


def ips(attachment: Attachment) -> list[str]:
    return [attachment.ipv4, attachment.ipv6]


def write_status(world: World, name: str, *entries: objects.Object, **changes: Any) -> None:
    """What the author of a pod writes, as it is in force."""
    world.daemon.apply("pods", [world.object(one) for one in world.attachments if one != name])
    world.daemon.apply(f"pod-{name}", world.object(name, status=entries, **changes))
    world.daemon.wait_synced()


def claim(world: World, network: str, of: str, ifname: str = "net9") -> objects.Object:
    """An entry of network-status with another pod's addresses."""
    return objects.status_entry(network, ifname, ips(world.attachments[of]))


def problems(world: World) -> str:
    return "\n".join(world.daemon.ctl("status")["problems"])


def test_a_status_neither_lends_nor_takes_an_address(world: World) -> None:
    """It is on net1 by configuration; its pod's author says that another interface is, with b's address."""
    world.enroll_all()
    world.assert_open("a")
    world.assert_blocked("b")
    own = objects.status_entry("default/net2", "net1", ips(world.attachments["a"]))
    write_status(world, "a", own, claim(world, "default/net1", "b"))
    world.assert_open("a")
    world.assert_blocked("b")


def test_a_pod_of_this_node_is_no_peer_where_it_has_no_add(world: World) -> None:
    on_net2 = {**ONLY_A, "metadata": {**ONLY_A["metadata"], "annotations": {objects.POLICY_FOR: "net2"}}}
    world.daemon.apply("policy", on_net2)
    must(add(world.daemon, world.server, "default/net2"))
    must(add(world.daemon, world.attachments["a"], "default/net1"))
    write_status(world, "a", claim(world, "default/net2", "b"))
    world.assert_blocked("a", "b")
    assert "network-status" in problems(world)
    assert world.attachments["b"].ipv4 in problems(world)
    # Its own ADD there makes it a peer, with what that gave.
    must(add(world.daemon, world.attachments["a"], "default/net2"))
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")


def test_who_has_it_by_an_add_here_is_nobody_else(world: World) -> None:
    """A pod elsewhere (no ADD here) has an old status, or a forged one."""
    world.enroll_all()
    far = objects.pod("far", labels={"role": "a"}, status=[claim(world, "default/net1", "b", "net1")])
    world.daemon.apply("far", far)
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")
    told = [line for line in problems(world).splitlines() if world.attachments["b"].ipv4 in line]
    assert told
    assert "default/far" in told[0]
    assert "default/b" in told[0]
    world.daemon.restart()
    world.assert_open("a")
    world.assert_blocked("b")
    # After DEL it may be the other's (A11), and who uses it then is taken for that.
    must(delete(world.daemon, world.attachments["b"].pod, "net1"))
    world.daemon.wait_synced()
    world.assert_open("b")


def test_it_is_held_without_an_identity_too(world: World) -> None:
    must(add(world.daemon, world.server))
    far = objects.pod("far", labels={"role": "a"}, status=[claim(world, "default/net1", "b", "net1")])
    world.daemon.apply("far", far)
    world.daemon.wait_synced()
    world.assert_open("b")
    must(add(world.daemon, world.attachments["b"], args={}))
    world.daemon.wait_synced()
    world.assert_blocked("b")


def test_an_address_of_two_adds_is_nobodys(world: World) -> None:
    """An author of pods may choose addresses: then one that is taken passes for nobody's."""
    world.enroll_all()
    a = world.attachments["a"]
    world.assert_open("a")
    evil = world.lab.pod("evil")
    world.daemon.apply("evil", objects.pod("evil", labels={"role": "evil"}))
    taken = world.lab.attach(evil, "net1", "net1", a.addresses)
    must(add(world.daemon, taken))
    world.attachments["evil"] = taken
    for address in ips(a):
        world.server.pod.set_neighbour("net1", address, taken.mac)
    world.daemon.wait_synced()
    world.assert_blocked("evil")
    assert "default/evil" in problems(world)
    must(delete(world.daemon, evil, "net1"))
    for address in ips(a):
        world.server.pod.set_neighbour("net1", address, a.mac)
    world.daemon.wait_synced()
    world.assert_open("a")


def test_a_second_attachment_of_one_pod_is_no_other(world: World) -> None:
    """A9: and a new sandbox of the same pod may have the address before the old one is gone."""
    world.enroll_all()
    again = world.lab.attach(world.lab.pod("a", suffix="-again"), "net1")
    result = {**again.result(), "ips": world.attachments["a"].result()["ips"]}
    must(add(world.daemon, again, prevResult=result))
    world.daemon.wait_synced()
    world.assert_open("a")


# --- what ADD gave, and what is said of that ---------------------------------------------------------------


def results_without_sandbox(attachment: Attachment) -> Iterator[objects.Object]:
    four, six = ({"ip": address} for address in attachment.addresses)
    yield {"cniVersion": "0.2.0", "ip4": four, "ip6": six}
    for version in ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"):
        result = attachment.result(version)
        del result["interfaces"][0]["sandbox"]
        yield result


def test_a_peer_by_a_result_without_sandbox(world: World) -> None:
    a = world.attachments["a"]
    must(add(world.daemon, world.server))
    for result in results_without_sandbox(a):
        must(add(world.daemon, a, prevResult={"cniVersion": "1.0.0"}))
        world.daemon.wait_synced()
        world.assert_blocked("a")
        must(add(world.daemon, a, cniVersion=result["cniVersion"], prevResult=result))
        world.daemon.wait_synced()
        world.assert_open("a")


def notes(world: World, name: str) -> list[str]:
    (item,) = world.daemon.ctl("attachments", f"default/{name}")
    found: list[str] = item["notes"]
    return found


def test_addresses_of_neither_are_no_difference(world: World) -> None:
    """No IPAM: neither ADD nor Multus gives any."""
    bare = {**world.server.result(), "ips": []}
    must(add(world.daemon, world.server, prevResult=bare))
    write_status(world, "server", objects.status_entry("default/net1", "net1", []))
    assert notes(world, "server") == []
    assert "network-status" not in problems(world)
    write_status(world, "server", objects.status_entry("default/net1", "net1", ["10.9.9.9"]))
    assert notes(world, "server") == ["network-status lists 10.9.9.9, and ADD gave none"]
    must(add(world.daemon, world.server))
    own = f"{world.server.ipv4}, {world.server.ipv6}"
    write_status(world, "server", objects.status_entry("default/net1", "net1", []))
    assert notes(world, "server") == [f"network-status lists none, and ADD gave {own}"]
    write_status(world, "server", objects.status_entry("default/net1", "net1", ips(world.server)))
    assert notes(world, "server") == []


def test_a_vf_on_a_user_space_driver_says_why_it_fails(world: World) -> None:
    """No such device is here; its result is what matters: an interface that the kernel has not."""
    made = {"name": "net7", "sandbox": str(world.server.pod.netns), "pciID": "0000:ff:1f.7"}
    body = {
        "cniVersion": "1.1.0",
        "name": "vf",
        "netAttachDef": "default/vf",
        "prevResult": {"interfaces": [made]},
    }
    reply = world.daemon.cni("add", environment(world.server.pod, "net7"), body)
    assert (reply["ok"], reply["code"]) == (False, 7)
    assert "'0000:ff:1f.7', on a user-space driver" in reply["msg"]
    assert (
        "take multi-networkpolicy out of the plugins list of the net-attach-def default/vf"
        in reply["details"]
    )
