"""Rulesets to a Program: all that shall be in one netns, by stable names. Pure; knows no backend.

In: the rulesets of the attachments in one netns, and what the shared peer sets hold. Out: a Program.
What one ruleset comes to is made once and then found by the ruleset's identity; a set's spec is one object
for all programs that hold it. So a peer's change costs a program one look-up a set, and the planner
compares by identity.
"""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from typing import TypeAlias

import msgspec

from daemon.memo import memoize, per_object
from daemon.model import ALL_PORTS, Address, Direction, Span
from daemon.policy.ruleset import (
    BlockSet,
    Endpoint,
    EndpointSet,
    Match,
    Members,
    PeerRef,
    PodSet,
    PortMatch,
    Ports,
    Ruleset,
)
from daemon.wording import bounded, describe_peer

_MEMO_GATES = 4096
"""Of one ruleset. Most rulesets have one; the open one has every attachment that no policy governs."""

_MEMO_ELEMENTS = 500_000
"""Addresses that specs of shared sets hold on to: those of former members too, 50 bytes each."""

_DIGEST_DIGITS = 12
_LABEL_LETTERS, _LABEL_DIGITS = 6, 8
_DIGEST_LABEL = re.compile(rf".*-[0-9a-f]{{{_LABEL_DIGITS}}}")


class SetKind(StrEnum):
    """HOSTS: single addresses (hash). SPANS: address ranges (interval). ENDPOINTS.

    Address and port (hash).
    """

    HOSTS = "hosts"
    SPANS = "spans"
    ENDPOINTS = "endpoints"


Elements: TypeAlias = frozenset[Address] | frozenset[Endpoint] | frozenset[Span]
"""Shared by reference between all programs; replaced, never changed. Spans are disjoint, not adjacent."""


class SetSpec(msgspec.Struct, frozen=True):
    """One named set. name: a stable digest of what it stands for; comment: what that is, for people."""

    name: str
    kind: SetKind
    family: int
    elements: Elements
    comment: str


class RuleSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """One permit rule. family 4, 6 or None (both); peer: a set's name or None (anyone); ports None: all.

    A peer set of kind ENDPOINTS matches destination address, protocol and port at once (D4).
    """

    family: int | None
    peer: str | None
    peer_kind: SetKind | None
    ports: Ports | None
    comment: str


class ChainSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """One direction of one attachment, in the order in which a packet meets it:

    established and related pass (unless `established` is False: a guard, or unready); on ingress and
    isolated: the pod's own addresses as source drop (C10); TCP that is `new` without being a bare SYN drops
    (E2); then, if isolated: the essentials of E3 pass, `rules`, count and drop. Not isolated: the rest
    passes.
    """

    isolated: bool
    rules: tuple[RuleSpec, ...] = ()
    established: bool = True


class Gate(msgspec.Struct, frozen=True, cache_hash=True):
    """One attachment's part of a netns' program.

    ifindex None: matched by name, before the device exists (guard). ingress and egress None: tracked only
    (A6).
    owner: "containerID ifname", kept in the chains' comments: it tells whose they are where a netns has no
    cookie.
    """

    ifname: str
    ifindex: int | None
    owner: str
    ingress: ChainSpec | None
    egress: ChainSpec | None

    def chain(self, direction: Direction) -> ChainSpec | None:
        """The chain of a direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


class Program(msgspec.Struct, frozen=True):
    """All that is ours in one netns. gates by ifname, sets by name; track: connection tracking on (A6)."""

    gates: dict[str, Gate]
    sets: dict[str, SetSpec]
    track: bool


EMPTY = Program({}, {}, track=False)

DENIED = ChainSpec(isolated=True, established=False)
"""A guard, or an attachment that is not ready.

Nothing but the essentials of E3, not even established flows.
"""

UNTOUCHED = ChainSpec(isolated=False)
"""The open direction of an attachment that is isolated in the other one: only E2's rule."""


class GateRequest(msgspec.Struct, frozen=True):
    """What make_program is asked for: one attachment. ruleset None: denied both ways (see DENIED)."""

    ifname: str
    ifindex: int | None
    owner: str
    ruleset: Ruleset | None


def denied_gate(ifname: str, ifindex: int | None, owner: str) -> GateRequest:
    """A guard (ifindex None: by name, before the device exists) or an attachment that is not ready."""
    return GateRequest(ifname, ifindex, owner, None)


def make_program(
    gates: Iterable[GateRequest], members: Callable[[PodSet | EndpointSet], Members], track: bool
) -> Program:
    """All that shall be in one netns. `members` gives what a shared set holds now.

    Unknown sets hold nothing.
    """
    program = Program({}, {}, track)
    for request in gates:
        shape = _shape(request.ruleset)
        program.gates[request.ifname] = _gate(request.ifname, request.ifindex, request.owner, shape)
        for spec in shape.blocks:
            program.sets[spec.name] = spec
        for ref in shape.shared:
            held = members(ref)
            for family, elements in ((4, held.v4), (6, held.v6)):
                spec = _shared_spec(ref, family, elements)
                program.sets[spec.name] = spec
    return program


def restrict(program: Program, ifname: str) -> Program:
    """The part of a program that concerns one attachment: its gate, and the sets that its rules refer to."""
    gate = program.gates[ifname]
    return Program({ifname: gate}, {name: program.sets[name] for name in used_sets([gate])}, program.track)


def closed(desired: Program, actual: Program | None) -> Program:
    """The desired program with each isolated direction denied that is not already as desired.

    actual: what is in force; None: not known.
    """
    gates = {name: _closed_gate(gate, desired, actual) for name, gate in desired.gates.items()}
    return Program(gates, {n: desired.sets[n] for n in used_sets(gates.values())}, desired.track)


def _closed_gate(gate: Gate, desired: Program, actual: Program | None) -> Gate:
    chains = {d: _closed_chain(gate, d, desired, actual) for d in Direction}
    return Gate(gate.ifname, gate.ifindex, gate.owner, chains[Direction.INGRESS], chains[Direction.EGRESS])


def _closed_chain(
    gate: Gate, direction: Direction, desired: Program, actual: Program | None
) -> ChainSpec | None:
    wanted = gate.chain(direction)
    if wanted is None or not wanted.isolated:
        return wanted
    if actual is not None and gate.ifname in actual.gates:
        present = actual.gates[gate.ifname].chain(direction)
        peers = {rule.peer for rule in wanted.rules if rule.peer is not None}
        if present == wanted and all(desired.sets[p] == actual.sets.get(p) for p in peers):
            return wanted
    # Connections that were allowed go on: to end them is revocation's work, and needs rules that can be
    # trusted.
    return ChainSpec(isolated=True, rules=(), established=wanted.established)


def used_sets(gates: Iterable[Gate]) -> list[str]:
    """The names of the sets that the gates' rules refer to, sorted."""
    chains = [chain for gate in gates for chain in (gate.ingress, gate.egress) if chain is not None]
    return sorted({rule.peer for chain in chains for rule in chain.rules if rule.peer is not None})


def chain_name(direction: Direction, ifname: str) -> str:
    """A chain's name: "ingress-net1"."""
    return f"{direction}-{label(ifname)}"


def label(ifname: str) -> str:
    """An interface in the names of kernel objects, 15 characters at most.

    Itself, unless these may not hold its characters, or it looks like what then stands for it: a digest.
    """
    clean = re.sub(r"[^A-Za-z0-9_.-]", "_", ifname)
    if clean == ifname and not _DIGEST_LABEL.fullmatch(ifname):
        return ifname
    return f"{clean[:_LABEL_LETTERS]}-{sha256(ifname.encode()).hexdigest()[:_LABEL_DIGITS]}"


# --- what one ruleset comes to ---------------------------------------------------------------------------


class _Shape(msgspec.Struct, frozen=True):
    """A ruleset without its members.

    Chains, the sets whose elements it fixes, the shared ones by reference; and the gates made of it so far.
    """

    ingress: ChainSpec | None
    egress: ChainSpec | None
    blocks: tuple[SetSpec, ...]
    shared: tuple[PodSet | EndpointSet, ...]
    gates: dict[tuple[str, int | None, str], Gate] = msgspec.field(default_factory=dict)


_DENIED_SHAPE = _Shape(DENIED, DENIED, (), ())


def _shape(ruleset: Ruleset | None) -> _Shape:
    return _DENIED_SHAPE if ruleset is None else _make_shape(ruleset)


@per_object
def _make_shape(ruleset: Ruleset) -> _Shape:
    if ruleset.ingress is None and ruleset.egress is None:
        return _Shape(None, None, (), ())
    peers = [match.peer for d in Direction for match in ruleset.matches(d) or () if match.peer is not None]
    blocks = {s.name: s for p in peers if isinstance(p, BlockSet) for s in _block_specs(p)}
    shared = dict.fromkeys(p for p in peers if not isinstance(p, BlockSet))
    return _Shape(_chain(ruleset.ingress), _chain(ruleset.egress), tuple(blocks.values()), tuple(shared))


def _chain(matches: tuple[Match, ...] | None) -> ChainSpec:
    if matches is None:
        return UNTOUCHED
    return ChainSpec(isolated=True, rules=tuple(rule for match in matches for rule in _rules(match)))


def _rules(match: Match) -> list[RuleSpec]:
    ports = _whole(match.ports)
    comment = bounded(match.origins)
    if match.peer is None:
        return [RuleSpec(None, None, None, ports, comment)]
    if isinstance(match.peer, BlockSet):
        return [RuleSpec(s.family, s.name, s.kind, ports, comment) for s in _block_specs(match.peer)]
    kind = SetKind.HOSTS if isinstance(match.peer, PodSet) else SetKind.ENDPOINTS
    # Both families always, so that a first IPv6 member is an element and not a rule.
    return [RuleSpec(f, _shared_name(match.peer, f), kind, ports, comment) for f in (4, 6)]


def _whole(ports: Ports | None) -> Ports | None:
    """Ports 0-65535 are the whole protocol, and a whole protocol needs none of its ports beside it (D2)."""
    if ports is None:
        return None
    whole = {protocol for protocol, span in ports if span is None or span == ALL_PORTS}
    rest: tuple[PortMatch, ...] = tuple(port for port in ports if port[0] not in whole)
    return tuple((protocol, None) for protocol in sorted(whole)) + rest


def _gate(ifname: str, ifindex: int | None, owner: str, shape: _Shape) -> Gate:
    key = (ifname, ifindex, owner)
    found = shape.gates.get(key)
    if found is None:
        if len(shape.gates) >= _MEMO_GATES:
            shape.gates.clear()
        found = shape.gates[key] = Gate(ifname, ifindex, owner, shape.ingress, shape.egress)
    return found


# --- sets ------------------------------------------------------------------------------------------------


@per_object
def _block_specs(blocks: BlockSet) -> tuple[SetSpec, ...]:
    """One set for each family in which there is anything (C9); single addresses go into a hash set."""
    return tuple(
        _block_spec(family, spans) for family, spans in ((4, blocks.spans4), (6, blocks.spans6)) if spans
    )


def _block_spec(family: int, spans: tuple[Span, ...]) -> SetSpec:
    name = f"blocks{family}-{_digest(spans)}"
    comment = describe_peer(BlockSet(spans, ()) if family == 4 else BlockSet((), spans))
    # The first address of all is none that a hash of hosts takes with every backend.
    if all(first == last for first, last in spans) and spans[0][0] != 0:
        length = 4 if family == 4 else 16
        hosts = frozenset(first.to_bytes(length, "big") for first, _ in spans)
        return SetSpec(name, SetKind.HOSTS, family, hosts, comment)
    return SetSpec(name, SetKind.SPANS, family, frozenset(spans), comment)


@memoize(_MEMO_ELEMENTS, lambda ref, family, elements: len(elements) + 1)
def _shared_spec(ref: PodSet | EndpointSet, family: int, elements: Elements) -> SetSpec:
    kind = SetKind.HOSTS if isinstance(ref, PodSet) else SetKind.ENDPOINTS
    return SetSpec(_shared_name(ref, family), kind, family, elements, describe_peer(ref))


@lru_cache(maxsize=1024)
def _shared_name(ref: PodSet | EndpointSet, family: int) -> str:
    prefix = "pods" if isinstance(ref, PodSet) else "ports"
    return f"{prefix}{family}-{_digest(ref)}"


def _digest(value: PeerRef | tuple[Span, ...]) -> str:
    """Of frozen types of strings, numbers and tuples: their repr is the same in every process."""
    return sha256(repr(value).encode()).hexdigest()[:_DIGEST_DIGITS]
