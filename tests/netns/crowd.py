"""Many cases of the truth tables at once on one node, each in namespaces and LANs of its own.

In: cases, and a daemon on manifests. Out: what real packets did otherwise than a case says. A batch of cases
pays for one timeout of the blocked probes instead of one each. It must not know what a policy means.
"""

import contextlib
import itertools
import json
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from tests.lab import Attachment, Daemon, Lab, Prober, Target, is_blocked
from tests.lab import Pod as LabPod
from tests.lab.namespaces import inside
from tests.lab.objects import Object
from tests.lab.prober import BLOCKED_TIMEOUT, OPEN_TIMEOUT, probe_all
from tests.netns.enroll import add, must
from tests.semantics import FAMILIES, Case, Plan, Pod, Probe

FIRST_SOURCE_PORT = 20_000
_PREFIX_LENGTHS = (24, 64)
_SYNC_SECONDS = 30.0
_NAMESPACE_LABEL = "kubernetes.io/metadata.name"


class Placed:
    """One case on the node: the pods that play it, in namespaces of the cluster that no other case has."""

    def __init__(
        self,
        case: Case,
        prefix: str,
        pods: Mapping[str, LabPod],
        attachments: Mapping[tuple[str, int], Attachment] | None = None,
        source_ports: Iterator[int] | None = None,
        timeouts: tuple[float, float] = (OPEN_TIMEOUT, BLOCKED_TIMEOUT),
    ) -> None:
        """`attachments`: by a pod's key and an interface's index, for those that `enroll` shall know.

        source_ports: shared by cases that share their pods, one after the other. timeouts: of probes that
        should be answered, and of those that should not.
        """
        self.case = case
        self.prefix = prefix
        self.pods = pods
        self.attachments = attachments or {}
        # UDP and pings of another round must not pass as replies of this one's tracked ones.
        self._source_ports = source_ports or itertools.count(FIRST_SOURCE_PORT)
        self._open_timeout, self._blocked_timeout = timeouts

    def objects(self, family: int, *, with_policies: bool = True) -> list[Object]:
        """The case's objects, in namespaces of its own."""
        found = self.case.objects(family, with_policies=with_policies)
        spaces = {pod.namespace for pod in self.case.pods} | set(self.case.namespaces)
        return [_renamed(raw, spaces, self.prefix) for raw in found]

    @property
    def enrolled(self) -> list[Pod]:
        """The pods that a runtime would enrol on this node."""
        return [p for p in self.case.pods if p.listed and not p.host_network and p.phase == "Running"]

    @property
    def only_s(self) -> bool:
        """Whether the policies govern s alone, so that all others could as well be on another node."""
        selectors = [raw["spec"].get("podSelector") for raw in self.case.policies(Plan(FAMILIES[0]))]
        return all(one == {"matchLabels": {"pod": "s"}} for one in selectors) and "s" in self.pods

    def enroll(self, daemon: Daemon, pods: Iterable[Pod]) -> None:
        """ADD for all interfaces of these pods."""
        for pod in pods:
            for index, interface in enumerate(pod.interfaces):
                network = self.prefix + interface.network
                must(add(daemon, self.attachments[pod.key, index], network))

    def target(self, probe: Probe) -> Target:
        """A probe's target, from a source port that no other probe of this case has."""
        return Target(
            probe.protocol.lower(),
            probe.address,
            probe.port,
            self._open_timeout if probe.want else self._blocked_timeout,
            probe.source_address,
            next(self._source_ports),
        )


class Crowd:
    """A batch of placed cases with one daemon."""

    def __init__(self, daemon: Daemon, placed: Sequence[Placed]) -> None:
        self._daemon = daemon
        self.placed = placed

    def apply(self, family: int, *, with_policies: bool = True) -> None:
        """Put the objects of all cases in force."""
        for placed in self.placed:
            self._daemon.apply(placed.prefix, placed.objects(family, with_policies=with_policies))
        self._daemon.wait_synced(_SYNC_SECONDS)

    def enroll(self, choose: Callable[[Placed], Iterable[Pod]]) -> None:
        """ADD for the chosen pods of each case."""
        for placed in self.placed:
            placed.enroll(self._daemon, choose(placed))

    @staticmethod
    def probe(tries: Mapping[Placed, Sequence[Probe]]) -> dict[str, list[str]]:
        """Do all probes at the same time; returns for each case those that went otherwise than wanted."""
        by_prober: dict[Prober, list[tuple[Placed, Probe]]] = {}
        for placed, probes in tries.items():
            for probe in probes:
                by_prober.setdefault(placed.pods[probe.source.key].prober, []).append((placed, probe))
        verdicts = probe_all(
            {prober: [placed.target(one) for placed, one in some] for prober, some in by_prober.items()}
        )
        wrong: dict[str, list[str]] = {str(placed.case): [] for placed in tries}
        for prober, some in by_prober.items():
            for (placed, probe), verdict in zip(some, verdicts[prober], strict=True):
                if verdict != "open" if probe.want else not is_blocked(verdict):
                    wrong[str(placed.case)].append(f"{probe}: {verdict}")
        return wrong


@contextlib.contextmanager
def crowd(lab: Lab, daemon: Daemon, cases: Sequence[Case], numbers: Iterator[int]) -> Iterator[Crowd]:
    """Place the cases, each on pods of its own, and take all away again."""
    made: list[Placed] = []
    try:
        for case in cases:
            made.append(place(lab, case, next(numbers)))
        for placed in made:
            serve(placed.pods, placed.case.tries(FAMILIES[0]))
        yield Crowd(daemon, made)
    finally:
        for placed in made:
            daemon.remove(placed.prefix)
            for pod in placed.pods.values():
                pod.end()
                lab.pods.remove(pod)


def serve(pods: Mapping[str, LabPod], tries: Iterable[Probe]) -> None:
    """Let each pod echo on the ports that the probes ask it for."""
    wanted: dict[str, dict[str, set[int]]] = {
        key: {"TCP": set(), "UDP": set(), "SCTP": set()} for key in pods
    }
    for probe in tries:
        wanted[probe.destination.key].setdefault(probe.protocol, set()).add(probe.port)
    for key, ports in wanted.items():
        pods[key].prober.serve(tcp=ports["TCP"], udp=ports["UDP"], sctp=ports["SCTP"])


def place(lab: Lab, case: Case, number: int) -> Placed:
    """Make a case's pods and attach them to LANs of their own; `number` tells it from others of this lab."""
    prefix = f"c{number}-"
    pods = {pod.key: lab.pod(pod.name, prefix + pod.namespace) for pod in case.pods}
    for lan in sorted({case.lan(network) for network in case.networks}):
        lab.network(f"{number}x{lan}")
    attachments: dict[tuple[str, int], Attachment] = {}
    for pod in case.pods:
        for index, interface in enumerate(pod.interfaces):
            texts = zip(case.addresses(interface), _PREFIX_LENGTHS, strict=True)
            addresses = [f"{address}/{length}" for address, length in texts]
            lan_name = f"{number}x{case.lan(interface.network)}"
            made = lab.attach(pods[pod.key], lan_name, f"net{index + 1}", addresses)
            attachments[pod.key, index] = made
        if len({case.lan(one.network) for one in pod.interfaces}) < len(pod.interfaces):
            _answer_by_address(pods[pod.key])
        _ = pods[pod.key].prober  # it starts while the next pods are made
    return Placed(case, prefix, pods, attachments)


def _answer_by_address(pod: LabPod) -> None:
    """Two interfaces on one LAN: each answers for its own addresses, and sends what comes from them."""
    with inside(pod.netns), IPRoute() as links:
        Path("/proc/sys/net/ipv4/conf/all/arp_ignore").write_text("1")
        for attachment in pod.attachments:
            table = 100 + attachment.ifindex
            for own in map(ip_interface, attachment.addresses):
                family = socket.AF_INET if own.version == 4 else socket.AF_INET6
                rest = {"oif": attachment.ifindex, "table": table, "family": family}
                links.route("add", dst=str(own.network), **rest)
                links.rule("add", src=str(own.ip), table=table, family=family)


def _renamed(raw: Object, spaces: Iterable[str], prefix: str) -> Object:
    """The object with each namespace called `prefix` + its name, wherever it is named."""
    names = re.compile(rf"(?<![\w./-])({'|'.join(sorted(spaces))})(?=\s*/)")
    metadata = dict(raw["metadata"])
    if raw["kind"] == "Namespace":
        metadata["name"] = prefix + metadata["name"]
    else:
        metadata["namespace"] = prefix + metadata["namespace"]
    if "uid" in metadata:
        metadata["uid"] = prefix + metadata["uid"]
    if "annotations" in metadata:
        metadata["annotations"] = {
            key: names.sub(rf"{prefix}\1", value) for key, value in metadata["annotations"].items()
        }
    rest = {key: _relabelled(value, prefix) for key, value in raw.items() if key != "metadata"}
    return {**rest, "metadata": metadata}


def _relabelled(value: Any, prefix: str) -> Any:
    """Selectors by a namespace's own name select it by its new one."""
    if isinstance(value, dict):
        found = {key: _relabelled(inner, prefix) for key, inner in value.items()}
        if _NAMESPACE_LABEL in value:
            found[_NAMESPACE_LABEL] = prefix + value[_NAMESPACE_LABEL]
        if value.get("key") == _NAMESPACE_LABEL:
            found["values"] = [prefix + one for one in value.get("values", ())]
        return found
    return [_relabelled(inner, prefix) for inner in value] if isinstance(value, list) else value


def with_common(lab: Lab, common: Mapping[str, Any], backend: str) -> Daemon:
    """A daemon with these `commonRules`."""
    path = lab.folder / f"config-{len(lab.daemons)}.yaml"
    path.write_text(json.dumps({"commonRules": dict(common)} if common else {}))
    return lab.daemon(backend=backend, options=[f"--config={path}"])
