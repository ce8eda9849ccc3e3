"""A tenant who floods the API server with policies closes his own namespace, and no other one notices.

proves: F3
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.sources.kubernetes.allowance import NOT_KEPT
from daemon.sources.kubernetes.watched import POLICIES
from tests.kube.sourcing import sourcing
from tests.kube.world import CLIENTS, KubeWorld, only
from tests.lab import Lab, objects
from tests.lab.apiserver import ApiServer
from tests.lab.polling import poll
from tests.netns.lifeworld import PORT

BUDGET = ["--namespace-elements=1000", "--namespace-rules=40"]
"""Room for 120,000 bytes of policies."""
FLOOD = 20
BLOCKS = {"from": [{"ipBlock": {"cidr": f"192.0.2.{n % 250}/32"}} for n in range(200)]}
"""A policy with them has 8 KB."""


@dataclass
class Two:
    """A tenant with a policy for his server, and a neighbour with one for his."""

    tenant: KubeWorld
    neighbour: KubeWorld

    def assert_as_before(self) -> None:
        for world in (self.tenant, self.neighbour):
            world.assert_open("a")
            world.assert_blocked("b")

    def assert_closed(self) -> None:
        """The tenant's clients may not even send, and the neighbour's may as ever."""
        self.tenant.assert_blocked("a", "b")
        self.neighbour.assert_open("a")
        self.neighbour.assert_blocked("b")

    def flood(self, count: int = FLOOD) -> list[objects.Object]:
        """Policies for a network that nobody is on."""
        spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [BLOCKS]}
        return [objects.policy(f"flood-{n}", spec, "elsewhere", self.tenant.space) for n in range(count)]


@pytest.fixture
def two(own_server: ApiServer) -> Iterator[Two]:
    with Lab() as lab:
        tenant = KubeWorld(lab, own_server, options=BUDGET)
        neighbour = KubeWorld(lab, own_server, (), daemon=tenant.daemon, runtime=tenant.runtime)
        neighbour.numbers = itertools.count(100)
        for name in ("server", *CLIENTS):
            neighbour.start(name)
        neighbour.server.pod.prober.serve(PORT)
        made = Two(tenant, neighbour)
        for world in (tenant, neighbour):
            world.apply(world.policy(only("a")))
        made.assert_as_before()
        yield made


def told(two: Two) -> list[str]:
    """What is reported of closed namespaces."""
    return [line for line in two.tenant.daemon.ctl("status")["problems"] if "not kept" in line]


def test_who_floods_closes_his_own_namespace(two: Two) -> None:
    tenant = two.tenant
    tenant.apply(*two.flood())
    two.assert_closed()
    (line,) = told(two)
    assert line.startswith(
        f"MultiNetworkPolicy {tenant.space}/(not kept): metadata.namespace: of its policies"
    )
    policies = {item["name"] for item in tenant.daemon.ctl("policies") if item["namespace"] == tenant.space}
    assert {"p", "(not kept)"} < policies
    assert len(policies) < FLOOD
    # The neighbour's edits count, here and after a start that lists all of it.
    tenant.daemon.restart()
    tenant.sync()
    two.assert_closed()
    two.neighbour.apply(two.neighbour.policy(only("b")))
    two.neighbour.assert_open("b")
    two.neighbour.assert_blocked("a")
    two.neighbour.apply(two.neighbour.policy(only("a")))
    for raw in two.flood():
        tenant.api.delete("MultiNetworkPolicy", tenant.space, raw["metadata"]["name"])
    poll(lambda: told(two), lambda lines: not lines)
    tenant.sync()
    two.assert_as_before()


def test_one_that_is_made_smaller_is_kept(two: Two) -> None:
    tenant = two.tenant
    tenant.apply(*two.flood())
    two.assert_closed()
    small = objects.policy("flood-0", only("nobody") | {"podSelector": {}}, "elsewhere", tenant.space)
    for raw in two.flood():
        tenant.api.apply({**small, "metadata": {**small["metadata"], "name": raw["metadata"]["name"]}})
    poll(lambda: told(two), lambda lines: not lines)
    tenant.sync()
    two.assert_as_before()
    assert two.tenant.daemon.ctl("status")["ready"] is True


def test_what_was_not_kept_is_read_again_when_there_is_room(own_server: ApiServer, tmp_path: Path) -> None:
    """Without anybody's touching it, on a real server's lists and watches."""
    api, space = own_server.admin, "crowded"
    api.apply(objects.namespace(space))
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [BLOCKS]}
    for number in range(10):
        api.apply(objects.policy(f"p{number}", spec, "net1", space))
    with sourcing(own_server.kubeconfig("crowded"), own_server, most=60_000, again=3.0) as made:
        made.wait_complete()
        kept = sorted(key.name for key in made.model if key.namespace == space)
        assert kept[0] == NOT_KEPT
        assert 3 < len(kept) < 10
        for name in kept[2:]:
            api.delete(POLICIES.kind, space, name)
        numbers = itertools.count()

        def look() -> set[str]:
            """It is looked at with what comes next: a bookmark each minute, or a change."""
            change = {"metadata": {"labels": {"n": str(next(numbers))}}}
            api.patch(POLICIES.kind, space, kept[1], change)
            return {key.name for key in made.model if key.namespace == space}

        poll(look, lambda names: NOT_KEPT not in names, 20.0)
        made.converge()
        made.sync()
