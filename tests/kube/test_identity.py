"""Whose address it is, in a cluster: what authors of pods write lets nobody in as somebody else.

proves: C5
"""

import json
from collections.abc import Iterator

import pytest

from tests.kube.world import ELSEWHERE, KubeWorld, only
from tests.lab import Lab, objects
from tests.lab.apiserver import ApiServer


@pytest.fixture(scope="module")
def world(server: ApiServer) -> Iterator[KubeWorld]:
    with Lab() as lab:
        yield KubeWorld(lab, server)


def test_pods_of_this_node_are_peers_by_their_adds_alone(world: KubeWorld) -> None:
    """The author of `a` lists addresses of `b`: on a network where `a` has no interface, and on its own."""
    world.apply(world.network("net2"), world.policy(only("a"), networks="net1,net2"))
    world.assert_open("a")
    world.assert_blocked("b")
    taken = [world.attachments["b"].ipv4, world.attachments["b"].ipv6]
    told = world.status_of("a")
    told[1]["name"] = f"{world.space}/net3"
    claims = [objects.status_entry(f"{world.space}/{name}", name, taken) for name in ("net1", "net2")]
    change = {"metadata": {"annotations": {objects.STATUS: json.dumps([*told, *claims])}}}
    world.api.patch("Pod", world.space, "a", change)
    # A pod that is of this node, and has no interface yet.
    world.api.create(world.pod("early", labels={"role": "a"}, status=claims))
    world.sync()
    world.assert_open("a")
    world.assert_blocked("b")
    assert f"{world.space}/early" in str(world.daemon.ctl("status")["problems"])
    # Nor is one of another node, whose status is old or forged.
    world.api.create(world.pod("far", node=ELSEWHERE, labels={"role": "a"}, status=claims))
    world.sync()
    world.assert_open("a")
    world.assert_blocked("b")
    (policy,) = (one for one in world.daemon.ctl("policies") if one["namespace"] == world.space)
    assert any(f"{world.space}/far" in problem["message"] for problem in policy["problems"])
    for name in ("early", "far"):
        world.delete(name)
    write = {"metadata": {"annotations": {objects.STATUS: json.dumps(told[:1])}}}
    world.api.patch("Pod", world.space, "a", write)


def test_a_pod_of_no_node_is_no_peer(world: KubeWorld) -> None:
    """One that is never scheduled has no address, whatever its author writes; one that was has."""
    far = world.elsewhere("far", labels={"role": "other"})
    world.apply(world.policy(only("waiting")))
    status = [objects.status_entry(f"{world.space}/net1", "net1", [far.ipv4, far.ipv6], far.mac)]
    world.api.create(world.pod("waiting", node="", status=status))
    world.sync()
    world.assert_blocked("far")
    binding = {"metadata": {"name": "waiting"}, "target": {"kind": "Node", "name": ELSEWHERE}}
    world.api.request("POST", f"api/v1/namespaces/{world.space}/pods/waiting/binding", binding)
    world.sync()
    world.assert_open("far")
    for name in ("waiting", "far"):
        world.delete(name)
    del world.attachments["far"]
