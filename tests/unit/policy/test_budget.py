"""F1, F2: what a namespace may cost, who is left out when it costs more, and that nobody else notices.

proves: F1, F2
"""

import pytest

from daemon.model import (
    AttachmentKey,
    Block,
    Change,
    CommonRules,
    ContainerPort,
    Direction,
    NetAttachDef,
    NetworkStatus,
    ObjectKey,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.budget import DEFAULT, Budget, Cost, Ledger, cost
from daemon.policy.peerset import Contribution, PeerPod, Share
from daemon.policy.peersets import PeerSets
from daemon.policy.ruleset import EndpointSet, Members, PodSet, SharedRef
from daemon.policy.selectors import EVERYTHING
from daemon.store import Store

pytestmark = pytest.mark.unit

NET = "ns/net1"
TCP, UDP, SCTP = 6, 17, 132


def selecting(*values: str) -> PodPeer:
    return PodPeer(None, Selector((Requirement("app", Operator.IN, values),)))


def lacking(*keys: str) -> PodPeer:
    return PodPeer(None, Selector(tuple(Requirement(key, Operator.DOES_NOT_EXIST) for key in keys)))


def block(*spans: tuple[int, int]) -> Block:
    return Block("blocks", 4, spans)


def ports(count: int, protocol: int = TCP) -> tuple[Port, ...]:
    return tuple(Port(protocol, (10 * n + 1, 10 * n + 5)) for n in range(count))


PEERS = tuple(selecting(f"x{n}") for n in range(8))

COSTS = [
    ("anyone, everything", Rule(None, None), Cost(1, 0)),
    ("nobody", Rule((), None), Cost(0, 0)),
    ("no port", Rule(None, ()), Cost(0, 0)),
    ("one block", Rule((block((0, 255)),), None), Cost(1, 1)),
    ("blocks are one set", Rule((block((0, 255)), block((512, 513))), None), Cost(1, 2)),
    ("a span weighs its prefixes", Rule((block((1, 2), (4, 6)),), None), Cost(1, 4)),
    ("a /12 but one address, too", Rule((block((0, 4), (6, (1 << 20) - 1)),), None), Cost(1, 20)),
    ("of IPv6 more", Rule((Block("b", 6, ((1, (1 << 112) - 1),)),), None), Cost(1, 112)),
    ("a selector weighs ten and its value", Rule((selecting("a"),), None), Cost(1, 11)),
    ("more values weigh more", Rule((selecting("a", "b", "c"),), None), Cost(1, 51)),
    ("what asks for no value weighs most", Rule((lacking("a"),), None), Cost(1, 110)),
    ("eight selectors are eight sets", Rule(PEERS, None), Cost(8, 88)),
    ("nine selectors are one", Rule((*PEERS, selecting("y")), None), Cost(1, 99)),
    ("a namespace's selector counts too", Rule((PodPeer(EVERYTHING, EVERYTHING),), None), Cost(1, 20)),
    ("ports of one protocol are one rule", Rule(None, ports(600)), Cost(1, 600)),
    ("of two they are two", Rule(None, ports(2) + ports(3, UDP)), Cost(2, 5)),
    ("of SCTP each is one", Rule(None, ports(2) + ports(3, SCTP)), Cost(4, 5)),
    ("names are one more", Rule(None, (*ports(2), Port(TCP, None, "web"))), Cost(2, 3)),
    ("peers times protocols", Rule(PEERS, ports(1) + ports(1, UDP)), Cost(16, 90)),
]


@pytest.mark.parametrize(("rule", "want"), [row[1:] for row in COSTS], ids=[row[0] for row in COSTS])
def test_cost(rule: Rule, want: Cost) -> None:
    assert cost([rule], networks=1) == want


FURTHER = [
    ("what it takes to keep a network", [], Cost(0, 4)),
    ("each rule has it", [Rule(None, None), Rule((block((2, 3)),), ports(3) + ports(1, SCTP))], Cost(3, 15)),
    ("and each selector", [Rule((*PEERS, selecting("y"), block((2, 3))), None)], Cost(2, 100 + 4 + 4 + 18)),
]


@pytest.mark.parametrize(("rules", "want"), [row[1:] for row in FURTHER], ids=[row[0] for row in FURTHER])
def test_further_networks_weigh(rules: list[Rule], want: Cost) -> None:
    assert cost(rules, networks=3) == want


def test_names_times_selectors_are_not_free() -> None:
    """1,000 names and 20,000 selectors once took 4.3 GiB."""
    rule = Rule(tuple(selecting(f"x{n}") for n in range(20_000)), None)
    assert cost([rule], networks=1).within(DEFAULT)
    assert not cost([rule], networks=1000).within(DEFAULT)
    assert cost([Rule(PEERS, None)] * 10, networks=1000).within(DEFAULT)


def policy(name: str, rules: int = 1, egress: int | None = None, namespace: str = "ns") -> Policy:
    """One that permits so many blocks to come in, each by a rule of its own, and to go out."""

    def some(count: int) -> tuple[Rule, ...]:
        return tuple(Rule((block((100 * n, 100 * n + 1)),), None) for n in range(count))

    return Policy(namespace, name, (NET,), EVERYTHING, some(rules), None if egress is None else some(egress))


def put(ledger: Ledger, *policies: Policy) -> None:
    for one in policies:
        ledger.put((one.namespace, one.name), one)


def beyond(ledger: Ledger) -> list[tuple[str, str]]:
    refs = sorted((namespace, name) for namespace, costs in ledger._costs.items() for name, _ in costs)
    return [(ref[1], str(direction)) for ref in dict.fromkeys(refs) for direction, _ in ledger.beyond(ref)]


class TestLedger:
    def test_the_bound_itself_fits_and_one_more_does_not(self) -> None:
        ledger = Ledger(Budget(rules=10, elements=1000))
        put(ledger, policy("a", 4), policy("b", 6))
        assert beyond(ledger) == []
        put(ledger, policy("b", 7))
        assert beyond(ledger) == [("b", "ingress")]
        assert ledger.fits(("ns", "a"), Direction.INGRESS)
        assert not ledger.fits(("ns", "b"), Direction.INGRESS)

    def test_elements_count_as_well(self) -> None:
        ledger = Ledger(Budget(rules=1000, elements=10))
        put(ledger, policy("a", 4), policy("b", 7))
        assert beyond(ledger) == [("b", "ingress")]

    def test_the_largest_is_left_out_whatever_came_first(self) -> None:
        for names in (("small", "middle", "large"), ("large", "middle", "small")):
            ledger = Ledger(Budget(rules=10, elements=1000))
            sizes = {"small": 2, "middle": 5, "large": 9}
            put(ledger, *(policy(name, sizes[name]) for name in names))
            assert beyond(ledger) == [("large", "ingress")]

    def test_directions_are_left_out_one_by_one(self) -> None:
        ledger = Ledger(Budget(rules=10, elements=1000))
        put(ledger, policy("a", 2, egress=9))
        assert beyond(ledger) == [("a", "egress")]

    def test_other_namespaces_do_not_notice(self) -> None:
        ledger = Ledger(Budget(rules=10, elements=1000))
        put(ledger, policy("a", 99), policy("a", 10, namespace="other"))
        assert [one for one in ("ns", "other") if [*ledger.beyond((one, "a"))]] == ["ns"]

    def test_who_else_is_concerned(self) -> None:
        ledger = Ledger(Budget(rules=10, elements=1000))
        put(ledger, policy("a", 8))
        # The smaller one has precedence, also when it comes later.
        assert ledger.put(("ns", "b"), policy("b", 5)) == {("ns", "a")}
        assert ledger.put(("ns", "b"), policy("b", 6)) == set()
        assert ledger.put(("ns", "b"), None) == {("ns", "a")}
        assert beyond(ledger) == []


KEY = AttachmentKey("c1", "net1")
REF = ("ns", "pod")


def store(budget: Budget, *policies: Policy) -> Store:
    made = Store(CommonRules(), budget)
    network = NetAttachDef("ns", "net1", "net1", True)
    made.apply([Change(ObjectKey("NetworkAttachmentDefinition", "ns", "net1"), network)])
    made.apply(Change(one.key, one) for one in policies)
    made.attach(KEY, REF, "", Subject("ns", {}, (), (NET,)), ())
    return made


class TestStore:
    def test_what_is_beyond_isolates_and_permits_nothing(self) -> None:
        found = store(Budget(10, 1000), policy("large", 11, egress=1))
        assert found.ruleset(KEY).ingress == ()
        assert len(found.ruleset(KEY).egress or ()) == 1
        (problem,) = found.problems()[policy("large").key]
        assert problem.field == "spec.ingress"
        assert "11 rules" in problem.message
        assert "namespaceRules" in problem.message

    def test_what_fits_goes_on_beside_it(self) -> None:
        found = store(Budget(10, 1000), policy("small", 2), policy("large", 11))
        assert len(found.ruleset(KEY).ingress or ()) == 2
        assert policy("small").key not in found.problems()

    def test_it_counts_again_when_there_is_room(self) -> None:
        found = store(Budget(10, 1000), policy("a", 8), policy("b", 5))
        assert len(found.ruleset(KEY).ingress or ()) == 5
        assert found.apply([Change(policy("b").key, None)]) == {KEY}
        assert len(found.ruleset(KEY).ingress or ()) == 8
        assert found.problems() == {}


def test_named_ports_that_come_to_too_much_are_reported() -> None:
    named = Policy("ns", "named", (NET,), EVERYTHING, None, (Rule(None, (Port(TCP, None, "n0"),)),))
    found = store(Budget(10, 30), named, policy("small"))
    (ref,) = found.ruleset(KEY).sets()
    assert isinstance(ref, EndpointSet)
    addresses = tuple(bytes([10, 0, 0, number]) for number in range(31))
    status = NetworkStatus(NET, "net1", addresses)
    port = ContainerPort("n0", TCP, 80)
    far = Pod("ns", "far", "uid", {}, (port,), statuses=(status,), local=False, node="other")
    found.apply([Change(ObjectKey("Pod", "ns", "far"), far)])
    assert found.members(ref) == Members()
    (problem,) = found.problems()[named.key]
    assert "named ports" in problem.message
    assert policy("small").key not in found.problems()


# --- members of peer sets --------------------------------------------------------------------------------

OTHER = AttachmentKey("c2", "net1")


def everyone(label: str) -> PodSet:
    """All pods, by a selector that is no other's."""
    lacks = Selector((Requirement(label, Operator.DOES_NOT_EXIST),))
    return PodSet((NET,), "", EVERYTHING, lacks)


def peer(number: int) -> PeerPod:
    return PeerPod("ns", {}, (), {NET: (bytes([10, 0, 0, number]),)})


def dual(number: int) -> PeerPod:
    """With an address of each family."""
    return PeerPod("ns", {}, (), {NET: (bytes([10, 0, 0, number]), bytes([0xFD, *(14 * [0]), number]))})


NAMED = EndpointSet((NET,), None, tuple((TCP, f"n{number}") for number in range(1000)))


def with_ports(ports: int, addresses: int) -> PeerPod:
    named = tuple(ContainerPort(f"n{number}", TCP, 1 + number) for number in range(ports))
    return PeerPod("ns", {}, named, {NET: tuple(bytes([10, 0, 1, number]) for number in range(addresses))})


def held(sets: PeerSets, *refs: SharedRef) -> list[int]:
    return [len(sets.members(ref).v4) for ref in refs]


A, B = everyone("a"), everyone("b")


class TestMembers:
    def test_the_bound_itself_fits_and_one_more_empties_the_largest(self) -> None:
        sets = PeerSets(6)
        sets.hold(KEY, [A, B], "ns")
        for number in (1, 2, 3):
            sets.put_pod(("ns", f"p{number}"), peer(number))
        assert held(sets, A, B) == [3, 3]
        assert sets.overflown() == {}
        assert KEY in sets.put_pod(("ns", "p4"), peer(4))
        assert sorted(held(sets, A, B)) == [0, 4]
        assert len(sets.overflown()["ns"]) == 1

    def test_a_new_set_that_is_too_large_holds_nobody(self) -> None:
        sets = PeerSets(3)
        for number in range(4):
            sets.put_pod(("ns", f"p{number}"), peer(number))
        sets.hold(KEY, [A], "ns")
        assert held(sets, A) == [0]
        assert sets.settle() == {KEY}

    def test_it_is_filled_again_when_there_is_room(self) -> None:
        sets = PeerSets(6)
        sets.hold(KEY, [A], "ns")
        sets.hold(OTHER, [B], "ns")
        for number in range(4):
            sets.put_pod(("ns", f"p{number}"), peer(number))
        (full,) = sets.overflown()["ns"]
        holder, other = (KEY, OTHER) if full == A else (OTHER, KEY)
        sets.hold(other, [], "ns")
        assert sets.settle() == {holder}
        assert held(sets, full) == [4]
        assert sets.overflown() == {}

    def test_a_set_of_two_namespaces_lives_on_in_the_other_ones_budget(self) -> None:
        sets = PeerSets(4)
        sets.hold(KEY, [A, B], "greedy")
        sets.hold(OTHER, [A], "modest")
        for number in range(4):
            sets.put_pod(("ns", f"p{number}"), peer(number))
        assert held(sets, A, B) in ([4, 4], [4, 0])
        assert "modest" not in sets.overflown()
        sets.hold(KEY, [], "greedy")
        assert held(sets, A) == [4]

    def test_an_address_is_an_element_and_a_pod_has_several(self) -> None:
        sets = PeerSets(6)
        sets.hold(KEY, [A], "ns")
        for number in (1, 2, 3):
            sets.put_pod(("ns", f"p{number}"), dual(number))
        assert len(sets.members(A).v4) + len(sets.members(A).v6) == 6
        sets.put_pod(("ns", "p4"), peer(4))
        assert sets.members(A) == Members()
        assert sets.overflown() == {"ns": {A}}

    def test_room_counts_that_pods_of_a_full_set_have_made(self) -> None:
        sets = PeerSets(6)
        sets.hold(KEY, [A], "ns")
        for number in range(5):
            sets.put_pod(("ns", f"p{number}"), dual(number))
        assert sets.members(A) == Members()
        sets.put_pod(("ns", "p0"), None)
        assert sets.members(A) == Members()
        assert sets.put_pod(("ns", "p1"), None) == {KEY}
        assert len(sets.members(A).v4) == 3
        assert sets.overflown() == {}

    def test_endpoints_are_counted_before_they_are_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is made of what there is no room for: 10,000 ports at 256 addresses."""
        made: list[int] = []
        elements = Share.elements

        def counted(share: Share) -> Contribution:
            made.append(share.size)
            return elements(share)

        monkeypatch.setattr(Share, "elements", counted)
        sets = PeerSets(1000)
        sets.hold(KEY, [NAMED], "ns")
        sets.put_pod(("ns", "near"), with_ports(10, 2))
        assert len(sets.members(NAMED).v4) == 20
        for number in range(100):
            sets.put_pod(("ns", f"far{number}"), with_ports(200, 10))
        assert sets.members(NAMED) == Members()
        assert sets.overflown() == {"ns": {NAMED}}
        assert sum(made) == 20
        for number in range(100):
            sets.put_pod(("ns", f"far{number}"), None)
        assert len(sets.members(NAMED).v4) == 20

    def test_a_pod_that_would_bring_too_many_counts_as_one_and_others_stay(self) -> None:
        sets = PeerSets(5000)
        sets.hold(KEY, [NAMED], "ns")
        sets.put_pod(("ns", "near"), with_ports(10, 2))
        for number in range(10):
            sets.put_pod(("ns", f"far{number}"), with_ports(1000, 256))
        assert len(sets.members(NAMED).v4) == 20
        assert sets.overflown() == {"ns": {NAMED}}
        for number in range(10):
            sets.put_pod(("ns", f"far{number}"), with_ports(3, 4))
        assert len(sets.members(NAMED).v4) == 26
        assert sets.overflown() == {}

    def test_who_goes_gives_back_what_it_took(self) -> None:
        sets = PeerSets(4)
        for number in range(4):
            sets.put_pod(("ns", f"p{number}"), peer(number))
        for turn in range(3):
            sets.hold(KEY, [A if turn % 2 else B], "ns")
            assert held(sets, A if turn % 2 else B) == [4]
            assert sets.overflown() == {}
