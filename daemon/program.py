"""All that shall be in one netns, by stable names: sets, rules, chains, interfaces. Pure; knows no backend.

In: nothing. Out: the types that desired.py makes, planner.py compares and backends carry out, and what is
said of them alike: the part of one attachment, the closed form of all, names.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from hashlib import sha256
from typing import TypeAlias

import msgspec

from daemon.model import Address, Direction, Span
from daemon.policy.ruleset import Endpoint, Ruleset

_LABEL_LETTERS, _LABEL_DIGITS = 6, 8
_DIGEST_LABEL = re.compile(rf".*-[0-9a-f]{{{_LABEL_DIGITS}}}")


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
    """One named set. name: a stable digest of what it stands for; comment: what that is, for people.

    family: 4 or 6; 0 for ports, which have none.
    """

    name: str
    kind: SetKind
    family: int
    elements: Elements
    comment: str


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
    """

    isolated: bool
    rules: tuple[RuleSpec, ...] = ()
    established: bool = True


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

    imprints: lines about its attachments, in comments of a chain that nothing jumps to.
    """

    gates: dict[str, Gate]
    sets: dict[str, SetSpec]
    track: bool
    imprints: tuple[str, ...] = ()


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
    """The part of a program that concerns one attachment: its gate, and the sets that its rules refer to."""
    gate = program.gates[ifname]
    return Program({ifname: gate}, {name: program.sets[name] for name in used_sets([gate])}, program.track)


def closed(desired: Program, actual: Program | None) -> Program:
    """The desired program with each isolated direction denied that is not already as desired.

    actual: what is in force; None: not known.
    """
    gates = {name: _closed_gate(gate, desired, actual) for name, gate in desired.gates.items()}
    sets = {name: desired.sets[name] for name in used_sets(gates.values())}
    return Program(gates, sets, desired.track, desired.imprints)


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
        names = {name for rule in wanted.rules for name in rule.sets}
        if present == wanted and all(desired.sets[name] == actual.sets.get(name) for name in names):
            return wanted
    # Connections that were allowed go on: to end them is revocation's work, and needs rules that can be
    # trusted.
    return ChainSpec(isolated=True, rules=(), established=wanted.established)


def used_sets(gates: Iterable[Gate]) -> list[str]:
    """The names of the sets that the gates' rules refer to, sorted."""
    chains = [chain for gate in gates for chain in (gate.ingress, gate.egress) if chain is not None]
    return sorted({name for chain in chains for rule in chain.rules for name in rule.sets})


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
