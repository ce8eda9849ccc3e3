"""What policies ask of the API server.

proves: C2, C3, D4
"""

from typing import Any

import pytest

from daemon.model import Block, ObjectKey, PodPeer, Policy, Port, Rule, Selector
from daemon.sources.kubernetes.needs import Needs

KEY, OTHER = ObjectKey("MultiNetworkPolicy", "a", "x"), ObjectKey("MultiNetworkPolicy", "a", "y")
PODS = PodPeer(None, Selector())
BLOCK = Block("10.0.0.0/8", 4, ((10 << 24, (11 << 24) - 1),))
NET1 = frozenset({"a/net1"})
HTTP, TCP80 = Port(6, None, "http"), Port(6, (80, 80))


def policy(ingress: Any = None, egress: Any = None, networks: tuple[str, ...] = ("a/net1",)) -> Policy:
    return Policy("a", "x", networks, Selector(), ingress, egress)


def rule(*peers: Any, ports: tuple[Port, ...] | None = None) -> tuple[Rule, ...]:
    return (Rule(peers, ports),)


def anyone(*ports: Port) -> tuple[Rule, ...]:
    return (Rule(None, ports or None),)


CASES: list[tuple[str, Policy, bool, frozenset[str]]] = [
    ("isolates only", policy((), ()), False, frozenset()),
    ("isolates nothing", policy(), False, frozenset()),
    ("anyone", policy(anyone(TCP80), anyone(TCP80)), False, frozenset()),
    ("nobody", policy(rule(), rule()), False, frozenset()),
    ("blocks", policy(rule(BLOCK), rule(BLOCK, ports=(TCP80,))), False, frozenset()),
    ("pods, ingress", policy(rule(PODS)), True, frozenset()),
    ("pods, egress", policy(None, rule(BLOCK, PODS)), True, frozenset()),
    ("pods, in the second rule", policy((*rule(BLOCK), *rule(PODS))), True, frozenset()),
    # The subject's own ports: this node knows them.
    ("named port, ingress", policy(anyone(HTTP)), False, frozenset()),
    ("named port, ingress from pods", policy(rule(PODS, ports=(HTTP,))), True, frozenset()),
    # The peers' ports.
    (
        "named port, egress to pods",
        policy(None, rule(PODS, ports=(TCP80, HTTP))),
        True,
        frozenset({"a/net1"}),
    ),
    ("named port, egress to anyone", policy(None, anyone(HTTP)), True, NET1),
    ("named port, egress to a block", policy(None, rule(BLOCK, ports=(HTTP,))), True, NET1),
    ("two networks", policy(None, anyone(HTTP), ("a/net1", "b/net2")), True, frozenset({"a/net1", "b/net2"})),
    ("no network", policy(None, anyone(HTTP), ()), True, frozenset()),
]


@pytest.mark.parametrize(
    ("found", "peers", "networks"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_one_policy(found: Policy, peers: bool, networks: frozenset[str]) -> None:
    needs = Needs()
    assert needs.put(KEY, found) is peers
    assert (needs.peers, needs.port_networks) == (peers, networks)
    assert needs.put(KEY, found) is False
    assert needs.put(KEY, None) is peers
    assert (needs.peers, needs.port_networks) == (False, frozenset())
    assert needs.put(KEY, None) is False


def test_policies_together() -> None:
    needs = Needs()
    by_pods, by_ports = policy(rule(PODS)), policy(None, anyone(HTTP))
    assert needs.put(KEY, by_pods)
    # One more of the same kind changes nothing.
    assert not needs.put(OTHER, by_pods)
    assert needs.put(OTHER, by_ports)
    assert needs.port_networks == {"a/net1"}
    assert not needs.put(KEY, None)
    assert needs.put(OTHER, policy(None, anyone(HTTP), ("b/net2",)))
    assert (needs.peers, needs.port_networks) == (True, frozenset({"b/net2"}))
    assert needs.put(OTHER, policy((), ()))
    assert not needs.peers
