"""What the policies of one namespace may cost on a node, and which of them are beyond that. Pure.

In: policies as they come, change and go. Out: the directions of policies for which there is no room. The most
expensive ones are left out, so that one policy that is too large harms no other; what is left out isolates
and permits nothing, so that an excess closes and never opens (F1).
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import msgspec

from daemon.intervals import prefix_count
from daemon.model import Block, Direction, Operator, Policy, Port, Requirement, Rule, Selector
from daemon.policy.ruleset import SET_PROTOCOLS

PolicyRef: TypeAlias = tuple[str, str]
"""(namespace, name)."""

Entry: TypeAlias = tuple[str, Direction]
"""One direction of a policy, by the policy's name."""

MOST_POD_SETS = 8
"""Selectors of one rule that are sets of their own, shared with other rules; more become one union.

Each costs a packet that it does not match 60 to 75 ns, and each is a rule a protocol and family.
"""

_NETWORK = 2
"""What a further network of a policy takes to keep."""
_SELECTOR = 10
"""What a selector takes to keep, in addresses of a set: 1 KiB."""
_MORE_VALUES = 20
"""Each value beyond the first: by each of them the selector is found, and tried for a pod."""
_NO_VALUE = 100
"""A requirement that asks for no label's value: such selectors are tried for every pod."""


class Budget(msgspec.Struct, frozen=True):
    """What all policies of one namespace may come to, and the pods that their selectors select.

    rules: that one packet might meet. elements: prefixes that blocks come to, ranges of ports, and what
    selectors weigh (F1); and as many again for what is in their sets of pods (see peersets.PeerSets).
    """

    rules: int = 1000
    elements: int = 300_000


DEFAULT = Budget()


class Cost(msgspec.Struct, frozen=True):
    """What one direction of a policy comes to (see Budget)."""

    rules: int = 0
    elements: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.rules + other.rules, self.elements + other.elements)

    def within(self, budget: Budget) -> bool:
        """Whether there is room for it."""
        return self.rules <= budget.rules and self.elements <= budget.elements

    def share(self, budget: Budget) -> float:
        """Which part of a budget it takes, at the most."""
        return max(self.rules / budget.rules, self.elements / budget.elements)


NOTHING = Cost()


def cost(rules: Iterable[Rule], networks: int) -> Cost:
    """What these rules of a policy for so many networks come to, by their sizes alone."""
    lines = elements = 0
    # The first network is in what else there is. The others are looked up, and told of, for each set.
    further = max(0, networks - 1)
    for rule in rules:
        peers, peer_elements = _peers(rule)
        protocols, port_elements = _ports(rule.ports)
        lines += peers * protocols
        elements += peer_elements + port_elements + further * _selectors(rule)
    return Cost(lines, elements + further * (lines + _NETWORK))


def _selectors(rule: Rule) -> int:
    return sum(not isinstance(peer, Block) for peer in rule.peers or ())


def _peers(rule: Rule) -> tuple[int, int]:
    """How many sets, and what is in them."""
    if rule.peers is None:
        return 1, 0
    blocks = selectors = elements = 0
    for peer in rule.peers:
        if isinstance(peer, Block):
            blocks = 1
            # With either backend: a policy means the same on every node.
            bits = 32 if peer.family == 4 else 128
            elements += sum(prefix_count(span, bits) for span in peer.spans)
        else:
            selectors += 1
            elements += _selector(peer.pods) + (_selector(peer.namespaces) if peer.namespaces else 0)
    return blocks + (selectors if selectors <= MOST_POD_SETS else 1), elements


def _selector(selector: Selector) -> int:
    requirements = selector.requirements
    if len(requirements) == 1:
        # By far the most common ones, and a tenant may have tens of thousands of them.
        return _SELECTOR + _requirement(requirements[0])
    return _SELECTOR + sum(_requirement(requirement) for requirement in requirements)


def _requirement(requirement: Requirement) -> int:
    if requirement.operator is not Operator.IN:
        return _NO_VALUE + len(requirement.values)
    return 1 + _MORE_VALUES * (len(requirement.values) - 1)


def _ports(ports: tuple[Port, ...] | None) -> tuple[int, int]:
    """How many rules they make of each set of peers; and how many ports.

    One for each protocol whose ports are in a set, two where some have names; one for each other port.
    """
    if ports is None:
        return 1, 0
    in_sets = {(port.protocol, port.name is None) for port in ports if port.protocol in SET_PROTOCOLS}
    alone = sum(port.protocol not in SET_PROTOCOLS for port in ports)
    return len(in_sets) + alone, len(ports)


class Ledger:
    """Who is beyond the budget of its namespace. Not shared between threads."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._costs: dict[str, dict[Entry, Cost]] = {}  # by namespace
        self._beyond: dict[str, frozenset[Entry]] = {}  # only of namespaces that have any

    def put(self, ref: PolicyRef, policy: Policy | None) -> set[PolicyRef]:
        """A policy as it is now; the other policies for which there now is room or is none any more."""
        namespace, name = ref
        costs = self._costs.setdefault(namespace, {})
        for direction in Direction:
            rules = None if policy is None else policy.rules(direction)
            if rules:
                costs[name, direction] = cost(rules, len(policy.networks) if policy else 0)
            else:
                costs.pop((name, direction), None)
        if not costs:
            del self._costs[namespace]
        before, after = self._beyond.pop(namespace, frozenset()), frozenset(self._find_beyond(costs))
        if after:
            self._beyond[namespace] = after
        return {(namespace, other) for other, _ in before ^ after if other != name}

    def fits(self, ref: PolicyRef, direction: Direction) -> bool:
        """Whether there is room for what a policy permits in a direction."""
        return (ref[1], direction) not in self._beyond.get(ref[0], ())

    def beyond(self, ref: PolicyRef) -> Iterator[tuple[Direction, Cost]]:
        """The directions of a policy for which there is no room, and what each comes to."""
        for direction in Direction:
            if not self.fits(ref, direction):
                yield direction, self._costs[ref[0]][ref[1], direction]

    def _find_beyond(self, costs: dict[Entry, Cost]) -> Iterator[Entry]:
        if sum(costs.values(), NOTHING).within(self._budget):
            return
        taken = NOTHING
        for entry in sorted(costs, key=lambda entry: (costs[entry].share(self._budget), entry)):
            more = taken + costs[entry]
            if more.within(self._budget):
                taken = more
            else:
                yield entry
