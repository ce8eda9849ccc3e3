"""All that shall be in one netns, by stable names: sets, rules, chains, interfaces. Pure; knows no backend.

In: nothing. Out: the types that desired.py makes, planner.py compares and backends carry out, and what is
said of them alike: the part of one attachment, the closed form of all, names.
"""

import re
from collections.abc import Iterator
from enum import StrEnum
from hashlib import sha256
from typing import TypeAlias

import msgspec

from daemon.model import Address, Direction, Span
from daemon.policy.ruleset import Endpoint, Ruleset

_LABEL_LETTERS, _LABEL_DIGITS = 6, 8
_DIGEST_LABEL = re.compile(rf".*-[0-9a-f]{{{_LABEL_DIGITS}}}")


PART_PREFIX = "rules-"
"""Of the names of parts; chains begin with a direction's."""

LONGEST_SET_NAME = 23
"""What ipset's 31 characters leave beside "MNP-" and "-new"."""


class SetKind(StrEnum):
    """What a set's elements are, which decides its form in the kernel.

    HOSTS: single addresses (hash). SPANS: address ranges (interval). ENDPOINTS: address, protocol and port
    (hash). PORTS: port ranges (interval, or a bitmap).
    """

    HOSTS = "hosts"
    SPANS = "spans"
    ENDPOINTS = "endpoints"
    PORTS = "ports"


Elements: TypeAlias = frozenset[Address] | frozenset[Endpoint] | frozenset[Span]
"""Shared by reference between all programs; replaced, never changed. Spans are disjoint, not adjacent."""


class SetSpec(msgspec.Struct, frozen=True, weakref=True):
    """One named set. name: what it stands for, as far as names go; comment: the same, for people.

    family: 4 or 6; 0 for ports, which have none. digest: of what it stands for, the whole of it: two sets of
    one name may be found to have the same one only if they are the same. room: about as many elements as it
    will hold, where these are but the first of them; 0: they are all.
    """

    name: str
    kind: SetKind
    family: int
    elements: Elements
    comment: str
    digest: str = ""
    room: int = 0


class PortSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """What a rule says of ports: one protocol, and which of its destination ports.

    span: one port or range, which is compared. set_name: a set with several, which is looked up: two look-ups
    judge a packet then, however many peers and ports there are. Neither: the protocol as a whole.
    """

    protocol: int
    span: Span | None = None
    set_name: str | None = None


class RuleSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """One permit rule. family 4, 6 or None (both); peer: a set's name or None (anyone); ports None: all.

    A peer set of kind ENDPOINTS matches destination address, protocol and port at once (D4).
    """

    family: int | None
    peer: str | None
    peer_kind: SetKind | None
    ports: PortSpec | None
    comment: str

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of the sets that it looks up, the peers' first."""
        ports = None if self.ports is None else self.ports.set_name
        return tuple(name for name in (self.peer, ports) if name is not None)


class ChainSpec(msgspec.Struct, frozen=True, cache_hash=True, weakref=True):
    """One direction of one attachment, in the order in which a packet meets it:

    established and related pass (unless `established` is False: a guard, or unready); on ingress and
    isolated: the pod's own addresses as source drop (C10); TCP that is `new` without being a bare SYN drops
    (E2); then, if isolated: the essentials of E3 pass, `rules`, count and drop. Not isolated: the rest
    passes.
    rest: the name of the part that goes on behind `rules`, where there are too many for one commit; "": none.
    """

    isolated: bool
    rules: tuple[RuleSpec, ...] = ()
    established: bool = True
    rest: str = ""


class PartSpec(msgspec.Struct, frozen=True, cache_hash=True):
    """Some of the rules of a gate's long chain. rest: as a chain's; "": what comes so far is refused.

    name: a digest of all else, so a part is never changed: another one takes its place. owner: the gate's.
    """

    name: str
    owner: str
    direction: Direction
    ifname: str
    rules: tuple[RuleSpec, ...]
    rest: str


class Carrier(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Another device by which an interface's packets enter or leave the IP stack."""

    ifindex: int
    ifname: str


class Seal(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """A device on which every frame of a direction is dropped, for no rule of a program could judge it."""

    ifname: str
    direction: Direction


class Gate(msgspec.Struct, frozen=True, cache_hash=True):
    """One attachment's part of a netns' program.

    ifindex None: matched by name, before the device exists (guard). ingress and egress None: tracked only
    (A6).
    owner: "containerID ifname", kept in the chains' comments: it tells whose they are where a netns has no
    cookie. carriers: its packets pass these too, which are dispatched to the same chains. names: of
    interfaces whose packets are its too, beside those of `ifindex`, or where that is None `ifname`.
    """

    ifname: str
    ifindex: int | None
    owner: str
    ingress: ChainSpec | None
    egress: ChainSpec | None
    carriers: tuple[Carrier, ...] = ()
    names: tuple[str, ...] = ()

    def chain(self, direction: Direction) -> ChainSpec | None:
        """The chain of a direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


class Program(msgspec.Struct, frozen=True):
    """All that is ours in one netns. gates by ifname, sets by name; track: connection tracking on (A6).

    imprints: lines about its attachments, in comments of a chain that nothing jumps to. parts by name, each
    behind that which its `rest` names. clashes: why gates are closed, by ifname.
    """

    gates: dict[str, Gate]
    sets: dict[str, SetSpec]
    track: bool
    imprints: tuple[str, ...] = ()
    parts: dict[str, PartSpec] = {}
    clashes: dict[str, str] = {}

    def parts_of(self, chain: ChainSpec | None) -> Iterator[PartSpec]:
        """The parts of a chain, in the order in which a packet meets them."""
        name = "" if chain is None else chain.rest
        while name:
            yield (part := self.parts[name])
            name = part.rest

    def rules_of(self, chain: ChainSpec | None) -> Iterator[RuleSpec]:
        """All rules of a chain, those in its parts too."""
        if chain is not None:
            yield from chain.rules
            yield from (rule for part in self.parts_of(chain) for rule in part.rules)

    def whole(self, chain: ChainSpec) -> ChainSpec:
        """A chain in one piece."""
        if not chain.rest:
            return chain
        return msgspec.structs.replace(chain, rules=tuple(self.rules_of(chain)), rest="")

    def sets_used(self) -> frozenset[str]:
        """The names of the sets that the gates' rules look up."""
        chains = (gate.chain(direction) for gate in self.gates.values() for direction in Direction)
        return frozenset(name for chain in chains for rule in self.rules_of(chain) for name in rule.sets)


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
    carriers: tuple[Carrier, ...] = ()
    names: tuple[str, ...] = ()


def denied_gate(
    ifname: str,
    ifindex: int | None,
    owner: str,
    carriers: tuple[Carrier, ...] = (),
    names: tuple[str, ...] = (),
) -> GateRequest:
    """A guard (ifindex None: by name, before the device exists) or an attachment that is not ready."""
    return GateRequest(ifname, ifindex, owner, None, carriers, names)


def restrict(program: Program, ifname: str) -> Program:
    """The part of a program that concerns one attachment: its gate, and what its rules refer to."""
    return _complete({ifname: program.gates[ifname]}, program, program.track, ())


def closed(desired: Program, actual: Program | None) -> Program:
    """The desired program with each isolated direction denied that is not already as desired.

    actual: what is in force; None: not known.
    """
    gates = {name: _closed_gate(gate, desired, actual) for name, gate in desired.gates.items()}
    return _complete(gates, desired, desired.track, desired.imprints)


def _complete(gates: dict[str, Gate], of: Program, track: bool, imprints: tuple[str, ...]) -> Program:
    """A program of gates with the sets and parts of another one that they refer to."""
    chains = [gate.chain(direction) for gate in gates.values() for direction in Direction]
    used = {part.name for chain in chains for part in of.parts_of(chain)}
    found = Program(gates, {}, track, imprints, {name: p for name, p in of.parts.items() if name in used})
    found.sets.update((name, of.sets[name]) for name in sorted(found.sets_used()))
    return found


def _closed_gate(gate: Gate, desired: Program, actual: Program | None) -> Gate:
    chains = {d: _closed_chain(gate, d, desired, actual) for d in Direction}
    return msgspec.structs.replace(gate, ingress=chains[Direction.INGRESS], egress=chains[Direction.EGRESS])


def _closed_chain(
    gate: Gate, direction: Direction, desired: Program, actual: Program | None
) -> ChainSpec | None:
    wanted = gate.chain(direction)
    if wanted is None or not wanted.isolated:
        return wanted
    if actual is not None and gate.ifname in actual.gates:
        present = actual.gates[gate.ifname].chain(direction)
        names = {name for rule in desired.rules_of(wanted) for name in rule.sets}
        if present == wanted and all(desired.sets[name] == actual.sets.get(name) for name in names):
            return wanted
    return closed_chain(gate, direction)


def closed_chain(gate: Gate, direction: Direction) -> ChainSpec | None:
    """A gate's chain, denied if it isolates.

    Connections that were allowed go on: to end them is revocation's work, and needs rules that can be
    trusted.
    """
    chain = gate.chain(direction)
    if chain is None or not chain.isolated:
        return chain
    return ChainSpec(isolated=True, rules=(), established=chain.established)


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
