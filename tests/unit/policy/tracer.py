"""Send one packet through a compiled Ruleset, as a kernel would that has no sets but the members given.

In: a ruleset, members, a packet. Out: whether it passes, and the origins of what permits it. Knows the gate's
frame too (own addresses, states, essentials), for the planner puts that round every ruleset.
"""

from collections.abc import Callable

from daemon.model import Direction
from daemon.policy.evaluate import ESSENTIAL_ICMPV6, ConnectionState, Packet
from daemon.policy.ruleset import BlockSet, EndpointSet, Match, Members, PodSet, PodUnion, Ruleset, SharedRef

MembersOf = Callable[[SharedRef], Members]


def trace(
    ruleset: Ruleset, direction: Direction, packet: Packet, members: MembersOf
) -> tuple[bool, set[str]]:
    """Whether the packet passes, and what permits it; nothing where no rule decides."""
    own = packet.pod_addresses | {packet.own}
    if direction is Direction.EGRESS and packet.peer in own:
        return True, set()
    if ruleset == Ruleset():
        return True, set()
    matches = ruleset.matches(direction)
    if matches is not None and packet.peer in own:
        return False, set()
    if packet.state is not ConnectionState.NEW:
        return True, set()
    if packet.protocol == 6 and packet.mid_stream:
        return False, set()
    if matches is None or (packet.protocol == 58 and packet.icmp_type in ESSENTIAL_ICMPV6):
        return True, set()
    origins = {origin for match in matches if _matches(match, packet, members) for origin in match.origins}
    return bool(origins), origins


def _matches(match: Match, packet: Packet, members: MembersOf) -> bool:
    if isinstance(match.peer, EndpointSet):
        found = members(match.peer)
        wanted = (packet.peer, packet.protocol, packet.port)
        return wanted in (found.v4 if len(packet.peer) == 4 else found.v6)
    return _is_peer(match.peer, packet, members) and _on_ports(match, packet)


def _is_peer(peer: PodSet | PodUnion | BlockSet | None, packet: Packet, members: MembersOf) -> bool:
    if peer is None:
        return True
    ipv4 = len(packet.peer) == 4
    if isinstance(peer, PodSet | PodUnion):
        found = members(peer)
        return packet.peer in (found.v4 if ipv4 else found.v6)
    number = int.from_bytes(packet.peer, "big")
    return any(first <= number <= last for first, last in (peer.spans4 if ipv4 else peer.spans6))


def _on_ports(match: Match, packet: Packet) -> bool:
    if match.ports is None:
        return True
    return any(
        protocol == packet.protocol
        and (span is None or (packet.port is not None and span[0] <= packet.port <= span[1]))
        for protocol, span in match.ports
    )
