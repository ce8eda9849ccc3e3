"""Random small clusters as cases: few enough names, labels, ports and addresses that things meet.

In: a seed. Out: a Case whose probes want nothing yet; what they should want is the oracle's to say.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.lab.objects import Object
from tests.semantics import Case, Interface, Plan, Pod
from tests.semantics.case import block, policy

T = TypeVar("T")

SPACES = ("one", "one", "two")
KEYS = ("app", "env")
VALUES = ("x", "y")
PORTS = (80, 81, 82, 90)
NAMES = ("web", "dns")
NETWORKS = ("one/net1", "one/net1", "two/net2")
HOSTS = (3, 4, 5, 6, 11, 12)
PROTOCOLS = ("TCP", "UDP")
NAMESPACE_NAME = "kubernetes.io/metadata.name"


def make_case(seed: int) -> Case:
    """One cluster; the same seed makes the same."""
    dice = Dice(random.Random(seed))
    pods = dice.pods()
    # Blocks are the only part that differs by family: drawn as host numbers, written by the plan.
    drafts = [dice.policy(f"p{number}") for number in range(dice.between(1, 4))]
    return Case(
        f"seed {seed}",
        "",
        pods,
        lambda plan: [draft(plan) for draft in drafts],
        _probes(pods),
        namespaces={"one": dice.labels(), "two": dice.labels()},
        one_lan=dice.chance(0.5),
    )


def _probes(pods: Sequence[Pod]) -> str:
    ports = ",".join([*(f"tcp/{port}" for port in PORTS), "udp/80", "udp/90", "icmp"])
    lines = []
    for target in pods:
        for index, interface in enumerate(target.interfaces, 1):
            for source in pods:
                if source is not target and any(
                    one.network == interface.network for one in source.interfaces
                ):
                    lines.append(f"{source.key}>{target.key}@net{index}:{ports} no")
    return "\n".join(lines)


@dataclass(frozen=True)
class Dice:
    """Draws, weighted to what selects and isolates: a cluster in which nothing meets proves nothing."""

    random: random.Random

    def chance(self, share: float) -> bool:
        """True in that share of draws."""
        return self.random.random() < share

    def between(self, first: int, last: int) -> int:
        """Both ends included."""
        return self.random.randint(first, last)

    def one(self, items: Sequence[T]) -> T:
        """One of them."""
        return self.random.choice(items)

    def some(self, make: Callable[[], T], most: int, least: int = 1) -> list[T]:
        """A list of draws."""
        return [make() for _ in range(self.between(least, most))]

    def labels(self) -> dict[str, str]:
        """Labels; each key is there more often than not."""
        return {key: self.one(VALUES) for key in KEYS if self.chance(0.7)}

    def pods(self) -> tuple[Pod, ...]:
        """Four pods with hosts of their own; some have two interfaces, some are not in the source."""
        hosts = iter(self.random.sample(HOSTS, len(HOSTS)))
        return tuple(self._pod(f"pod{number}", next(hosts)) for number in range(4))

    def _pod(self, name: str, host: int) -> Pod:
        first = self.one(NETWORKS)
        # Host numbers are unique over the LANs, so that one host can stand on both.
        second = next(one for one in NETWORKS if one != first)
        interfaces = [Interface(first, host)]
        if self.chance(0.3):
            interfaces.append(Interface(second, host + 16))
        ports = [(name, protocol, self.one(PORTS)) for name in NAMES for protocol in PROTOCOLS]
        return Pod(
            name,
            tuple(interfaces),
            self.one(SPACES),
            self.labels(),
            tuple(port for port in ports if self.chance(0.6)),
            host_network=self.chance(0.05),
            phase=self.one(["Running"] * 12 + ["Failed"]),
            listed=self.chance(0.9),
        )

    def policy(self, name: str) -> Callable[[Plan], Object]:
        """A policy; the function returned writes it for a family."""
        sides = {"ingress": self._side("from"), "egress": self._side("to")}
        kinds = self.one([None, ["Ingress"], ["Egress"], ["Ingress", "Egress"]])
        networks = self.one(["one/net1", "one/net1", "one/net1, two/net2", "two/net2"])
        selector, space = self._selector(), self.one(SPACES)

        def write(plan: Plan) -> Object:
            spec: Object = {"podSelector": selector}
            if kinds is not None:
                spec["policyTypes"] = kinds
            spec |= {
                side: [rule(plan) for rule in rules] for side, rules in sides.items() if rules is not None
            }
            return policy(name, spec, networks, namespace=space)

        return write

    def _side(self, word: str) -> list[Callable[[Plan], Object]] | None:
        return None if self.chance(0.25) else self.some(lambda: self._rule(word), 3, 0)

    def _rule(self, word: str) -> Callable[[Plan], Object]:
        peers = None if self.chance(0.25) else self.some(self._peer, 3)
        ports = None if self.chance(0.4) else self.some(self._port, 3)

        def write(plan: Plan) -> Object:
            rule: Object = {} if ports is None else {"ports": ports}
            return rule if peers is None else rule | {word: [peer(plan) for peer in peers]}

        return write

    def _peer(self) -> Callable[[Plan], Object]:
        if self.chance(0.4):
            return self._block()
        peer: Object = {}
        if self.chance(0.5):
            peer["namespaceSelector"] = self._namespace_selector()
        if not peer or self.chance(0.5):
            peer["podSelector"] = self._selector()
        return lambda _: peer

    def _block(self) -> Callable[[Plan], Object]:
        # Blocks on both LANs, of 1 to 256 hosts, their start anywhere: host bits may be set.
        first, size = self.one([*HOSTS, 0, 16, 19]), self.one([1, 2, 4, 16, 256])
        lan = self.one([0, 0, 1])
        but = [(self.one(HOSTS), self.one([1, 2, 4])) for _ in range(self.one([0, 0, 1, 2]))]
        wide, foreign = self.chance(0.2), self.chance(0.1)

        def write(plan: Plan) -> Object:
            own = plan.other if foreign else plan
            excepted = [own.net(start, length, lan) for start, length in but]
            return block(own.all if wide else own.net(first, size, lan), *excepted)

        return write

    def _selector(self) -> Object:
        if self.chance(0.3):
            return {}
        if self.chance(0.5):
            return {"matchLabels": {self.one(KEYS): self.one(VALUES)}}
        return {"matchExpressions": self.some(self._requirement, 2)}

    def _namespace_selector(self) -> Object:
        if self.chance(0.3):
            return {"matchLabels": {NAMESPACE_NAME: self.one(SPACES)}}
        return self._selector()

    def _requirement(self) -> Object:
        operator = self.one(["In", "NotIn", "Exists", "DoesNotExist"])
        values = {"values": sorted({self.one(VALUES) for _ in range(2)})} if operator.endswith("In") else {}
        return {"key": self.one(KEYS), "operator": operator, **values}

    def _port(self) -> Mapping[str, Any]:
        port: Object = {} if self.chance(0.3) else {"protocol": self.one(PROTOCOLS)}
        if self.chance(0.2):
            return port
        if self.chance(0.3):
            return port | {"port": self.one(NAMES)}
        port["port"] = self.one(PORTS)
        return port | ({"endPort": port["port"] + self.one([0, 1, 2, 10])} if self.chance(0.3) else {})
