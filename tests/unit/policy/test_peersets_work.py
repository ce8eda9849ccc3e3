"""Peer sets: what a change costs, that the rest is done in pieces, and that these end where they should.

Counted, for seconds tell of the machine. proves: F1, F2, C3, C5
"""

import random
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import TypeVar

import pytest

from daemon.model import AttachmentKey, ContainerPort, Operator, Requirement, Selector
from daemon.policy import selectors, wanting
from daemon.policy.peerset import PeerPod, PeerSet, PodRef
from daemon.policy.peersets import PeerSets
from daemon.policy.ruleset import EndpointSet, PodSet, PodUnion, SharedRef
from daemon.policy.selectors import EVERYTHING, Selectors, matches
from daemon.policy.spaces import NAME_LABEL

pytestmark = pytest.mark.unit

NET, OTHER_NET = "ns/net1", "ns/net2"
HOLDER, OTHER = AttachmentKey("c1", "net1"), AttachmentKey("c2", "net1")
A_PIECE, AT_ONCE = 64, 4 * 64

V = TypeVar("V")


def is_in(key: str, *values: str) -> Selector:
    return Selector((Requirement(key, Operator.IN, values),))


def lacks(key: str) -> Selector:
    return Selector((Requirement(key, Operator.DOES_NOT_EXIST),))


def everywhere(number: int, networks: tuple[str, ...] = (NET,)) -> PodSet:
    """All pods of a place, by a selector of namespaces that is no other's."""
    return PodSet(networks, "", lacks(f"k{number}"), is_in("place", "elsewhere"))


def make_pod(number: int, labels: Mapping[str, str] | None = None, addresses: int = 1) -> PeerPod:
    listed = tuple(bytes([10, number >> 8, number & 255, n]) for n in range(addresses))
    return PeerPod("any", labels or {"place": "elsewhere"}, (), {NET: listed})


def filled(pods: int, namespaces: int = 10) -> PeerSets:
    sets = PeerSets(10**9)
    for number in range(pods):
        sets.put_pod((f"ns{number % namespaces}", f"p{number}"), make_pod(number))
    return sets


class Reads(Mapping[str, V]):
    """A mapping that counts how often something is read of it."""

    def __init__(self, content: Mapping[str, V]) -> None:
        self._content = content
        self.count = 0

    def __getitem__(self, key: str) -> V:
        self.count += 1
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        for key in self._content:
            self.count += 1
            yield key

    def __len__(self) -> int:
        return len(self._content)


class Calls:
    """How often selectors were tried, and sets were told of a pod."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tries = self.puts = 0
        put = PeerSet.put

        def trying(selector: Selector, labels: Mapping[str, str]) -> bool:
            self.tries += 1
            return matches(selector, labels)

        def putting(*args: object) -> bool:
            self.puts += 1
            return put(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(selectors, "matches", trying)
        monkeypatch.setattr(wanting, "matches", trying)
        monkeypatch.setattr(PeerSet, "put", putting)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


class TestLooks:
    def test_a_set_more_is_not_tried_with_all_others(self, calls: Calls) -> None:
        """Each takes a try for a namespace and one for a pod: 150 such rules once took half a minute."""
        sets = filled(pods=50)
        for count in (40, 80):
            before = calls.tries
            sets.hold(HOLDER, [everywhere(n) for n in range(count)])
            while not sets.advance(HOLDER, lambda: True):
                pass
            assert calls.tries - before <= 1.1 * 40 * (10 + 50)
        assert len(sets.members(everywhere(79)).v4) == 50

    def test_what_is_held_is_looked_at_in_pieces(self, calls: Calls) -> None:
        sets = filled(pods=100)
        calls.puts = 0
        sets.hold(HOLDER, [everywhere(n) for n in range(30)])
        assert calls.puts <= AT_ONCE
        done, most = False, 0
        while not done:
            before = calls.puts
            done = sets.advance(HOLDER, lambda: True)
            most = max(most, calls.puts - before)
        assert most <= A_PIECE
        assert calls.puts == 3000
        assert {len(members.v4) for members in sets.snapshot().values()} == {100}

    def test_many_selectors_are_taken_in_pieces(self) -> None:
        sets = filled(pods=10)
        union = PodUnion((NET,), tuple(PodSet((NET,), "ns0", None, is_in("a", f"b{n}")) for n in range(2000)))
        sets.hold(HOLDER, [union])
        pieces = 1
        while not sets.advance(HOLDER, lambda: True):
            pieces += 1
        assert pieces >= 2000 / A_PIECE - 4

    def test_a_pod_that_comes_meanwhile_is_in_all(self) -> None:
        sets = filled(pods=100)
        refs = [everywhere(n) for n in range(20)]
        sets.hold(HOLDER, refs)
        sets.put_pod(("ns0", "late"), make_pod(999))
        sets.put_pod(("ns0", "p0"), None)
        assert {len(sets.members(ref).v4) for ref in refs} == {100}

    def test_labels_of_a_namespace_are_followed_in_pieces(self, calls: Calls) -> None:
        sets = filled(pods=100, namespaces=1)
        refs = [everywhere(n) for n in range(10)]
        sets.hold(HOLDER, refs)
        sets.snapshot()
        calls.puts = 0
        assert sets.put_namespace("ns0", {f"k{n}": "" for n in range(9)}) == {HOLDER}
        assert calls.puts <= AT_ONCE
        # One that goes before all is done, and one that is no more what it was.
        sets.put_pod(("ns0", "p1"), None)
        sets.put_pod(("ns0", "p2"), make_pod(2, {"place": "here"}))
        assert [len(sets.members(ref).v4) for ref in refs] == [0] * 9 + [98]
        assert sets.put_namespace("ns0", {f"k{n}": "yes" for n in range(9)}) == set()

    def test_a_large_pod_is_put_into_many_sets_in_pieces(self, calls: Calls) -> None:
        sets = filled(pods=0)
        refs = [everywhere(n) for n in range(100)]
        sets.hold(HOLDER, refs[:50])
        sets.hold(OTHER, refs[50:])
        sets.snapshot()
        assert sets.put_pod(("ns0", "large"), make_pod(1, addresses=250)) == {HOLDER, OTHER}
        assert calls.puts * 250 <= 8 * 1024 + 250
        assert {len(sets.members(ref).v4) for ref in refs} == {250}
        assert sets.put_pod(("ns0", "large"), None) == {HOLDER, OTHER}
        assert {len(sets.members(ref).v4) for ref in refs} == {0}


class TestSizes:
    @pytest.mark.parametrize("union", [False, True], ids=["sets of one", "a union"])
    def test_the_index_is_no_product_of_selectors_and_networks(self, union: bool) -> None:
        """1,000 names and 20,000 selectors, a policy of 934 KB, once took 4.3 GiB."""

        def taken(networks: tuple[str, ...]) -> int:
            parts = tuple(PodSet(networks, "ns", None, is_in("a", f"b{n}")) for n in range(300))
            refs = [PodUnion(networks, parts)] if union else parts
            sets = PeerSets(1000)
            tracemalloc.start()
            sets.hold(HOLDER, refs)
            sets.snapshot()
            size, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return size

        names = tuple(f"ns/n{n}" for n in range(600))
        more = taken(names) - taken(names[:1])
        assert more < 600 * 1000

    def test_labels_that_no_selector_names_are_not_read(self) -> None:
        sets = filled(pods=0)
        here = [PodSet((NET,), "", is_in(NAME_LABEL, "ns0", f"x{n}"), is_in("a", "b")) for n in range(200)]
        sets.hold(HOLDER, here)
        sets.snapshot()
        labels = Reads({**{f"l{n}": "" for n in range(5000)}, "a": "b"})
        sets.put_pod(("ns0", "p"), PeerPod("ns0", labels, (), {NET: (bytes(4),)}))
        assert labels.count <= 2 * 200 + 100
        assert len(sets.members(here[7]).v4) == 1

    def test_few_labels_are_read_where_many_are_named(self) -> None:
        many = Selectors()
        for number in range(5000):
            many.add(is_in(f"l{number}", "x"))
        labels = Reads({"l7": "x", "other": "y"})
        assert list(many.selecting(labels)) == [is_in("l7", "x")]
        assert labels.count <= 10

    @pytest.mark.parametrize("many", ["the pod", "the policy"])
    def test_networks_cost_what_the_fewer_are(self, many: str) -> None:
        names = tuple(f"ns/n{n}" for n in range(2000))
        networks, addresses = (names[:1], names) if many == "the pod" else (names, names[:1])
        sets = filled(pods=0)
        refs = [everywhere(n, networks) for n in range(20)]
        sets.hold(HOLDER, refs)
        listed = Reads({network: (bytes(4),) for network in addresses})
        sets.put_pod(("ns0", "p"), PeerPod("ns0", {"place": "elsewhere"}, (), listed))
        # Twice to find it, twice to weigh it; then of each set.
        assert listed.count <= 6 * len(addresses) + 10 * 20
        assert {len(sets.members(ref).v4) for ref in refs} == {1}

    def test_equal_contributions_are_one_object(self) -> None:
        sets = filled(pods=100)
        refs = [everywhere(n) for n in range(20)]
        tracemalloc.start()
        sets.hold(HOLDER, refs)
        sets.snapshot()
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size < 20 * 100 * 300


# --- the same as by looking at all -----------------------------------------------------------------------

SCOPES = (lacks("a"), lacks("b"), is_in("a", "1"), is_in(NAME_LABEL, "ns0", "ns1"), EVERYTHING)
PODS = (EVERYTHING, is_in("a", "1"), is_in("a", "1", "2"), lacks("b"), is_in("b", "1"))
NETWORKS = ((NET,), (NET, OTHER_NET), (OTHER_NET, NET), (OTHER_NET,))


class World:
    """What is put into peer sets, and what they should hold."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.sets = PeerSets(10**9)
        self.pods: dict[PodRef, PeerPod] = {}
        self.labels: dict[str, dict[str, str]] = {}
        self.held: dict[AttachmentKey, list[SharedRef]] = {}

    def part(self, networks: tuple[str, ...]) -> PodSet:
        named = self.random.random() < 0.4
        where = None if named else self.random.choice(SCOPES)
        return PodSet(networks, f"ns{self.random.randrange(3)}" if named else "", where, self.pick(PODS))

    def pick(self, choices: tuple[Selector, ...]) -> Selector:
        return self.random.choice(choices)

    def ref(self) -> SharedRef:
        networks = self.random.choice(NETWORKS)
        some = tuple({self.part(networks): None for _ in range(self.random.choice((1, 1, 2, 7)))})
        peers = some[0] if len(some) == 1 else PodUnion(networks, some)
        return EndpointSet(networks, peers, ((6, "web"),)) if self.random.random() < 0.2 else peers

    def some_labels(self) -> dict[str, str]:
        return {key: self.random.choice("12") for key in "ab" if self.random.random() < 0.5}

    def step(self) -> None:
        match self.random.randrange(5):
            case 0 | 1:
                self.put_pod()
            case 2:
                name = f"ns{self.random.randrange(3)}"
                gone = self.random.random() < 0.2
                self.labels[name] = {} if gone else self.some_labels()
                self.sets.put_namespace(name, None if gone else self.labels[name])
            case 3:
                holder = self.random.choice((HOLDER, OTHER))
                self.held[holder] = [self.ref() for _ in range(self.random.randrange(4))]
                self.sets.hold(holder, self.held[holder], "ns0")
            case 4:
                self.sets.advance(self.random.choice((HOLDER, OTHER)), lambda: True)

    def put_pod(self) -> None:
        namespace = f"ns{self.random.randrange(3)}"
        ref = (namespace, f"p{self.random.randrange(8)}")
        addresses = {
            network: (bytes([10, 0, number, self.random.randrange(20)]),)
            for number, network in enumerate((NET, OTHER_NET))
            if self.random.random() < 0.7
        }
        if not addresses or self.random.random() < 0.2:
            self.pods.pop(ref, None)
        else:
            self.pods[ref] = PeerPod(namespace, self.some_labels(), (ContainerPort("web", 6, 80),), addresses)
        self.sets.put_pod(ref, self.pods.get(ref))

    def selects(self, part: PodSet, ref: PodRef) -> bool:
        labels = {**self.labels.get(ref[0], {}), NAME_LABEL: ref[0]}
        within = part.namespace == ref[0] if part.namespaces is None else matches(part.namespaces, labels)
        return within and matches(part.pods, self.pods[ref].labels)

    def expected(self, ref: SharedRef) -> set[object]:
        scope = ref.scope if isinstance(ref, EndpointSet) else ref
        parts = scope.sets if isinstance(scope, PodUnion) else (scope,)
        found = {
            address
            for pod in self.pods
            if any(isinstance(part, PodSet) and self.selects(part, pod) for part in parts)
            for network in ref.networks
            for address in self.pods[pod].addresses.get(network, ())
        }
        return {(address, 6, 80) for address in found} if isinstance(ref, EndpointSet) else {*found}


@pytest.mark.parametrize("seed", range(40))
def test_pieces_come_to_what_all_together_do(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pieces so small that nearly all of them are pending at any time."""
    monkeypatch.setattr("daemon.policy.peersets.A_PIECE", 1)
    monkeypatch.setattr("daemon.policy.peersets._PIECES_AT_ONCE", 1)
    monkeypatch.setattr("daemon.policy.peersets._PUT_AT_ONCE", 2)
    world = World(seed)
    for _ in range(150):
        world.step()
        if world.random.random() < 0.1:
            for ref in (ref for refs in world.held.values() for ref in refs):
                assert {*world.sets.members(ref).v4} == world.expected(ref)
    for holder, refs in world.held.items():
        while not world.sets.advance(holder, lambda: True):
            pass
        for ref in refs:
            assert {*world.sets.members(ref).v4} == world.expected(ref)
        world.sets.hold(holder, [])
    assert len(world.sets) == 0
    kept = (world.sets._looks, world.sets._again, world.sets._paid, world.sets._spent)
    assert not any((*kept, world.sets._wanting._groups, world.sets._wanting._parts))
