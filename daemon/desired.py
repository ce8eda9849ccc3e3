"""Rulesets to the Program that shall be in one netns. Pure; knows no backend.

In: the rulesets of the attachments in one netns, and what the shared peer sets hold. Out: a Program.
What one ruleset comes to is made once and then found by the ruleset's identity; a set's spec is one object
for all programs that hold it. So a peer's change costs a program one look-up a set, and the planner
compares by identity.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

import msgspec

from daemon.memo import memoize, per_object
from daemon.model import ALL_PORTS, Direction, Network, Span
from daemon.policy.ruleset import (
    SET_PROTOCOLS,
    BlockSet,
    EndpointSet,
    Match,
    Members,
    PeerRef,
    PodSet,
    PodUnion,
    Ports,
    Ruleset,
    SharedRef,
)
from daemon.program import (
    DENIED,
    LONGEST_SET_NAME,
    PART_PREFIX,
    UNTOUCHED,
    ChainSpec,
    Gate,
    GateRequest,
    PartSpec,
    PortSpec,
    Program,
    RuleSpec,
    SetKind,
    SetSpec,
)
from daemon.wording import bounded, describe_peer, describe_ports

_SPAN_BYTES = 150
"""A range of ports, and its place in a set."""

_DIGEST_BYTES = 24
"""Of a whole digest: nobody finds two things that share one."""

RULES_IN_A_PIECE = 200
"""Of a chain, or of a part of one: what a kernel takes in 20 ms where 4,000 sets are looked up."""
_MOST_PARTS = 10
"""Of a chain: a kernel follows 16 jumps, one into another."""


_CLASH = (
    "two different sets of its policies have the same name, {}, which only somebody brings about who "
    "searches for it: what is isolated is closed until one of these policies is changed"
)


def make_program(
    gates: Iterable[GateRequest],
    members: Callable[[SharedRef], Members],
    track: bool,
    imprints: tuple[str, ...] = (),
) -> Program:
    """All that shall be in one netns. `members` gives what a shared set holds now.

    Unknown sets hold nothing. Of two gates whose sets have one name by accident, the later one is closed.
    """
    program = Program({}, {}, track, imprints, {}, {})
    for request in gates:
        shape = _shape(request.ruleset)
        held = [spec for ref in shape.shared for spec in _shared_specs(members(ref), ref)]
        if clash := _add_sets([*shape.fixed, *held], program.sets):
            program.clashes[request.ifname] = _CLASH.format(clash)
            shape = _closed_shape(shape)
        # Made anew each time: that costs 1 µs, and its chains, which are compared by identity, are not.
        named = (request.ifname, request.ifindex, request.owner)
        further = (request.carriers, request.names)
        ingress = _in_pieces(shape.ingress, Direction.INGRESS, request, program)
        egress = _in_pieces(shape.egress, Direction.EGRESS, request, program)
        program.gates[request.ifname] = Gate(*named, ingress, egress, *further)
    return program


def _add_sets(specs: Iterable[SetSpec], sets: dict[str, SetSpec]) -> str:
    """Put sets beside those that are there, by name.

    The name of one that stands for something else than the one of that name; none is added then. "": all are.
    """
    added: dict[str, SetSpec] = {}
    for spec in specs:
        known = added.get(spec.name) or sets.get(spec.name)
        if known is not None and known.digest != spec.digest:
            return spec.name
        added[spec.name] = spec
    sets.update(added)
    return ""


def _in_pieces(
    chain: ChainSpec | None, direction: Direction, gate: GateRequest, program: Program
) -> ChainSpec | None:
    """A chain of so many rules as one commit may hold; the parts with the others go into the program."""
    if chain is None or len(chain.rules) <= RULES_IN_A_PIECE:
        return chain
    first, parts = _pieces(chain, gate.owner, direction, gate.ifname)
    program.parts.update((part.name, part) for part in parts)
    return first


@per_object
def _pieces(
    chain: ChainSpec, owner: str, direction: Direction, ifname: str
) -> tuple[ChainSpec, tuple[PartSpec, ...]]:
    """Its beginning, and its parts, the last one first. Remembered: that they stay the same objects.

    A part is taken for what its name says and never compared, so its name has the whole digest.
    """
    size = max(RULES_IN_A_PIECE, -(-len(chain.rules) // (_MOST_PARTS + 1)))
    parts: list[PartSpec] = []
    rest = ""
    for start in reversed(range(size, len(chain.rules), size)):
        rules = chain.rules[start : start + size]
        name = f"{PART_PREFIX}{_digest((owner, direction, ifname, rules, rest))}"
        parts.append(PartSpec(name, owner, direction, ifname, rules, rest))
        rest = name
    return msgspec.structs.replace(chain, rules=chain.rules[:size], rest=rest), tuple(parts)


# --- what one ruleset comes to ---------------------------------------------------------------------------


class _Shape(msgspec.Struct, frozen=True):
    """A ruleset without its members.

    Chains, the sets whose elements it fixes, the shared ones by reference.
    """

    ingress: ChainSpec | None
    egress: ChainSpec | None
    fixed: tuple[SetSpec, ...]
    shared: tuple[SharedRef, ...]


_DENIED_SHAPE = _Shape(DENIED, DENIED, (), ())
_NOTHING_PERMITTED = ChainSpec(isolated=True)


def _closed_shape(shape: _Shape) -> _Shape:
    """What isolates permits nothing."""
    ingress, egress = (
        _NOTHING_PERMITTED if chain is not None and chain.isolated else chain
        for chain in (shape.ingress, shape.egress)
    )
    return _Shape(ingress, egress, (), ())


def _shape(ruleset: Ruleset | None) -> _Shape:
    return _DENIED_SHAPE if ruleset is None else _make_shape(ruleset)


@per_object
def _make_shape(ruleset: Ruleset) -> _Shape:
    """Remembered: to write out its chains once, and that they stay the same objects."""
    if ruleset.ingress is None and ruleset.egress is None:
        return _Shape(None, None, (), ())
    matches = [match for direction in Direction for match in ruleset.matches(direction) or ()]
    fixed = {(spec.name, spec.digest): spec for match in matches for spec in _fixed_sets(match)}
    shared = tuple(dict.fromkeys(ruleset.sets()))
    return _Shape(_chain(ruleset.ingress), _chain(ruleset.egress), tuple(fixed.values()), shared)


def _fixed_sets(match: Match) -> Iterator[SetSpec]:
    if isinstance(match.peer, BlockSet):
        yield from _block_specs(match.peer)
    yield from port_sets(match.ports or ())


def _chain(matches: tuple[Match, ...] | None) -> ChainSpec:
    if matches is None:
        return UNTOUCHED
    return ChainSpec(isolated=True, rules=tuple(rule for match in matches for rule in _rules(match)))


def _rules(match: Match) -> list[RuleSpec]:
    """One rule for each of the match's sets of peers and each of its ports' `port_specs`."""
    comment = bounded(match.origins)
    ports: Sequence[PortSpec | None] = (None,) if match.ports is None else port_specs(match.ports)
    return [RuleSpec(*peer, spec, comment) for peer in _peers(match.peer) for spec in ports]


def _peers(peer: PeerRef | None) -> list[tuple[int | None, str | None, SetKind | None]]:
    """Family, name and kind of each set that a peer comes to."""
    if peer is None:
        return [(None, None, None)]
    if isinstance(peer, BlockSet):
        return [(spec.family, spec.name, spec.kind) for spec in _block_specs(peer)]
    # Both families always, so that a first IPv6 member is an element and not a rule.
    return [(family, _shared_name(peer, family), _kind(peer)) for family in (4, 6)]


def port_specs(ports: Ports) -> tuple[PortSpec, ...]:
    """Ports as rules say them, sorted: one for each protocol, or for each span where no set holds them."""
    grouped = _by_protocol(ports).items()
    return tuple(spec for protocol, spans in grouped for spec in _port_specs_of(protocol, spans))


def _port_specs_of(protocol: int, spans: tuple[Span, ...]) -> list[PortSpec]:
    if _in_a_set(protocol, spans):
        return [PortSpec(protocol, set_name=_ports_set(spans).name)]
    return [PortSpec(protocol, span=span) for span in spans or (None,)]


def port_sets(ports: Ports) -> Iterator[SetSpec]:
    """The sets that rules with these ports look up.

    Named by what is in them and not by protocol: the same ports of TCP and of UDP are one set.
    """
    for protocol, spans in _by_protocol(ports).items():
        if _in_a_set(protocol, spans):
            yield _ports_set(spans)


def _in_a_set(protocol: int, spans: tuple[Span, ...]) -> bool:
    return len(spans) > 1 and protocol in SET_PROTOCOLS


def _by_protocol(ports: Ports) -> dict[int, tuple[Span, ...]]:
    """The spans of each protocol, none for it as a whole: then none of its ports counts beside it (D2)."""
    grouped: dict[int, list[Span] | None] = {}
    for protocol, span in ports:
        if span is None or span == ALL_PORTS:
            grouped[protocol] = None
        elif (known := grouped.setdefault(protocol, [])) is not None:
            known.append(span)
    return {protocol: tuple(grouped[protocol] or ()) for protocol in sorted(grouped)}


# --- sets ------------------------------------------------------------------------------------------------


@per_object
def _block_specs(blocks: BlockSet) -> tuple[SetSpec, ...]:
    """One set for each family in which there is anything (C9); single addresses go into a hash set.

    Remembered: a digest of all spans, once a policy instead of once for each attachment that it governs.
    """
    return tuple(
        _block_spec(family, spans) for family, spans in ((4, blocks.spans4), (6, blocks.spans6)) if spans
    )


def _block_spec(family: int, spans: tuple[Span, ...]) -> SetSpec:
    digest = _digest(spans)
    name = _set_name(f"blocks{family}", digest)
    comment = describe_peer(BlockSet(spans, ()) if family == 4 else BlockSet((), spans))
    # The first address of all is none that a hash of hosts takes with every backend.
    if all(first == last for first, last in spans) and spans[0][0] != 0:
        length = 4 if family == 4 else 16
        hosts = frozenset(first.to_bytes(length, "big") for first, _ in spans)
        return SetSpec(name, SetKind.HOSTS, family, hosts, comment, digest)
    return SetSpec(name, SetKind.SPANS, family, frozenset(spans), comment, digest)


@memoize(8 << 20, lambda spec, spans: _SPAN_BYTES * len(spans))
def _ports_set(spans: tuple[Span, ...]) -> SetSpec:
    """Remembered: many rules of many policies have the same ports, which then are one object."""
    digest = _digest(spans)
    ports = frozenset(spans)
    return SetSpec(_set_name("dports", digest), SetKind.PORTS, 0, ports, describe_ports(spans), digest)


@per_object
def _shared_specs(held: Members, ref: SharedRef) -> tuple[SetSpec, SetSpec]:
    """A shared set's both families as they are now. Remembered: one object for all programs that hold it."""
    kind, (comment, digest) = _kind(ref), _identity(ref)
    v4 = SetSpec(_shared_name(ref, 4), kind, 4, held.v4, comment, digest)
    return v4, SetSpec(_shared_name(ref, 6), kind, 6, held.v6, comment, digest)


def _shared_name(ref: SharedRef, family: int) -> str:
    prefix = "ports" if isinstance(ref, EndpointSet) else "pods"
    return _set_name(f"{prefix}{family}", _identity(ref)[1])


@per_object
def _identity(ref: SharedRef) -> tuple[str, str]:
    """In words and as a digest. Remembered: it has thousands of selectors, or networks."""
    return describe_peer(ref), _digest(_in_short(ref))


def _in_short(ref: PeerRef) -> tuple[object, ...]:
    """All that a reference says, its networks by their digest: thousands of references share them."""
    if isinstance(ref, BlockSet):
        return "blocks", ref.spans4, ref.spans6
    networks = _networks(ref.networks)
    if isinstance(ref, PodUnion):
        return "union", networks, [(part.namespace, part.namespaces, part.pods) for part in ref.sets]
    if isinstance(ref, PodSet):
        return "pods", networks, ref.namespace, ref.namespaces, ref.pods
    return "ports", networks, None if ref.scope is None else _in_short(ref.scope), ref.ports


@memoize(1 << 20, lambda digest, networks: sum(map(len, networks)))
def _networks(networks: tuple[Network, ...]) -> str:
    """Remembered: a policy names them once, and each of its references has them."""
    return _digest(networks)


def _kind(ref: SharedRef) -> SetKind:
    return SetKind.ENDPOINTS if isinstance(ref, EndpointSet) else SetKind.HOSTS


def _set_name(what: str, digest: str) -> str:
    """With as much of the digest as every backend takes: 88 bits at least."""
    return f"{what}-{digest}"[:LONGEST_SET_NAME]


def _digest(value: tuple[object, ...]) -> str:
    """Of frozen types of strings, numbers and tuples: their encoding is the same in every process.

    32 letters and digits: of base64's two signs, which make names hard to read, each stands as a letter.
    """
    return b64encode(sha256(msgspec.json.encode(value)).digest()[:_DIGEST_BYTES], b"xy").decode()
