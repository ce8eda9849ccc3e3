"""What policies name beyond themselves: net-attach-defs and namespaces, and what is wrong with those.

In: policies, net-attach-defs and namespaces as they come, change and go. Out: problems of a policy. A change
makes those policies stale that name what changed, by index; the caller looks at each again, when he likes.
"""

from collections.abc import Iterable, Iterator, Mapping
from heapq import nsmallest
from itertools import islice

import msgspec

from daemon.model import (
    EVERYWHERE,
    Direction,
    NetAttachDef,
    Network,
    Operator,
    PodPeer,
    Policy,
    Problem,
    Selector,
)
from daemon.policy.budget import PolicyRef
from daemon.policy.dicts import add, discard, put
from daemon.policy.spaces import NAME_LABEL
from daemon.spelling import MAX_KNOWN, did_you_mean

POLICY_FOR = "metadata.annotations[k8s.v1.cni.cncf.io/policy-for]"

MAX_TOLD = 8
"""Of what one policy names: a few tell what is wrong."""
MAX_SEARCHES = 32
"""For names that are alike, until something is stale again: authors make names up without end."""

MAX_PEERS = 1000
"""Of a policy that are looked through for hints: they must not cost more than what they are about."""
MAX_NAMESPACES = 1000
"""That one policy names and that are looked at."""

_PEERS = {Direction.INGRESS: "from", Direction.EGRESS: "to"}


class _Named(msgspec.Struct, frozen=True):
    """What selectors name. namespaces: by name, and where. pods: the fields that take pods for namespaces."""

    namespaces: Mapping[str, str] = {}
    pods: tuple[str, ...] = ()


_NOTHING = _Named()


class References:
    """Not shared between threads."""

    def __init__(self) -> None:
        self._policies: dict[PolicyRef, Policy] = {}
        self._named: dict[PolicyRef, _Named] = {}  # only of policies that name namespaces
        self._definitions: dict[Network, NetAttachDef] = {}
        self._spaces_of: dict[str, set[str]] = {}  # by name alone: where net-attach-defs of that name are
        self._names_in: dict[str, set[str]] = {}  # by namespace: the names of its net-attach-defs
        self._namespaces: set[str] = set()
        self._naming: dict[Network, set[PolicyRef]] = {}
        self._naming_namespace: dict[str, set[PolicyRef]] = {}
        self._unknown: set[PolicyRef] = set()  # whose problems depend on names that are alike
        self._stale: set[PolicyRef] = set()
        self._other_names = False  # than when it was last asked what is stale
        self._searches = _Searches()

    @property
    def stale(self) -> bool:
        """Whether any policy has become stale."""
        return bool(self._stale or (self._other_names and self._unknown))

    def take_stale(self) -> set[PolicyRef]:
        """The policies that have become stale since this was last asked."""
        stale = self._stale | self._unknown if self._other_names else self._stale
        self._stale, self._other_names, self._searches = set(), False, _Searches()
        return stale

    def put_policy(self, ref: PolicyRef, policy: Policy | None) -> None:
        """A policy as it is now; None: it is gone."""
        before = self._policies.get(ref)
        for network in before.networks if before else ():
            discard(self._naming, network, ref)
        for name in self._named.pop(ref, _NOTHING).namespaces:
            discard(self._naming_namespace, name, ref)
        put(self._policies, ref, policy)
        if policy is not None:
            self._stale.add(ref)
            self._index(ref, policy)
        else:
            self._stale.discard(ref)
            self._unknown.discard(ref)

    def _index(self, ref: PolicyRef, policy: Policy) -> None:
        for network in policy.networks:
            add(self._naming, network, ref)
        named = _named_by(policy)
        if named != _NOTHING:
            self._named[ref] = named
        for name in named.namespaces:
            add(self._naming_namespace, name, ref)

    def put_net_attach_def(self, network: Network, definition: NetAttachDef | None) -> None:
        """A net-attach-def as it is now; None: it is gone."""
        before = self._definitions.get(network)
        put(self._definitions, network, definition)
        if (before and before.fault) != (definition and definition.fault):
            self._stale |= self._naming.get(network, set())
        if (before is None) != (definition is None):
            namespace, _, name = network.partition("/")
            change = add if before is None else discard
            change(self._spaces_of, name, namespace)
            change(self._names_in, namespace, name)
            self._stale |= self._naming.get(network, set())
            self._other_names = True

    def put_namespace(self, name: str, *, exists: bool) -> None:
        """Whether there is a namespace of this name."""
        if exists != (name in self._namespaces):
            self._namespaces ^= {name}
            self._stale |= self._naming_namespace.get(name, set())
            self._other_names = True

    def look(self, ref: PolicyRef) -> tuple[Problem, ...]:
        """What is wrong with what a policy names, as things are now."""
        policy = self._policies.get(ref)
        self._unknown.discard(ref)
        return () if policy is None else tuple(self._look(ref, policy, self._searches))

    def _look(self, ref: PolicyRef, policy: Policy, searches: "_Searches") -> Iterator[Problem]:
        named = (network for network in policy.networks if network != EVERYWHERE)
        wrong = [(n, d) for n in named if (d := self._definitions.get(n)) is None or d.fault]
        for network, definition in wrong[:MAX_TOLD]:
            if definition is not None:
                yield Problem(POLICY_FOR, f"net-attach-def {network}: {definition.fault}")
            else:
                self._unknown.add(ref)
                yield Problem(POLICY_FOR, self._tell_unknown(network, searches))
        if len(wrong) > MAX_TOLD:
            self._unknown.add(ref)
            yield Problem(POLICY_FOR, f"{len(wrong) - MAX_TOLD} more net-attach-defs are like these")
        yield from self._hints(ref, searches)

    # --- net-attach-defs ---------------------------------------------------------------------------------

    def _tell_unknown(self, network: Network, searches: "_Searches") -> str:
        namespace, _, name = network.partition("/")
        where = "" if namespace in self._namespaces else f", nor does the namespace {namespace}"
        text = f"net-attach-def {network} does not exist{where}"
        meant = self._alike(namespace, name, searches)
        return f"{text}; did you mean {meant}?" if meant else f"{text}; create it or correct the name"

    def _alike(self, namespace: str, name: str, searches: "_Searches") -> str:
        """The net-attach-defs that were meant; "" where that is anybody's guess."""
        if spaces := sorted(self._spaces_of.get(name, ())):  # the author forgot, or mistook, the namespace
            more = f" (or one of {len(spaces) - 3} more)" if len(spaces) > 3 else ""
            return " or ".join(f"{space}/{name}" for space in spaces[:3]) + more
        close = searches.run(name, self._names_in.get(namespace, set()), f"a name in {namespace}")
        if close:
            return f"{namespace}/{close}"
        place = searches.run(namespace, self._names_in.keys(), "a namespace")
        return f"{place}/{name}" if place and name in self._names_in[place] else ""

    # --- namespaces --------------------------------------------------------------------------------------

    def _hints(self, ref: PolicyRef, searches: "_Searches") -> Iterator[Problem]:
        named = self._named.get(ref, _NOTHING)
        missing = [(name, field) for name, field in named.namespaces.items() if name not in self._namespaces]
        for name, field in missing[:MAX_TOLD]:
            self._unknown.add(ref)
            close = searches.run(name, self._namespaces, "a namespace")
            meant = f"; did you mean {close}?" if close else ""
            yield Problem(field, f"there is no namespace {name}{meant}", hint=True)
        if len(missing) > MAX_TOLD:
            yield Problem("spec", f"{len(missing) - MAX_TOLD} more namespaces do not exist", hint=True)
        for field in named.pods:
            wrong = f"{NAME_LABEL} is a label of namespaces, which pods seldom have: use a namespaceSelector"
            yield Problem(field, wrong, hint=True)


class _Searches:
    """Searches for names that are alike: each once, and not without end."""

    def __init__(self) -> None:
        self._done: dict[tuple[str, str], str] = {}

    def run(self, word: str, known: Iterable[str], what: str) -> str:
        if (what, word) not in self._done:
            if len(self._done) >= MAX_SEARCHES:
                return ""
            self._done[what, word] = did_you_mean(word, nsmallest(MAX_KNOWN, known))
        return self._done[what, word]


def _named_by(policy: Policy) -> _Named:
    namespaces: dict[str, str] = {}
    pods = {"spec.podSelector"} if _values(policy.pod_selector) else set()
    for field, peer in islice(_pod_peers(policy), MAX_PEERS):
        for name in islice(_values(peer.namespaces), MAX_NAMESPACES - len(namespaces)):
            namespaces.setdefault(name, f"{field}.namespaceSelector")
        if _values(peer.pods):
            pods.add(f"{field}.podSelector")
    return _Named(namespaces, tuple(sorted(pods)))


def _pod_peers(policy: Policy) -> Iterator[tuple[str, PodPeer]]:
    # Malformed rules and peers are left out when a policy is decoded, then an index would mislead.
    whole = all(problem.hint for problem in policy.problems)
    for direction in Direction:
        for at, rule in enumerate(policy.rules(direction) or ()):
            for index, peer in enumerate(rule.peers or ()):
                if isinstance(peer, PodPeer):
                    numbers = (at, index) if whole else ("*", "*")
                    yield (
                        f"spec.{direction}[{numbers[0]}].{_PEERS[direction]}[{numbers[1]}]",
                        peer,
                    )


def _values(selector: Selector | None) -> list[str]:
    """The names of namespaces that a selector asks for, by the label that every namespace has."""
    if selector is None or not selector.requirements:
        return []
    wanted = (r for r in selector.requirements if r.key == NAME_LABEL and r.operator is Operator.IN)
    return [value for requirement in wanted for value in requirement.values]
