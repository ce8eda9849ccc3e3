"""Sets and origins in words, for the comments that an operator reads in the kernel's listing. Pure.

In: references to peers, and origins of rules. Out: one line each, within what a kernel comment holds. What a
tenant gives may be a thousand networks: nothing is joined or looked at beyond what a comment holds.
"""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address

from daemon.model import Operator, Requirement, Selector, Span
from daemon.policy.ruleset import BlockSet, EndpointSet, PeerRef, PodSet, PodUnion

MAX_COMMENT = 127
"""Bytes that nft and the kernel's comment fields surely hold, without the final NUL."""

_ENOUGH = MAX_COMMENT + 1
"""Characters of anything by which it is known that the whole does not fit."""
_ELLIPSIS = "..."
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "ipv6-icmp", 132: "sctp"}
_MOST_PARTS = 8


def bounded(parts: Sequence[str]) -> str:
    """The parts joined by ", "; what does not fit is counted: "a, b and 7 more"."""
    return _joined(parts, len(parts))


def _joined(parts: Sequence[str], total: int) -> str:
    parts = [part[:_ENOUGH] for part in parts[:_MOST_PARTS]]
    for kept in range(len(parts), 0, -1):
        tail = f" and {total - kept} more" if kept < total else ""
        text = ", ".join(parts[:kept]) + tail
        if len(text.encode()) <= MAX_COMMENT:
            return clean(text)
    return clean(parts[0]) if parts else ""


def clean(text: str) -> str:
    """Fit for a comment: no quote, backslash or control character, and cut at MAX_COMMENT bytes."""
    some = text[:_ENOUGH]
    safe = "".join("'" if c == '"' else c if c.isprintable() and c != "\\" else "?" for c in some)
    if len(safe.encode()) <= MAX_COMMENT:
        return safe
    return safe.encode()[: MAX_COMMENT - len(_ELLIPSIS)].decode(errors="ignore") + _ELLIPSIS


def protocol_name(number: int) -> str:
    """Return "tcp" for 6; the number itself for what has no name here."""
    return _PROTOCOLS.get(number, str(number))


def describe_peer(peer: PeerRef) -> str:
    """What a set stands for: "role=client in namespace default on default/net-a"."""
    if isinstance(peer, BlockSet):
        return _blocks(peer)
    if isinstance(peer, EndpointSet):
        named = [f"{protocol_name(protocol)} {name}" for protocol, name in peer.ports[:_MOST_PARTS]]
        return clean(f"{_joined(named, len(peer.ports))} of {_scope(peer)}")
    return clean(_pods(peer))


def describe_ports(spans: Sequence[Span]) -> str:
    """Which ports: "80, 443, 8000-8099 and 12 more"."""
    some = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:_MOST_PARTS]]
    return _joined(some, len(spans))


def describe_selector(selector: Selector) -> str:
    """As kubectl writes it: "role=client,tier in (a, b),!old"; "all pods" for none."""
    return _listed((_requirement(r) for r in selector.requirements), ",") or "all pods"


def _listed(items: Iterable[str], between: str = ", ") -> str:
    """All of them, as far as that can be seen in a comment."""
    found: list[str] = []
    length = 0
    for item in items:
        found.append(item[:_ENOUGH])
        length += len(found[-1]) + len(between)
        if length > _ENOUGH + len(between):
            break
    return between.join(found)


def _scope(peer: EndpointSet) -> str:
    if isinstance(peer.scope, PodSet | PodUnion):
        return _pods(peer.scope)
    where = f"pods on {_listed(peer.networks)}"
    return where if peer.scope is None else f"{where} in {_blocks(peer.scope)}"


def _pods(peer: PodSet | PodUnion) -> str:
    if isinstance(peer, PodUnion):
        return _joined([_pods(one) for one in peer.sets[:_MOST_PARTS]], len(peer.sets))
    if peer.namespaces is None:
        where = f"namespace {peer.namespace}"
    elif not peer.namespaces.requirements:
        where = "all namespaces"
    else:
        where = f"namespaces {describe_selector(peer.namespaces)}"
    return f"{describe_selector(peer.pods)} in {where} on {_listed(peer.networks)}"


def _requirement(requirement: Requirement) -> str:
    key, values = requirement.key, requirement.values
    match requirement.operator:
        case Operator.EXISTS:
            return key
        case Operator.DOES_NOT_EXIST:
            return f"!{key}"
        case Operator.IN if len(values) == 1:
            return f"{key}={values[0]}"
        case Operator.NOT_IN if len(values) == 1:
            return f"{key}!={values[0]}"
        case Operator.IN:
            return f"{key} in ({_listed(values)})"
        case _:
            return f"{key} notin ({_listed(values)})"


def _blocks(peer: BlockSet) -> str:
    spans = [(4, span) for span in peer.spans4[:_MOST_PARTS]]
    spans += [(6, span) for span in peer.spans6[:_MOST_PARTS]]
    told = [span_text(family, span) for family, span in spans[:_MOST_PARTS]]
    return _joined(told, len(peer.spans4) + len(peer.spans6))


def span_text(family: int, span: Span) -> str:
    """A span as a CIDR where it is one, else "first-last"."""
    first, last = span
    size = last - first + 1
    if size == 1:
        return address_text(family, first)
    if size & (size - 1) == 0 and first % size == 0:
        return f"{address_text(family, first)}/{(32 if family == 4 else 128) - size.bit_length() + 1}"
    return f"{address_text(family, first)}-{address_text(family, last)}"


def address_text(family: int, number: int) -> str:
    """An address, as people write it."""
    return str(IPv4Address(number) if family == 4 else IPv6Address(number))
