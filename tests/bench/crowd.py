"""The pods of a large cluster: made once by the API server, then copied in etcd as often as is wanted.

In: a server, numbers. Out: pods of other nodes, of the size that pods have, stored as the server stores them.
One of each shape is created as its controller, kubelet and Multus would, so that defaults, conditions and
managed fields are the server's own. Its record is read out of etcd, and each copy has other names and
addresses of the same length in it: 110,000 take seconds.
"""

import base64
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import requests

from tests.lab import objects
from tests.lab.apiserver import HOST, ApiServer
from tests.lab.kubeapi import MERGE
from tests.lab.objects import Object

NETWORK = "default/net1"
SPACES = 100
NODES = 1000
APPS = 50
BATCH = 100  # operations of one transaction; etcd takes 128, and 1.5 MiB

_NUMBER, _APP, _NODE, _SPACE = "qzqzqz", "app-qzq", "node-zqzq", "team-zq"
_ADDRESS, _SECOND, _SIXTH = "10.191.192.193", "10.1.191.192", "fd00:1::abcd"
_TIMEOUT = 60.0


class CrowdedServer(ApiServer):
    """An API server into whose etcd pods are written by the thousand."""

    def fill(self, peers: int, others: int, plain: int) -> None:
        """Store pods with secondary addresses that are peers, those that are not, and those without any.

        Ends the API server, which would look at each, and starts it again.
        """
        records = [
            (self._record("peer"), peers),
            (self._record("other"), others),
            (self._record(None), plain),
        ]
        self.kill()
        numbers = itertools.count()
        for pods in (self._copies(numbers, record, count) for record, count in records):
            while batch := list(itertools.islice(pods, BATCH)):
                self._ask("txn", {"success": batch})
        self.start()

    @property
    def stored_bytes(self) -> int:
        """What etcd holds on its disk."""
        size: str = self._ask("status", {}, "maintenance")["dbSize"]
        return int(size)

    def _record(self, role: str | None) -> bytes:
        """How the server stores one pod of a shape; it is not there afterwards."""
        raw = _pod(role)
        space, name = raw["metadata"]["namespace"], raw["metadata"]["name"]
        create(self, raw)
        uid = self.admin.get("Pod", space, name)["metadata"]["uid"]
        key = _key(space, name)
        (found,) = self._ask("range", {"key": key})["kvs"]
        self._ask("deleterange", {"key": key})
        record = base64.b64decode(found["value"])
        if record.count(_NUMBER.encode()) != 1 or record.count(uid.encode()) != 1:
            raise RuntimeError("the record of a pod has not the names that are to be replaced")
        return record.replace(uid.encode(), _uid(_NUMBER).encode())

    def _copies(self, numbers: Iterator[int], record: bytes, count: int) -> Iterator[Object]:
        second = _SECOND.encode() in record
        for number in itertools.islice(numbers, count):
            space, name = where(number, second=second)
            value = record
            for old, new in _replacements(number, space).items():
                value = value.replace(old, new)
            put = {"key": _key(space, name), "value": base64.b64encode(value).decode()}
            yield {"requestPut": put}

    def _ask(self, verb: str, body: Mapping[str, Any], part: str = "kv") -> Any:
        url = f"http://{HOST}:{self._etcd_ports[0]}/v3/{part}/{verb}"
        answer = self._session.post(url, json=body, timeout=_TIMEOUT)
        answer.raise_for_status()
        return answer.json()

    _session = requests.Session()


def create(server: ApiServer, raw: Object) -> None:
    """Create a pod as its controller does, with status and annotations as by kubelet and Multus."""
    metadata = raw["metadata"]
    space, name = metadata["namespace"], metadata["name"]
    path = f"api/v1/namespaces/{space}/pods"
    multus = metadata["annotations"][objects.STATUS]
    annotations = {key: text for key, text in metadata["annotations"].items() if key != objects.STATUS}
    first = {**raw, "metadata": {**metadata, "annotations": annotations}}
    api = server.admin
    api.request("POST", path, first, fieldManager="kube-controller-manager")
    status = {"status": raw["status"]}
    api.request("PATCH", f"{path}/{name}/status", status, MERGE, fieldManager="kubelet")
    change = {"metadata": {"annotations": {objects.STATUS: multus}}}
    api.request("PATCH", f"{path}/{name}/status", change, MERGE, fieldManager="multus")


def one_more(role: str, name: str, ipv4: str, ipv6: str) -> Object:
    """A pod of that size with secondary addresses, to create by the API."""
    text = json.dumps(_pod(role))
    for old, new in ((_template_name(), name), (_SECOND, ipv4), (_SIXTH, ipv6)):
        text = text.replace(old, new)
    made: Object = json.loads(text)
    return made


def where(number: int, *, second: bool) -> tuple[str, str]:
    """(namespace, name) of a pod; second: it has secondary addresses."""
    space = "default" if second else f"team-{number % SPACES:02}"
    return space, f"workload-7d9f6c5b8d-{number:06}"


def spaces() -> Iterable[str]:
    """All namespaces that pods are in, but the default one."""
    return (_SPACE, *(f"team-{number:02}" for number in range(SPACES)))


def _replacements(number: int, space: str) -> dict[bytes, bytes]:
    """Each as long as what it takes the place of, for records carry lengths."""
    high, middle, low = 100 + number // 10_000, 100 + number // 100 % 100, 100 + number % 100
    made = {
        _uid(_NUMBER): _uid(f"{number:06}"),
        _NUMBER: f"{number:06}",
        _APP: f"app-{number % APPS:03}",
        _NODE: f"node-{number % NODES:04}",
        _SPACE: space,
        _ADDRESS: f"10.{high}.{middle}.{low}",
        _SECOND: f"10.1.{middle}.{low}",
        _SIXTH: f"fd00:1::{0x2000 + number % 10_000:04x}",
    }
    return {old.encode(): new.encode() for old, new in made.items()}


def _template_name() -> str:
    return where(0, second=True)[1].replace("000000", _NUMBER)


def _uid(number: str) -> str:
    return f"6f1c2a52-0d1e-4b7a-9c3d-8e5f01{number}"


def _key(space: str, name: str) -> str:
    return base64.b64encode(f"/registry/pods/{space}/{name}".encode()).decode()


def _pod(role: str | None) -> Object:
    """A pod of a Deployment on another node, as people have them. role None: one interface alone."""
    space, name = ("default" if role else _SPACE), _template_name()
    labels = {
        "app": _APP,
        "app.kubernetes.io/instance": "release-of-a-chart",
        "app.kubernetes.io/managed-by": "Helm",
        "app.kubernetes.io/name": _APP,
        "app.kubernetes.io/version": "1.27.4",
        "pod-template-hash": "7d9f6c5b8d",
        **({"role": role} if role else {}),
    }
    # Where Multus is the default network, every pod has a network-status.
    networks = [objects.status_entry("cluster-network", "eth0", [_ADDRESS], "0a:58:0a:80:02:1b")]
    if role:
        networks.append(objects.status_entry(NETWORK, "net1", [_SECOND, _SIXTH], "02:42:0a:01:02:03"))
    annotations = {
        "checksum/config": "5f3c9a0e7b1d4f6a8c2e0b9d7f5a3c1e8d6b4f2a0c9e7d5b3f1a8c6e4d2b0f9a",
        "prometheus.io/port": "9090",
        "prometheus.io/scrape": "true",
        **({objects.NETWORKS: "net1"} if role else {}),
        objects.STATUS: json.dumps(networks, indent=4),
    }
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "workload-7d9f6c5b8d",
        "uid": "1b0e7c52-8a3f-4d2b-b1c9-2f4a6d8e0c11",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    metadata = {"name": name, "namespace": space, "labels": labels, "annotations": annotations}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "ownerReferences": [owner]},
        "spec": {"nodeName": _NODE, "containers": [_container()], "serviceAccountName": "default"},
        "status": _status(),
    }


def _container() -> Object:
    return {
        "name": "main",
        "image": "registry.example.com/team/workload:1.27.4",
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}},
    }


def _status() -> Object:
    at = "2025-11-03T08:15:30Z"
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    image = "registry.example.com/team/workload"
    running: Object = {
        "name": "main",
        "image": f"{image}:1.27.4",
        "imageID": f"{image}@sha256:{'0f3a' * 16}",
        "containerID": f"containerd://{'9b2c' * 16}",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": at}},
    }
    return {
        "phase": "Running",
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": at} for kind in kinds],
        "hostIP": "192.0.2.17",
        "hostIPs": [{"ip": "192.0.2.17"}],
        "podIP": _ADDRESS,
        "podIPs": [{"ip": _ADDRESS}],
        "startTime": at,
        "containerStatuses": [running],
        "qosClass": "Burstable",
    }
