"""One packet through the fake's table, as a kernel would send it through real rules.

In: what a FakeTable holds, an interface, a packet. Out: whether it passes. It reads the table alone: neither
programs nor plans nor policies.
"""

from typing import cast

from daemon.backends.fake import FakeTable
from daemon.model import Direction, Span
from daemon.planner import ChainSpec, Dispatch, PortSpec, RuleSpec, SetKind
from daemon.policy.evaluate import ESSENTIAL_ICMPV6, ICMPV6, TCP, ConnectionState, Packet


def passes(table: FakeTable, link: tuple[str, int], direction: Direction, packet: Packet) -> bool:
    """Whether the packet passes the interface (its name and index) in that direction, or would on `lo`."""
    if direction is Direction.EGRESS and packet.peer in packet.pod_addresses | {packet.own}:
        return True
    entries = [entry for entry in table.dispatch if entry.key.direction is direction]
    chains = [table.chains[entry.key][1] for entry in entries if _is_of(entry, link)]
    return all(_in_chain(table, chain, direction, packet) for chain in chains)


def _is_of(entry: Dispatch, link: tuple[str, int]) -> bool:
    """By index, or, of a guard, by name."""
    return entry.ifindex == link[1] if entry.ifindex else entry.key.ifname == link[0]


def _in_chain(table: FakeTable, chain: ChainSpec, direction: Direction, packet: Packet) -> bool:
    if chain.established and packet.state is not ConnectionState.NEW:
        return True
    own = packet.pod_addresses | {packet.own}
    if direction is Direction.INGRESS and chain.isolated and packet.peer in own:
        return False
    if packet.protocol == TCP and packet.mid_stream and packet.state is ConnectionState.NEW:
        return False
    if not chain.isolated:
        return True
    if packet.protocol == ICMPV6 and packet.icmp_type in ESSENTIAL_ICMPV6:
        return True
    rules, rest = chain.rules, chain.rest
    while not any(_matches(table, rule, direction, packet) for rule in rules):
        if not rest:
            return False
        rules, rest = table.parts[rest].rules, table.parts[rest].rest
    return True


def _matches(table: FakeTable, rule: RuleSpec, direction: Direction, packet: Packet) -> bool:
    family = 4 if len(packet.peer) == 4 else 6
    return (
        rule.family in (None, family)
        and _is_peer(table, rule, direction, packet)
        and _on_ports(table, rule.ports, packet)
    )


def _is_peer(table: FakeTable, rule: RuleSpec, direction: Direction, packet: Packet) -> bool:
    if rule.peer is None:
        return True
    elements = table.sets[rule.peer]
    if rule.peer_kind is SetKind.HOSTS:
        return packet.peer in elements
    if rule.peer_kind is SetKind.ENDPOINTS:
        receiver = packet.peer if direction is Direction.EGRESS else packet.own
        return (receiver, packet.protocol, packet.port) in elements
    number, spans = int.from_bytes(packet.peer, "big"), cast("frozenset[Span]", elements)
    return any(first <= number <= last for first, last in spans)


def _on_ports(table: FakeTable, ports: PortSpec | None, packet: Packet) -> bool:
    if ports is None:
        return True
    if ports.protocol != packet.protocol:
        return False
    if ports.set_name is None and ports.span is None:
        return True
    elements = {ports.span} if ports.set_name is None else table.sets[ports.set_name]
    spans = cast("frozenset[Span]", elements)
    return packet.port is not None and any(first <= packet.port <= last for first, last in spans)
