"""One network of one driver, with pods whose interfaces cnitool makes and one host outside of the node.

In: a lab, a daemon, a driver. Out: pods by the names that the rows give them. It must not know what a policy
means.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pyroute2 import IPRoute

from tests.lab import CnitoolRun, Daemon, Lab, Target, objects
from tests.lab.lab import Network
from tests.lab.lab import Pod as LabPod
from tests.lab.namespaces import inside
from tests.lab.objects import Object
from tests.netns.crowd import FIRST_SOURCE_PORT, Placed
from tests.semantics import FAMILIES, Case, Plan, Probe
from tests.vm.rows import all_pods

OUTSIDE = "b"  # the pod that is outside of the node: what it sends comes in through the parent link
NODE_HOST = 250
# An emulated machine is slow: an answer that should not come must have the time to.
OPEN_TIMEOUT, BLOCKED_TIMEOUT = 20.0, 1.0
_AT_ONCE = 4
_IFA_F_NODAD = 0x02
_LENGTHS = {4: 24, 6: 64}

T = TypeVar("T")
R = TypeVar("R")


class Lan:
    """Pods of the rows on one network: each LAN has the same addresses, and namespaces of its own."""

    def __init__(
        self,
        lab: Lab,
        daemon: Daemon,
        driver: str,
        name: str = "",
        pods: Collection[str] = (),
        ours: bool = True,
    ) -> None:
        """Make the pods (all of them, if none are named), without interfaces but for the host outside.

        ours: whether chains hold our plugin.
        """
        self._ours = ours
        self.driver = driver
        self.name = name or driver
        self.prefix = f"{self.name}-"
        self.everyone = Case("everyone", "", all_pods(), lambda _: [], "")
        self.inside = [
            pod for pod in self.everyone.pods if pod.key in (pods or {pod.key}) and pod.key != OUTSIDE
        ]
        self._lab = lab
        self._daemon = daemon
        self._source_ports = itertools.count(FIRST_SOURCE_PORT)
        network = lab.network(self.name)
        self.pods = {pod.key: lab.pod(pod.name, self.prefix + pod.namespace) for pod in self.inside}
        hosts = {pod.key: pod.interfaces[0].host for pod in self.everyone.pods}
        self.pods[OUTSIDE] = lab.outside(self.name, _with_length(hosts[OUTSIDE])).pod
        if driver.startswith("ipvlan-l3"):
            _route_by_node(lab, network, self.pods[OUTSIDE], [hosts[pod.key] for pod in self.inside])

    def start_probers(self) -> None:
        """Let them start while something else is made."""
        for pod in self.pods.values():
            _ = pod.prober

    def place(self, case: Case) -> Placed:
        """A row on this LAN's pods, for both families at once; those that it does not name are there too."""
        named = {pod.key for pod in case.pods}
        others = tuple(pod for pod in self.everyone.pods if pod.key not in named)
        mine = replace(
            case, name=f"{self.name} {case.name}", pods=(*case.pods, *others), policies=_of_both(case)
        )
        timeouts = (OPEN_TIMEOUT, BLOCKED_TIMEOUT)
        return Placed(mine, self.prefix, self.pods, None, self._source_ports, timeouts)

    def probe_subject(self, source: str, port: int, timeout: float, protocol: str = "tcp") -> list[str]:
        """Probe a port of the pod s in both families; the verdicts."""
        addresses = [Plan(family).address(self._host("s")) for family in FAMILIES]
        return self.pods[source].prober.probe(*(Target(protocol, one, port, timeout) for one in addresses))

    def _host(self, key: str) -> int:
        (host,) = (pod.interfaces[0].host for pod in self.inside if pod.key == key)
        return host

    def conflist(self, key: str, guard: bool = False) -> Object:
        """The chain of the driver's plugin and ours for a pod."""
        kind, _, mode = self.driver.partition("-")
        chain = objects.conflist(
            "net1",
            self.name,
            _with_length(self._host(key)),
            plugin={**self._daemon.plugin_keys, "netAttachDef": f"{self.prefix}default/net1"},
            guard=self._daemon.plugin_keys if guard else None,
            kind=kind,
            mode=mode,
        )
        if not self._ours:
            chain["plugins"].pop()
        return chain

    def cnitool(self, command: str, key: str, chain: Object | None = None) -> CnitoolRun:
        """Run it for the one interface of a pod; threads may call it."""
        return self._lab.cnitool(command, chain or self.conflist(key), self.pods[key])


def at_once(work: Callable[[T], R], items: Collection[T]) -> list[R]:
    """A few at the same time; returns what came of each, in their order."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(work, items))


def cnitool_all(command: str, lans: Iterable[Lan]) -> None:
    """Run a command for all pods of all these LANs, which must succeed."""
    all_of_them = [(lan, pod.key) for lan in lans for pod in lan.inside]
    runs = at_once(lambda one: one[0].cnitool(command, one[1]), all_of_them)
    failed = [run for run in runs if run.code != 0]
    if failed:
        raise RuntimeError(f"{command}: {failed}")


def tries(case: Case) -> list[Probe]:
    """Its probes in both families."""
    return [probe for family in FAMILIES for probe in case.tries(family)]


def _of_both(case: Case) -> Callable[[Plan], list[Object]]:
    """A row's policies for IPv4 and IPv6 at once: they add up, and blocks of one say nothing of the other."""

    def policies(_: Plan) -> list[Object]:
        found = []
        for family in FAMILIES:
            for raw in case.policies(Plan(family)):
                metadata = raw["metadata"]
                found.append({**raw, "metadata": {**metadata, "name": f"{metadata['name']}-ipv{family}"}})
        return found

    return policies


def _with_length(host: int) -> list[str]:
    return [f"{Plan(family).address(host)}/{_LENGTHS[family]}" for family in FAMILIES]


def _route_by_node(lab: Lab, network: Network, outside: LabPod, hosts: Sequence[int]) -> None:
    """What the layer 3 modes ask for: the node has a way to the network, hosts one to the pods."""
    with inside(lab.node), IPRoute() as links:
        Path("/proc/sys/net/ipv6/conf", network.name, "disable_ipv6").write_text("0")
        for address in _with_length(NODE_HOST):
            flags = {"flags": _IFA_F_NODAD} if ":" in address else {}
            links.addr("add", index=network.parent, address=address, **flags)
        mac = links.get_links(network.parent)[0].get_attr("IFLA_ADDRESS")
    outside.set_neighbours("eth0", [Plan(f).address(host) for host in hosts for f in FAMILIES], mac)
