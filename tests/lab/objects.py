"""Kubernetes objects as tests write them, short.

In: names, labels and specs. Out: plain maps as the API server would give them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = dict[str, Any]

POLICY_FOR = "k8s.v1.cni.cncf.io/policy-for"
NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
PLUGIN = "multi-networkpolicy"


def list_of(items: Iterable[Mapping[str, Any]]) -> Object:
    """Wrap objects into a List."""
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def namespace(name: str, labels: Mapping[str, str] | None = None) -> Object:
    """Make a Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}}


def pod(
    name: str,
    namespace: str = "default",
    labels: Mapping[str, str] | None = None,
    networks: str | Sequence[Mapping[str, Any]] = "",
    status: Sequence[Mapping[str, Any]] = (),
    ports: Sequence[Mapping[str, Any]] = (),
    uid: str = "",
) -> Object:
    """Make a running Pod.

    `networks` is what its author asks for ("a, b@eth1" or a list), `status` what Multus wrote: see
    `status_entry`; `ports` are container ports.
    """
    annotations = {NETWORKS: networks if isinstance(networks, str) else json.dumps(list(networks))}
    if status:
        annotations[STATUS] = json.dumps(list(status))
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{namespace}-{name}",
        "labels": dict(labels or {}),
        "annotations": {key: value for key, value in annotations.items() if value},
    }
    container = {"name": "main", "image": "none", "ports": list(ports)}
    spec = {"nodeName": "node", "containers": [container]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": "Running"},
    }


def status_entry(network: str, ifname: str, addresses: Sequence[str], mac: str = "") -> Object:
    """Make one entry of network-status; `network` is "namespace/name", addresses are without prefix."""
    return {"name": network, "interface": ifname, "ips": list(addresses), "mac": mac, "dns": {}}


def conflist(
    name: str,
    parent: str,
    addresses: Sequence[str] = (),
    version: str = "1.0.0",
    plugin: Mapping[str, Any] | None = None,
    guard: Mapping[str, Any] | None = None,
    kind: str = "macvlan",
    mode: str = "",
) -> Object:
    """Make a configuration that chains macvlan (static addresses with prefix lengths) and our plugin.

    `kind` and `mode` choose another device: macvlan (bridge unless told) or ipvlan (l2); `plugin` are further
    keys of our entry; `guard`, if given even empty, puts the guard in front, with those keys.
    """
    ipam: Object = {"type": "static", "addresses": [{"address": a} for a in addresses]} if addresses else {}
    chosen = mode or ("bridge" if kind == "macvlan" else "l2")
    device = {"type": kind, "master": parent, "mode": chosen, "ipam": ipam}
    front = [] if guard is None else [{"type": PLUGIN, "guard": True, **guard}]
    return {
        "cniVersion": version,
        "name": name,
        "plugins": [*front, device, {"type": PLUGIN, **(plugin or {})}],
    }


def network(name: str, namespace: str = "default", config: Mapping[str, Any] | None = None) -> Object:
    """Make a NetworkAttachmentDefinition; by default one that chains macvlan and our plugin."""
    text = json.dumps(config if config is not None else conflist(name, name))
    metadata = {"name": name, "namespace": namespace}
    kind = {"apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition"}
    return kind | {"metadata": metadata, "spec": {"config": text}}


def policy(
    name: str,
    spec: Mapping[str, Any],
    networks: str = "net1",
    namespace: str = "default",
    version: str = "v1beta1",
) -> Object:
    """Make a MultiNetworkPolicy for a comma list of net-attach-defs (empty: without the annotation)."""
    annotations = {POLICY_FOR: networks} if networks else {}
    metadata = {"name": name, "namespace": namespace, "annotations": annotations}
    kind = {"apiVersion": f"k8s.cni.cncf.io/{version}", "kind": "MultiNetworkPolicy"}
    return kind | {"metadata": metadata, "spec": dict(spec)}
