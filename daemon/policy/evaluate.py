"""The verdict for one packet, by reading the policies afresh: slow, plain, and on purpose by another way.

In: the whole world as it is, a subject, one packet. Out: allowed or not, and why. Shares nothing with
compile.py, peersets.py, selectors.py and intervals.py but the model's types, so that a mistake there is not
repeated here: it is the tests' oracle, and tells people why. Resolves every name for every packet.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_address

import msgspec

from daemon.model import (
    EVERYWHERE,
    Address,
    Block,
    CommonRules,
    ContainerPort,
    Direction,
    Network,
    Operator,
    Peer,
    Pod,
    PodPeer,
    Policy,
    Port,
    Rule,
    Selector,
    Subject,
)

TCP = 6
ICMPV6 = 58

# Neighbour discovery, MLD and packet-too-big; redirect (137) is not among them (E3).
ESSENTIAL_ICMPV6 = frozenset({2, 130, 131, 132, 133, 134, 135, 136, 143})


class ConnectionState(StrEnum):
    """What connection tracking says of a packet."""

    NEW = "new"
    ESTABLISHED = "established"
    RELATED = "related"


class Packet(msgspec.Struct, frozen=True):
    """One packet on a governed interface, as the subject sees it, whatever the direction.

    own: the subject's end (or whoever's, where the pod forwards: E4). port: the destination's; None where the
    protocol has none. mid_stream: TCP without being a bare SYN. pod_addresses: all addresses of the pod
    itself, on whatever interface (C10).
    """

    peer: Address
    own: Address
    protocol: int
    port: int | None = None
    icmp_type: int | None = None
    state: ConnectionState = ConnectionState.NEW
    mid_stream: bool = False
    pod_addresses: frozenset[Address] = frozenset()


class Located(msgspec.Struct, frozen=True):
    """A pod of the source with its addresses on each network (C5).

    withheld: the networks on which another one's living ADD gave an address of it.
    """

    pod: Pod
    addresses: Mapping[Network, tuple[Address, ...]]
    withheld: Mapping[Address, frozenset[Network]] = {}


class World(msgspec.Struct, frozen=True):
    """All that verdicts depend on. namespaces: labels by name; a missing one has only its name as label."""

    policies: tuple[Policy, ...]
    pods: tuple[Located, ...]
    namespaces: Mapping[str, Mapping[str, str]]
    common: CommonRules = CommonRules()


class Verdict(msgspec.Struct, frozen=True):
    """isolated: some policy governs this direction. reasons: what permits or drops, for people."""

    allowed: bool
    isolated: bool
    reasons: tuple[str, ...]


def evaluate(world: World, subject: Subject, direction: Direction, packet: Packet) -> Verdict:
    """What happens to a packet that comes in (ingress) or goes out (egress) through that interface."""
    governing = [policy for policy in world.policies if _governs(policy, subject)]
    isolating = [policy for policy in governing if policy.rules(direction) is not None]
    isolated = bool(isolating)
    own = packet.pod_addresses | {packet.own}
    if packet.peer in own and direction is Direction.EGRESS:
        return Verdict(True, isolated, ("to itself, through lo (C10)",))
    if not any(policy.rules(side) is not None for policy in governing for side in Direction):
        return Verdict(True, False, ("no policy isolates this interface (B2)",))
    if isolated and packet.peer in own:
        return Verdict(False, isolated, ("the pod's own address as source (C10)",))
    if packet.state is not ConnectionState.NEW:
        return Verdict(True, isolated, (f"{packet.state} connection (E1)",))
    if packet.protocol == TCP and packet.mid_stream:
        return Verdict(False, isolated, ("new, but in the middle of a TCP stream (E2)",))
    if not isolated:
        return Verdict(True, isolated, ("direction not isolated (B2)",))
    return _by_rules(world, isolating, subject, direction, packet)


def evaluate_forwarded(
    world: World, way_in: tuple[Subject, Packet], way_out: tuple[Subject, Packet]
) -> Verdict:
    """A packet that the pod forwards between two interfaces: both must permit (E4)."""
    verdicts = [
        evaluate(world, way_in[0], Direction.INGRESS, way_in[1]),
        evaluate(world, way_out[0], Direction.EGRESS, way_out[1]),
    ]
    deciding = [verdict for verdict in verdicts if not verdict.allowed] or verdicts
    return Verdict(
        all(verdict.allowed for verdict in verdicts),
        any(verdict.isolated for verdict in verdicts),
        tuple(reason for verdict in deciding for reason in verdict.reasons),
    )


def _by_rules(
    world: World, policies: Iterable[Policy], subject: Subject, direction: Direction, packet: Packet
) -> Verdict:
    if packet.protocol == ICMPV6 and len(packet.peer) == 16 and packet.icmp_type in ESSENTIAL_ICMPV6:
        return Verdict(True, True, ("essential for IPv6 (E3)",))
    reasons: list[str] = []
    for policy in sorted(policies, key=lambda policy: (policy.namespace, policy.name)):
        asked = _Question(world, subject, direction, packet, policy.namespace, policy.networks)
        for index, rule in enumerate(policy.rules(direction) or ()):
            if asked.permits(rule):
                reasons.append(f"{policy.namespace}/{policy.name} {direction}[{index}]")
    common = world.common.ingress if direction is Direction.INGRESS else world.common.egress
    asked = _Question(world, subject, direction, packet, "", subject.networks)
    for index, rule in enumerate(common):
        if asked.permits(rule):
            reasons.append(f"commonRules {direction}[{index}]")
    return Verdict(bool(reasons), True, tuple(reasons) or ("no rule permits it (B2)",))


class _Question(msgspec.Struct, frozen=True):
    """One packet before the rules of one policy."""

    world: World
    subject: Subject
    direction: Direction
    packet: Packet
    namespace: str
    networks: tuple[Network, ...]

    def permits(self, rule: Rule) -> bool:
        """Some peer and some port of the rule match, for the same destination (C1 to C9, D1 to D5)."""
        peers: Iterable[Peer | None] = (None,) if rule.peers is None else rule.peers
        ports: Iterable[Port | None] = (None,) if rule.ports is None else rule.ports
        return any(self._peer(peer) and self._port(port, peer) for peer in peers for port in ports)

    def _peer(self, peer: Peer | None) -> bool:
        if isinstance(peer, PodPeer):
            return any(self._selects(peer, pod) for pod in self._peer_pods())
        return peer is None or _in_block(peer, self.packet.peer)

    def _port(self, port: Port | None, peer: Peer | None) -> bool:
        if port is None:
            return True
        if port.protocol != self.packet.protocol:
            return False
        if port.name is not None:
            return self.packet.port is not None and self.packet.port in self._named(port, peer)
        if port.span is None:
            return True
        return self.packet.port is not None and port.span[0] <= self.packet.port <= port.span[1]

    def _named(self, port: Port, peer: Peer | None) -> Iterator[int]:
        """Which numbers the name has at the pod that receives (D4)."""
        if self.direction is Direction.INGRESS:
            yield from _first(port, self.subject.ports)
            return
        for pod in self._peer_pods():
            if not isinstance(peer, PodPeer) or self._selects(peer, pod):
                yield from _first(port, pod.ports)

    def _peer_pods(self) -> Iterator[Pod]:
        for located in self.world.pods:
            pod = located.pod
            if pod.host_network or pod.finished:
                continue
            taken = located.withheld.get(self.packet.peer, frozenset())
            if any(network in taken for network in self.networks):
                continue
            if any(self.packet.peer in located.addresses.get(network, ()) for network in self.networks):
                yield pod

    def _selects(self, peer: PodPeer, pod: Pod) -> bool:
        if peer.namespaces is None:
            in_scope = pod.namespace == self.namespace
        else:
            labels = dict(self.world.namespaces.get(pod.namespace, {}))
            labels["kubernetes.io/metadata.name"] = pod.namespace
            in_scope = _selected(peer.namespaces, labels)
        return in_scope and _selected(peer.pods, pod.labels)


def _governs(policy: Policy, subject: Subject) -> bool:
    if policy.namespace != subject.namespace or not set(policy.networks) & {EVERYWHERE, *subject.networks}:
        return False
    return policy.pod_selector is not None and _selected(policy.pod_selector, subject.labels)


def _selected(selector: Selector, labels: Mapping[str, str]) -> bool:
    for requirement in selector.requirements:
        present = requirement.key in labels
        listed = present and labels[requirement.key] in requirement.values
        verdicts = {
            Operator.EXISTS: present,
            Operator.DOES_NOT_EXIST: not present,
            Operator.IN: listed,
            Operator.NOT_IN: not listed,
        }
        if not verdicts[requirement.operator]:
            return False
    return True


def _in_block(block: Block, address: Address) -> bool:
    ip = ip_address(address)
    return ip.version == block.family and any(first <= int(ip) <= last for first, last in block.spans)


def _first(port: Port, available: Iterable[ContainerPort]) -> list[int]:
    found = [one.port for one in available if one.name == port.name and one.protocol == port.protocol]
    return found[:1]
