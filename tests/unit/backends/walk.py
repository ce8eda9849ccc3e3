"""Random but repeatable programs: a netns whose policies, peers and attachments change step by step.

In: a seed. Out: after each step a Program, made as the daemon makes it, for the fake and the real kernel.
"""

import random
from collections.abc import Iterator

from daemon.desired import make_program
from daemon.model import Operator, Requirement, Selector, Span
from daemon.planner import GateRequest, Program, denied_gate
from daemon.policy.ruleset import (
    BlockSet,
    EndpointSet,
    Match,
    Members,
    PeerRef,
    PodSet,
    PortMatch,
    Ports,
    Ruleset,
    SharedRef,
)

IFNAMES = ("net1", "net2", "net3", "odd:name", "eth0.100")
NETWORKS = ("default/net-a", "other/net-b")
TCP, UDP, SCTP = 6, 17, 132


def pods(role: str, namespace: str = "default") -> PodSet:
    """The pods of one role."""
    selector = Selector((Requirement("role", Operator.IN, (role,)),))
    return PodSet(NETWORKS[:1], namespace, None, selector)


class Walk:
    """A netns in which something happens at each step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.shared = [pods(f"role-{number}") for number in range(4)]
        self.endpoints = [EndpointSet(NETWORKS, scope, ((TCP, "web"),)) for scope in (None, self.shared[0])]
        self.members: dict[SharedRef, Members] = {}
        self.gates: dict[str, GateRequest] = {}
        self.track = True
        self.refs: list[SharedRef] = [*self.shared, *self.endpoints]
        for ref in self.refs:
            self.members[ref] = self._members(ref)

    def programs(self, steps: int) -> Iterator[Program]:
        """What shall be after each step."""
        for _ in range(steps):
            self.random.choice(
                [self._change_members, self._change_members, self._change_gate, self._end_gate]
            )()
            if self.random.random() < 0.1:
                self.track = not self.track
            yield make_program(self.gates.values(), self._held, self.track)

    def _held(self, ref: SharedRef) -> Members:
        return self.members[ref]

    def _change_members(self) -> None:
        ref = self.random.choice(self.refs)
        self.members[ref] = self._members(ref)

    def _change_gate(self) -> None:
        ifname = self.random.choice(IFNAMES)
        index = IFNAMES.index(ifname) + 10
        owner = f"{self.random.choice(['c0ffee', 'decade'])} {ifname}"
        kind = self.random.random()
        if kind < 0.15:
            self.gates[ifname] = denied_gate(ifname, None, owner)
        elif kind < 0.3:
            self.gates[ifname] = denied_gate(ifname, index, owner)
        else:
            self.gates[ifname] = GateRequest(ifname, index, owner, self._ruleset())

    def _end_gate(self) -> None:
        if self.gates:
            del self.gates[self.random.choice(list(self.gates))]

    def _ruleset(self) -> Ruleset:
        return Ruleset(self._matches(), self._matches())

    def _matches(self) -> tuple[Match, ...] | None:
        if self.random.random() < 0.25:
            return None
        number = self.random.randrange(4)
        return tuple(self._match(f"default/policy-{n} ingress[{n}]") for n in range(number))

    def _match(self, origin: str) -> Match:
        peer: PeerRef | None = self.random.choice(
            [None, self._blocks(), self.random.choice(self.shared), self.random.choice(self.endpoints)]
        )
        return Match(peer, None if isinstance(peer, EndpointSet) else self._ports(), (origin,))

    def _ports(self) -> Ports | None:
        if self.random.random() < 0.2:
            return None
        found: dict[tuple[int, int], PortMatch] = {}
        for protocol in self.random.sample([TCP, UDP, SCTP], self.random.randint(1, 3)):
            if self.random.random() < 0.2:
                found[protocol, -1] = (protocol, None)
                continue
            for number in range(self.random.randint(1, 3)):
                first = self.random.randrange(1000) + 2000 * number + 1
                found[protocol, first] = (protocol, (first, first + self.random.choice([0, 0, 0, 500])))
        return tuple(found[key] for key in sorted(found))

    def _blocks(self) -> BlockSet:
        if self.random.random() < 0.2:
            return BlockSet(((0, 2**32 - 1),), ((0, 2**128 - 1),))
        return BlockSet(self._spans(10 << 24), self._spans(0xFD << 120))

    def _spans(self, base: int) -> tuple[Span, ...]:
        widths = [0] if self.random.random() < 0.3 else [0, 3, 255]
        starts = sorted(self.random.sample(range(0, 40_000, 1000), self.random.randrange(5)))
        return tuple((base + start, base + start + self.random.choice(widths)) for start in starts)

    def _members(self, ref: SharedRef) -> Members:
        numbers = self.random.sample(range(1, 60), self.random.randrange(12))
        v4 = [bytes([10, 1, 0, number]) for number in numbers]
        v6 = [bytes([0xFD]) + bytes(14) + bytes([number]) for number in numbers[::2]]
        if isinstance(ref, PodSet):
            return Members(frozenset(v4), frozenset(v6))
        ends = [
            frozenset((address, TCP, 8000 + address[-1] % 3) for address in family) for family in (v4, v6)
        ]
        return Members(ends[0], ends[1])
