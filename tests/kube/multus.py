"""The part of Multus, by what it documents: annotation to delegates to network-status.

In: a pod in the API server. Out: its interfaces, made by the real cnitool and the plugins that the
net-attach-defs name, and its network-status. `RealMultus` does the same by the Multus binary that MULTUS_BIN
names.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pyroute2 import IPRoute

from tests.lab import Attachment, CnitoolRun, Lab
from tests.lab import Pod as LabPod
from tests.lab.kubeapi import KubeApi
from tests.lab.namespaces import inside
from tests.lab.objects import NETWORKS, STATUS, Object, status_entry

MULTUS_BIN = os.environ.get("MULTUS_BIN", "")
DEFAULT_NETWORK = "cluster"


class DelegateError(Exception):
    """A delegate's ADD failed; its words are in the message."""


@dataclass
class Sandbox:
    """What a runtime made for a pod. chains: (interface, configuration) of each delegate, in order."""

    pod: LabPod
    uid: str
    attachments: dict[str, Attachment] = field(default_factory=dict)
    chains: list[tuple[str, Object]] = field(default_factory=list)

    def __getitem__(self, ifname: str) -> Attachment:
        return self.attachments[ifname]


class Runtime(Protocol):
    """Starts pods that are in the API server, and stops them."""

    def start(self, namespace: str, name: str, suffix: str = "") -> Sandbox:
        """Make the pod's sandbox and its secondary interfaces. Raises DelegateError."""

    def stop(self, sandbox: Sandbox) -> None:
        """DEL in reverse order, and the end of the sandbox."""


class Multus:
    """See Runtime. One cnitool run a delegate, as Multus runs libcni."""

    def __init__(self, lab: Lab, api: KubeApi) -> None:
        self._lab = lab
        self._api = api

    def start(self, namespace: str, name: str, suffix: str = "") -> Sandbox:
        """See Runtime."""
        raw = self._api.get("Pod", namespace, name)
        sandbox = Sandbox(self._lab.pod(name, namespace, suffix), raw["metadata"]["uid"])
        status = [{"name": DEFAULT_NETWORK, "interface": "eth0", "ips": ["10.244.0.9"], "default": True}]
        for number, request in enumerate(requests(raw), 1):
            ifname = request.get("interface") or f"net{number}"
            network = f"{request.get('namespace', namespace)}/{request['name']}"
            made = self._delegate(sandbox, network, ifname)
            addresses = [address.split("/")[0] for address in made.addresses]
            status.append(status_entry(network, ifname, addresses, made.mac))
        self.write_status(namespace, name, status)
        return sandbox

    def stop(self, sandbox: Sandbox) -> None:
        """See Runtime."""
        for ifname, chain in reversed(sandbox.chains):
            run = self._cnitool("del", chain, sandbox, ifname)
            assert run.code == 0, run
        sandbox.pod.end()
        self._lab.pods.remove(sandbox.pod)

    def write_status(self, namespace: str, name: str, status: list[Object]) -> None:
        """Annotate the pod as Multus does when all delegates are done."""
        change = {"metadata": {"annotations": {STATUS: json.dumps(status)}}}
        self._api.patch("Pod", namespace, name, change)

    def _delegate(self, sandbox: Sandbox, network: str, ifname: str) -> Attachment:
        namespace, _, name = network.partition("/")
        text = self._api.get("NetworkAttachmentDefinition", namespace, name)["spec"]["config"]
        chain = {"name": name, **json.loads(text)}
        run = self._cnitool("add", chain, sandbox, ifname)
        if run.code != 0:
            raise DelegateError(f"{network} {ifname}: {run.stdout}{run.stderr}")
        sandbox.chains.append((ifname, chain))
        made = attachment_of(self._lab, sandbox.pod, chain, ifname, run.result)
        sandbox.attachments[ifname] = made
        return made

    def _cnitool(self, command: str, chain: Object, sandbox: Sandbox, ifname: str) -> CnitoolRun:
        args = {
            **sandbox.pod.cni_args,
            "K8S_POD_INFRA_CONTAINER_ID": sandbox.pod.container_id,
            "K8S_POD_UID": sandbox.uid,
        }
        return self._lab.cnitool(command, chain, sandbox.pod, ifname, args)


class RealMultus:
    """See Runtime. The Multus binary (thin), run by cnitool as a runtime would run it."""

    def __init__(self, lab: Lab, api: KubeApi, kubeconfig: Path) -> None:
        self._lab = lab
        self._api = api
        self._conflist = {
            "cniVersion": "1.0.0",
            "name": "multus",
            "plugins": [
                {
                    "type": Path(MULTUS_BIN).name,
                    "kubeconfig": str(kubeconfig),
                    "cniDir": str(lab.folder / "multus-cache"),
                    "binDir": str(Path(MULTUS_BIN).parent),
                    "delegates": [
                        {
                            "cniVersion": "1.0.0",
                            "name": DEFAULT_NETWORK,
                            "plugins": [
                                {
                                    "type": "bridge",
                                    "bridge": "mnpt-br0",
                                    "ipam": {
                                        "type": "host-local",
                                        "subnet": "10.244.0.0/16",
                                        "dataDir": str(lab.folder / "multus-ipam"),
                                    },
                                }
                            ],
                        }
                    ],
                }
            ],
        }

    def start(self, namespace: str, name: str, suffix: str = "") -> Sandbox:
        """See Runtime."""
        raw = self._api.get("Pod", namespace, name)
        sandbox = Sandbox(self._lab.pod(name, namespace, suffix), raw["metadata"]["uid"])
        run = self._cnitool("add", sandbox)
        if run.code != 0:
            raise DelegateError(f"{namespace}/{name}: {run.stdout}{run.stderr}")
        sandbox.chains.append(("eth0", self._conflist))
        raw = self._api.get("Pod", namespace, name)
        for entry in json.loads(raw["metadata"]["annotations"][STATUS]):
            if not entry.get("default"):
                space, _, network = entry["name"].partition("/")
                text = self._api.get("NetworkAttachmentDefinition", space, network)["spec"]["config"]
                ips = [{"address": f"{ip}/{64 if ':' in ip else 16}"} for ip in entry["ips"]]
                made = attachment_of(
                    self._lab, sandbox.pod, json.loads(text), entry["interface"], {"ips": ips}
                )
                sandbox.attachments[entry["interface"]] = made
        return sandbox

    def stop(self, sandbox: Sandbox) -> None:
        """See Runtime."""
        run = self._cnitool("del", sandbox)
        assert run.code == 0, run
        sandbox.pod.end()
        self._lab.pods.remove(sandbox.pod)

    def _cnitool(self, command: str, sandbox: Sandbox) -> CnitoolRun:
        args = {
            **sandbox.pod.cni_args,
            "K8S_POD_INFRA_CONTAINER_ID": sandbox.pod.container_id,
            "K8S_POD_UID": sandbox.uid,
        }
        folders = (Path(MULTUS_BIN).parent,)
        return self._lab.cnitool(command, self._conflist, sandbox.pod, "eth0", args, plugins=folders)


def requests(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The entries of a pod's `k8s.v1.cni.cncf.io/networks`, in both of its forms."""
    text = raw["metadata"].get("annotations", {}).get(NETWORKS, "")
    if text.lstrip().startswith("["):
        yield from json.loads(text)
        return
    for item in filter(None, (part.strip() for part in text.split(","))):
        network, _, ifname = item.partition("@")
        space, _, name = network.rpartition("/")
        yield {"name": name, **({"namespace": space} if space else {}), "interface": ifname}


def attachment_of(
    lab: Lab, pod: LabPod, chain: Mapping[str, Any], ifname: str, result: Mapping[str, Any]
) -> Attachment:
    """What an ADD has made, as the lab knows interfaces."""
    master = next(plugin["master"] for plugin in chain["plugins"] if "master" in plugin)
    with inside(pod.netns), IPRoute() as links:
        index = links.link_lookup(ifname=ifname)[0]
        mac = links.get_links(index)[0].get_attr("IFLA_ADDRESS")
    addresses = tuple(ip["address"] for ip in result["ips"])
    made = Attachment(pod, lab.networks[master], ifname, index, mac, addresses)
    pod.attachments.append(made)
    return made
