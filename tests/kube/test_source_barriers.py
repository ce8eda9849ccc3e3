"""Barriers of the source: answered only when the model holds what the server held at the call, or newer.

proves: A4
"""

import math
import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon.model import NetAttachDef, ObjectKey, Pod, Policy
from daemon.sources.kubernetes import departures
from tests.kube.sourcing import PEERS, Model, Sourced, proxied_config, removed_later, sourcing
from tests.kube.test_source import Place
from tests.lab import objects
from tests.lab.apiserver import ApiServer
from tests.lab.faults import Fault, FaultProxy, status
from tests.lab.kubeapi import KubeApi
from tests.lab.polling import poll

SECONDS = 6.0


@dataclass
class Writer:
    """Writes one object again and again, each time with another number; every fourth time it is deleted.

    began, done: the last number that it has begun to write, and that the server has acknowledged.
    """

    api: KubeApi
    place: Place
    key: ObjectKey
    began: int = 0
    done: int = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.over.is_set():
            self.began += 1
            self._write(self.began)
            self.done = self.began
            self.over.wait(random.uniform(0.0, 0.02))

    def allows(self, model: Model, done: int) -> bool:
        """Whether the model has a state of no earlier than `done`."""
        found = model.get(self.key)
        if found is None:
            return done == 0 or any(number % 4 == 0 for number in range(done, self.began + 1))
        return self._number(found) >= done

    def _write(self, number: int) -> None:
        kind, space, name = self.key.kind, self.key.namespace, self.key.name
        if number % 4 == 0:
            self.api.delete(kind, space, name)
        elif kind == "MultiNetworkPolicy":
            self.api.apply(self.place.policy(name, number, selects=name == "w1"))
        elif kind == "NetworkAttachmentDefinition":
            self.api.apply(objects.network(name, space, objects.conflist(f"c{number}", "net1")))
        elif number % 4 == 1:
            node = "elsewhere" if name.endswith("far") else "node"
            self.api.create(self.place.pod(name, node, labels={"n": str(number)}))
        else:
            self.api.patch(kind, space, name, {"metadata": {"labels": {"n": str(number)}}})

    @staticmethod
    def _number(found: object) -> int:
        if isinstance(found, Pod):
            return int(found.labels["n"])
        if isinstance(found, NetAttachDef):
            return int(found.config_name[1:])
        assert isinstance(found, Policy)
        (rule,) = found.ingress or ()
        (port,) = rule.ports or ()
        assert port.span is not None
        return port.span[0]


@pytest.fixture
def place(server: ApiServer) -> Iterator[Place]:
    made = Place(server.admin, f"barrier-{id(object()):x}"[:30])
    made.fill()
    with removed_later(server.admin, made.space):
        yield made


@pytest.fixture
def sourced(server: ApiServer, place: Place, proxy: FaultProxy, tmp_path: Path) -> Iterator[Sourced]:
    with sourcing(proxied_config(proxy, tmp_path, token=server.account_token()), server) as made:
        made.wait_complete()
        made.sync()
        yield made


def test_barriers_among_writers(
    server: ApiServer, place: Place, proxy: FaultProxy, sourced: Sourced, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six objects are written all the time, and now and then all connections break."""
    monkeypatch.setattr(departures, "DELETION_SECONDS", 0.05)
    names = [("MultiNetworkPolicy", "w1"), ("MultiNetworkPolicy", "w2"), ("Pod", "w"), ("Pod", "w-far")]
    names += [("Pod", "v-far"), ("NetworkAttachmentDefinition", "w")]
    writers = [Writer(server.admin, place, ObjectKey(kind, place.space, name)) for kind, name in names]
    asked: dict[int, list[int]] = {}
    late: list[str] = []

    def on_tokens(tokens: tuple[int, ...]) -> None:
        for token in asked.keys() & set(tokens):
            for writer, done in zip(writers, asked[token], strict=True):
                if not writer.allows(sourced.taken.model, done):
                    found = sourced.taken.model.get(writer.key)
                    late.append(f"{token}: {writer.key} is {found}, at the call {done} was done")

    sourced.taken.on_tokens = on_tokens
    threads = [threading.Thread(target=writer.run) for writer in writers]
    for thread in threads:
        thread.start()
    began, token = time.monotonic(), 1000
    while time.monotonic() - began < SECONDS:
        token += 1
        asked[token] = [writer.done for writer in writers]
        sourced.source.request_sync(token, math.inf)
        threading.Event().wait(random.uniform(0.0, 0.1))
        if token % 25 == 0:
            proxy.break_connections()
    for writer, thread in zip(writers, threads, strict=True):
        writer.over.set()
        thread.join()
    poll(lambda: set(asked) - set(sourced.taken.tokens), lambda open_ones: not open_ones)
    assert late == []
    # The writers never rest, and yet barriers do not wait for them to.
    assert len(sourced.taken.tokens) == len(asked) + 1
    rounds = [update for update in sourced.taken.updates if update.tokens]
    assert len(rounds) > 2
    sourced.sync()


def test_a_barrier_waits_for_a_watch_that_is_held(proxy: FaultProxy, place: Place, sourced: Sourced) -> None:
    rule = proxy.add(Fault(hold=True), plural="multi-networkpolicies", watch=True)
    proxy.break_connections()
    place.api.apply(place.policy("p", 4242, selects=True))
    sourced.source.request_sync(77, math.inf)
    poll(lambda: proxy.requests(plural="multi-networkpolicies", watch=False), bool)
    place.change()
    threading.Event().wait(0.3)
    assert 77 not in sourced.taken.tokens
    proxy.remove(rule)
    proxy.break_connections()
    poll(lambda: sourced.taken.tokens, lambda tokens: 77 in tokens)


def test_all_that_wait_share_a_round(proxy: FaultProxy, sourced: Sourced) -> None:
    proxy.forget_requests()
    with proxy.fault(Fault(delay=0.2), watch=False):
        for token in range(100, 200):
            sourced.source.request_sync(token, math.inf)
        poll(lambda: sourced.taken.tokens, lambda tokens: set(range(100, 200)) <= set(tokens))
    # One round for the first, or the first few, and one for the others; each lists five collections.
    assert len(proxy.requests(watch=False)) <= 15


def test_a_server_that_does_not_know_the_selector(
    server: ApiServer, place: Place, proxy: FaultProxy, tmp_path: Path
) -> None:
    """Before 1.28: what is listed for a barrier is what is watched."""
    proxy.add(Fault(answer=status(400)), query={"fieldSelector": PEERS.fields})
    with sourcing(proxied_config(proxy, tmp_path, token=server.account_token()), server) as sourced:
        sourced.wait_complete()
        sourced.sync()
        assert ObjectKey("Pod", place.space, "a-far") in sourced.model


@pytest.mark.parametrize("code", [403, 429])
def test_a_barrier_waits_until_it_is_allowed(code: int, proxy: FaultProxy, sourced: Sourced) -> None:
    with proxy.fault(Fault(answer=status(code, Retry_After="1")), plural="namespaces", watch=False) as rule:
        sourced.source.request_sync(77, math.inf)
        poll(lambda: rule.hits, lambda hits: hits >= 2)
        assert 77 not in sourced.taken.tokens
    poll(lambda: sourced.taken.tokens, lambda tokens: 77 in tokens)
