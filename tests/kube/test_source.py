"""The source on a real API server, and through a proxy that breaks what can break: it always ends up right.

proves: A4, A11
"""

import itertools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from daemon.model import ContainerPort, ObjectKey, Pod
from daemon.sources.kubernetes import departures
from tests.kube.sourcing import PEERS, proxied_config, removed_later, sourcing
from tests.lab import objects
from tests.lab.apiserver import ApiServer
from tests.lab.faults import Answer, Fault, FaultProxy, Rule, error_event, status
from tests.lab.kubeapi import KubeApi
from tests.lab.objects import Object
from tests.lab.polling import poll

_numbers = itertools.count(1)
ELSEWHERE = "elsewhere"


@dataclass
class Place:
    """A namespace of one test, and changes of all kinds in it."""

    api: KubeApi
    space: str
    versions: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def pod(self, name: str, node: str = "node", address: str = "10.1.0.1", **more: Any) -> Object:
        made = objects.pod(
            name, self.space, status=[objects.status_entry(f"{self.space}/net1", "net1", [address])], **more
        )
        made["spec"]["nodeName"] = node
        return made

    def policy(self, name: str, port: int, selects: bool = False, named: str = "") -> Object:
        peers = [{"podSelector": {}}] if selects else [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
        rule = {"from": peers, "ports": [{"port": port, "protocol": "TCP"}]}
        spec: dict[str, Any] = {"podSelector": {}, "ingress": [rule]}
        if named:
            spec["egress"] = [{"to": peers, "ports": [{"port": named, "protocol": "TCP"}]}]
        return objects.policy(name, spec, "net1", self.space)

    def fill(self) -> None:
        """One or two objects of each kind."""
        self.api.apply(objects.namespace(self.space, {"n": "0"}))
        self.api.apply(objects.network("net1", self.space))
        for name in ("a", "b"):
            self.api.apply(self.pod(name))
            self.api.apply(self.pod(f"{name}-far", ELSEWHERE))
        self.api.apply(self.policy("p", 80, selects=True))
        self.api.apply(self.policy("q", 81))

    def change(self) -> None:
        """Something of each kind is created, edited and deleted."""
        number = self.change_others()
        self.api.apply(self.policy("p", 1000 + number, selects=True))
        self.api.apply(self.policy(f"p{number}", number))
        self.api.delete("MultiNetworkPolicy", self.space, f"p{number - 2}")

    def change_others(self) -> int:
        """The same without policies; the number of the change."""
        number = next(self.versions)
        labels = {"metadata": {"labels": {"n": str(number)}}}
        self.api.patch("Namespace", "", self.space, labels)
        self.api.patch("Pod", self.space, "a", labels)
        self.api.patch("Pod", self.space, "a-far", labels)
        self.api.apply(self.pod(f"far{number}", ELSEWHERE, f"10.2.0.{number}"))
        self.api.delete("Pod", self.space, f"far{number - 2}")
        config = objects.conflist(f"c{number}", "net1")
        self.api.apply(objects.network("net1", self.space, config))
        return number


@pytest.fixture
def place(server: ApiServer) -> Iterator[Place]:
    made = Place(server.admin, f"src{next(_numbers)}-{id(object()):x}"[:30])
    made.fill()
    with removed_later(server.admin, made.space):
        yield made


@pytest.fixture
def proxied(server: ApiServer, proxy: FaultProxy, tmp_path: Path) -> Path:
    return proxied_config(proxy, tmp_path, token=server.account_token())


# --- what there is ---------------------------------------------------------------------------------------


def test_it_follows_the_server(server: ApiServer, place: Place) -> None:
    with sourcing(server.kubeconfig("follows"), server) as sourced:
        sourced.wait_complete()
        sourced.sync()
        for _ in range(4):
            place.change()
            sourced.sync()
        # Peers go with the last policy that needs them, after a while, and come back.
        far = ObjectKey("Pod", place.space, "a-far")
        assert far in sourced.model
        others = [
            item
            for item in place.api.list("MultiNetworkPolicy")
            if "podSelector" in str(item["spec"]["ingress"])
        ]
        assert [item["metadata"]["namespace"] for item in others] == [place.space]
        place.api.apply(place.policy("p", 82))
        poll(lambda: far in sourced.model, lambda known: not known)
        sourced.sync()
        assert sourced.taken.last.peers_listed
        place.api.apply(place.policy("p", 83, selects=True))
        sourced.sync()
        assert far in sourced.model
        cost = sourced.source.cost()
        assert cost["watches"] == 5
        assert cost["bytesAtStart"] > 0


def test_an_edit_in_two_steps_forgets_no_peer(server: ApiServer, place: Place) -> None:
    """While no policy needs them for a moment, what becomes of peers is followed all the same."""
    with sourcing(server.kubeconfig("linger"), server, linger=60.0) as sourced:
        sourced.wait_complete()
        sourced.sync()
        watches = sourced.source.cost()["requests"]["WATCH"]
        place.api.apply(place.policy("p", 82))
        poll(lambda: sourced.model, lambda model: "PodPeer" not in str(model))
        place.api.delete("Pod", place.space, "b-far")
        place.api.apply(place.pod("new-far", ELSEWHERE))
        place.api.patch("Pod", place.space, "a-far", {"metadata": {"labels": {"late": "yes"}}})
        place.api.apply(place.policy("p", 83, selects=True))
        sourced.sync()
        assert sourced.source.cost()["requests"]["WATCH"] == watches


def test_container_ports_of_other_nodes_pods(server: ApiServer, place: Place) -> None:
    place.api.apply(place.pod("web-far", ELSEWHERE, ports=[{"name": "web", "containerPort": 8080}]))
    with sourcing(server.kubeconfig("ports"), server) as sourced:
        sourced.wait_complete()
        sourced.sync()
        far = ObjectKey("Pod", place.space, "web-far")
        found = sourced.model[far]
        assert isinstance(found, Pod)
        assert found.ports == ()
        place.api.apply(place.policy("p", 80, selects=True, named="web"))
        sourced.sync()
        found = sourced.model[far]
        assert isinstance(found, Pod)
        assert found.ports == (ContainerPort("web", 6, 8080),)


def test_look_ups(server: ApiServer, place: Place, proxy: FaultProxy, proxied: Path) -> None:
    held = proxy.add(Fault(hold=True), plural="pods", watch=True)
    place.api.apply(
        objects.pod("unbound", place.space) | {"spec": {"containers": [{"name": "c", "image": "i"}]}}
    )
    with sourcing(proxied, server) as sourced:
        for name in ("a", "a-far", "unbound", "nobody"):
            sourced.source.look_up(place.space, name, "")
        found = {one.name: one for one in poll(lambda: sourced.taken.found, lambda found: len(found) == 4)}
        assert found["a"].pod == msgspec.structs.replace(
            found["a"].pod or Pod("", "", "", {}), namespace=place.space, name="a"
        )
        assert found["a-far"].message == "is on node elsewhere, and this daemon is node: check --node-name"
        assert "is not scheduled to a node" in found["unbound"].message
        assert found["nobody"].message == "the API server has no pod of that name"
        with proxy.fault(Fault(answer=status(403)), method="GET", plural="a"):
            sourced.source.look_up(place.space, "a", "")
            answer = poll(lambda: sourced.taken.found, lambda found: len(found) == 5)[-1]
            assert "get on pods is not granted; conf/rbac.yaml grants it" in answer.message
        # Once the watch has it nobody is asked.
        proxy.remove(held)
        proxy.break_connections()
        sourced.converge()
        proxy.forget_requests()
        sourced.source.look_up(place.space, "a", "")
        sourced.source.look_up(place.space, "nobody", "")
        poll(lambda: sourced.taken.found, lambda found: len(found) == 6)
        assert [asked.plural for asked in proxy.requests(watch=False)] == ["nobody"]
        # Of another UID it is not the one that is meant: what the server has now is asked for.
        sourced.source.look_up(place.space, "a", "another")
        poll(lambda: sourced.taken.found, lambda found: len(found) == 7)
        assert [asked.plural for asked in proxy.requests(watch=False)] == ["nobody", "a"]


def test_many_look_ups_at_once_do_not_wait_for_each_other(
    server: ApiServer, place: Place, proxy: FaultProxy, proxied: Path
) -> None:
    """A node that starts has many ADDs at once; each waits a moment for the watch, but the same moment."""
    proxy.add(Fault(hold=True), plural="pods", watch=True)
    with sourcing(proxied, server) as sourced:
        for _ in range(40):
            sourced.source.look_up(place.space, "a", "")
        poll(lambda: len(sourced.taken.found), lambda count: count == 40, 4.0)


# --- what can break --------------------------------------------------------------------------------------

ALL: dict[str, Any] = {"path": "/"}
RESUMED: dict[str, Any] = {"watch": True, "query": {"resourceVersion": None}}
NO_JSON = Answer(200, b"<html>a captive portal</html>", {"Content-Type": "text/html"})
Faults = Callable[[FaultProxy], list[Rule]]


def one(fault: Fault, **match: Any) -> Faults:
    return lambda proxy: [proxy.add(fault, **match)]


TROUBLES: dict[str, Faults] = {
    "429": one(Fault(answer=status(429, Retry_After="1")), **ALL, times=6),
    "503": one(Fault(answer=status(503)), **ALL, times=12),
    "500": one(Fault(answer=status(500)), **ALL, times=25),
    "401": one(Fault(answer=status(401)), **ALL, times=12),
    "403": one(Fault(answer=status(403)), **ALL, times=12),
    "404 of everything": one(Fault(answer=status(404)), **ALL, times=12),
    "no JSON": one(Fault(answer=NO_JSON), **ALL, times=12),
    "an empty object": one(Fault(answer=Answer(200, b"{}")), **ALL, times=12),
    "no streaming lists, 400": one(Fault(answer=status(400)), query={"sendInitialEvents": "true"}),
    "no streaming lists, 422": one(Fault(answer=status(422)), query={"sendInitialEvents": "true"}),
    "no selector for host networks": one(Fault(answer=status(400)), query={"fieldSelector": PEERS.fields}),
    "410 as a status": one(Fault(answer=status(410)), **RESUMED, times=5),
    "410 in the middle of a list": one(Fault(answer=status(410)), query={"continue": None}, times=2),
    "410 as an event": one(Fault(after=4, insert=error_event(), end="stream"), watch=True, times=8),
    "410 again and again": one(Fault(insert=error_event(), end="stream"), **RESUMED, times=20),
    "500 as an event": one(Fault(after=2, insert=error_event(500, ""), end="stream"), watch=True, times=12),
    "closed without an answer": one(Fault(close=True), **ALL, times=12),
    "closed after some events": one(Fault(after=3, end="close"), watch=True, times=12),
    "ended after some events": one(Fault(after=3, end="stream"), watch=True, times=12),
    "broken within a line": one(Fault(after=2, end="line"), watch=True, times=12),
    "a line that is no JSON": one(Fault(after=2, insert=b'{"type":"ADDED"\n'), watch=True, times=12),
    "silence": one(Fault(after=2, end="hold"), watch=True, times=6),
    "no answer": one(Fault(hold=True), watch=True, times=5),
    "no bookmarks": one(Fault(no_bookmarks=True), **RESUMED),
    "old events": one(Fault(replay=True), **RESUMED),
    "slow": one(Fault(delay=0.15), **ALL),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_it_converges(
    trouble: str,
    server: ApiServer,
    place: Place,
    proxy: FaultProxy,
    proxied: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the first list on, and once more when all watches are broken off."""
    monkeypatch.setattr(departures, "REINSTALLED_SECONDS", 0.5)
    rules = TROUBLES[trouble](proxy)
    silence = 1.0 if trouble in ("silence", "no answer") else 20.0
    with sourcing(proxied, server, silence=silence, watch=(2.0, 4.0)) as sourced:
        for _ in range(2):
            place.change()
            sourced.wait_complete()
            place.change()
            sourced.converge()
            for rule in rules:
                rule.hits = 0
            proxy.break_connections()
        place.change()
        sourced.sync()
        poll(lambda: sourced.taken.last.problems, lambda problems: not problems)
        # No trouble makes it ask in a loop.
        assert len(proxy.requests()) < 400


def test_nobody_listens_for_a_while(
    server: ApiServer, place: Place, proxy: FaultProxy, proxied: Path
) -> None:
    proxy.refuse()
    with sourcing(proxied, server) as sourced:
        poll(lambda: sourced.taken.last.because, lambda because: because.count("Connection refused") == 4)
        proxy.listen()
        sourced.wait_complete()
        sourced.sync()
        for _ in range(2):
            proxy.refuse()
            place.change()
            poll(lambda: sourced.taken.last.problems, lambda problems: len(problems) == 5)
            assert not sourced.taken.last.behind, "broken watches go on where they were"
            proxy.forget_requests()
            proxy.listen()
            sourced.sync()
            assert proxy.requests(query={"sendInitialEvents": None}) == []


def test_more_objects_than_a_page_holds(
    server: ApiServer, place: Place, proxy: FaultProxy, proxied: Path
) -> None:
    count = 510
    path = f"apis/k8s.cni.cncf.io/v1/namespaces/{place.space}/network-attachment-definitions"
    with ThreadPoolExecutor(4) as pool:
        made = [objects.network(f"many{number}", place.space) for number in range(count)]
        list(pool.map(lambda raw: server.admin.request("POST", path, raw), made))
    proxy.add(Fault(answer=status(422)), query={"sendInitialEvents": "true"})
    proxy.add(Fault(answer=status(410)), query={"continue": None}, times=1)
    try:
        with sourcing(proxied, server) as sourced:
            sourced.wait_complete()
            sourced.sync()
            # One in vain; pages of 50, 100, 200 and the rest after one of 25; the second one of a barrier.
            assert len(proxy.requests(query={"continue": None})) == 6
            assert sum(1 for key in sourced.model if key.name.startswith("many")) == count
            server.admin.request("DELETE", path)
            sourced.sync()
    finally:
        server.admin.request("DELETE", path)


def test_it_stops_at_once_while_nothing_answers(server: ApiServer, proxy: FaultProxy, proxied: Path) -> None:
    proxy.add(Fault(hold=True), **ALL)
    with sourcing(proxied, server) as sourced:
        sourced.source.request_sync(1, math.inf)
        sourced.source.look_up("default", "a", "")
        poll(lambda: len(proxy.requests()), lambda count: count >= 5)
