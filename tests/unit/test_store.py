"""The store: what follows a pod, whose addresses count, what a change makes dirty, what is reported.

proves: A2, A3, A4, A5, A7, A8, A9, A11, A12, C5
"""

import json
from typing import Any

import msgspec
import pytest

from daemon.decode import decode_object
from daemon.model import (
    Address,
    AttachmentKey,
    Change,
    ClusterObject,
    CommonRules,
    ContainerPort,
    Namespace,
    NetAttachDef,
    Network,
    NetworkStatus,
    ObjectKey,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Problem,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.peersets import PodRef
from daemon.policy.ruleset import OPEN, PodSet
from daemon.store import Store

pytestmark = pytest.mark.unit

NET1, NET2 = "ns/net1", "ns/net2"
KEY, PEER_KEY = AttachmentKey("c1", "net1"), AttachmentKey("c2", "net1")
ONE, TWO, STALE = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 0, 0, 99])
ALL_PODS = PodSet((NET1,), "ns", None, Selector())
FROM_PODS = Rule((PodPeer(None, Selector()),), None)
WEB = ContainerPort("web", 6, 8080)


def pod(name: str = "p", uid: str = "u1", **more: Any) -> Pod:
    return Pod("ns", name, uid, more.pop("labels", {}), **more)


def status(*addresses: Address, network: Network = NET1) -> tuple[NetworkStatus, ...]:
    return (NetworkStatus(network, "net1", addresses),)


def policy(*rules: Rule, name: str = "deny", networks: tuple[str, ...] = (NET1,), **labels: str) -> Policy:
    wanted = tuple(Requirement(key, Operator.IN, (value,)) for key, value in sorted(labels.items()))
    return Policy("ns", name, networks, Selector(wanted), rules, None)


def change(new: ClusterObject) -> Change:
    return Change(key_of(new), new)


def key_of(one: ClusterObject) -> ObjectKey:
    kinds = {Pod: "Pod", Policy: "MultiNetworkPolicy", NetAttachDef: "NetworkAttachmentDefinition"}
    if isinstance(one, Namespace):
        return ObjectKey("Namespace", "", one.name)
    return ObjectKey(kinds[type(one)], one.namespace, one.name)


def make_store(*objects: ClusterObject) -> Store:
    store = Store(CommonRules())
    store.apply(change(one) for one in objects)
    return store


def attach(
    store: Store,
    key: AttachmentKey = KEY,
    ref: PodRef | None = ("ns", "p"),
    uid: str = "u1",
    networks: tuple[Network, ...] = (NET1,),
    addresses: tuple[Address, ...] = (ONE,),
    **labels: str,
) -> set[AttachmentKey]:
    return store.attach(key, ref, uid, Subject("ns", labels, (), networks), addresses)


def peers(store: Store) -> set[object]:
    return set(store.members(ALL_PODS).v4)


def gone(one: ClusterObject) -> Change:
    return Change(key_of(one), None)


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


@pytest.mark.parametrize(("uid", "config_hash"), [("", ""), ("u1", ""), ("hash", "hash")])
def test_uids_that_are_the_same_pod(uid: str, config_hash: str) -> None:
    """No UID matches any; runtimes pass a static pod's config hash."""
    store = make_store(pod(labels={"app": "a"}, config_hash=config_hash))
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
    assert store.update_networks(KEY, (NET1,)) == {KEY}
    assert store.ruleset(KEY).ingress == ()
    assert store.update_networks(KEY, (NET1,)) == set()
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


# --- a peer's addresses ----------------------------------------------------------------------------------


def test_status_counts_where_nothing_is_attached_here() -> None:
    assert peers(make_store(pod(statuses=status(ONE)))) == {ONE}


def test_addresses_of_add_replace_the_status() -> None:
    store = make_store(pod(statuses=status(STALE)))
    attach(store)
    assert peers(store) == {ONE}


def test_only_on_the_attachments_network() -> None:
    store = make_store(pod(statuses=status(TWO)))
    attach(store, networks=(NET2,))
    assert peers(store) == {TWO}


def test_both_of_two_attachments_on_one_network() -> None:
    """A9"""
    store = make_store(pod())
    attach(store)
    attach(store, AttachmentKey("c1", "net2"), addresses=(TWO,))
    assert peers(store) == {ONE, TWO}


def test_of_several_candidates_none_is_sure() -> None:
    """Counting an address on a network that it may not be on would open that network's policies to it."""
    store = make_store(pod())
    attach(store, networks=(NET1, NET2))
    assert peers(store) == set()
    store.apply([change(pod(statuses=status(TWO)))])
    assert peers(store) == {TWO}
    store.update_networks(KEY, (NET1,))
    assert peers(store) == {ONE}


def test_withdrawn_addresses_leave_at_once_and_it_stays_governed() -> None:
    """A11, and network-status is no way back."""
    store = make_store(pod(statuses=status(ONE)), policy(FROM_PODS))
    attach(store)
    store.ruleset(KEY)
    assert store.withdraw(KEY) == {KEY}
    assert peers(store) == set()
    assert store.ruleset(KEY).ingress
    store.apply([change(pod(statuses=status(ONE), labels={"new": "label"}))])
    assert peers(store) == set()


def test_detached_addresses_stay_gone_until_another_attachment_or_pod() -> None:
    store = make_store(pod(statuses=status(ONE)))
    attach(store)
    store.withdraw(KEY)
    store.detach(KEY)
    assert peers(store) == set()
    attach(store, PEER_KEY, addresses=(TWO,))
    assert peers(store) == {TWO}
    store.detach(PEER_KEY)
    store.apply([change(pod(uid="u2", statuses=status(ONE)))])
    assert peers(store) == {ONE}


def test_attached_once_more_and_then_unsure() -> None:
    """The mark of an attachment that left goes with the next one: network-status can be believed again."""
    store = make_store(pod(statuses=status(TWO)))
    attach(store)
    store.detach(KEY)
    attach(store)
    store.update_networks(KEY, (NET1, NET2))
    assert peers(store) == {TWO}


@pytest.mark.parametrize("as_what", [{"finished": True}, {"host_network": True}])
def test_no_peers_though_attached(as_what: dict[str, Any]) -> None:
    """A7: their addresses get reused."""
    store = make_store(pod())
    attach(store)
    store.apply([change(pod(statuses=status(ONE), **as_what))])
    assert peers(store) == set()


def test_pod_gone_is_no_peer_at_once() -> None:
    """A11"""
    store = make_store(pod())
    attach(store)
    store.apply([gone(pod())])
    assert peers(store) == set()


def test_default_network() -> None:
    """A8: a net-attach-def in the place of the cluster's network is one like any other."""
    entry = {"name": NET1, "interface": "eth0", "ips": ["10.0.0.2"], "default": True, "dns": {}}
    annotations = {"k8s.v1.cni.cncf.io/network-status": json.dumps([entry])}
    metadata = {"namespace": "ns", "name": "q", "annotations": annotations}
    raw = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}
    store = make_store(decode_object(raw), policy(FROM_PODS))
    assert peers(store) == {TWO}
    key = AttachmentKey("c1", "eth0")
    attach(store, key)
    assert store.ruleset(key).ingress


def test_attachment_before_its_pod() -> None:
    store = make_store()
    attach(store)
    assert peers(store) == set()
    store.apply([change(pod(statuses=status(STALE)))])
    assert peers(store) == {ONE}


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
