"""A server that is slow, closes streams, answers with errors, or falls silent: nothing forbidden passes.

Between the daemon and the real server stands a proxy that does what a real server can't be asked for.

proves: E5
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.kube.world import KubeWorld, only
from tests.lab import Lab
from tests.lab.apiserver import ApiServer
from tests.lab.faultrules import Fault, Rule, error_event, status
from tests.lab.faults import FaultProxy
from tests.netns.siege import Siege


@dataclass
class Proxied:
    """A world under siege whose daemon reaches the server through the proxy."""

    world: KubeWorld
    siege: Siege[KubeWorld]
    proxy: FaultProxy
    last: str = ""

    def change(self) -> None:
        """An edit that allows the same in other words, and one that would be seen if it were lost."""
        number = next(self.world.numbers)
        block = {"ipBlock": {"cidr": f"10.77.{number}.0/24"}}
        spec = only("a")
        spec["ingress"][0]["from"].append(block)
        self.last = block["ipBlock"]["cidr"]
        self.world.api.apply(self.world.policy(spec))

    def assert_current(self) -> None:
        """The last edit is in force, and the verdicts are right."""
        shown = self.world.daemon.ctl("render", f"{self.world.space}/server")["text"]
        assert self.last.removesuffix("/24") in shown
        self.world.assert_open("a")
        self.world.assert_blocked("b")


@pytest.fixture(scope="module")
def node(server: ApiServer) -> Iterator[Proxied]:
    with Lab() as lab, FaultProxy(lab.folder / "proxy", server.url, server.ca_file) as proxy:
        config = server.kubeconfig("proxied", proxy.url, proxy.ca_file)
        world = KubeWorld(lab, server, kubeconfig=config)
        siege = Siege(world)
        world.apply(world.policy(only("a")))
        yield Proxied(world, siege, proxy)
        siege.end()


@pytest.fixture
def proxied(node: Proxied) -> Iterator[Proxied]:
    node.proxy.clear()
    yield node
    node.proxy.clear()
    node.world.sync()


WATCH = {"watch": True}
FAULTS: dict[str, dict[str, Any]] = {
    "each answer late": {"fault": Fault(delay=0.5)},
    "no bookmarks": {"fault": Fault(no_bookmarks=True)},
    "each stream ends after an event": {"fault": Fault(after=1, end="stream"), **WATCH, "times": 5},
    "streams cut in a line": {"fault": Fault(after=2, end="line"), **WATCH, "times": 5},
    "an old event again": {"fault": Fault(after=1, replay=True), **WATCH, "times": 5},
    "streams close at once": {"fault": Fault(close=True), **WATCH, "times": 5},
    "500": {"fault": Fault(answer=status(500)), "times": 5},
    "429 with Retry-After": {"fault": Fault(answer=status(429, Retry_After="1")), "times": 5},
    "503": {"fault": Fault(answer=status(503)), "times": 5},
    "410": {"fault": Fault(answer=status(410, reason="Expired")), **WATCH, "times": 5},
    "410 as an event": {"fault": Fault(insert=error_event(410)), **WATCH, "times": 5},
    "no JSON": {"fault": Fault(insert=b"<html>\n"), **WATCH, "times": 5},
    "401": {"fault": Fault(answer=status(401)), "times": 5},
    "no streaming lists": {"fault": Fault(answer=status(422)), "query": {"sendInitialEvents": None}},
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_converges_in_spite_of(name: str, proxied: Proxied) -> None:
    rule: Rule = proxied.proxy.add(**FAULTS[name])
    if name == "no streaming lists":
        # A list is owed first.
        proxied.proxy.add(Fault(insert=error_event(410)), watch=True, times=5)
    proxied.proxy.break_connections()
    with proxied.siege.watched():
        proxied.change()
        proxied.world.sync()
    proxied.assert_current()
    assert rule.hits > 0


def test_the_server_can_not_be_reached_for_a_while(proxied: Proxied) -> None:
    """A pod that is known starts all the same, governed."""
    world = proxied.world
    world.api.create(world.pod("known"))
    world.sync()
    with proxied.siege.watched():
        proxied.proxy.refuse()
        proxied.change()
        world.run("known")
        proxied.proxy.listen()
        world.sync()
    proxied.assert_current()
    world.assert_blocked("known")
