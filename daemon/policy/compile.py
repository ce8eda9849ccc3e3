"""Turn the policies that govern one attachment into a Ruleset.

In: a Subject, the policies that govern it, the operator's common rules. Out: a Ruleset, in which peers stand
as references. Never resolves a peer, never widens a rule: one whose peers or ports came to nothing is left
out and the isolation stays. What does not depend on the subject is worked out once a policy (`Terms`), for
its blocks may be hundreds.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from daemon.intervals import union
from daemon.model import (
    EVERYWHERE,
    Block,
    CommonRules,
    ContainerPort,
    Direction,
    Network,
    PodPeer,
    Policy,
    Port,
    Rule,
    Span,
    Subject,
)
from daemon.policy.budget import MOST_POD_SETS
from daemon.policy.ruleset import BlockSet, EndpointSet, Match, PeerRef, PodSet, PodUnion, Ports, Ruleset
from daemon.policy.selectors import matches

NamedPort: TypeAlias = tuple[int, str]
"""(IP protocol number, container port's name)."""

RulePeer: TypeAlias = PodSet | PodUnion | BlockSet


class Term(msgspec.Struct, frozen=True):
    """One rule, as far as it can be worked out without a subject.

    peers: None among them is anyone. everything: no `ports` given (D1); else `numbered` and `named` ports.
    networks: where the pods behind named ports are looked for (D4); None: on the subject's.
    """

    origin: str
    peers: tuple[RulePeer | None, ...]
    everything: bool
    numbered: Ports
    named: tuple[NamedPort, ...]
    networks: tuple[Network, ...] | None


class Terms(msgspec.Struct, frozen=True):
    """The rules of one policy, or the common ones. None: that direction is not isolated (B1)."""

    ingress: tuple[Term, ...] | None
    egress: tuple[Term, ...] | None

    def of(self, direction: Direction) -> tuple[Term, ...] | None:
        """The terms of a direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


def governs(policy: Policy, namespace: str, labels: Mapping[str, str], networks: Iterable[Network]) -> bool:
    """Whether a policy governs an interface on any of `networks` of such a pod (A1 to A5, F3)."""
    return (
        policy.namespace == namespace
        and policy.pod_selector is not None
        and any(network in policy.networks for network in (EVERYWHERE, *networks))
        and matches(policy.pod_selector, labels)
    )


def compile_ruleset(subject: Subject, policies: Sequence[Policy], common: CommonRules) -> Ruleset:
    """The verdicts of the governing policies, added up (B2, B3), and the common rules where isolated (E6)."""
    return combine(subject, [make_terms(policy) for policy in policies], make_common_terms(common))


def combine(subject: Subject, policies: Sequence[Terms], common: Terms) -> Ruleset:
    """`compile_ruleset` with the part that depends on no subject done before."""
    return Ruleset(
        ingress=_permissions(subject, policies, common, Direction.INGRESS),
        egress=_permissions(subject, policies, common, Direction.EGRESS),
    )


def make_terms(policy: Policy) -> Terms:
    """One policy's rules, resolved as far as they go for every subject alike."""

    def terms(direction: Direction) -> tuple[Term, ...] | None:
        rules = policy.rules(direction)
        if rules is None:
            return None
        label = f"{policy.namespace}/{policy.name} {direction}"
        return tuple(_terms(label, rules, policy.namespace, policy.networks))

    return Terms(terms(Direction.INGRESS), terms(Direction.EGRESS))


def needs_pods(term: Term, direction: Direction) -> bool:
    """Whether it takes the pods that there are to tell what a rule permits.

    Where it names pods as peers (C2, C3), and on egress a port, whatever form the peers have (D4).
    """
    by_port = bool(term.named) and direction is Direction.EGRESS
    return any(by_port or isinstance(peer, PodSet | PodUnion) for peer in term.peers)


def sets_of(term: Term, direction: Direction) -> Iterator[PeerRef]:
    """All sets that a policy's rule may refer to, whatever the subject."""
    for peer in term.peers:
        if peer is not None:
            yield peer
        if term.named and direction is Direction.EGRESS:
            yield EndpointSet(term.networks or (), peer, term.named)


def make_common_terms(common: CommonRules) -> Terms:
    """The operator's rules. They isolate nothing by themselves (E6)."""
    return Terms(
        tuple(_terms("commonRules ingress", common.ingress, "", None)),
        tuple(_terms("commonRules egress", common.egress, "", None)),
    )


def _terms(
    label: str, rules: Sequence[Rule], namespace: str, networks: tuple[Network, ...] | None
) -> Iterator[Term]:
    for index, rule in enumerate(rules):
        peers = _peers(rule, namespace, networks or ())
        numbered, named = _split_ports(rule.ports or ())
        yield Term(f"{label}[{index}]", peers, rule.ports is None, numbered, named, networks)


def _peers(rule: Rule, namespace: str, networks: tuple[Network, ...]) -> tuple[RulePeer | None, ...]:
    if rule.peers is None:
        return (None,)
    selected = dict.fromkeys(
        PodSet(networks, namespace if peer.namespaces is None else "", peer.namespaces, peer.pods)
        for peer in rule.peers
        if isinstance(peer, PodPeer)
    )
    few = len(selected) <= MOST_POD_SETS
    pods: tuple[RulePeer, ...] = tuple(selected) if few else (PodUnion(networks, tuple(selected)),)
    blocks = _unite([peer for peer in rule.peers if isinstance(peer, Block)])
    return (*pods, blocks) if blocks.spans4 or blocks.spans6 else pods


def _unite(blocks: Sequence[Block]) -> BlockSet:
    # Families never mix (C9): the same integer is another address in the other family.
    def spans(family: int) -> tuple[Span, ...]:
        return union(span for block in blocks if block.family == family for span in block.spans)

    return BlockSet(spans(4), spans(6))


def _split_ports(ports: Iterable[Port]) -> tuple[Ports, tuple[NamedPort, ...]]:
    spans: dict[int, list[Span] | None] = {}  # None: the whole protocol, whatever else is said of it (D2)
    named: set[NamedPort] = set()
    for port in ports:
        if port.name is not None:
            named.add((port.protocol, port.name))
        elif port.span is None:
            spans[port.protocol] = None
        elif (known := spans.setdefault(port.protocol, [])) is not None:
            known.append(port.span)
    return _merge(spans), tuple(sorted(named))


def _merge(spans: Mapping[int, list[Span] | None]) -> Ports:
    merged: list[tuple[int, Span | None]] = []
    for protocol in sorted(spans):
        known = spans[protocol]
        merged += [(protocol, None)] if known is None else [(protocol, span) for span in union(known)]
    return tuple(merged)


def _permissions(
    subject: Subject, policies: Sequence[Terms], common: Terms, direction: Direction
) -> tuple[Match, ...] | None:
    isolating = [terms for policy in policies if (terms := policy.of(direction)) is not None]
    if not isolating:
        return None
    found: dict[tuple[PeerRef | None, Ports | None], dict[str, None]] = {}
    for terms in (*isolating, common.of(direction) or ()):
        for term in terms:
            for permission in _permitted(term, subject, direction):
                found.setdefault(permission, {})[term.origin] = None
    return tuple(Match(peer, ports, tuple(origins)) for (peer, ports), origins in found.items())


def _permitted(
    term: Term, subject: Subject, direction: Direction
) -> Iterator[tuple[PeerRef | None, Ports | None]]:
    # Fail closed: no peer or no port yields nothing, and the direction stays isolated (C8).
    if term.everything:
        for peer in term.peers:
            yield peer, None
        return
    ports = term.numbered
    if term.named and direction is Direction.INGRESS:
        ports = _resolve(ports, term.named, subject.ports)
    for peer in term.peers:
        if ports:
            yield peer, ports
        if term.named and direction is Direction.EGRESS:
            networks = subject.networks if term.networks is None else term.networks
            yield EndpointSet(networks, peer, term.named), None


def _resolve(numbered: Ports, named: Iterable[NamedPort], available: Sequence[ContainerPort]) -> Ports:
    """The numbered ports and those of the subject's that have one of the names (D4)."""
    found = [Port(protocol, (port, port)) for protocol, port in find_ports(frozenset(named), available)]
    if not found:
        return numbered
    plain = [Port(protocol, span) for protocol, span in numbered]
    return _split_ports([*plain, *found])[0]


def find_ports(wanted: frozenset[NamedPort], available: Iterable[ContainerPort]) -> set[tuple[int, int]]:
    """Protocol and number of what has one of these names; of one name the first, as Kubernetes chooses (D4).

    Costs what a pod has of ports, however many names a policy has.
    """
    first: dict[NamedPort, int] = {}
    for port in available:
        name = (port.protocol, port.name)
        if name in wanted:
            first.setdefault(name, port.port)
    return {(protocol, number) for (protocol, _), number in first.items()}
