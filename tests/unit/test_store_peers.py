"""The store: whose addresses count as a peer's, and from when to when.

proves: A7, A8, A9, A11, C5
"""

import json
import sys
from types import FrameType
from typing import Any

import msgspec
import pytest

from daemon.decode import decode_object
from daemon.model import AttachmentKey, CommonRules, ObjectKey, Operator, Requirement, Selector, Subject
from daemon.policy.ruleset import EndpointSet, PodSet
from daemon.store import Store
from tests.unit.policy.stored import (
    ALL_PODS,
    FROM_PODS,
    KEY,
    NET1,
    NET2,
    ONE,
    PEER_KEY,
    STALE,
    TWO,
    WEB,
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


def test_status_counts_where_nothing_is_attached_here() -> None:
    assert peers(make_store(pod(statuses=status(ONE)))) == {ONE}


def test_addresses_of_add_replace_the_status() -> None:
    store = make_store(pod(statuses=status(STALE)))
    attach(store)
    assert peers(store) == {ONE}


def test_no_status_of_a_pod_that_is_attached_here() -> None:
    """Neither on another network than its attachment's, nor beside it."""
    claims = (*status(TWO), *status(STALE, network=NET2))
    store = make_store(pod(statuses=claims))
    assert peers(store) == {TWO}
    attach(store, networks=(NET2,))
    assert peers(store) == set()
    attach(store, AttachmentKey("c1", "net2"))
    assert peers(store) == {ONE}


def test_no_status_of_a_pod_of_this_node() -> None:
    """By its nodeName; without one, as in manifests, a pod may be anywhere until its first ADD here."""
    store = Store(CommonRules(), node="here")
    there = pod("q", node="there", statuses=status(TWO))
    store.apply(change(one) for one in (pod(node="here", statuses=status(ONE)), there))
    assert peers(store) == {TWO}
    attach(store)
    assert peers(store) == {ONE, TWO}
    attach(store, PEER_KEY, ("ns", "q"), addresses=(STALE,))
    assert peers(store) == {ONE, STALE}


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
    assert peers(store) == set()
    assert store.update_networks(KEY, (NET1, NET2), (NET1,)) == set()
    assert peers(store) == {ONE}


def test_what_restricts_it_too_makes_it_no_other_peer() -> None:
    store = make_store(pod(), policy(name="other", networks=(NET2,)))
    attach(store)
    store.update_networks(KEY, (NET1, NET2), (NET1,))
    assert peers(store) == {ONE}
    assert store.ruleset(KEY).ingress == ()
    assert not store.members(msgspec.structs.replace(ALL_PODS, networks=(NET2,))).v4


# --- an address that several have ------------------------------------------------------------------------

OTHER = pod("q", "u2", local=False, statuses=status(ONE))
GHOSTS: list[dict[str, Any]] = [
    {"ref": ("ns", "gone")},
    {"ref": None},
    {"ref": ("ns", "q"), "uid": "u1"},
    {"networks": (NET1, NET2)},
]


@pytest.mark.parametrize("holder", GHOSTS)
def test_what_an_add_here_gave_is_nobody_elses(holder: dict[str, Any]) -> None:
    """A pod whose object is gone, a container without one, an earlier pod of that name, one on several."""
    store = make_store(policy(FROM_PODS), OTHER)
    attach(store, PEER_KEY, ("ns", "s"), addresses=(TWO,))
    store.ruleset(PEER_KEY)
    assert peers(store) == {ONE}
    assert store.attach(KEY, **given(holder)) == {KEY, PEER_KEY}
    assert peers(store) == set()
    assert store.withdraw(KEY) == {PEER_KEY}
    assert peers(store) == {ONE}
    store.attach(KEY, **given(holder))
    assert peers(store) == set()
    assert store.detach(KEY) == {PEER_KEY}
    assert peers(store) == {ONE}


def given(holder: dict[str, Any]) -> dict[str, Any]:
    networks = holder.get("networks", (NET1,))
    subject = Subject("ns", {}, (), networks)
    ref, uid = holder.get("ref", ("ns", "p")), holder.get("uid", "u9")
    return {"pod_ref": ref, "pod_uid": uid, "subject": subject, "addresses": (ONE,)}


def test_of_two_adds_it_is_neithers() -> None:
    store = make_store(pod(), pod("q", "u2"))
    attach(store)
    attach(store, PEER_KEY, ("ns", "q"), uid="u2")
    assert peers(store) == set()
    store.withdraw(PEER_KEY)
    assert peers(store) == {ONE}
    attach(store, AttachmentKey("c9", "net1"))  # a new sandbox of the same pod
    assert peers(store) == {ONE}


def test_a_finished_pod_holds_nothing() -> None:
    """A7: its addresses get reused."""
    store = make_store(pod(), OTHER)
    attach(store)
    assert peers(store) == {ONE}
    store.apply([change(pod(finished=True))])
    assert peers(store) == {ONE}
    store.apply([gone(OTHER)])
    assert peers(store) == set()


def test_only_where_one_policy_names_both_networks() -> None:
    """Networks apart may have the same addresses; over those of one policy they have to be unique."""
    theirs = Selector((Requirement("of", Operator.EXISTS),))
    one, two, both = (PodSet(on, "ns", None, theirs) for on in ((NET1,), (NET2,), (NET1, NET2)))
    store = make_store(pod(), msgspec.structs.replace(OTHER, labels={"of": "theirs"}))
    attach(store, networks=(NET2,))
    assert [set(store.members(ref).v4) for ref in (one, two, both)] == [{ONE}, set(), set()]
    attach(store, networks=(NET2,), addresses=(TWO,))
    assert [set(store.members(ref).v4) for ref in (one, two, both)] == [{ONE}, set(), {ONE}]


def test_of_two_statuses_it_is_both() -> None:
    """Neither is known to be wrong: in a rolling update one pod's is older than its end."""
    store = make_store(OTHER, pod("r", "u3", local=False, statuses=status(ONE)))
    assert peers(store) == {ONE}


def test_named_ports_go_with_the_address() -> None:
    ends = EndpointSet((NET1,), ALL_PODS, ((6, "web"),))
    store = make_store(msgspec.structs.replace(OTHER, ports=(WEB,)))
    assert set(store.members(ends).v4) == {(ONE, 6, 8080)}
    attach(store)
    assert not store.members(ends).v4


def test_an_address_that_is_held_is_told_with_both_names() -> None:
    store = make_store(policy(), OTHER, pod())
    attach(store)
    told = [problem.message for problem in store.problems()[policy().key]]
    assert (
        "10.0.0.1 is not unique: ns/p by ADD on this node; network-status of ns/q claims it: it counts for "
        "ns/p alone" in told
    )
    store.apply([change(pod("q", "u2"))])
    attach(store, PEER_KEY, ("ns", "q"), uid="u2")
    attach(store, uid="u0")
    told = [problem.message for problem in store.problems()[policy().key]]
    both = "ns/p (an earlier pod of that name), ns/q by ADD on this node: it counts for none of them"
    assert f"10.0.0.1 is not unique: {both}" in told


def test_a_claim_without_add_is_told() -> None:
    key = ObjectKey("Pod", "ns", "p")
    claims = (*status(ONE), *status(TWO, network=NET2))
    store = make_store(pod(statuses=claims), policy())
    assert key not in store.problems()
    attach(store)
    assert key not in store.problems(), "no policy names the network"
    store.apply([change(policy(name="other", networks=(NET2,)))])
    (problem,) = store.problems()[key]
    assert "10.0.0.2 on ns/net2 does not count" in problem.message
    store.withdraw(KEY)
    assert key not in store.problems(), "a pod that ends keeps its status to the end"


def test_an_add_and_a_peer_cost_the_same_among_many_pods() -> None:
    """By index: calls are counted, for time would depend on the machine."""

    def calls(pods: int) -> int:
        many = (pod(f"q{n}", f"v{n}", local=False, statuses=status(address(n))) for n in range(pods))
        store = make_store(*many, policy(FROM_PODS))
        attach(store, PEER_KEY, ("ns", "s"), addresses=(address(9000),))
        store.ruleset(PEER_KEY)
        counted = 0

        def count(frame: FrameType, event: str, argument: object) -> None:
            nonlocal counted
            counted += 1

        sys.setprofile(count)
        attach(store, addresses=(address(7),))
        store.apply([change(pod("r", "u9", local=False, statuses=status(address(7))))])
        sys.setprofile(None)
        return counted

    assert calls(20) == calls(1000)


def address(number: int) -> bytes:
    return bytes([10, 0, number // 256, number % 256])


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
