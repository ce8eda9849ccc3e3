"""What has come and gone leaves nothing: namespaces, pods, policies, attachments, files, barriers.

It counts what can be reached, so that it finds every dict that somebody forgot.
"""

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType

import pytest

from daemon.backends import ipset
from daemon.desired import make_program
from daemon.model import (
    AttachmentKey,
    Namespace,
    NetworkStatus,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.program import GateRequest, SetKind
from daemon.sources.catalog import Catalog
from daemon.sources.manifests import ManifestsSource
from daemon.store import Store
from tests.unit.policy.stored import attach, change, gone, make_store, pod, policy, status

pytestmark = pytest.mark.unit

DEADLINE = 10.0


def reachable(root: object) -> int:
    """The number of objects that an object holds on to."""
    known = {id(root)}
    todo = [root]
    while todo:
        one = todo.pop()
        # The collector is not told of keys that are texts.
        for found in (*gc.get_referents(one), *(one if isinstance(one, dict) else ())):
            if id(found) not in known and not isinstance(found, type | ModuleType | FunctionType):
                known.add(id(found))
                todo.append(found)
    return len(known)


def selecting(value: str) -> Selector:
    return Selector((Requirement("role", Operator.IN, (value,)),))


def one_namespace(store: Store, number: int) -> None:
    """A namespace with a pod, a policy and an attachment comes and goes; the pod goes last."""
    name, network = f"ns-{number}", f"ns-{number}/net1"
    key, address = AttachmentKey(f"c{number}", "net1"), number.to_bytes(4, "big")
    space = Namespace(name, {"kubernetes.io/metadata.name": name, "number": str(number)})
    statuses = (NetworkStatus(network, "net1", (address,)),)
    inside = Pod(name, "p", f"u{number}", {"role": str(number)}, statuses=statuses)
    peers = (PodPeer(selecting(str(number)), Selector()), PodPeer(None, selecting(str(number))))
    allow = Policy(name, "allow", (network,), Selector(), (Rule(peers, None),), None)
    store.apply([change(space), change(inside), change(allow)])
    store.attach(key, (name, "p"), f"u{number}", Subject(name, {}, (), (network,)), (address,))
    make_program([GateRequest("net1", number, str(key), store.ruleset(key))], store.members, True)
    store.withdraw(key)
    store.detach(key)
    store.apply([gone(allow), gone(space)])
    store.apply([gone(inside)])


def test_a_store_of_whole_namespaces() -> None:
    store = make_store(Namespace("stays", {}))
    for number in range(20):
        one_namespace(store, number)
    before = reachable(store)
    for number in range(100, 200):
        one_namespace(store, number)
    assert reachable(store) <= before


def test_a_store_that_is_held_while_policies_change() -> None:
    store = make_store(pod(), pod("q", statuses=status(b"\x0a\0\0\2")), policy())
    key = AttachmentKey("c1", "net1")
    attach(store, key)
    store.hold()

    def most(numbers: range) -> int:
        sizes = []
        for number in numbers:
            rule = Rule((PodPeer(None, selecting(str(number))),), None)
            store.apply([change(policy(rule))])
            make_program([GateRequest("net1", 7, "c1 net1", store.ruleset(key))], store.members, True)
            sizes.append(reachable(store))
        return max(sizes)

    before = most(range(200))
    assert most(range(200, 400)) <= before + 10


def test_a_catalog_of_files() -> None:
    catalog = Catalog()

    def one_file(number: int) -> None:
        text = (
            f'{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "p", "namespace": "ns-{number}"}}}}'
        )
        catalog.put_content(f"{number}.json", text.encode())
        assert len(catalog.take_changes()) == 2
        catalog.remove(f"{number}.json")
        assert len(catalog.take_changes()) == 2

    for number in range(5):
        one_file(number)
    before = reachable(catalog)
    for number in range(100, 200):
        one_file(number)
    assert reachable(catalog) <= before


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


def test_barriers_at_a_directory_that_is_not_there(tmp_path: Path) -> None:
    source = ManifestsSource(tmp_path / "absent", lambda update: None)
    source.start()
    source.request_sync(1, time.monotonic())
    before = reachable(source)
    for token in range(2, 500):
        source.request_sync(token, time.monotonic())
        source.look_up("ns", f"pod-{token}", "")
    eventually(lambda: reachable(source) <= before + 200)
    assert source.stop(DEADLINE)


class Elements(frozenset[tuple[bytes, int, int]]):
    """One that a test can watch."""


@pytest.mark.parametrize("kind", [SetKind.HOSTS, SetKind.ENDPOINTS])
def test_elements_of_an_ipset(kind: SetKind) -> None:
    elements = Elements({(b"\x0a\0\0\1", 6, 80)})
    assert ipset.entries(elements, kind, 4)
    gone_yet = weakref.ref(elements)
    del elements
    assert gone_yet() is None
