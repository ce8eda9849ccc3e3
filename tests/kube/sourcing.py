"""A KubernetesSource in this process, and what whoever takes its updates then knows.

In: where the server is. Out: a model of the objects, to be compared with what the server lists.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from daemon.model import ClusterObject, ObjectKey, Pod, Policy
from daemon.sources.base import Found, Update
from daemon.sources.kubernetes.client import Client
from daemon.sources.kubernetes.login import Login, follow_kubeconfig
from daemon.sources.kubernetes.needs import Needs
from daemon.sources.kubernetes.source import KubernetesSource
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import (
    NAMESPACES,
    NET_ATTACH_DEFS,
    POLICIES,
    Collection,
    own_pods,
    peer_pods,
)
from tests.lab.apiserver import ApiServer, kubeconfig
from tests.lab.faults import FaultProxy
from tests.lab.kubeapi import KubeApi
from tests.lab.kubedaemon import NODE
from tests.lab.polling import poll

MOST = 20_000_000
"""Bytes of policies; about as many as by default."""

BRISK: dict[str, Any] = {
    "watch": (20.0, 30.0),
    "silence": 20.0,
    "steady": 0.3,
    "first_rest": 0.05,
    "most_rest": 0.5,
    "absent_rest": 0.3,
    "linger": 0.2,
}
OWN, PEERS = own_pods(NODE), peer_pods(NODE)
Model = Mapping[ObjectKey, ClusterObject]


class Taken:
    """All updates, and the objects after each. They must come one at a time."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.model: dict[ObjectKey, ClusterObject] = {}
        self.found: list[Found] = []
        self.wrong: list[str] = []
        self.on_tokens: Callable[[tuple[int, ...]], None] = lambda tokens: None
        self._busy = threading.Lock()

    def publish(self, update: Update) -> None:
        if not self._busy.acquire(blocking=False):
            self.wrong.append("two updates at once")
            return
        try:
            self.updates.append(update)
            for change in update.changes:
                if change.object is not None:
                    self.model[change.key] = change.object
                elif self.model.pop(change.key, None) is None:
                    self.wrong.append(f"{change.key} goes, and was not there")
            self.found += update.found
            if update.tokens:
                self.on_tokens(update.tokens)
        finally:
            self._busy.release()

    @property
    def last(self) -> Update:
        return self.updates[-1] if self.updates else Update(because="nothing published")

    @property
    def tokens(self) -> list[int]:
        return [token for update in list(self.updates) for token in update.tokens]


class Sourced:
    """A source that runs, its updates, and the server that it is to follow."""

    def __init__(self, source: KubernetesSource, taken: Taken, api: KubeApi) -> None:
        self.source = source
        self.taken = taken
        self.api = api
        self._token = 0

    def wait_complete(self, timeout: float = 15.0) -> None:
        poll(lambda: self.taken.last.because, lambda _: self.taken.last.complete, timeout)

    def sync(self, timeout: float = 15.0) -> None:
        """Wait for a barrier, and see that the model then is what the server has."""
        self._token += 1
        token = self._token
        self.source.request_sync(token, math.inf)
        poll(lambda: self.taken.tokens, lambda tokens: token in tokens, timeout)
        assert_same(self.model, expected(self.api))

    def converge(self, timeout: float = 15.0) -> None:
        """Wait until the model is what the server has, and nothing is behind."""
        poll(
            lambda: differences(self.model, expected(self.api)) or self.taken.last.behind,
            lambda found: not found,
            timeout,
        )

    @property
    def model(self) -> Model:
        return dict(self.taken.model)


@contextmanager
def sourcing(
    config: Path, server: ApiServer, events: bool = False, most: int = MOST, **timing: Any
) -> Iterator[Sourced]:
    """A source by a kubeconfig. It must stop at the end, and have kept to the rules."""
    taken = Taken()
    client = Client(Login(follow_kubeconfig(config)), "multi-networkpolicyd/test (node)")
    source = KubernetesSource(client, NODE, taken.publish, Timing(**{**BRISK, **timing}), events, most)
    before = set(threading.enumerate())
    source.start()
    try:
        yield Sourced(source, taken, server.admin)
    finally:
        stopped = source.stop(5.0)
    left = [thread.name for thread in set(threading.enumerate()) - before if thread.name in _THREADS]
    assert stopped, f"these go on: {left}"
    assert taken.wrong == []


_THREADS = {"look-ups", "chores", "barriers", "events", *(one.name for one in (OWN, POLICIES, PEERS))}


def proxied_config(proxy: FaultProxy, folder: Path, **user: Any) -> Path:
    """A kubeconfig whose server is the proxy."""
    cluster = {"server": proxy.url, "certificate-authority": str(proxy.ca_file)}
    path = folder / "proxied.kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig(cluster, user)))
    return path


# --- what the server has ---------------------------------------------------------------------------------


def expected(api: KubeApi) -> dict[ObjectKey, ClusterObject]:
    """All that a source must know now; ports of other nodes' pods are left out."""
    found: dict[ObjectKey, ClusterObject] = {}
    for collection in (POLICIES, NET_ATTACH_DEFS, NAMESPACES, OWN):
        found |= listed(api, collection)
    needs = Needs()
    for key, item in found.items():
        if isinstance(item, Policy):
            needs.put(key, item)
    return {**listed(api, PEERS), **found} if needs.peers else found


def listed(api: KubeApi, collection: Collection) -> dict[ObjectKey, ClusterObject]:
    """A collection as the server has it, read by the tests' own client."""
    path = collection.versions[-1][1].lstrip("/")
    query = {"fieldSelector": collection.fields} if collection.fields else {}
    items = api.request("GET", path, **query)["items"]
    seen = [collection.decode(collection, msgspec.Raw(msgspec.json.encode(item))) for item in items]
    return {one.key: one.object for one in seen if one.object is not None}


def differences(model: Model, wanted: Model) -> list[str]:
    """In which objects they differ."""
    return [
        f"{key}: {_plain(model.get(key))} instead of {_plain(wanted.get(key))}"
        for key in sorted({*model, *wanted})
        if _plain(model.get(key)) != _plain(wanted.get(key))
    ]


def assert_same(model: Model, wanted: Model) -> None:
    found = differences(model, wanted)
    assert not found, "\n".join(found)


def _plain(found: ClusterObject | None) -> ClusterObject | None:
    return msgspec.structs.replace(found, ports=()) if isinstance(found, Pod) else found


@contextmanager
def removed_later(api: KubeApi, space: str) -> Iterator[str]:
    """A namespace for a test; no controller runs, so what is in it is deleted here."""
    try:
        yield space
    finally:
        for kind in ("Pod", "MultiNetworkPolicy", "NetworkAttachmentDefinition"):
            with contextlib.suppress(Exception):
                for item in api.list(kind, space):
                    api.delete(kind, space, item["metadata"]["name"])
