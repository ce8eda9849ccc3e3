"""Small stores for tests: one namespace, two networks, few addresses.

In: what a test wants to be different. Out: objects of the model, and a Store that holds them.
"""

from typing import Any

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
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.peerset import PodRef
from daemon.policy.ruleset import PodSet
from daemon.store import Store

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
