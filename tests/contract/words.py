"""Short words for programs: sets, rules, chains and gates of one small LAN.

In: names, host numbers of the LAN, ports. Out: the planner's types. The LAN's addresses are fixed, so that a
table of programs can name them; only interface indices are the kernel's to choose (`indexed`).
"""

import zlib
from collections.abc import Mapping
from ipaddress import ip_address

import msgspec

from daemon.desired import port_sets, port_specs
from daemon.model import Address, Direction, Span
from daemon.planner import DENIED, ChainSpec, Gate, PartSpec, PortSpec, Program, RuleSpec, SetKind, SetSpec
from daemon.policy.ruleset import PortMatch, Ports
from daemon.program import PART_PREFIX, Carrier

TCP, UDP, SCTP, GRE, ICMP, ICMPV6 = 6, 17, 132, 47, 1, 58
FAMILIES = (4, 6)
FRIEND, STRANGER = 2, 3
"""Host numbers of those who probe. Subjects have later ones, and nobody the ones from NOBODY on."""
NOBODY = 60_000
OWNER = "c0ffee net1"

_BASES = {4: int(ip_address("10.77.0.0")), 6: int(ip_address("fd77::"))}
_BYTES = {4: 4, 6: 16}
_PORT_SETS: dict[str, SetSpec] = {}
"""Those of the rules that were made so far."""


def number(family: int, host: int) -> int:
    """A host's address as a number."""
    return _BASES[family] + host


def address(family: int, host: int) -> Address:
    """A host's address, packed."""
    return number(family, host).to_bytes(_BYTES[family], "big")


def text(family: int, host: int) -> str:
    """A host's address, as people write it."""
    return str(ip_address(address(family, host)))


# --- sets -----------------------------------------------------------------------------------------------


def hosts(name: str, family: int, *numbers: int) -> SetSpec:
    """A set of hosts."""
    elements = frozenset(address(family, host) for host in numbers)
    return SetSpec(f"pods{family}-{name}", SetKind.HOSTS, family, elements, f"pods {name}")


def spans(name: str, family: int, *some: Span) -> SetSpec:
    """A set of spans of hosts, first and last."""
    return numbered(name, family, *((number(family, a), number(family, b)) for a, b in some))


def numbered(name: str, family: int, *some: Span) -> SetSpec:
    """A set of spans of addresses by their numbers."""
    return SetSpec(f"blocks{family}-{name}", SetKind.SPANS, family, frozenset(some), f"blocks {name}")


def ends(name: str, family: int, *some: tuple[int, int, int]) -> SetSpec:
    """A set of endpoints: host, protocol, port."""
    elements = frozenset((address(family, host), protocol, port) for host, protocol, port in some)
    return SetSpec(f"ports{family}-{name}", SetKind.ENDPOINTS, family, elements, f"ports {name}")


def both(name: str, *numbers: int) -> tuple[SetSpec, SetSpec]:
    """The same hosts in both families, as the daemon makes them of a selector."""
    return hosts(name, 4, *numbers), hosts(name, 6, *numbers)


# --- rules ----------------------------------------------------------------------------------------------


def tcp(*some: int | Span) -> tuple[PortMatch, ...]:
    """TCP ports and ranges."""
    return of(TCP, *some)


def udp(*some: int | Span) -> tuple[PortMatch, ...]:
    """UDP ports and ranges."""
    return of(UDP, *some)


def of(protocol: int, *some: int | Span) -> tuple[PortMatch, ...]:
    """Ports and ranges of a protocol; without any, the whole of it."""
    if not some:
        return ((protocol, None),)
    return tuple((protocol, (one, one) if isinstance(one, int) else one) for one in some)


def permit(
    peers: tuple[SetSpec, ...] = (), ports: Ports | None = None, comment: str = "default/p ingress[0]"
) -> tuple[RuleSpec, ...]:
    """One rule for each set and each protocol; without any set, for anyone."""
    _PORT_SETS.update({spec.name: spec for spec in port_sets(ports or ())})
    specs: tuple[PortSpec | None, ...] = (None,) if ports is None else port_specs(ports)
    if not peers:
        return tuple(RuleSpec(None, None, None, spec, comment) for spec in specs)
    return tuple(
        RuleSpec(peer.family, peer.name, peer.kind, spec, comment) for peer in peers for spec in specs
    )


# --- chains, gates, programs ----------------------------------------------------------------------------


def isolated(*rules: tuple[RuleSpec, ...]) -> ChainSpec:
    """An isolated direction."""
    return ChainSpec(True, tuple(rule for some in rules for rule in some))


def in_parts(
    direction: Direction, *pieces: tuple[RuleSpec, ...], ifname: str = "net1", owner: str = OWNER
) -> tuple[ChainSpec, tuple[PartSpec, ...]]:
    """An isolated direction whose rules stand in several pieces: the first in the chain, others in parts."""
    parts: list[PartSpec] = []
    rest = ""
    for rules in reversed(pieces[1:]):
        name = f"{PART_PREFIX}{zlib.crc32(repr((owner, direction, ifname, rules, rest)).encode()):012x}"
        parts.append(PartSpec(name, owner, direction, ifname, rules, rest))
        rest = name
    return ChainSpec(True, pieces[0], rest=rest), tuple(parts)


def gate(
    ingress: ChainSpec | None,
    egress: ChainSpec | None,
    ifname: str = "net1",
    ifindex: int | None = 7,
    owner: str = OWNER,
    carriers: tuple[Carrier, ...] = (),
    names: tuple[str, ...] = (),
) -> Gate:
    """One attachment."""
    return Gate(ifname, ifindex, owner, ingress, egress, carriers, names)


def guard(ifname: str = "net1") -> Gate:
    """An attachment before its device exists."""
    return gate(DENIED, DENIED, ifname, None)


def program(
    *gates: Gate,
    sets: tuple[SetSpec, ...] = (),
    track: bool = True,
    imprints: tuple[str, ...] = (),
    parts: tuple[PartSpec, ...] = (),
) -> Program:
    """All that shall be in one netns; the sets of ports that the rules look up are among it by themselves."""
    by_name = {part.name: part for part in parts}
    made = Program({one.ifname: one for one in gates}, {}, track, imprints, by_name)
    ports = [_PORT_SETS[name] for name in sorted(made.sets_used()) if name in _PORT_SETS]
    made.sets.update((spec.name, spec) for spec in (*sets, *ports))
    return made


def indexed(wanted: Program, indices: Mapping[str, int]) -> Program:
    """The same program for interfaces with these indices."""
    gates = {
        name: one if one.ifindex is None else msgspec.structs.replace(one, ifindex=indices[name])
        for name, one in wanted.gates.items()
    }
    return msgspec.structs.replace(wanted, gates=gates)
