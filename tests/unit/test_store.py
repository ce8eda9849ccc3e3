"""The store: what follows a pod, what a change makes dirty, what is reported.

proves: A2, A3, A4, A5, A7, A11, A12, C4, C5
"""

import msgspec
import pytest

from daemon.model import (
    Change,
    ClusterObject,
    Namespace,
    NetAttachDef,
    ObjectKey,
    Operator,
    PodPeer,
    Port,
    Problem,
    Requirement,
    Rule,
    Selector,
)
from daemon.policy.ruleset import OPEN
from tests.unit.policy.stored import (
    FROM_PODS,
    KEY,
    NET1,
    NET2,
    ONE,
    PEER_KEY,
    TWO,
    WEB,
    attach,
    change,
    gone,
    key_of,
    make_store,
    peers,
    pod,
    policy,
    status,
)

pytestmark = pytest.mark.unit

# --- the subject -----------------------------------------------------------------------------------------


def test_subject_follows_its_pod() -> None:
    """A11: labels and ports of the object, and its last ones when it is gone."""
    store = make_store(pod(labels={"app": "a"}), policy(app="b"))
    attach(store, app="recorded")
    assert store.subject(KEY).labels == {"app": "a"}
    assert store.ruleset(KEY) == OPEN
    assert store.apply([change(pod(labels={"app": "b"}, ports=(WEB,)))]) == {KEY}
    assert store.ruleset(KEY).ingress == ()
    assert store.apply([gone(pod())]) == set()
    assert store.subject(KEY).labels == {"app": "b"}
    assert store.subject(KEY).ports == (WEB,)
    assert store.ruleset(KEY).ingress == ()


def test_subject_without_pod_keeps_what_was_recorded() -> None:
    store = make_store(policy(app="recorded"))
    attach(store, app="recorded")
    assert store.ruleset(KEY).ingress == ()


def test_pod_of_another_uid_is_another_pod() -> None:
    """A12: the older attachment neither takes its labels nor lends it its addresses."""
    store = make_store(pod(labels={"app": "a"}), policy(app="a"))
    attach(store)
    new = pod(uid="u2", labels={"app": "b"}, statuses=status(TWO))
    assert store.apply([change(new)]) == set()
    assert store.ruleset(KEY).ingress == ()
    assert peers(store) == {TWO}


@pytest.mark.parametrize(
    ("known", "uid", "config_hash"),
    [("u1", "", ""), ("u1", "u1", ""), ("u1", "hash", "hash"), ("", "u1", "")],
)
def test_uids_that_are_the_same_pod(known: str, uid: str, config_hash: str) -> None:
    """No UID, on either side, matches any; runtimes pass a static pod's config hash."""
    store = make_store(pod(uid=known, labels={"app": "a"}, config_hash=config_hash))
    attach(store, uid=uid)
    assert store.subject(KEY).labels == {"app": "a"}


def test_no_identity_no_policy() -> None:
    store = make_store(policy())
    attach(store, ref=None)
    assert store.ruleset(KEY) == OPEN
    assert store.governing(KEY) == ()
    assert store.apply([change(policy(name="another"))]) == set()


def test_host_network_pod_is_no_subject() -> None:
    """A7"""
    store = make_store(policy(), pod(host_network=True))
    attach(store)
    assert store.ruleset(KEY) == OPEN


def test_governing_by_name() -> None:
    """A4, A5"""
    here, there = policy(name="b"), policy(name="a", networks=(NET1, NET2))
    store = make_store(here, there, policy(name="c", networks=(NET2,)), policy(name="d", app="x"))
    attach(store)
    assert store.governing(KEY) == (there, here)


# --- dirty -----------------------------------------------------------------------------------------------


def test_policy_dirties_whom_it_governs_or_governed() -> None:
    store = make_store(pod(labels={"app": "a"}), pod("q", labels={"app": "b"}))
    attach(store)
    attach(store, PEER_KEY, ("ns", "q"))
    assert store.apply([change(policy(app="a"))]) == {KEY}
    assert store.apply([change(policy(app="b"))]) == {KEY, PEER_KEY}
    assert store.apply([change(policy(app="b", networks=(NET2,)))]) == {PEER_KEY}
    assert store.apply([gone(policy())]) == set()


def test_problems_alone_dirty_nothing() -> None:
    store = make_store(policy())
    attach(store)
    reported = msgspec.structs.replace(policy(), problems=(Problem("spec", "odd"),))
    assert store.apply([change(reported)]) == set()
    assert store.problems()[reported.key][0] == Problem("spec", "odd")


def test_ruleset_stays_the_same_object() -> None:
    """Dirty or not, what is equal is the same object: the planner skips it by identity."""
    store = make_store(policy(FROM_PODS), pod())
    attach(store)
    before = store.ruleset(KEY)
    store.apply([change(pod(labels={"any": "label"}))])
    assert store.ruleset(KEY) is before
    store.apply([change(policy(FROM_PODS, FROM_PODS))])
    assert store.ruleset(KEY) is not before


def test_peer_changes_members_and_not_rulesets() -> None:
    store = make_store(policy(FROM_PODS))
    attach(store)
    before = store.ruleset(KEY)
    assert store.apply([change(pod("q", statuses=status(TWO)))]) == {KEY}
    assert store.ruleset(KEY) is before
    assert peers(store) == {TWO}


def test_attach_dirties_itself_and_whose_peer_it_is() -> None:
    store = make_store(policy(FROM_PODS), pod(), pod("q"))
    assert attach(store) == {KEY}
    store.ruleset(KEY)
    assert attach(store, PEER_KEY, ("ns", "q"), addresses=(TWO,)) == {KEY, PEER_KEY}


def test_attach_again_is_the_same() -> None:
    store = make_store(policy(FROM_PODS), pod())
    attach(store)
    before = store.ruleset(KEY)
    attach(store)
    assert store.ruleset(KEY) is before
    assert peers(store) == {ONE}


def test_update_networks() -> None:
    store = make_store(pod(), policy())
    attach(store, networks=(NET2,))
    assert store.ruleset(KEY) == OPEN
    assert store.update_networks(KEY, (NET1,), (NET1,)) == {KEY}
    assert store.ruleset(KEY).ingress == ()
    assert store.update_networks(KEY, (NET1,), (NET1,)) == set()
    assert store.apply([change(policy(FROM_PODS))]) == {KEY}


def test_unknown_key() -> None:
    store = make_store()
    assert store.withdraw(KEY) == set()
    assert store.detach(KEY) == set()
    with pytest.raises(KeyError):
        store.ruleset(KEY)


def test_wrong_kind_is_a_bug() -> None:
    with pytest.raises(TypeError, match="Pod ns/deny"):
        make_store().apply([Change(ObjectKey("Pod", "ns", "deny"), policy())])


# --- what is there, what is reported ---------------------------------------------------------------------


def test_namespaces_exist_when_something_is_in_them() -> None:
    name = "kubernetes.io/metadata.name"
    elsewhere = NetAttachDef("nad-only", "net1", "net1", chained=True)
    store = make_store(pod(), elsewhere, Namespace("empty", {"team": "blue"}))
    assert store.namespaces() == {
        "ns": Namespace("ns", {name: "ns"}),
        "nad-only": Namespace("nad-only", {name: "nad-only"}),
        "empty": Namespace("empty", {"team": "blue", name: "empty"}),
    }


def test_current_objects() -> None:
    definition = NetAttachDef("ns", "net1", "net1", chained=True)
    store = make_store(policy(name="b"), policy(name="a"), pod(), definition)
    assert [one.name for one in store.policies()] == ["a", "b"]
    assert store.pod("ns", "p") == pod()
    assert store.pod("ns", "q") is None
    assert dict(store.net_attach_defs()) == {NET1: definition}
    store.apply([gone(policy(name="a")), gone(pod()), gone(definition)])
    assert [one.name for one in store.policies()] == ["b"]
    assert store.pod("ns", "p") is None
    assert dict(store.net_attach_defs()) == {}


def test_problems_of_every_kind() -> None:
    odd = Problem("metadata", "odd")
    made: list[ClusterObject] = [
        pod("odd", problems=(odd,)),
        NetAttachDef("ns", "net1", "net1", chained=True, problems=(odd,)),
        msgspec.structs.replace(policy(), problems=(odd,)),
        pod("fine"),
    ]
    assert make_store(*made).problems() == {key_of(one): (odd,) for one in made[:3]}


def test_network_that_does_not_exist() -> None:
    """A3: reported, and it changes nothing."""
    store = make_store(policy(networks=(NET1, NET2)), NetAttachDef("ns", "net1", "net1", chained=True))
    (problem,) = store.problems()[policy().key]
    assert NET2 in problem.message
    attach(store, networks=(NET2,))
    assert store.ruleset(KEY).ingress == ()
    store.apply([change(NetAttachDef("ns", "net2", "net2", chained=True))])
    assert store.problems() == {}


def test_addresses_that_are_not_unique() -> None:
    """C5"""
    definitions = [NetAttachDef("ns", name, name, chained=True) for name in ("net1", "net2")]
    twins = [pod("p", statuses=status(ONE)), pod("q", statuses=status(ONE, network=NET2))]
    one, both = policy(name="one"), policy(name="both", networks=(NET1, NET2))
    store = make_store(one, both, *definitions, *twins)
    (problem,) = store.problems()[both.key]
    assert "10.0.0.1" in problem.message
    assert "ns/p, ns/q" in problem.message
    assert one.key not in store.problems()


def test_selector_that_selects_nobody_is_no_problem() -> None:
    """C4"""
    nobody = Selector((Requirement("no", Operator.EXISTS),))
    store = make_store(
        policy(Rule((PodPeer(None, nobody),), (Port(6),))), NetAttachDef("ns", "net1", "net1", chained=True)
    )
    assert store.problems() == {}


def test_many_ambiguous_addresses_are_counted() -> None:
    definition = NetAttachDef("ns", "net1", "net1", chained=True)
    addresses = tuple(bytes([10, 0, 1, number]) for number in range(20))
    store = make_store(policy(), definition, *[pod(name, statuses=status(*addresses)) for name in "pq"])
    problems = store.problems()[policy().key]
    assert len(problems) == 9
    assert problems[-1].message.startswith("12 more")
