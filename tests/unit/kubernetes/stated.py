"""A ClusterState without a server: what reflectors would tell it, and all that it publishes."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.model import Change, ClusterObject, ObjectKey
from daemon.sources.base import Update
from daemon.sources.kubernetes.sink import LIVE, Callbacks, Standing
from daemon.sources.kubernetes.state import ClusterState
from daemon.sources.kubernetes.watched import (
    NAMESPACES,
    NET_ATTACH_DEFS,
    POLICIES,
    Collection,
    Seen,
    own_pods,
    peer_pods,
)
from tests.lab import objects

OWN, PEERS = own_pods("n"), peer_pods("n")
ALWAYS = (OWN, POLICIES, NET_ATTACH_DEFS, NAMESPACES)
NET = "default/net1"

LOST = Standing(False, True, False, "the history is gone")
BROKEN = Standing(False, False, False, "connection refused")
FORBIDDEN = Standing(False, False, True, "watch is not granted")
MISSING = Standing(False, True, True, "its CustomResourceDefinition is not installed", absent=True)

ANYONE: dict[str, Any] = {"podSelector": {}, "ingress": [{}]}
SELECTING: dict[str, Any] = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]}
NAMED: dict[str, Any] = {
    "podSelector": {},
    "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "web", "protocol": "TCP"}]}],
}


class Told:
    """A state whose updates are kept. model: the objects as whoever takes the updates has them."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.model: dict[ObjectKey, ClusterObject] = {}
        self.calls: list[str] = []
        self.state = ClusterState(
            ALWAYS,
            PEERS,
            Callbacks(
                self._publish,
                lambda: self.calls.append(f"needs {self.state.needs_peers}"),
                lambda: self.calls.append("answered"),
                lambda: self.calls.append("history"),
            ),
        )

    def _publish(self, update: Update) -> None:
        self.updates.append(update)
        for change in update.changes:
            if change.object is None:
                # Nothing goes that was not there.
                del self.model[change.key]
            else:
                self.model[change.key] = change.object

    @property
    def last(self) -> Update:
        return self.updates[-1]

    @property
    def names(self) -> list[str]:
        """What the model holds, without namespaces."""
        return sorted(key.name for key in self.model if key.kind != "Namespace")

    def listed(self, collection: Collection, *seen: Seen) -> None:
        self.state.listed(collection, seen)

    def put(self, collection: Collection, *seen: Seen) -> None:
        self.state.changed(collection, [(False, one) for one in seen])

    def delete(self, collection: Collection, *seen: Seen) -> None:
        self.state.changed(collection, [(True, one) for one in seen])

    def complete(self) -> "Told":
        """Everything listed and empty but the default namespace, and discovery finds the kind in order."""
        for collection in ALWAYS:
            self.listed(collection, *([space("default")] if collection is NAMESPACES else []))
        self.state.resolve_leaving(False, (), 0.0)
        return self

    def changes_since(self, count: int) -> list[Change]:
        return [change for update in self.updates[count:] for change in update.changes]


def decode(collection: Collection, raw: Mapping[str, Any], version: int, uid: str = "") -> Seen:
    metadata = {
        **raw["metadata"],
        "resourceVersion": str(version),
        "uid": uid or f"u-{raw['metadata']['name']}",
    }
    return collection.decode(collection, msgspec.Raw(json.dumps({**raw, "metadata": metadata}).encode()))


def space(name: str, version: int = 1) -> Seen:
    return decode(NAMESPACES, objects.namespace(name), version)


def policy(
    name: str, spec: Mapping[str, Any] = ANYONE, version: int = 1, uid: str = "", namespace: str = "default"
) -> Seen:
    return decode(POLICIES, objects.policy(name, spec, namespace=namespace), version, uid)


def bad_policy(name: str, version: int = 1) -> Seen:
    """One that can't be decoded."""
    found = decode(POLICIES, {**objects.policy(name, {}), "spec": 7}, version)
    assert found.problem is not None
    return found


def pod(
    name: str,
    version: int = 1,
    uid: str = "",
    collection: Collection = PEERS,
    address: str = "10.1.0.1",
    ports: int = 0,
) -> Seen:
    status = [objects.status_entry(NET, "net1", [address])] if address else []
    named = [{"name": "web", "containerPort": ports}] if ports else []
    return decode(collection, objects.pod(name, status=status, ports=named), version, uid)


def live(told: Told, collection: Collection) -> None:
    told.state.stands(collection, LIVE)
