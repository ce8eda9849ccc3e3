"""The store: whose addresses count as a peer's, and from when to when.

proves: A7, A8, A9, A11, C5
"""

import json
from typing import Any

import pytest

from daemon.decode import decode_object
from daemon.model import AttachmentKey
from tests.unit.policy.stored import (
    FROM_PODS,
    KEY,
    NET1,
    NET2,
    ONE,
    PEER_KEY,
    STALE,
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
