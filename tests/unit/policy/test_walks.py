"""Random clusters that change: the store and the compiler against a plain model and the oracle.

proves: A4, A5, A6, A7, A9, A11, A12, B2, B3, C3, C4, C5, C9, C10, D4, E1, E2, E3, E6

After every step each verdict of the incremental store is the oracle's on the plain model; and whatever
changed for an attachment (its ruleset, the members of a set that it holds) was called dirty.
"""

import random
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from daemon.model import (
    Address,
    AttachmentKey,
    Change,
    CommonRules,
    Direction,
    Namespace,
    ObjectKey,
    Pod,
    Policy,
    Subject,
)
from daemon.policy.compile import compile_ruleset, governs
from daemon.policy.evaluate import Located, Packet, World, evaluate
from daemon.policy.ruleset import OPEN, BlockSet, Members, Ruleset
from daemon.store import Store
from tests.unit.policy import worlds
from tests.unit.policy.tracer import trace

pytestmark = pytest.mark.unit

KEYS = [AttachmentKey("c1", "net1"), AttachmentKey("c1", "net2"), AttachmentKey("c2", "net1")]
keys = st.sampled_from(KEYS)
pod_refs = st.tuples(worlds.spaces, st.sampled_from(worlds.NAMES))


@dataclass
class Attached:
    """An attachment as the plain model has it."""

    ref: tuple[str, str] | None
    uid: str
    subject: Subject
    addresses: tuple[Address, ...]
    candidates: tuple[str, ...]
    live: bool = True
    host_network: bool = False
    finished: bool = False

    def is_of(self, pod: Pod) -> bool:
        return pod.local and self.ref == pod.ref and self.uid in ("", pod.uid)

    def follow(self, pod: Pod) -> None:
        if self.is_of(pod):
            self.subject = Subject(self.subject.namespace, pod.labels, pod.ports, self.subject.networks)
            self.host_network = pod.host_network
            self.finished = pod.finished


def snapshot(store: Store, key: AttachmentKey) -> tuple[Ruleset, list[Members]]:
    ruleset = store.ruleset(key)
    matches = [*(ruleset.ingress or ()), *(ruleset.egress or ())]
    refs = [m.peer for m in matches if m.peer is not None and not isinstance(m.peer, BlockSet)]
    return ruleset, [store.members(ref) for ref in refs]


class Walk(RuleBasedStateMachine):
    """Changes in any order; the model is nothing but dicts."""

    @initialize(
        common=worlds.common,
        pods=st.lists(worlds.pods, min_size=2, max_size=4),
        policies=st.lists(worlds.policies, min_size=2, max_size=4),
        subjects=st.tuples(*[st.tuples(pod_refs, worlds.subjects, worlds.addresses)] * len(KEYS)),
    )
    def start(
        self,
        common: CommonRules,
        pods: list[Pod],
        policies: list[Policy],
        subjects: tuple[tuple[tuple[str, str], Subject, tuple[Address, ...]], ...],
    ) -> None:
        """Walks begin in the middle of things: an empty cluster proves little."""
        self.store = Store(common, node=worlds.NODE)
        self.common = common
        self.pods: dict[tuple[str, str], Pod] = {}
        self.policies: dict[tuple[str, str], Policy] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.attached: dict[AttachmentKey, Attached] = {}
        self.left: set[tuple[str, str]] = set()
        self.seen: dict[AttachmentKey, tuple[Ruleset, list[Members]]] = {}
        self.dirty: set[AttachmentKey] = set()
        for pod in pods:
            self._put_pod(pod.ref, pod)
        for policy in policies:
            self.put_policy(policy)
        for key, (ref, subject, addresses) in zip(KEYS, subjects, strict=True):
            self.attach(key, ref, "", subject, addresses, None)

    def _apply(self, kind: str, namespace: str, name: str, new: Any) -> None:
        self.dirty |= self.store.apply([Change(ObjectKey(kind, namespace, name), new)])

    def _put_pod(self, ref: tuple[str, str], pod: Pod | None) -> None:
        self._apply("Pod", *ref, pod)
        if pod is None or (ref in self.pods and self.pods[ref].uid != pod.uid):
            self.left.discard(ref)
        self.pods.pop(ref, None)
        if pod is not None:
            self.pods[ref] = pod
            for attached in self.attached.values():
                attached.follow(pod)

    @rule(pod=worlds.pods)
    def put_pod(self, pod: Pod) -> None:
        self._put_pod(pod.ref, pod)

    @rule(ref=pod_refs)
    def delete_pod(self, ref: tuple[str, str]) -> None:
        self._put_pod(ref, None)

    @rule(policy=worlds.policies)
    def put_policy(self, policy: Policy) -> None:
        self._apply("MultiNetworkPolicy", policy.namespace, policy.name, policy)
        self.policies[policy.namespace, policy.name] = policy

    @rule(choice=st.randoms(use_true_random=False))
    def delete_policy(self, choice: random.Random) -> None:
        if self.policies:
            ref = choice.choice(sorted(self.policies))
            self._apply("MultiNetworkPolicy", *ref, None)
            del self.policies[ref]

    @rule(namespace=worlds.namespaces)
    def put_namespace(self, namespace: Namespace) -> None:
        self._apply("Namespace", "", namespace.name, namespace)
        self.namespaces[namespace.name] = namespace

    @rule(name=st.sampled_from(worlds.NAMESPACES))
    def delete_namespace(self, name: str) -> None:
        self._apply("Namespace", "", name, None)
        self.namespaces.pop(name, None)

    @rule(
        key=keys,
        ref=pod_refs | st.none(),
        uid=st.sampled_from(["", *worlds.UIDS]),
        subject=worlds.subjects,
        addresses=worlds.addresses,
        candidates=worlds.some_networks | st.none(),
    )
    def attach(
        self,
        key: AttachmentKey,
        ref: tuple[str, str] | None,
        uid: str,
        subject: Subject,
        addresses: tuple[Address, ...],
        candidates: tuple[str, ...] | None,
    ) -> None:
        if ref is not None:
            subject = Subject(ref[0], subject.labels, subject.ports, subject.networks)
        self._leave(key)
        self.dirty |= self.store.attach(key, ref, uid, subject, addresses, candidates)
        self.attached[key] = Attached(ref, uid, subject, addresses, candidates or subject.networks)
        if ref in self.pods:
            self.attached[key].follow(self.pods[ref])

    @rule(key=keys)
    def withdraw(self, key: AttachmentKey) -> None:
        self.dirty |= self.store.withdraw(key)
        if key in self.attached:
            self.attached[key].live = False

    @rule(key=keys)
    def detach(self, key: AttachmentKey) -> None:
        self.dirty |= self.store.detach(key)
        self._leave(key)

    def _leave(self, key: AttachmentKey) -> None:
        gone = self.attached.pop(key, None)
        self.seen.pop(key, None)
        if gone is not None and gone.ref in self.pods and gone.is_of(self.pods[gone.ref]):
            self.left.add(gone.ref)

    @rule(key=keys, networks=worlds.some_networks, candidates=worlds.some_networks)
    def update_networks(
        self, key: AttachmentKey, networks: tuple[str, ...], candidates: tuple[str, ...]
    ) -> None:
        if key in self.attached:
            self.dirty |= self.store.update_networks(key, networks, candidates)
            old = self.attached[key].subject
            self.attached[key].subject = Subject(old.namespace, old.labels, old.ports, networks)
            self.attached[key].candidates = candidates

    def _located(self, pod: Pod) -> Located:
        ours = [one for one in self.attached.values() if one.is_of(pod)]
        others = [one for one in self.attached.values() if not one.is_of(pod)]
        if ours or pod.ref in self.left or (pod.local and pod.node == worlds.NODE):
            said = [
                (one.candidates[0], one.addresses) for one in ours if one.live and len(one.candidates) == 1
            ]
        else:
            said = [(status.network, status.addresses) for status in pod.statuses]
        addresses = {n: tuple(a for at, listed in said if at == n for a in listed) for n in worlds.NETWORKS}
        holders = [one for one in others if one.live and not one.finished]
        withheld = {
            address: frozenset(n for one in holders if address in one.addresses for n in one.candidates)
            for address in worlds.ADDRESSES
        }
        return Located(pod, addresses, withheld)

    def _world(self) -> World:
        labels = {name: namespace.labels for name, namespace in self.namespaces.items()}
        located = tuple(self._located(pod) for pod in self.pods.values())
        return World(tuple(self.policies.values()), located, labels, self.common)

    @invariant()
    def only_the_dirty_changed(self) -> None:
        assert self.dirty <= set(self.attached)
        for key in self.attached:
            before, now = self.seen.get(key), snapshot(self.store, key)
            if before is not None and key not in self.dirty:
                assert now[0] is before[0]
                assert all(a is b for a, b in zip(now[1], before[1], strict=True))
            self.seen[key] = now
        self.dirty = set()

    @invariant()
    def verdicts_are_the_oracles(self) -> None:
        world = self._world()
        for key, attached in self.attached.items():
            ruleset = self.store.ruleset(key)
            assert self.store.subject(key) == attached.subject
            if attached.ref is None or attached.host_network:
                assert ruleset == OPEN
            else:
                _compare(world, attached.subject, ruleset, self.store)


def _compare(world: World, subject: Subject, ruleset: Ruleset, store: Store) -> None:
    for packet in PROBES:
        for direction in Direction:
            want = evaluate(world, subject, direction, packet)
            got, origins = trace(ruleset, direction, packet, store.members)
            assert got is want.allowed, (packet, direction, want)
            assert not origins or origins == set(want.reasons)


PROBES = tuple(
    Packet(peer=peer, own=bytes(len(peer)), protocol=protocol, port=port)
    for peer in worlds.ADDRESSES
    for protocol, port in ((6, 2), (17, 5))
)

TestWalk = pytest.mark.unit(Walk.TestCase)
TestWalk.settings = settings(
    max_examples=100, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(max_examples=400, deadline=None)
@given(
    pods=st.lists(worlds.pods, max_size=4, unique_by=lambda pod: pod.ref),
    policies=st.lists(worlds.policies, max_size=4, unique_by=lambda policy: policy.key),
    namespaces=st.lists(worlds.namespaces, max_size=2, unique_by=lambda namespace: namespace.name),
    subject=worlds.subjects,
    common=worlds.common,
    packets=st.lists(worlds.packets(), min_size=1, max_size=12),
)
def test_compiled_verdict_is_the_oracles(
    pods: list[Pod],
    policies: list[Policy],
    namespaces: list[Namespace],
    subject: Subject,
    common: CommonRules,
    packets: list[Packet],
) -> None:
    """One cluster, one subject, any packets: ICMP, mid-stream TCP, replies and own addresses too."""
    store = Store(common)
    store.apply([Change(ObjectKey("Pod", *pod.ref), pod) for pod in pods])
    store.apply([Change(ObjectKey("Namespace", "", one.name), one) for one in namespaces])
    located = tuple(Located(pod, _by_network(pod)) for pod in pods)
    world = World(tuple(policies), located, {one.name: one.labels for one in namespaces}, common)
    ordered = sorted(policies, key=lambda policy: policy.key)
    governing = [p for p in ordered if governs(p, subject.namespace, subject.labels, subject.networks)]
    ruleset = compile_ruleset(subject, governing, common)
    for packet in packets:
        for direction in Direction:
            want = evaluate(world, subject, direction, packet)
            got, origins = trace(ruleset, direction, packet, store.members)
            assert got is want.allowed, (packet, direction, want)
            assert not origins or origins == set(want.reasons)


def _by_network(pod: Pod) -> dict[str, tuple[Address, ...]]:
    found: dict[str, tuple[Address, ...]] = {}
    for status in pod.statuses:
        found[status.network] = found.get(status.network, ()) + status.addresses
    return found
