"""A daemon under test whose source is an API server: the same calls as on a directory of manifests.

In: objects under a name, as a file would hold them. Out: those objects in the API server, by creates, patches
and deletes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.lab.apiserver import ApiServer
from tests.lab.daemon import Daemon
from tests.lab.kubeapi import KubeApi
from tests.lab.objects import Object

NODE = "node"

_Key = tuple[str, str, str]


class KubeDaemon(Daemon):
    """One multi-networkpolicyd on an API server, under the account of conf/rbac.yaml."""

    def __init__(
        self,
        folder: Path,
        server: ApiServer,
        kubeconfig: Path | None = None,
        options: Sequence[str] = (),
        **more: Any,
    ) -> None:
        """Lay out its folders; `kubeconfig` by default carries a fresh token of the account."""
        self.api = Objects(server.admin)
        self.elsewhere: set[tuple[str, str]] = set()
        source = ["--source=kubernetes", f"--node-name={NODE}"]
        config = kubeconfig or server.kubeconfig(folder.name)
        super().__init__(folder, options=[*source, f"--kubeconfig={config}", *options], **more)

    def apply(self, name: str, content: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Path:
        """Let the server hold these objects, and no others of that name.

        Pods that `elsewhere` names by (namespace, name) are of another node.
        """
        if isinstance(content, str):
            items = [item for item in yaml.safe_load_all(content) if item]
        else:
            items = [content] if isinstance(content, Mapping) else list(content)
        self.api.apply(name, [self._placed(raw) for raw in items])
        return self.folder

    def _placed(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        if (
            raw["kind"] != "Pod"
            or (raw["metadata"]["namespace"], raw["metadata"]["name"]) not in self.elsewhere
        ):
            return raw
        return {**raw, "spec": {**raw["spec"], "nodeName": "elsewhere"}}

    def remove(self, name: str) -> None:
        """Delete the objects of that name."""
        self.api.apply(name, [])


class Objects:
    """What tests have put into an API server, by the name that they gave it."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._held: dict[str, dict[_Key, Object]] = {}

    def apply(self, name: str, items: Sequence[Mapping[str, Any]]) -> None:
        """Make it so that these are what is held under the name."""
        before, now = self._held.get(name, {}), {_key(raw): dict(raw) for raw in items}
        self._held[name] = now
        for key in [key for key in before if key not in now and key[0] != "Namespace"]:
            self._api.delete(*key)
        for space in {key[1] for key in now if key[0] != "Namespace"}:
            self._namespace(space, now)
        for key, raw in now.items():
            if key not in before:
                self._api.apply(raw)
            elif raw != before[key]:
                self._change(key, raw, before[key])

    def _namespace(self, name: str, now: Mapping[_Key, Object]) -> None:
        key = ("Namespace", "", name)
        held = any(key in each for each in self._held.values())
        if not held:
            raw = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            self._held.setdefault("namespaces", {})[key] = raw
            self._api.apply(raw)
        elif key in now:
            self._api.apply(now[key])

    def _change(self, key: _Key, raw: Object, before: Object) -> None:
        if key[0] != "Pod":
            self._api.apply(raw)
        elif raw.get("spec") != before.get("spec"):
            self._api.delete(*key)
            self._api.wait_gone(*key)
            self._api.create(raw)
        else:
            old, new = before["metadata"], raw["metadata"]
            change = {
                field: {**dict.fromkeys(old.get(field, {})), **new.get(field, {})}
                for field in ("labels", "annotations")
            }
            self._api.patch(*key, {"metadata": change})
            if raw.get("status") != before.get("status"):
                self._api.set_status(raw, raw["status"])


def _key(raw: Mapping[str, Any]) -> _Key:
    space = "" if raw["kind"] == "Namespace" else raw["metadata"].get("namespace", "default")
    return raw["kind"], space, raw["metadata"]["name"]
