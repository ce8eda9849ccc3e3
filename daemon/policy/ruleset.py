"""What policies come to for one attachment: which peers, which ports, in which direction.

In: nothing. Out: the types that compile.py gives and planner.py takes. Peers stand here by reference
(PodSet, PodUnion, EndpointSet), so that a pod's change is a change of one shared set and not of any ruleset.
"""

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from daemon.model import Address, Direction, Network, Selector, Span

PortMatch: TypeAlias = tuple[int, Span | None]
"""(IP protocol number, inclusive ports). Ports None: the protocol as a whole, with or without ports in it."""

Ports: TypeAlias = tuple[PortMatch, ...]
"""Sorted, merged by protocol. Never empty: a rule without a single good port is left out (C8)."""

SET_PROTOCOLS = frozenset({6, 17})
"""Protocols whose ports are looked up in sets: a bitmap:port of ipset reads those of no other, not SCTP's."""

Endpoint: TypeAlias = tuple[Address, int, int]
"""(address, protocol number, port): one named port of one pod (D4)."""


class PodSet(msgspec.Struct, frozen=True, cache_hash=True, weakref=True):
    """Pods by selectors, with their addresses on `networks` (C2, C3, C5).

    namespace: the only namespace when `namespaces` is None; else "" (equal sets are equal values).
    """

    networks: tuple[Network, ...]
    namespace: str
    namespaces: Selector | None
    pods: Selector


class BlockSet(msgspec.Struct, frozen=True, cache_hash=True, weakref=True):
    """Blocks of one rule, united: sorted disjoint spans, per family."""

    spans4: tuple[Span, ...]
    spans6: tuple[Span, ...]


class PodUnion(msgspec.Struct, frozen=True, cache_hash=True, weakref=True):
    """Pods that any of several sets selects: one set in the kernel for all selectors of a rule (C2, C3).

    sets: two at least, all on `networks`.
    """

    networks: tuple[Network, ...]
    sets: tuple[PodSet, ...]


class EndpointSet(msgspec.Struct, frozen=True, cache_hash=True, weakref=True):
    """Named ports of the pods that receive (D4): those in `scope` (None: every known pod) on `networks`.

    ports: sorted (protocol number, name).
    """

    networks: tuple[Network, ...]
    scope: PodSet | PodUnion | BlockSet | None
    ports: tuple[tuple[int, str], ...]


SharedRef: TypeAlias = PodSet | PodUnion | EndpointSet
"""The references that have members; a BlockSet has its spans in itself."""

PeerRef: TypeAlias = SharedRef | BlockSet


class Members(msgspec.Struct, frozen=True, weakref=True):
    """What a PodSet or PodUnion (addresses) or an EndpointSet (endpoints) holds at this moment, per family.

    The frozensets are shared by all rulesets that refer to the set, and replaced, never changed.
    """

    v4: frozenset[Address] | frozenset[Endpoint] = frozenset()
    v6: frozenset[Address] | frozenset[Endpoint] = frozenset()


class Match(msgspec.Struct, frozen=True):
    """One permission: packets of this peer on these ports pass.

    peer None: anyone. ports None: everything (D1); an EndpointSet carries its ports in itself.
    origins: what permits it, for people: "namespace/policy ingress[0]" or "commonRules ingress[0]".
    """

    peer: PeerRef | None
    ports: Ports | None
    origins: tuple[str, ...]


class Ruleset(msgspec.Struct, frozen=True, weakref=True):
    """Both directions of one attachment; None: that direction is not isolated (B2)."""

    ingress: tuple[Match, ...] | None = None
    egress: tuple[Match, ...] | None = None

    def matches(self, direction: Direction) -> tuple[Match, ...] | None:
        """The permissions of a direction, None where it is open."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    def sets(self) -> Iterator[SharedRef]:
        """What it refers to and does not hold in itself, each as often as a match does."""
        for match in (*(self.ingress or ()), *(self.egress or ())):
            if match.peer is not None and not isinstance(match.peer, BlockSet):
                yield match.peer


OPEN = Ruleset()
