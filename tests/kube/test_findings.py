"""What an author of policies meant and did not get, as Events tell it; and not what is only not known yet.

proves: A3
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube.sourcing import removed_later
from tests.lab import Lab, objects
from tests.lab.apiserver import ApiServer
from tests.lab.faultrules import Fault, status
from tests.lab.faults import FaultProxy
from tests.lab.kubedaemon import KubeDaemon
from tests.lab.objects import Object
from tests.lab.polling import poll

# A node without a pod in the policy's namespace leaves it to others for a while.
PATIENCE = 90.0
SPEC: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress"]}
MACVLAN_ONLY = {"cniVersion": "1.0.0", "name": "net1", "plugins": [{"type": "macvlan", "master": "eth1"}]}
_numbers = itertools.count(1)


class Place:
    """A namespace of one test, with a pod of the node in it, and a daemon."""

    def __init__(self, server: ApiServer, daemon: KubeDaemon, space: str) -> None:
        self.api = server.admin
        self.daemon = daemon
        self.space = space
        self.api.apply(objects.namespace(space))
        pod = objects.pod("here", space)
        del pod["metadata"]["uid"]
        self.api.create(pod)

    def events(self, name: str, reason: str) -> list[Object]:
        return [
            event
            for event in self.api.list("Event", self.space)
            if (event["involvedObject"]["name"], event["reason"]) == (name, reason)
        ]

    def wait_event(self, name: str, reason: str) -> Object:
        return poll(lambda: self.events(name, reason), bool, PATIENCE)[0]

    def told(self, kind: str = "problems") -> list[str]:
        found = self.daemon.ctl("policies", f"{self.space}/p")
        return [each["message"] for each in found[0][kind]]


@pytest.fixture
def proxied(server: ApiServer) -> Iterator[FaultProxy]:
    with Lab() as lab, FaultProxy(lab.folder / "proxy", server.url, server.ca_file) as proxy:
        yield proxy


@pytest.fixture
def place(server: ApiServer, tmp_path: Path, proxied: FaultProxy) -> Iterator[Place]:
    config = server.kubeconfig(f"findings-{next(_numbers)}", proxied.url, proxied.ca_file)
    daemon = KubeDaemon(tmp_path / "daemon", server, config)
    space = f"find{next(_numbers)}-{id(daemon):x}"[:30]
    with removed_later(server.admin, space):
        try:
            yield Place(server, daemon, space)
        finally:
            daemon.stop()


def test_a_policy_for_a_net_attach_def_without_the_chain(place: Place) -> None:
    place.daemon.start()
    chained = objects.network("net1", place.space)
    place.api.apply(objects.network("net1", place.space, MACVLAN_ONLY))
    place.api.apply(objects.policy("p", SPEC, "net1", place.space))
    place.daemon.wait_synced()
    (message,) = place.told()
    event = place.wait_event("p", "PolicyProblem")
    assert event["type"] == "Warning"
    assert event["message"].endswith(message)
    entry = f'{{"type": "multi-networkpolicy", "netAttachDef": "{place.space}/net1"}}'
    assert f"add {entry} as the last of its plugins" in message
    place.api.apply(chained)
    place.daemon.wait_synced()
    assert place.told() == []
    poll(lambda: place.daemon.log, lambda log: f"object-problem-gone object={_quoted(place)}" in log, 10.0)


def _quoted(place: Place) -> str:
    return f'"MultiNetworkPolicy {place.space}/p"'


def test_the_author_of_a_net_attach_def_is_told_too(place: Place) -> None:
    config = {**MACVLAN_ONLY, "plugins": [*MACVLAN_ONLY["plugins"], {"type": "multi-network-policy"}]}
    place.daemon.start()
    place.api.apply(objects.network("net1", place.space, config))
    event = place.wait_event("net1", "ConfigProblem")
    assert "did you mean multi-networkpolicy?" in event["message"]


def test_a_hint_is_no_warning(place: Place) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": f"{place.space}x"}}}
    place.daemon.start()
    place.api.apply(objects.network("net1", place.space))
    place.api.apply(objects.policy("p", {**SPEC, "ingress": [{"from": [peer]}]}, "net1", place.space))
    place.daemon.wait_synced()
    assert place.told() == []
    event = place.wait_event("p", "PolicyHint")
    assert (event["type"], place.told("hints")) == ("Normal", [event["message"].partition(": ")[2]])
    assert event["message"].endswith(f"there is no namespace {place.space}x; did you mean {place.space}?")


def test_nothing_is_missing_before_all_is_listed(place: Place, proxied: FaultProxy) -> None:
    """The policies are there, the net-attach-defs are late: neither mnpctl nor the log nor an Event errs."""
    place.api.apply(objects.network("net1", place.space))
    place.api.apply(objects.policy("p", SPEC, "net1", place.space))
    late = proxied.add(Fault(answer=status(500)), plural="network-attachment-definitions")
    place.daemon.start(wait=False)
    place.daemon.wait_listening()
    poll(lambda: place.daemon.ctl("policies"), bool, 30.0)
    assert place.daemon.ctl("status")["ready"] is False
    assert place.told() == []
    # An Event that is right comes after all that an untimely one would have come with.
    place.api.apply(objects.policy("aimless", SPEC, "", place.space))
    proxied.remove(late)
    place.daemon.wait_synced(60.0)
    place.wait_event("aimless", "PolicyProblem")
    assert place.told() == []
    assert place.events("p", "PolicyProblem") == []
    assert f"object={_quoted(place)}" not in place.daemon.log
