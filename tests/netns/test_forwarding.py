"""A pod that routes between two others: each of its interfaces governs what passes through it (E4).

proves: E4, E1, A5
"""

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from tests.lab import Attachment, Lab, Target, objects
from tests.lab.namespaces import inside
from tests.netns.enroll import add, must

PORT = 5555
ANYONE: list[Any] = [{}]
NOBODY: list[Any] = []
FAMILIES = ("ipv4", "ipv6")


class Routed:
    """client (net1) – router (net1, net2) – server (net2), all enrolled."""

    def __init__(self, lab: Lab, backend: str) -> None:
        self.daemon = lab.daemon(backend=backend)
        # Never twice: a probe must not pass as part of an earlier one's connection.
        self._source_ports = itertools.count(20_000)
        router = lab.pod("router")
        self.near = lab.attach(router)
        self.far = lab.attach(router, "net2", "net2")
        self.client = lab.attach(lab.pod("client"))
        self.server = lab.attach(lab.pod("server"), "net2", "net2")
        self._route()
        self.daemon.apply("networks", [objects.network("net1"), objects.network("net2")])
        asked = {"router": "net1,net2", "client": "net1", "server": "net2@net2"}
        self.daemon.apply("pods", [objects.pod(n, labels={"app": n}, networks=w) for n, w in asked.items()])
        self.daemon.wait_synced()
        for attachment in (self.near, self.far, self.client, self.server):
            must(add(self.daemon, attachment))
            attachment.pod.prober.serve(PORT)

    def _route(self) -> None:
        with inside(self.near.pod.netns):
            for family in FAMILIES:
                Path(f"/proc/sys/net/{family}/conf/all/forwarding").write_text("1")
        for end, side in ((self.client, self.near), (self.server, self.far)):
            with inside(end.pod.netns), IPRoute() as routes:
                for number, gateway in ((socket.AF_INET, side.ipv4), (socket.AF_INET6, side.ipv6)):
                    routes.route("add", family=number, dst="default", gateway=gateway, oif=end.ifindex)

    def enforce(self, **sides: dict[str, Any]) -> None:
        """Policies for the router, by network."""
        found = [
            objects.policy(name, {"podSelector": {"matchLabels": {"app": "router"}}, **spec}, networks=name)
            for name, spec in sides.items()
        ]
        self.daemon.apply("policy", found)
        self.daemon.wait_synced()

    def assert_through(self, want: bool, back: bool | None = None) -> None:
        """What the client sends reaches the server and is answered, and the other way round."""
        assert self._probe(self.client, self.server, want) == []
        assert self._probe(self.server, self.client, want if back is None else back) == []

    def _probe(self, source: Attachment, target: Attachment, want: bool) -> list[str]:
        targets = [
            Target(protocol, getattr(target, family), PORT, source_port=next(self._source_ports))
            for family in FAMILIES
            for protocol in ("tcp", "udp", "icmp")
        ]
        return source.pod.prober.mismatches(dict.fromkeys(targets, want))


@pytest.fixture(scope="module")
def node(backend: str) -> Iterator[Routed]:
    with Lab(("net1", "net2")) as lab:
        yield Routed(lab, backend)


@pytest.fixture
def routed(node: Routed) -> Routed:
    """Without policies, and proven to route: one for all tests here."""
    node.enforce()
    node.assert_through(True)
    return node


def ingress(rules: list[Any]) -> dict[str, Any]:
    return {"policyTypes": ["Ingress"], "ingress": rules}


def egress(rules: list[Any]) -> dict[str, Any]:
    return {"policyTypes": ["Egress"], "egress": rules}


def pod(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": name}}}


def test_both_interfaces_must_permit(routed: Routed) -> None:
    """From client to server is in through net1 and out through net2; back it is the other pair."""
    for near, far, through in (
        (ingress(ANYONE), egress(ANYONE), True),
        (ingress(ANYONE), egress(NOBODY), False),
        (ingress(NOBODY), egress(ANYONE), False),
        (ingress(NOBODY), egress(NOBODY), False),
    ):
        routed.enforce(net1=near, net2=far)
        routed.assert_through(through, back=True)


def test_the_other_direction(routed: Routed) -> None:
    for near, far, through in (
        (egress(ANYONE), ingress(ANYONE), True),
        (egress(NOBODY), ingress(ANYONE), False),
        (egress(ANYONE), ingress(NOBODY), False),
    ):
        routed.enforce(net1=near, net2=far)
        routed.assert_through(True, back=through)


def test_one_interface_governed(routed: Routed) -> None:
    """A5: a policy on one network says nothing about the other, whatever passes both."""
    routed.enforce(net1=ingress(NOBODY))
    routed.assert_through(False, back=True)
    routed.enforce(net2=ingress(NOBODY))
    routed.assert_through(True, back=False)
    routed.enforce(net1=egress(NOBODY))
    routed.assert_through(True, back=False)
    routed.enforce(net2=egress(NOBODY))
    routed.assert_through(False, back=True)


def test_replies_pass_interfaces_that_deny_new_ones(routed: Routed) -> None:
    """E1: all four directions are isolated, and only the way there has rules."""
    both = ["Ingress", "Egress"]
    routed.enforce(
        net1={"policyTypes": both, "ingress": [{"from": [pod("client")]}], "egress": NOBODY},
        net2={"policyTypes": both, "ingress": NOBODY, "egress": [{"to": [pod("server")]}]},
    )
    routed.assert_through(True, back=False)


def test_peers_are_the_ends_and_not_the_router(routed: Routed) -> None:
    """The peer is who sends, on ingress, and who receives, on egress; on each interface by its network."""
    routed.enforce(net1=ingress([{"from": [pod("client")]}]), net2=egress([{"to": [pod("server")]}]))
    routed.assert_through(True)
    routed.enforce(net1=ingress([{"from": [pod("server")]}]), net2=egress([{"to": [pod("server")]}]))
    routed.assert_through(False, back=True)
    routed.enforce(net1=ingress([{"from": [pod("client")]}]), net2=egress([{"to": [pod("client")]}]))
    routed.assert_through(False, back=True)
    # The server has no address on net1, so a policy for net1 does not know it as a peer (C5).
    routed.enforce(net1=egress([{"to": [pod("server")]}]), net2=ingress([{"from": [pod("server")]}]))
    routed.assert_through(True, back=False)


def test_a_connection_through_the_router_outlives_edits_that_allow_it(routed: Routed) -> None:
    routed.enforce(net1=ingress(ANYONE), net2=egress(ANYONE))
    prober = routed.client.pod.prober
    for family in FAMILIES:
        assert prober.hold(family, getattr(routed.server, family), PORT) == "open"
    routed.enforce(net1=ingress([{"from": [pod("client")]}]), net2=egress([{"to": [pod("server")]}]))
    assert [prober.exchange(family) for family in FAMILIES] == ["open", "open"]
