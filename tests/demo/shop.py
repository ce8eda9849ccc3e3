"""The shop of conf/samples, alive: its networks, its pods, their services, and the daemon on its manifests.

In: the sample manifests. Out: attachments made by cnitool, and who reaches whom by real probes. This plays
Multus' part: it reads each pod's annotation and runs the configuration of the net-attach-defs that this
names.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.lab import Daemon, Lab, Pod, Target
from tests.lab.lab import REPOSITORY
from tests.lab.objects import NETWORKS, PLUGIN
from tests.lab.prober import probe_all

SAMPLES = REPOSITORY / "conf/samples"
BASE = ("namespaces.yaml", "networks.yaml", "pods.yaml")
POLICIES = ("policy-web.yaml", "policy-api.yaml", "policy-db.yaml", "policy-monitoring.yaml")
PARENTS = ("eth1", "eth2")

# What listens where: pod, network, TCP port.
SERVICES = (
    ("web", "front", 80),
    ("api", "front", 8080),
    ("api", "front", 9100),
    ("api", "store", 9100),
    ("db", "store", 3306),
    ("db", "store", 9104),
)
CLIENTS = ("web", "api", "db", "monitor", "guest")

Reach = dict[tuple[str, str, int, str], bool | None]
"""(server, network, port, client) to whether it connects; None: the client is not on that network."""


class DemoError(Exception):
    """A step did not work; the message says which."""


@dataclass
class Interface:
    """One attachment as cnitool made it. milliseconds: the whole chain's ADD, cnitool's start included."""

    pod: str
    ifname: str
    network: str
    address: str
    milliseconds: float


@dataclass
class Shop:
    """Everything that runs. interfaces by (pod, network)."""

    lab: Lab
    daemon: Daemon
    pods: dict[str, Pod] = field(default_factory=dict)
    interfaces: dict[tuple[str, str], Interface] = field(default_factory=dict)
    networks: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, lab: Lab) -> "Shop":
        """Start the daemon on namespaces, networks and pods; no policy yet."""
        daemon = lab.daemon()
        for name in BASE:
            daemon.apply(name, (SAMPLES / name).read_text())
        daemon.wait_synced()
        shop = cls(lab, daemon)
        for document in yaml.safe_load_all((SAMPLES / "networks.yaml").read_text()):
            shop.networks[document["metadata"]["name"]] = shop._configuration(document)
        return shop

    def attach_all(self) -> Iterator[Interface]:
        """Start every pod of the sample: a network namespace, and an ADD for each network it asks for."""
        for document in yaml.safe_load_all((SAMPLES / "pods.yaml").read_text()):
            name, namespace = document["metadata"]["name"], document["metadata"]["namespace"]
            pod = self.pods[name] = self.lab.pod(name, namespace)
            for network, ifname in _requests(document["metadata"]["annotations"][NETWORKS]):
                yield self._attach(pod, network, ifname)
        for pod_name, _, port in SERVICES:
            self.pods[pod_name].prober.serve(tcp=[port])

    def detach_all(self) -> int:
        """DEL of every attachment; returns how many."""
        for interface in self.interfaces.values():
            pod = self.pods[interface.pod]
            run = self.lab.cnitool("del", self.networks[interface.network], pod, interface.ifname)
            if run.code != 0:
                raise DemoError(f"cnitool del {interface.pod} {interface.ifname}: {run.stdout or run.stderr}")
        return len(self.interfaces)

    def reach(self) -> Reach:
        """Who connects to whom, by one real TCP connection each."""
        questions = [(service, client) for client in CLIENTS for service in SERVICES if client != service[0]]
        wanted: dict[str, list[tuple[str, str, int]]] = {client: [] for client in CLIENTS}
        for (server, network, port), client in questions:
            if (client, network) in self.interfaces:
                wanted[client].append((server, network, port))
        targets = {
            self.pods[client].prober: [Target("tcp", self.interfaces[s, n].address, p) for s, n, p in asked]
            for client, asked in wanted.items()
        }
        verdicts = probe_all(targets)
        found: Reach = {(*service, client): None for service, client in questions}
        for client, asked in wanted.items():
            for service, verdict in zip(asked, verdicts[self.pods[client].prober], strict=True):
                found[(*service, client)] = verdict == "open"
        return found

    def apply(self, name: str, text: str) -> float:
        """Save a manifest; returns the milliseconds until `mnpctl wait` saw it in force everywhere."""
        started = time.monotonic()
        self.daemon.apply(name, text)
        self.daemon.wait_synced()
        return (time.monotonic() - started) * 1000

    def _attach(self, pod: Pod, network: str, ifname: str) -> Interface:
        started = time.monotonic()
        run = self.lab.cnitool("add", self.networks[network], pod, ifname)
        milliseconds = (time.monotonic() - started) * 1000
        if run.code != 0:
            raise DemoError(f"cnitool add {pod.name} {ifname}: {run.stdout or run.stderr}")
        address = run.result["ips"][0]["address"].split("/")[0]
        made = Interface(pod.name, ifname, network, address, milliseconds)
        self.interfaces[pod.name, network] = made
        return made

    def _configuration(self, document: dict[str, Any]) -> dict[str, Any]:
        """The sample's own configuration; only the socket and IPAM's folder are this demo's."""
        config: dict[str, Any] = json.loads(document["spec"]["config"])
        for plugin in config["plugins"]:
            if plugin["type"] == PLUGIN:
                plugin.update(self.daemon.plugin_keys)
            elif "ipam" in plugin:
                plugin["ipam"]["dataDir"] = str(Path(self.lab.folder, "ipam"))
        return config


def _requests(annotation: str) -> Iterator[tuple[str, str]]:
    """(network, interface) of each entry, in either form of the annotation."""
    if annotation.lstrip().startswith("["):
        for entry in json.loads(annotation):
            yield entry["name"], entry["interface"]
    else:
        for item in annotation.split(","):
            network, _, ifname = item.strip().partition("@")
            yield network, ifname
