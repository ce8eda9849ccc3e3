"""Attachments that come and go by the thousand in a few namespaces, and what the daemon keeps of them.

In: a lab and a backend. Out: the daemon's resident memory after so many ADDs and DELs. Each has a container,
an address and a pod that no other has, and the policies select every pod, so that each changes the peers of
the others. It speaks to the socket: what a plugin's process costs is not in it.
"""

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.bench import wire
from tests.bench.memory import resident_kib
from tests.lab import Attachment, Lab, objects
from tests.netns.enroll import CNI_VERSION

SANDBOXES = 16
"""So many that the kernel has freed what one held before that is changed again: that takes it 15 ms."""
GROUPS = 4
"""Of pods, each with a policy: every ADD and DEL changes the peers of all in its group."""
ROUND = 200
"""Attachments of one round, whose pods are in one file."""


class Churn:
    """One daemon; `turns` says how many attachments have come and gone."""

    def __init__(self, lab: Lab, backend: str, **options: Any) -> None:
        self._lab = lab
        self.daemon = lab.daemon(backend=backend, **options)
        policies = [_policy(f"group-{number}", _group(number)) for number in range(GROUPS)]
        self.daemon.apply("net1", [objects.network("net1"), *policies])
        self._attachments = [lab.attach(lab.pod(f"place-{number}")) for number in range(SANDBOXES)]
        self.turns = 0

    def run(self, count: int) -> None:
        """So many more ADDs, each followed by its DEL: a multiple of ROUND."""
        for first in range(self.turns, self.turns + count, ROUND):
            self._next_pods(first)
            self._renew_link(first // ROUND % SANDBOXES)
            with ThreadPoolExecutor(GROUPS) as threads:
                for _ in threads.map(
                    self._turns, [range(first + g, first + ROUND, GROUPS) for g in range(GROUPS)]
                ):
                    pass
        self.turns += count

    def resident_mib(self) -> float:
        """What the daemon holds now, once nothing is under way."""
        self.daemon.wait_synced()
        return resident_kib(self.daemon.pid) / 1024

    def _next_pods(self, first: int) -> None:
        """Other pods in the place of those that have gone, and a policy that only they have."""
        batch = {"batch": f"b{first // ROUND}"}
        numbers = range(first, first + ROUND)
        pods = [objects.pod(_name(n), labels=_group(n) | batch, networks="net1") for n in numbers]
        self.daemon.apply("pods", [*pods, _policy(batch["batch"], batch | _group(0))])

    def _renew_link(self, place: int) -> None:
        pod = self._attachments[place].pod
        self._lab.detach(self._attachments[place])
        self._attachments[place] = self._lab.attach(pod, addresses=["10.1.255.250/16"])

    def _turns(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            attachment = self._attachments[number % SANDBOXES]
            wire.exchange(self.daemon, _request("add", attachment, number))
            wire.exchange(self.daemon, _request("del", attachment, number))


def _name(number: int) -> str:
    return f"pod-{number}"


def _group(number: int) -> dict[str, str]:
    return {"group": f"g{number % GROUPS}"}


def _policy(name: str, labels: Mapping[str, str]) -> objects.Object:
    peers = [{"podSelector": {"matchLabels": dict(labels)}}]
    ports = [{"protocol": "TCP", "port": 80}]
    spec = {
        "podSelector": {"matchLabels": dict(labels)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": peers, "ports": ports}],
    }
    return objects.policy(name, spec)


def _request(op: str, attachment: Attachment, number: int) -> bytes:
    addresses = [f"10.1.{number >> 8 & 255}.{number & 255}/16", f"fd00:1::{number:x}/64"]
    result = attachment.result(CNI_VERSION) | {"ips": [{"address": a, "interface": 0} for a in addresses]}
    config = {
        "cniVersion": CNI_VERSION,
        "name": "net1",
        "type": "multi-networkpolicy",
        "netAttachDef": "default/net1",
        "prevResult": result,
    }
    env = {
        "CNI_CONTAINERID": f"{number:064x}",
        "CNI_NETNS": str(attachment.pod.netns),
        "CNI_IFNAME": attachment.ifname,
        "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={_name(number)}",
    }
    body = {"v": 1, "op": op, "env": env, "config": json.dumps(config).encode(), "timeLeftMs": 30000}
    return wire.frame(body)
