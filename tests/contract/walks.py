"""Random clusters that change step by step: policies come and go, pods and namespaces get other labels.

In: a seed, and a cluster's pods as they are placed (which interface of which pod is on which network). Out:
the cluster after each step as a Case, what the daemon's own store and compiler make of it, what the oracle
says of its probes. The same seed makes the same walk.
"""

import os
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import ip_address

from daemon.desired import make_program
from daemon.model import Address, AttachmentKey, Change, CommonRules, Direction, Subject
from daemon.planner import GateRequest, Program
from daemon.policy.evaluate import Packet, World, evaluate
from daemon.store import Store
from tests.contract.node import Node
from tests.netns.chance import SPACES, Dice, make_case
from tests.semantics import FAMILIES, Case, Plan, Pod, Probe
from tests.unit.policy.table import attachment_key, ends_of, make_world, packet_of

WALKS = int(os.environ.get("MNP_TEST_WALKS", "300"))
FIRST_SEED = int(os.environ.get("MNP_TEST_SEED", "1"))
STEPS = 3
SLOTS = 10
"""So many walks go on at the same time, each on a placement of its own; later ones take the same places."""

BATCHES = [range(FIRST_SEED + n, FIRST_SEED + min(n + SLOTS, WALKS)) for n in range(0, WALKS, SLOTS)]
_POLICY_NAMES = [f"p{number}" for number in range(5)]
_FIRST_PLACEMENT = 5000


@cache
def placement(slot: int) -> Case:
    """Pods with their interfaces and addresses; the probes are between all that share a network."""
    return make_case(_FIRST_PLACEMENT + slot)


class Walk:
    """One cluster. `enrolled`: the pods whose interfaces are governed on this node, from first to last."""

    def __init__(self, seed: int) -> None:
        self.base = placement((seed - FIRST_SEED) % SLOTS)
        self._dice = Dice(random.Random(seed))
        drawn = zip(self.base.pods, self._dice.pods(), strict=True)
        self._pods = [replace(pod, interfaces=base.interfaces) for base, pod in drawn]
        self._spaces = {name: self._dice.labels() for name in sorted(set(SPACES))}
        self._policies = {name: self._policy(name) for name in _POLICY_NAMES[: self._dice.between(1, 3)]}
        self.enrolled = [p for p in self._pods if p.listed and not p.host_network and p.phase == "Running"]
        self.first_family = FAMILIES[seed % 2]

    def cases(self) -> Iterator[Case]:
        """The cluster at the start and after each step."""
        yield self._case()
        steps = [
            self._put_policy, self._put_policy, self._put_policy, self._drop_policy,
            self._relabel_pod, self._relabel_pod, self._change_ports, self._relabel_space, self._end_pod,
        ]  # fmt: skip
        for _ in range(STEPS):
            for _ in range(self._dice.between(1, 2)):
                self._dice.one(steps)()
            yield self._case()

    def _case(self) -> Case:
        drafts = dict(self._policies)
        return replace(
            self.base,
            pods=tuple(self._pods),
            namespaces=dict(self._spaces),
            policies=lambda plan: [draft(plan) for draft in drafts.values()],
        )

    def _policy(self, name: str) -> Callable[[Plan], dict[str, object]]:
        return self._dice.policy(name)

    def _put_policy(self) -> None:
        name = self._dice.one(_POLICY_NAMES)
        self._policies[name] = self._policy(name)

    def _drop_policy(self) -> None:
        if self._policies:
            del self._policies[self._dice.one(sorted(self._policies))]

    def _change_pod(self, **fields: object) -> None:
        index = self._dice.between(0, len(self._pods) - 1)
        self._pods[index] = replace(self._pods[index], **fields)  # type: ignore[arg-type]

    def _relabel_pod(self) -> None:
        self._change_pod(labels=self._dice.labels())

    def _change_ports(self) -> None:
        self._change_pod(ports=self._dice.pods()[0].ports)

    def _end_pod(self) -> None:
        self._change_pod(phase=self._dice.one(["Running", "Failed"]))

    def _relabel_space(self) -> None:
        self._spaces[self._dice.one(SPACES)] = self._dice.labels()


# --- as the daemon has it --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interface:
    """One attachment of a walk: whose, which, and where it is."""

    key: AttachmentKey
    pod: Pod
    network: str
    addresses: tuple[Address, ...]


def interfaces(walk: Walk) -> list[Interface]:
    """The attachments of a walk."""
    return [
        Interface(
            attachment_key(pod, index),
            pod,
            one.network,
            tuple(ip_address(text).packed for text in walk.base.addresses(one)),
        )
        for pod in walk.enrolled
        for index, one in enumerate(pod.interfaces)
    ]


class Course:
    """A walk on a node: `step` brings the next cluster into force.

    paths: the netns of each pod; indices: of each interface in it.
    """

    def __init__(
        self, walk: Walk, node: Node, paths: Mapping[str, str], indices: Mapping[AttachmentKey, int]
    ) -> None:
        self.walk = walk
        self.node = node
        self._indices = indices
        self._told: list[Change] = []
        self.sandboxes = {
            one.pod.key: node.attach(
                one.key,
                paths[one.pod.key],
                indices[one.key],
                (one.pod.namespace, one.pod.name),
                (one.network,),
                one.addresses,
            )
            for one in interfaces(walk)
        }

    def step(self, said: list[Change]) -> None:
        """What the source says of the cluster now, and all that follows."""
        there = {change.key for change in said}
        gone = [Change(change.key, None) for change in self._told if change.key not in there]
        self._told = said
        self.node.tell([*gone, *said])
        self.node.settle()

    def from_scratch(self, said: list[Change]) -> dict[str, Program]:
        """Each pod's program, by a store that knows nothing but this cluster."""
        store = Store(CommonRules())
        store.apply(said)
        requests: dict[str, list[GateRequest]] = {}
        for one in interfaces(self.walk):
            subject = Subject(one.pod.namespace, {}, (), (one.network,))
            store.attach(one.key, (one.pod.namespace, one.pod.name), "", subject, one.addresses)
        for one in interfaces(self.walk):
            ruleset = store.ruleset(one.key)
            request = GateRequest(one.key.ifname, self._indices[one.key], str(one.key), ruleset)
            requests.setdefault(one.pod.key, []).append(request)
        return {pod: make_program(some, store.members, True) for pod, some in requests.items()}


# --- as the oracle has it ----------------------------------------------------------------------------------


def judged(walk: Walk, case: Case, family: int) -> list[Probe]:
    """The probes of a cluster with what the oracle wants of them."""
    world = make_world(case, family)
    enrolled = {pod.key for pod in walk.enrolled}
    return [
        replace(probe, want=all(one[0] for one in _verdicts(world, case, probe, enrolled)))
        for probe in case.tries(family)
    ]


def _verdicts(
    world: World, case: Case, probe: Probe, enrolled: set[str]
) -> Iterator[tuple[bool, AttachmentKey, Direction, Packet]]:
    """What each governed end of a probe says of it."""
    for pod, index, direction in ends_of(case, probe):
        if pod.key in enrolled:
            found = next(one.pod for one in world.pods if one.pod.ref == (pod.namespace, pod.name))
            subject = Subject(pod.namespace, found.labels, found.ports, (pod.interfaces[index].network,))
            packet = packet_of(probe, direction)
            allowed = evaluate(world, subject, direction, packet).allowed
            yield allowed, attachment_key(pod, index), direction, packet


def verdicts(walk: Walk, case: Case, family: int) -> list[tuple[bool, AttachmentKey, Direction, Packet]]:
    """The oracle's verdict on each packet that a probe sends, at each governed interface that it passes."""
    world = make_world(case, family)
    enrolled = {pod.key for pod in walk.enrolled}
    return [one for probe in case.tries(family) for one in _verdicts(world, case, probe, enrolled)]
