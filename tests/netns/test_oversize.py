"""A legacy table that somebody has filled beyond what is read: what is isolated ends closed all the same.

proves: E5
"""

from collections.abc import Iterator

import pytest

from tests.lab import Lab, namespaces
from tests.netns.lifeworld import DENY_ALL, ONLY_A, World
from tests.netns.test_hostile_pods import fill


@pytest.fixture
def world() -> Iterator[World]:
    with Lab() as lab:
        made = World(lab, "iptables")
        made.daemon.apply("policy", [ONLY_A])
        made.enroll_all()
        yield made


@pytest.mark.parametrize("family", [4, 6])
def test_a_later_policy_counts_in_both_families(world: World, family: int) -> None:
    world.assert_open("a")
    world.assert_blocked("b")
    with namespaces.inside(world.server.pod.netns):
        fill(family)
    world.daemon.apply("policy", [DENY_ALL])
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")
    # And it is as any other from then on.
    world.daemon.apply("policy", [ONLY_A])
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")
