"""A Program as `nft -s list table` shows it, for people. Pure.

In: a Program. Out: text that nft itself would read. It repeats nftrender's order on purpose: the tests load
it with nft and compare what the kernel has then with what nftrender's batch makes of the same program.
"""

from collections.abc import Iterable, Iterator
from typing import cast

from daemon.backends.nftmessages import TABLE
from daemon.backends.nftrender import DROP_PREFIX, IMPRINTS, TRACKING
from daemon.backends.shape import (
    DISPATCHES,
    IMPRINT_COMMENT,
    MIDSTREAM_COMMENT,
    OURS_COMMENT,
    OWN_SOURCE_COMMENT,
    TRACKING_COMMENT,
    packed_text,
)
from daemon.model import Address, Direction, Span
from daemon.planner import ChainSpec, Gate, PortSpec, Program, RuleSpec, SetKind, SetSpec, dispatches
from daemon.policy.ruleset import Endpoint
from daemon.program import chain_name
from daemon.wording import clean, protocol_name, span_text

_ESSENTIALS = (
    "icmpv6 type { packet-too-big, mld-listener-query, mld-listener-report, mld-listener-done, "
    "nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, "
    "mld2-listener-report } return"
)
_PRIORITY = "mangle"  # nft's word for shape.PRIORITY
_ADDRESS_TYPE = {4: "ipv4_addr", 6: "ipv6_addr"}
_FAMILY = {4: "ip", 6: "ip6"}
_WITH_PORTS = ("tcp", "udp", "sctp")


def text(program: Program) -> str:
    """The whole table. Interfaces stand by the names that they had when they were attached."""
    lines = [f"table inet {TABLE} {{", f'\tcomment "{OURS_COMMENT}"']
    for block in _blocks(program):
        lines += ["\t" + block[0], *("\t\t" + line for line in block[1:]), "\t}", ""]
    return "\n".join([*lines[:-1], "}", ""])


def _blocks(program: Program) -> Iterator[list[str]]:
    """Each a head and its lines, in nft's order: counters, sets, chains."""
    chains = [(gate, d) for gate in program.gates.values() for d in Direction if gate.chain(d) is not None]
    for gate, direction in chains:
        yield [f"counter {DROP_PREFIX}{chain_name(direction, gate.ifname)} {{"]
    for spec in program.sets.values():
        yield _set(spec)
    for hook, direction in DISPATCHES.items():
        yield _base_chain(hook, direction, program)
    if program.track:
        yield [f"chain {TRACKING} {{", f'comment "{TRACKING_COMMENT}"', "ct state established,related return"]
    if program.imprints:
        lines = (f'return comment "{clean(line)}"' for line in program.imprints)
        yield [f"chain {IMPRINTS} {{", f'comment "{IMPRINT_COMMENT}"', *lines]
    for gate, direction in chains:
        yield _chain(gate, direction)
    for part in program.parts.values():
        name = chain_name(part.direction, part.ifname)
        permits = _permits(name, part.direction, part.rules, part.rest)
        yield [f"chain {part.name} {{", f'comment "{clean(part.owner)}"', *permits]


def _set(spec: SetSpec) -> list[str]:
    lines = [f"set {spec.name} {{", f"type {_key_type(spec)}"]
    if spec.kind in (SetKind.SPANS, SetKind.PORTS):
        lines.append("flags interval")
    return [*lines, f'comment "{spec.comment}"', *_elements(_members(spec))]


def _key_type(spec: SetSpec) -> str:
    if spec.kind is SetKind.PORTS:
        return "inet_service"
    port = " . inet_proto . inet_service" if spec.kind is SetKind.ENDPOINTS else ""
    return _ADDRESS_TYPE[spec.family] + port


def _members(spec: SetSpec) -> list[str]:
    if spec.kind is SetKind.PORTS:
        return [_port(span) for span in sorted(cast("frozenset[Span]", spec.elements))]
    if spec.kind is SetKind.SPANS:
        return [span_text(spec.family, span) for span in sorted(cast("frozenset[Span]", spec.elements))]
    if spec.kind is SetKind.HOSTS:
        return [packed_text(address) for address in sorted(cast("frozenset[Address]", spec.elements))]
    endpoints = sorted(cast("frozenset[Endpoint]", spec.elements))
    return [f"{packed_text(address)} . {protocol_name(p)} . {port}" for address, p, port in endpoints]


def _elements(entries: Iterable[str]) -> list[str]:
    joined = ", ".join(entries)
    return [f"elements = {{ {joined} }}"] if joined else []


def _base_chain(hook: str, direction: Direction, program: Program) -> list[str]:
    lines = [f"chain {hook} {{", f"type filter hook {hook} priority {_PRIORITY}; policy accept;"]
    key = "iif" if direction is Direction.INGRESS else "oif"
    for entry in dispatches(program):
        if entry.key.direction is direction:
            match = key if entry.ifindex else f"{key}name"
            chain = chain_name(direction, entry.key.ifname)
            lines.append(f'{match} "{clean(entry.device)}" jump {chain}')
    return lines


# --- rules -----------------------------------------------------------------------------------------------


def _chain(gate: Gate, direction: Direction) -> list[str]:
    name = chain_name(direction, gate.ifname)
    spec = gate.chain(direction)
    assert spec is not None
    return [f"chain {name} {{", f'comment "{clean(gate.owner)}"', *_rules(name, direction, spec)]


def _rules(name: str, direction: Direction, spec: ChainSpec) -> Iterator[str]:
    drop = _drop(name)
    if spec.established:
        yield "ct state established,related return"
    if direction is Direction.INGRESS and spec.isolated:
        yield f'fib saddr type local {drop} comment "{OWN_SOURCE_COMMENT}"'
    yield f'ct state new tcp flags != syn / fin,syn,rst,ack {drop} comment "{MIDSTREAM_COMMENT}"'
    if not spec.isolated:
        return
    yield _ESSENTIALS
    yield from _permits(name, direction, spec.rules, spec.rest)


def _permits(name: str, direction: Direction, rules: tuple[RuleSpec, ...], rest: str) -> Iterator[str]:
    for rule in rules:
        match = " ".join(part for part in (_peer(rule, direction), _ports(rule.ports)) if part)
        yield f'{match} counter return comment "{rule.comment}"'.lstrip()
    yield f"goto {rest}" if rest else _drop(name)


def _drop(name: str) -> str:
    return f'counter name "{DROP_PREFIX}{name}" drop'


def _peer(rule: RuleSpec, direction: Direction) -> str:
    if rule.family is None or rule.peer is None:
        return ""
    family = _FAMILY[rule.family]
    if rule.peer_kind is SetKind.ENDPOINTS:
        return f"{family} daddr . meta l4proto . th dport @{rule.peer}"
    return f"{family} {'saddr' if direction is Direction.INGRESS else 'daddr'} @{rule.peer}"


def _ports(ports: PortSpec | None) -> str:
    if ports is None:
        return ""
    name = protocol_name(ports.protocol)
    if ports.set_name is None and ports.span is None:
        return f"meta l4proto {name}"
    port = f"@{ports.set_name}" if ports.span is None else _port(ports.span)
    return f"{name} dport {port}" if name in _WITH_PORTS else f"meta l4proto {name} th dport {port}"


def _port(span: Span) -> str:
    first, last = span
    return str(first) if first == last else f"{first}-{last}"
