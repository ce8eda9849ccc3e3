"""Desired and actual to a plan: names, set elements, which chains to rewrite, what is stale. Pure.

In: rulesets of the attachments in one netns, resolved peers, and the program that was applied last.
Out: a Program (all that shall be in that netns) and a Plan (the steps from the one to the other).
A backend renders a Plan; this module knows no backend.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec

from daemon.model import Address, Direction, Span
from daemon.policy.ruleset import Endpoint, Ports


class SetKind(StrEnum):
    """HOSTS: single addresses (hash). SPANS: address ranges (interval). ENDPOINTS: address and port (hash)."""

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


class RuleSpec(msgspec.Struct, frozen=True):
    """One permit rule. family 4, 6 or None (both); peer: a set's name or None (anyone); ports None: all.

    A peer set of kind ENDPOINTS matches address, protocol and port at once.
    """

    family: int | None
    peer: str | None
    peer_kind: SetKind | None
    ports: Ports | None
    comment: str


class ChainSpec(msgspec.Struct, frozen=True):
    """One direction of one attachment, in the order in which a packet meets it:

    established and related pass (unless `established` is False: a guard, or unready); on ingress and isolated:
    the pod's own addresses as source drop (C10); TCP that is `new` without being a bare SYN drops (E2);
    then, if isolated: the essentials of E3 pass, `rules`, count and drop. Not isolated: the rest passes.
    """

    isolated: bool
    rules: tuple[RuleSpec, ...] = ()
    established: bool = True


class Gate(msgspec.Struct, frozen=True):
    """One attachment's part of a netns' program.

    ifindex None: matched by name, before the device exists (guard). ingress and egress None: tracked only (A6).
    owner: "containerID ifname", kept in the chains' comments: it tells whose they are where a netns has no cookie.
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
