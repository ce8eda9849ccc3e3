"""A policy that can't be decoded any more keeps its last valid version, whatever becomes of the daemon.

proves: A4
"""

from collections.abc import Iterator

import pytest

from tests.kube.crds import LAX_POLICY_CRD
from tests.kube.world import KubeWorld, only
from tests.lab import Lab
from tests.lab.apiserver import ApiServer
from tests.lab.polling import poll

BAD_SELECTOR = {"matchExpressions": [{"key": "role", "operator": "in", "values": ["server"]}]}


@pytest.fixture
def world(own_server: ApiServer) -> Iterator[KubeWorld]:
    """Under a definition that lets everything pass, as those of others do."""
    own_server.admin.apply(LAX_POLICY_CRD)
    with Lab() as lab:
        yield KubeWorld(lab, own_server)


def test_it_stays_over_restarts_for_the_same_object_alone(world: KubeWorld) -> None:
    good = world.policy(only("a"))
    world.apply(good)
    world.assert_open("a")
    world.assert_blocked("b")
    poll(lambda: list((world.daemon.state / "policies").glob("*.json")), bool, 10.0)
    # While no daemon runs, and then in one that was started anew.
    world.daemon.kill()
    broken = {**good, "spec": {**good["spec"], "podSelector": BAD_SELECTOR}}
    world.api.apply(broken)
    for end in (lambda: None, world.daemon.stop, world.daemon.kill):
        end()
        world.daemon.start()
        world.assert_open("a")
        world.assert_blocked("b")
    world.apply({**good, "spec": 7})
    world.daemon.restart()
    world.assert_blocked("b")
    assert any("last version stays in force" in line for line in world.daemon.ctl("status")["problems"])
    world.apply(world.policy(only("b")))
    world.assert_open("b")
    world.assert_blocked("a")
    # Another object of that name never was valid.
    world.daemon.stop()
    world.api.delete("MultiNetworkPolicy", world.space, "p")
    world.api.create(broken)
    world.daemon.start()
    world.assert_open("a", "b")
