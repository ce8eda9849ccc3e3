"""The store: policies of a namespace that ends stay; who needs the list of peers.

proves: A4, A13, C2, C3, D4
"""

import pytest

from daemon.model import (
    Block,
    Change,
    CommonRules,
    Namespace,
    PodPeer,
    Policy,
    Port,
    Rule,
    Selector,
)
from daemon.policy.problems import ORPHANED
from daemon.policy.ruleset import OPEN
from daemon.store import Store
from tests.unit.policy.stored import (
    FROM_PODS,
    KEY,
    NET1,
    NET2,
    ONE,
    PEER_KEY,
    TWO,
    attach,
    change,
    gone,
    make_store,
    peers,
    pod,
    policy,
    status,
)

pytestmark = pytest.mark.unit

ANYONE = Rule(None, None)
PEER = pod("q", statuses=status(TWO))


# --- a namespace that ends -------------------------------------------------------------------------------

ALIVE, ENDING = Namespace("ns", {}), Namespace("ns", {}, terminating=True)
ELSEWHERE = Namespace("elsewhere", {}, terminating=True)


def test_its_policies_stay_until_its_last_attachment_is_gone() -> None:
    store = make_store(ALIVE, pod(), pod("q"), policy(FROM_PODS))
    attach(store)
    attach(store, PEER_KEY, ("ns", "q"), addresses=(TWO,))
    before = store.ruleset(KEY)
    assert store.apply([change(ENDING)]) == set()
    assert store.problems().get(policy().key, ()) == store.problems()[policy().key][:1]
    assert store.apply([gone(policy())]) == set()
    assert store.ruleset(KEY) is before
    assert store.problems()[policy().key][-1] == ORPHANED
    assert store.policies() == (policy(FROM_PODS),)
    store.detach(KEY)
    assert store.ruleset(PEER_KEY).ingress
    store.detach(PEER_KEY)
    store.apply([gone(pod()), gone(pod("q"))])
    assert store.policies() == ()
    assert policy().key not in store.problems()


def test_peers_go_as_they_go() -> None:
    store = make_store(ENDING, pod(), PEER, policy(FROM_PODS))
    attach(store)
    store.apply([gone(policy())])
    assert store.ruleset(KEY).ingress
    assert store.apply([gone(PEER)]) == {KEY}
    assert peers(store) == {ONE}


def test_labels_of_a_namespace_that_ends_count() -> None:
    """C3"""
    labelled = Namespace("ns", {"team": "blue"})
    store = make_store(labelled)
    store.apply([change(Namespace("ns", {"team": "blue"}, terminating=True))])
    found = store.namespaces()["ns"]
    assert found.labels["team"] == "blue"
    assert found.terminating


def test_the_order_of_one_batch_means_nothing() -> None:
    store = make_store(ALIVE, pod(), policy())
    attach(store)
    assert store.apply([gone(policy()), change(ENDING)]) == set()
    assert store.ruleset(KEY).ingress == ()


def test_the_end_of_the_namespace_object_ends_nothing() -> None:
    store = make_store(ENDING, pod(), policy(), policy(name="later"))
    attach(store)
    store.apply([gone(policy())])
    assert store.apply([gone(ENDING)]) == set()
    assert store.apply([gone(policy(name="later"))]) == set()
    assert [one.name for one in store.governing(KEY)] == ["deny", "later"]


def test_a_namespace_that_is_there_again_ends_orphans() -> None:
    store = make_store(ENDING, pod(), policy(), policy(FROM_PODS, name="stays"))
    attach(store)
    store.apply([gone(policy()), gone(ENDING)])
    assert store.apply([change(ALIVE)]) == {KEY}
    assert [one.name for one in store.governing(KEY)] == ["stays"]
    assert ORPHANED not in store.problems()[policy(name="stays").key]
    assert store.apply([gone(policy(name="stays"))]) == {KEY}
    assert store.ruleset(KEY) == OPEN


def test_a_policy_that_is_there_again_replaces_its_orphan() -> None:
    store = make_store(ENDING, pod(), policy())
    attach(store)
    store.apply([gone(policy())])
    assert store.apply([change(policy(FROM_PODS))]) == {KEY}
    assert store.ruleset(KEY).ingress
    assert ORPHANED not in store.problems()[policy().key]
    store.apply([change(ALIVE)])
    assert store.ruleset(KEY).ingress


def test_attached_again_at_once_is_not_the_end() -> None:
    store = make_store(ENDING, pod(), policy())
    attach(store)
    store.apply([gone(policy())])
    store.detach(KEY)
    attach(store)
    attach(store)
    store.apply([])
    assert store.ruleset(KEY).ingress == ()


@pytest.mark.parametrize("namespace", [ALIVE, ELSEWHERE, None])
def test_any_other_policy_goes_at_once(namespace: Namespace | None) -> None:
    store = make_store(*([namespace] if namespace else []), pod(), policy())
    attach(store)
    assert store.apply([gone(policy())]) == {KEY}
    assert store.ruleset(KEY) == OPEN


def test_nothing_lives_here() -> None:
    store = make_store(ENDING, pod(finished=True), pod("q", local=False), policy())
    store.apply([gone(policy())])
    attach(store)
    assert store.ruleset(KEY) == OPEN
    assert store.policies() == ()


def test_a_pod_whose_add_is_still_to_come_lives_here() -> None:
    store = make_store(ENDING, pod(), policy())
    store.apply([gone(policy())])
    attach(store)
    assert store.ruleset(KEY).ingress == ()
    store.detach(KEY)
    assert store.policies() == (policy(),)
    store.apply([gone(pod())])
    assert store.policies() == ()


def test_pods_of_another_node_are_no_subjects() -> None:
    """One of the same name may be there still when its successor starts here (A12)."""
    store = make_store(pod(uid="old", local=False, labels={"app": "far"}, statuses=status(TWO)))
    attach(store, uid="")
    assert store.subject(KEY).labels == {}


def test_a_name_is_forgotten_with_its_last_attachment() -> None:
    """What had this name is no more: another namespace of the name starts anew."""
    store = make_store(ENDING, policy())
    attach(store)
    store.apply([gone(policy()), gone(ENDING)])
    store.detach(KEY)
    store.apply([])
    attach(store)
    store.apply([change(policy())])
    assert store.apply([gone(policy())]) == {KEY}
    assert store.ruleset(KEY) == OPEN


# --- who needs the list of peers -------------------------------------------------------------------------

PODS = PodPeer(None, Selector())
BLOCK = Block("10.0.0.0/8", 4, ((10 << 24, (11 << 24) - 1),))
NAMED, NUMBERED = (Port(6, None, "web"),), (Port(6, (80, 80)),)


@pytest.mark.parametrize(
    ("ingress", "egress", "want"),
    [
        (None, None, False),
        ((), (), False),
        ((Rule(None, None),), (Rule(None, NUMBERED),), False),
        ((Rule((BLOCK,), NUMBERED),), None, False),
        ((Rule((PODS,), None),), None, True),
        (None, (Rule((BLOCK, PODS), NUMBERED),), True),
        ((Rule((BLOCK,), NAMED),), None, False),
        (None, (Rule((BLOCK,), NAMED),), True),
        (None, (Rule(None, NAMED),), True),
        (None, (Rule((), NAMED),), False),
    ],
)
def test_selects_peers(ingress: tuple[Rule, ...] | None, egress: tuple[Rule, ...] | None, want: bool) -> None:
    store = make_store(Policy("ns", "p", (NET1,), Selector(), ingress, egress))
    assert store.selects_peers("ns", {}, (NET2, NET1)) is want
    assert store.selects_peers("ns", {}, (NET2,)) is False
    assert store.selects_peers("other", {}, (NET1,)) is False


def test_selects_peers_by_the_policies_that_would_govern() -> None:
    store = make_store(policy(name="open"), policy(FROM_PODS, app="a"))
    assert store.selects_peers("ns", {"app": "a"}, (NET1,))
    assert not store.selects_peers("ns", {"app": "b"}, (NET1,))
    assert not store.selects_peers("ns", {"app": "a"}, ())


def test_common_rules_by_port_name_need_pods_where_egress_is_isolated() -> None:
    """D4, E6"""
    store = Store(CommonRules(egress=(Rule((BLOCK,), NAMED),)))
    assert not store.selects_peers("ns", {}, (NET1,))
    store.apply([change(policy())])
    assert not store.selects_peers("ns", {}, (NET1,))
    deny = Policy("ns", "out", (NET1,), Selector(), None, ())
    store.apply([Change(deny.key, deny)])
    assert store.selects_peers("ns", {}, (NET1,))
