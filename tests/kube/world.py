"""A node of a cluster: the API server, a daemon on it, a runtime with Multus' part, a server and two clients.

In: a lab and an API server. Out: pods that live in both, and what passes between them.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kube.multus import Multus, Runtime, Sandbox
from tests.lab import Attachment, Lab, objects
from tests.lab.apiserver import ApiServer
from tests.lab.kubedaemon import NODE, KubeDaemon
from tests.lab.objects import Object
from tests.lab.polling import poll
from tests.netns.lifeworld import PORT, Trio

ELSEWHERE = "elsewhere"
CLIENTS = ("a", "b")
_spaces = itertools.count(1)
_SYNC_SECONDS = 60.0


class KubeWorld(Trio):
    """A namespace of its own with net-attach-def net1; pods `server`, `a` and `b`, labelled by their role."""

    def __init__(
        self,
        lab: Lab,
        server: ApiServer,
        names: Sequence[str] = ("server", *CLIENTS),
        kubeconfig: Path | None = None,
        options: Sequence[str] = (),
        runtime: Runtime | None = None,
        daemon: KubeDaemon | None = None,
    ) -> None:
        self.lab = lab
        self.kube = server
        self.api = server.admin
        if daemon is None:
            daemon = lab.adopt(KubeDaemon(lab.daemon_folder(), server, kubeconfig, options))
            daemon.start()
        self.daemon = daemon
        self.runtime = runtime or Multus(lab, self.api)
        self.space = f"w{next(_spaces)}-{lab.tag.rpartition('-')[0].rpartition('-')[2]}"
        self.numbers = itertools.count(1)
        self.sandboxes: dict[str, Sandbox] = {}
        self.attachments: dict[str, Attachment] = {}
        self.api.apply(objects.namespace(self.space, {"team": "blue"}))
        self.api.apply(self.network("net1"))
        for name in names:
            self.start(name)
        if "server" in names:
            self.server.pod.prober.serve(PORT)

    # --- objects -----------------------------------------------------------------------------------------

    def network(self, name: str, keys: Mapping[str, Any] | None = None, parent: str = "net1") -> Object:
        """A net-attach-def that chains macvlan and our plugin, with addresses of its own from host-local."""
        own = {**self.daemon.plugin_keys, "netAttachDef": f"{self.space}/{name}", **(keys or {})}
        made = objects.conflist(name, parent, plugin={k: v for k, v in own.items() if v is not None})
        lan, own_range = self.lab.networks[parent].number, next(self.numbers)
        # host-local counts by the configuration's name: each needs a range of its own on this LAN.
        ranges = (
            {"subnet": f"10.{lan}.0.0/16", "rangeStart": f"10.{lan}.{own_range}.1"},
            {"subnet": f"fd00:{lan:x}::/64", "rangeStart": f"fd00:{lan:x}::{own_range:x}:1"},
        )
        folder = str(self.lab.folder / f"ipam-{parent}")
        made["plugins"][0]["ipam"] = {
            "type": "host-local",
            "dataDir": folder,
            "ranges": [[one] for one in ranges],
        }
        return objects.network(name, self.space, made)

    def pod(self, name: str, networks: str = "net1", node: str = NODE, **changes: Any) -> Object:
        """A pod's object."""
        made = objects.pod(name, self.space, **{"labels": {"role": name}, "networks": networks, **changes})
        made["spec"]["nodeName"] = node
        del made["metadata"]["uid"]
        return made

    def policy(self, spec: Mapping[str, Any], name: str = "p", **more: Any) -> Object:
        """A policy for the server on net1."""
        subject = {"podSelector": {"matchLabels": {"role": "server"}}}
        return objects.policy(name, {**subject, **spec}, namespace=self.space, **more)

    # --- the runtime -------------------------------------------------------------------------------------

    def start(self, name: str, networks: str = "net1", **changes: Any) -> Sandbox:
        """Create a pod in the API server and let the runtime make its interfaces."""
        self.api.create(self.pod(name, networks, **changes))
        return self.run(name)

    def run(self, name: str) -> Sandbox:
        """Let the runtime make the interfaces of a pod that the API server has."""
        suffix = f"-{next(self.numbers)}"
        sandbox = self.sandboxes[name] = self.runtime.start(self.space, name, suffix)
        if "net1" in sandbox.attachments:
            self.attachments[name] = sandbox["net1"]
        return sandbox

    def stop(self, name: str) -> None:
        """End a pod's sandbox, as kubelet does before its object goes."""
        self.runtime.stop(self.sandboxes.pop(name))
        self.attachments.pop(name, None)

    def delete(self, name: str) -> None:
        """Delete a pod's object, at once."""
        self.api.delete("Pod", self.space, name)

    def elsewhere(self, name: str, **changes: Any) -> Attachment:
        """A pod of another node: an interface on this LAN that nobody enrols, known by its network-status."""
        pod = self.lab.pod(name, self.space, f"-{next(self.numbers)}")
        number, low = self.lab.networks["net1"].number, next(self.numbers)
        addresses = (f"10.{number}.200.{low}/16", f"fd00:{number:x}::c8{low:02x}/64")
        made = self.lab.attach(pod, "net1", "net1", addresses)
        status = [objects.status_entry(f"{self.space}/net1", "net1", [made.ipv4, made.ipv6], made.mac)]
        self.api.create(self.pod(name, node=ELSEWHERE, status=status, **changes))
        self.attachments[name] = made
        return made

    # --- time --------------------------------------------------------------------------------------------

    def apply(self, *raws: Mapping[str, Any]) -> None:
        """Create or replace objects, and wait until they are in force."""
        for raw in raws:
            self.api.apply(raw)
        self.sync()

    def sync(self) -> None:
        """Wait until all that the server holds is in force."""
        self.daemon.wait_synced(_SYNC_SECONDS)

    def told(self, pod: str, reason: str) -> str:
        """Wait for an Event about a pod; what it says."""

        def found() -> list[str]:
            events = self.api.list("Event", self.space)
            about = [event for event in events if event["involvedObject"]["name"] == pod]
            return [event["message"] for event in about if event["reason"] == reason]

        return poll(found, bool, 15.0)[0]

    def label(self, name: str, **labels: str | None) -> None:
        """Set labels of a pod (None: remove), and wait until that is in force."""
        self.api.patch("Pod", self.space, name, {"metadata": {"labels": labels}})
        self.sync()

    def status_of(self, name: str) -> list[Object]:
        """A pod's network-status."""
        raw = self.api.get("Pod", self.space, name)
        status: list[Object] = json.loads(raw["metadata"]["annotations"][objects.STATUS])
        return status


def only(role: str) -> Object:
    """A spec: the server is reached by pods of this role alone."""
    return {
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": role}}}]}],
    }
