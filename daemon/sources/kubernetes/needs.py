"""What the policies ask of the API server: other nodes' pods at all, and which of those in full.

In: policies as they come and go. Out: whether any refers to pods, and the networks on which container ports
count. Pure. Nothing cluster-wide about pods is watched while no policy needs it.
"""

from collections.abc import Iterator

import msgspec

from daemon.model import Network, ObjectKey, PodPeer, Policy, Rule


class _Need(msgspec.Struct, frozen=True):
    peers: bool
    port_networks: frozenset[Network]


class Needs:
    """peers: some policy refers to pods. port_networks: where pods' named ports count (D4, egress)."""

    def __init__(self) -> None:
        self._by_policy: dict[ObjectKey, _Need] = {}
        self.peers = False
        self.port_networks: frozenset[Network] = frozenset()

    def put(self, key: ObjectKey, policy: Policy | None) -> bool:
        """A policy as it is now; whether that changes anything about the needs."""
        before = self._by_policy.pop(key, None)
        now = _need_of(policy) if policy is not None else None
        if now is not None:
            self._by_policy[key] = now
        if before == now:
            return False
        old = (self.peers, self.port_networks)
        self.peers = any(need.peers for need in self._by_policy.values())
        networks = (need.port_networks for need in self._by_policy.values())
        self.port_networks = frozenset().union(*networks)
        return (self.peers, self.port_networks) != old


def _need_of(policy: Policy) -> _Need | None:
    """None: it refers to no pod."""
    named = any(port.name is not None for rule in policy.egress or () for port in rule.ports or ())
    if not named and not any(_selects(rule) for rule in _rules(policy)):
        return None
    return _Need(True, frozenset(policy.networks) if named else frozenset())


def _rules(policy: Policy) -> Iterator[Rule]:
    yield from policy.ingress or ()
    yield from policy.egress or ()


def _selects(rule: Rule) -> bool:
    return any(isinstance(peer, PodPeer) for peer in rule.peers or ())
