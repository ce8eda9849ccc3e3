"""One case of a truth table: pods, policies, and who reaches whom.

In: names, host numbers, and probes as short text. Out: Kubernetes objects as maps, and probes with addresses.
Knows nothing of the project's own code, so that every tier can use it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_address
from typing import Any

from tests.lab import objects
from tests.lab.objects import Object

FAMILIES = (4, 6)
DEFAULT_PORT = 5555
HOME = "default"

_PREFIXES = {4: "10.93.{lan}.", 6: "fd93:{lan}::"}
_PROBE = re.compile(
    r"(?P<sources>[\w,-]+)>(?P<destinations>[\w,-]+)"
    r"(?:@(?P<ifname>\w+))?(?::(?P<ports>[\w,/]+))? (?P<want>yes|no)"
)


@cache
def _address(family: int, host: int, lan: int) -> str:
    return str(ip_address(_PREFIXES[family].format(lan=lan) + format(host, "d" if family == 4 else "x")))


@dataclass(frozen=True)
class Plan:
    """How one family's addresses are written; a policy says `plan.host(11)` and is right in both families.

    Host numbers go from 1 to 254; the LAN is the number of the network, from 0.
    """

    family: int

    def address(self, host: int, lan: int = 0) -> str:
        """The address of a host on a LAN."""
        return _address(self.family, host, lan)

    def host(self, host: int, lan: int = 0) -> str:
        """One host as a block."""
        return f"{self.address(host, lan)}/{32 if self.family == 4 else 128}"

    def net(self, first: int = 0, size: int = 256, lan: int = 0) -> str:
        """The block of `size` (a power of two) addresses that starts at host number `first`."""
        return f"{self.address(first, lan)}/{(32 if self.family == 4 else 128) - (size.bit_length() - 1)}"

    @property
    def all(self) -> str:
        """Every address of the family as a block."""
        return "0.0.0.0/0" if self.family == 4 else "::/0"

    @property
    def other(self) -> "Plan":
        """The other family."""
        return Plan(10 - self.family)


@dataclass(frozen=True)
class Interface:
    """An interface; `network` is "namespace/name" of a net-attach-def. Its name: net1, net2, … by order."""

    network: str
    host: int


@dataclass(frozen=True)
class Pod:
    """A pod with its interfaces, each with an address of both families.

    listed: the source has it (else it is only an address on the LAN). ports: (name, protocol, number).
    """

    name: str
    interfaces: tuple[Interface, ...]
    namespace: str = HOME
    labels: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[tuple[str, str, int], ...] = ()
    init_ports: tuple[tuple[str, str, int], ...] = ()
    host_network: bool = False
    phase: str = "Running"
    listed: bool = True
    id: str = ""

    @property
    def key(self) -> str:
        """What probes call it."""
        return self.id or self.name


@dataclass(frozen=True)
class Probe:
    """One try: `source` to an address of `destination`. protocol: TCP, UDP, SCTP or ICMP; port 0 for ICMP."""

    source: Pod
    destination: Pod
    source_address: str
    address: str
    network: str
    protocol: str
    port: int
    want: bool

    def __str__(self) -> str:
        end = f"{self.protocol.lower()}/{self.port}"
        return f"{self.source.key}→{self.destination.key} {self.address} {end} {'yes' if self.want else 'no'}"


@dataclass(frozen=True)
class Case:
    """One row, or a group of rows that share their pods.

    proves: numbers of docs/semantics.md. policies: MultiNetworkPolicies for a family's addresses.
    probes: lines or `;` of `a,b>c:tcp/80,udp/53 yes`, `a>c@net2:icmp no`; no port means TCP and UDP 5555.
    one_lan: all networks lie on one layer 2 (and one range of addresses). common: the `commonRules` setting.
    """

    name: str
    proves: str
    pods: tuple[Pod, ...]
    policies: Callable[[Plan], list[Object]]
    probes: str
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    common: Mapping[str, Any] = field(default_factory=dict)
    one_lan: bool = False

    def __str__(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")

    @property
    def networks(self) -> tuple[str, ...]:
        """All net-attach-defs that pods are on, in order."""
        return tuple(dict.fromkeys(one.network for pod in self.pods for one in pod.interfaces))

    def lan(self, network: str) -> int:
        """On which LAN a network is."""
        return 0 if self.one_lan else self.networks.index(network)

    def addresses(self, interface: Interface) -> tuple[str, str]:
        """The IPv4 and the IPv6 address of an interface."""
        ipv4, ipv6 = (
            Plan(family).address(interface.host, self.lan(interface.network)) for family in FAMILIES
        )
        return ipv4, ipv6

    def objects(self, family: int, *, with_policies: bool = True) -> list[Object]:
        """All that the source shall hold; without policies for the positive control."""
        names = dict.fromkeys([*self.namespaces, *(pod.namespace for pod in self.pods)])
        found = [objects.namespace(name, self.namespaces.get(name)) for name in names]
        for network in self.networks:
            namespace, _, name = network.partition("/")
            found.append(objects.network(name, namespace))
        found += [self._pod(pod) for pod in self.pods if pod.listed]
        return found + (self.policies(Plan(family)) if with_policies else [])

    def tries(self, family: int) -> tuple[Probe, ...]:
        """The probes with their addresses in a family."""
        lines = [line.strip() for line in self.probes.replace(";", "\n").splitlines()]
        return tuple(probe for line in lines if line for probe in self._parse(line, family))

    def _parse(self, line: str, family: int) -> Iterator[Probe]:
        found = _PROBE.fullmatch(line)
        if found is None:
            raise ValueError(f"{self.name}: not a probe: {line!r}")
        pods = {pod.key: pod for pod in self.pods}
        ports = found["ports"] or f"tcp/{DEFAULT_PORT},udp/{DEFAULT_PORT}"
        for source in found["sources"].split(","):
            for destination in found["destinations"].split(","):
                for port in ports.split(","):
                    ends = (pods[source], pods[destination], found["ifname"] or "net1")
                    yield self._probe(*ends, port, found["want"] == "yes", family)

    def _probe(self, source: Pod, destination: Pod, ifname: str, port: str, want: bool, family: int) -> Probe:
        target = destination.interfaces[int(ifname.removeprefix("net")) - 1]
        lan = self.lan(target.network)
        own = next(one for one in source.interfaces if self.lan(one.network) == lan)
        protocol, _, number = port.partition("/")
        index = FAMILIES.index(family)
        return Probe(
            source,
            destination,
            self.addresses(own)[index],
            self.addresses(target)[index],
            target.network,
            protocol.upper(),
            int(number or 0),
            want,
        )

    def _pod(self, pod: Pod) -> Object:
        status = [
            objects.status_entry(one.network, f"net{number}", self.addresses(one))
            for number, one in enumerate(pod.interfaces, 1)
        ]
        networks = ",".join(one.network for one in pod.interfaces)
        raw = objects.pod(pod.name, pod.namespace, pod.labels, networks, status, _ports(pod.ports))
        raw["spec"]["initContainers"] = [
            {"name": "side", "image": "none", "restartPolicy": "Always", "ports": _ports(pod.init_ports)}
        ]
        raw["spec"]["hostNetwork"] = pod.host_network
        raw["status"]["phase"] = pod.phase
        return raw


def _ports(ports: tuple[tuple[str, str, int], ...]) -> list[Object]:
    return [{"name": name, "protocol": protocol, "containerPort": port} for name, protocol, port in ports]


# --- words for tables ------------------------------------------------------------------------------------


def pod(name: str, host: int = 0, namespace: str = HOME, network: str = "", **more: Any) -> Pod:
    """A pod on its namespace's net1 with a label `pod` that is its name (and what `labels` adds)."""
    labels = {"pod": name, **more.pop("labels", {})}
    interfaces = more.pop("interfaces", (Interface(network or f"{namespace}/net1", host),))
    return Pod(name, interfaces, namespace, labels, **more)


def policy(name: str, spec: Mapping[str, Any], networks: str = "net1", **more: Any) -> Object:
    """A MultiNetworkPolicy; without a podSelector it governs the pod that is called s."""
    return objects.policy(name, {"podSelector": label("s"), **spec}, networks, **more)


def label(value: str, key: str = "pod") -> Object:
    """A selector of one label."""
    return {"matchLabels": {key: value}}


def pods(value: str, key: str = "pod") -> Object:
    """A peer: the pods of the policy's namespace with one label."""
    return {"podSelector": label(value, key)}


def block(cidr: str, *but: str) -> Object:
    """A peer: a block, minus others."""
    return {"ipBlock": {"cidr": cidr, **({"except": list(but)} if but else {})}}


def tcp(*ports: int | str) -> list[Object]:
    """TCP ports, by number or name."""
    return [{"protocol": "TCP", "port": port} for port in ports]


def udp(*ports: int | str) -> list[Object]:
    """UDP ports, by number or name."""
    return [{"protocol": "UDP", "port": port} for port in ports]
