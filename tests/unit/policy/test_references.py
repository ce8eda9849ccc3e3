"""What is reported of the net-attach-defs and namespaces that policies name: also when those come later.

proves: A3
"""

import time
from collections.abc import Iterable

import msgspec
import pytest

from daemon.model import (
    ClusterObject,
    Namespace,
    NetAttachDef,
    Operator,
    PodPeer,
    Policy,
    Problem,
    Requirement,
    Rule,
    Selector,
)
from daemon.policy.references import MAX_TOLD, POLICY_FOR, References
from daemon.store import Store
from tests.unit.policy.stored import KEY, NET1, NET2, attach, change, gone, make_store, pod, policy

FAULT = "it does not chain us; add us"
NAME = "kubernetes.io/metadata.name"
SPACE = Namespace("ns", {NAME: "ns"})


def network(name: str = "net1", space: str = "ns", fault: str = "") -> NetAttachDef:
    return NetAttachDef(space, name, name, not fault, fault=fault)


def told(store: Store, one: Policy | None = None, hints: bool = False) -> list[str]:
    found = store.problems().get((one or policy()).key, ())
    return [problem.message for problem in found if problem.hint is hints]


def unknown(name: str, hint: str) -> str:
    return f"net-attach-def {name} does not exist{hint}"


# --- net-attach-defs -------------------------------------------------------------------------------------


def test_one_that_does_not_chain_us_is_named_with_its_fault() -> None:
    store = make_store(SPACE, policy(), network(fault=FAULT))
    assert store.problems() == {policy().key: (Problem(POLICY_FOR, f"net-attach-def {NET1}: {FAULT}"),)}


def test_of_several_only_those_at_fault_are_named() -> None:
    both = policy(networks=(NET1, NET2))
    store = make_store(SPACE, both, network("net1"), network("net2", fault=FAULT))
    assert told(store) == [f"net-attach-def {NET2}: {FAULT}"]


def test_findings_come_and_go_with_each_edit_and_change_nothing_else() -> None:
    store = make_store(SPACE, policy(), pod())
    attach(store)
    rules = store.ruleset(KEY)
    assert told(store) == [unknown(NET1, "; create it or correct the name")]
    for definition, wanted in [(network(), []), (network(fault=FAULT), [FAULT]), (network(), [])]:
        assert store.apply([change(definition)]) == set()
        assert [text.partition(": ")[2] for text in told(store)] == wanted
    store.apply([gone(network())])
    assert len(told(store)) == 1
    assert store.ruleset(KEY) is rules
    store.apply([gone(policy())])
    assert store.problems() == {}


ORDERS = [(0, 1, 2), (2, 1, 0), (1, 0, 2)]


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_in_which_objects_come_means_nothing(order: Iterable[int]) -> None:
    objects: list[ClusterObject] = [SPACE, policy(), network(fault=FAULT)]
    assert told(make_store(*[objects[index] for index in order])) == [f"net-attach-def {NET1}: {FAULT}"]


def test_what_is_not_there_yet_is_not_missing_before_all_is_listed() -> None:
    odd = Problem("spec", "odd")
    store = make_store(msgspec.structs.replace(policy(), problems=(odd,)))
    assert store.faults.own() == {"ns": {policy().key: (odd,)}}
    assert len(store.problems()[policy().key]) == 2


# What policy-for names, which net-attach-defs there are, and how the words about it end.
ALIKE = [
    ("ns/front", ["default/front"], "; did you mean default/front?"),
    ("ns/front", ["default/front", "shop/front"], "; did you mean default/front or shop/front?"),
    (
        "ns/front",
        [f"s{n}/front" for n in range(9)],
        "; did you mean s0/front or s1/front or s2/front (or one of 6 more)?",
    ),
    ("ns/frnt", ["ns/front"], "; did you mean ns/front?"),
    ("ns/fr-ont", ["ns/front", "default/fr-ont"], "; did you mean default/fr-ont?"),
    ("ns/frnt", ["default/front"], "; create it or correct the name"),
    ("ns/net-b", ["ns/net-a"], "; create it or correct the name"),
    ("shopp/front", ["shop/front"], ", nor does the namespace shopp; did you mean shop/front?"),
    ("shop/frnt", ["shop/front"], ", nor does the namespace shop; did you mean shop/front?"),
    ("prod/lan", ["shop/wan"], ", nor does the namespace prod; create it or correct the name"),
    ("ns/front", [], "; create it or correct the name"),
]


@pytest.mark.parametrize(("named", "known", "hint"), ALIKE)
def test_an_unknown_one_is_told_with_what_was_meant(named: str, known: list[str], hint: str) -> None:
    definitions = [network(*reversed(each.split("/"))) for each in known]
    store = make_store(SPACE, policy(networks=(named,)), *definitions)
    assert told(store) == [unknown(named, hint)]


def test_what_was_meant_follows_what_there_is() -> None:
    store = make_store(SPACE, policy(networks=("ns/front",)))
    store.problems()
    for there, hint in [(True, "; did you mean default/front?"), (False, "; create it or correct the name")]:
        one = network("front", "default")
        store.apply([change(one) if there else gone(one)])
        assert told(store) == [unknown("ns/front", hint)]


def test_many_are_counted() -> None:
    names = tuple(f"ns/lan-{chr(97 + n)}" for n in range(MAX_TOLD + 3))
    found = told(make_store(SPACE, policy(networks=names)))
    assert len(found) == MAX_TOLD + 1
    assert found[-1].startswith("3 more")


# --- namespaces ------------------------------------------------------------------------------------------


def asks(*requirements: Requirement) -> Selector:
    return Selector(requirements)


def named(*names: str, operator: Operator = Operator.IN) -> Selector:
    return asks(Requirement(NAME, operator, names))


def allows(*peers: PodPeer, egress: bool = False) -> Policy:
    rules = (Rule(peers, None),)
    return msgspec.structs.replace(
        policy(), ingress=() if egress else rules, egress=rules if egress else None
    )


EVERYONE = Selector()


@pytest.mark.parametrize("egress", [False, True])
def test_a_namespace_that_does_not_exist_is_a_hint(egress: bool) -> None:
    one = allows(PodPeer(named("monitorng"), EVERYONE), egress=egress)
    store = make_store(SPACE, Namespace("monitoring", {}), network(), one)
    (problem,) = store.problems()[one.key]
    field = "spec.egress[0].to[0]" if egress else "spec.ingress[0].from[0]"
    message = "there is no namespace monitorng; did you mean monitoring?"
    assert problem == Problem(f"{field}.namespaceSelector", message, hint=True)
    store.apply([change(Namespace("monitorng", {}))])
    assert store.problems() == {}
    store.apply([gone(Namespace("monitorng", {}))])
    assert told(store, hints=True) == [message]


QUIET = [
    allows(PodPeer(named("ns"), EVERYONE)),
    allows(PodPeer(named("nowhere", operator=Operator.NOT_IN), EVERYONE)),
    allows(PodPeer(asks(Requirement("team", Operator.IN, ("nowhere",))), EVERYONE)),
    allows(PodPeer(None, asks(Requirement("no", Operator.EXISTS)))),
    policy(no="pod"),
]


@pytest.mark.parametrize("one", QUIET)
def test_what_selects_nothing_otherwise_is_no_hint(one: Policy) -> None:
    """C4"""
    assert make_store(SPACE, network(), one).problems() == {}


def test_one_of_several_that_does_not_exist() -> None:
    one = allows(PodPeer(named("ns", "zone"), EVERYONE), PodPeer(named("zone"), EVERYONE))
    assert told(make_store(SPACE, network(), one), hints=True) == ["there is no namespace zone"]


def test_pods_that_are_asked_for_a_label_of_namespaces() -> None:
    subject = msgspec.structs.replace(policy(), pod_selector=named("ns"))
    for one, field in [
        (allows(PodPeer(None, named("ns"))), "spec.ingress[0].from[0].podSelector"),
        (subject, "spec.podSelector"),
    ]:
        (problem,) = make_store(SPACE, network(), one).problems()[one.key]
        assert (problem.field, problem.hint) == (field, True)
        assert "namespaceSelector" in problem.message


def test_where_a_part_was_left_out_no_number_misleads() -> None:
    whole = allows(PodPeer(None, EVERYONE), PodPeer(named("nowhere"), EVERYONE))
    part = msgspec.structs.replace(whole, problems=(Problem("spec.ingress[0]", "matches nothing"),))
    hinted = msgspec.structs.replace(whole, problems=(Problem("spec", "better so", hint=True),))
    for one, field in [(whole, "[0].from[1]"), (hinted, "[0].from[1]"), (part, "[*].from[*]")]:
        problems = make_store(SPACE, network(), one).problems()[one.key]
        assert problems[-1].field == f"spec.ingress{field}.namespaceSelector"


def test_many_namespaces_are_counted() -> None:
    one = allows(PodPeer(named(*(f"zone-{n}x" for n in range(500))), EVERYONE))
    found = told(make_store(SPACE, network(), one), hints=True)
    assert len(found) == MAX_TOLD + 1
    assert found[-1].startswith(f"{500 - MAX_TOLD} more")


# --- what it costs ---------------------------------------------------------------------------------------


def looked_at(found: References) -> int:
    """How many policies are to be looked at to tell what is reported now."""
    stale = found.take_stale()
    for ref in stale:
        found.look(ref)
    return len(stale)


def crowd(policies: int = 485, pods: int = 10_000) -> Store:
    spaces = [Namespace(f"t{n}", {}) for n in range(9)]
    networks = [network("lan", f"t{n}") for n in range(9)]
    named = [policy(name=f"p{n}", networks=(f"t{n % 9}/lan",)) for n in range(policies)]
    return make_store(SPACE, *spaces, *networks, *named, *[pod(f"q{n}") for n in range(pods)])


def test_only_what_changed_is_looked_at() -> None:
    found = References()
    for n in range(9):
        found.put_net_attach_def(f"t{n}/lan", network("lan", f"t{n}"))
    for n in range(485):
        found.put_policy(("ns", f"p{n}"), policy(name=f"p{n}", networks=(f"t{n % 9}/lan",)))
    assert looked_at(found) == 485
    assert looked_at(found) == 0
    found.put_net_attach_def("t3/lan", network("lan", "t3", FAULT))
    assert looked_at(found) == 54
    found.put_net_attach_def("t3/lan", NetAttachDef("t3", "lan", "other", False, fault=FAULT))
    assert looked_at(found) == 0
    found.put_policy(("ns", "p7"), policy(name="p7", networks=("t1/lan",)))
    assert looked_at(found) == 1
    found.put_net_attach_def("elsewhere/lan", network("lan", "elsewhere"))
    found.put_namespace("elsewhere", exists=True)
    assert looked_at(found) == 0


def test_what_has_nothing_to_do_with_it_is_not_gathered_again() -> None:
    store = make_store(SPACE, policy(networks=(NET1, NET2)), network(), pod())
    store.problems()
    looked = store.faults.looked
    attach(store)
    store.apply([change(pod(labels={"a": "b"})), change(network()), change(pod("q"))])
    store.problems()
    assert store.faults.looked == looked


def test_a_pod_costs_as_much_in_a_crowd_as_alone() -> None:
    store = crowd()
    store.problems()
    started = time.process_time()
    for n in range(1000):
        store.apply([change(pod("q1", labels={"n": str(n)}))])
        store.problems()
    assert (time.process_time() - started) / 1000 < 0.001


def test_names_that_nobody_knows_cost_little() -> None:
    known = [network(f"{'ab' * 29}x{'ba' * 10}{n}") for n in range(300)]
    names = [tuple(f"ns/{'ab' * 29}yyyy{'ba' * 10}{p}-{n}" for n in range(300)) for p in range(20)]
    many = [policy(name=f"p{index}", networks=each) for index, each in enumerate(names)]
    store = make_store(SPACE, *known, *many)
    started = time.process_time()
    store.problems()
    assert time.process_time() - started < 0.1
