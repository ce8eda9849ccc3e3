"""Objects as API servers send them, kind by kind.

proves: A7, A8, E3
"""

import json
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import msgspec
import pytest

from daemon.model import Namespace, NetAttachDef, NetworkStatus, ObjectKey, Pod, Policy
from daemon.sources.kubernetes.errors import BadAnswerError
from daemon.sources.kubernetes.watched import (
    NAMESPACES,
    NET_ATTACH_DEFS,
    POLICIES,
    Collection,
    Seen,
    missing_kind,
    missing_right,
    newer,
    own_pods,
    peer_pods,
    read_mark,
)

OWN, PEERS = own_pods("node-1"), peer_pods("node-1")
ALL = [OWN, PEERS, NAMESPACES, NET_ATTACH_DEFS, POLICIES]
STATUS, NETWORKS, POLICY_FOR = (
    f"k8s.v1.cni.cncf.io/{name}" for name in ("network-status", "networks", "policy-for")
)
DEFAULT = {"name": "cbr0", "interface": "eth0", "ips": ["10.244.0.5"], "default": True, "dns": {}}
NET1 = {
    "name": "default/net1",
    "interface": "net1",
    "ips": ["10.0.0.1", "fd00::1"],
    "mac": "aa:bb",
    "dns": {},
}
ADDRESSES = (inet_pton(AF_INET, "10.0.0.1"), inet_pton(AF_INET6, "fd00::1"))


def metadata(name: str = "web-0", namespace: str = "shop", **more: Any) -> dict[str, Any]:
    found = {
        "name": name,
        "namespace": namespace,
        "uid": "8d1f",
        "resourceVersion": "1234",
        "generation": 1,
        "creationTimestamp": "2026-01-02T03:04:05Z",
        "managedFields": [{"manager": "kubelet", "operation": "Update", "fieldsV1": {"f:status": {}}}],
        "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": True}],
        **more,
    }
    return {key: value for key, value in found.items() if value is not None}


def status(*entries: Any) -> dict[str, str]:
    return {STATUS: json.dumps(entries)}


def see(collection: Collection, raw: Any) -> Seen:
    content = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return collection.decode(collection, msgspec.Raw(content))


def partial(**more: Any) -> dict[str, Any]:
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata(labels={"app": "web"}, **more),
    }


# --- each kind -------------------------------------------------------------------------------------------


def test_an_own_pod() -> None:
    # Items of lists name no kind.
    seen = see(
        OWN,
        {
            "metadata": metadata(
                labels={"app": "web"}, annotations={**status(DEFAULT, NET1), NETWORKS: "default/net1@net1"}
            ),
            "spec": {
                "nodeName": "node-1",
                "containers": [
                    {"name": "c", "ports": [{"name": "http", "containerPort": 80, "protocol": "TCP"}]}
                ],
                "tolerations": [{"operator": "Exists"}],
            },
            "status": {"phase": "Running", "podIP": "10.244.0.5", "conditions": []},
        },
    )
    assert (seen.key, seen.uid, seen.version) == (ObjectKey("Pod", "shop", "web-0"), "8d1f", "1234")
    pod = seen.object
    assert isinstance(pod, Pod)
    assert pod.statuses == (NetworkStatus("default/net1", "net1", ADDRESSES),)
    assert (pod.uid, pod.labels, pod.ports[0].name, pod.problems) == ("8d1f", {"app": "web"}, "http", ())
    assert seen.problem is None


@pytest.mark.parametrize(
    ("more", "terminating"),
    [({}, False), ({"deletionTimestamp": "2026-01-02T03:04:05Z", "deletionGracePeriodSeconds": 0}, True)],
)
def test_a_namespace_of_which_only_metadata_comes(more: dict[str, Any], terminating: bool) -> None:
    raw = partial(**more)
    raw["metadata"] |= {"name": "shop"}
    del raw["metadata"]["namespace"]
    seen = see(NAMESPACES, raw)
    assert seen.key == ObjectKey("Namespace", "", "shop")
    labels = {"app": "web", "kubernetes.io/metadata.name": "shop"}
    assert seen.object == Namespace("shop", labels, terminating)


def test_a_net_attach_def() -> None:
    config = json.dumps(
        {"cniVersion": "1.0.0", "name": "n", "plugins": [{}, {"type": "multi-networkpolicy"}]}
    )
    seen = see(NET_ATTACH_DEFS, {"metadata": metadata("net1", "default"), "spec": {"config": config}})
    assert seen.key == ObjectKey("NetworkAttachmentDefinition", "default", "net1")
    assert seen.object == NetAttachDef("default", "net1", "n", chained=True)


@pytest.mark.parametrize("version", ["v1beta1", "v1beta2", None])
def test_a_policy_of_any_version(version: str | None) -> None:
    raw: dict[str, Any] = {
        "metadata": metadata("allow", annotations={POLICY_FOR: "default/net1"}),
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    if version:
        raw |= {"apiVersion": f"k8s.cni.cncf.io/{version}", "kind": "MultiNetworkPolicy"}
    seen = see(POLICIES, raw)
    assert seen.key == ObjectKey("MultiNetworkPolicy", "shop", "allow")
    assert isinstance(seen.object, Policy)
    assert (seen.object.networks, seen.object.ingress, seen.object.egress) == (("default/net1",), (), None)


UNDECODABLE: list[tuple[Collection, Any, str]] = [
    (POLICIES, {"metadata": metadata("allow"), "spec": []}, "spec"),
    (NET_ATTACH_DEFS, {"metadata": metadata("Net_1")}, "metadata.name"),
    (OWN, {"metadata": metadata(), "spec": {"containers": {}}}, "spec.containers"),
    (OWN, {"metadata": metadata(annotations={STATUS: 5})}, f"metadata.annotations[{STATUS}]"),
    (OWN, b'{"metadata":{"name":"a","namespace":"b"},"spec":"\xff"}', ""),
    (OWN, b'{"metadata":{"name":"a","namespace":"b"},"spec":1e999}', ""),
]


@pytest.mark.parametrize(("collection", "raw", "field"), UNDECODABLE, ids=range(len(UNDECODABLE)))
def test_what_can_not_be_decoded_is_a_problem(collection: Collection, raw: Any, field: str) -> None:
    seen = see(collection, raw)
    assert seen.object is None
    assert seen.problem is not None
    assert (seen.problem.field, seen.key.kind) == (field, collection.kind)
    assert seen.problem.message


NO_OBJECTS = [
    b"null",
    b"5",
    b"[]",
    b"{}",
    b'{"metadata":null}',
    b'{"metadata":{}}',
    b'{"metadata":{"name":5}}',
    b'{"metadata":{"name":"\xff"}}',
    b'{"metadata":{"name":"a","labels":{"a":1}}}',
    b'{"metadata":' + b"[" * 100_000,
]


@pytest.mark.parametrize("raw", NO_OBJECTS, ids=lambda raw: repr(raw[:30]))
@pytest.mark.parametrize("collection", ALL, ids=lambda collection: collection.name)
def test_what_has_no_name_is_a_bad_answer(collection: Collection, raw: bytes) -> None:
    with pytest.raises(BadAnswerError, match=f"watch {collection.name}: an object without metadata"):
        see(collection, raw)


# --- other nodes' pods -----------------------------------------------------------------------------------


def test_a_peer() -> None:
    seen = see(PEERS, partial(annotations={**status(DEFAULT, NET1), "huge/other": "x" * 1000}))
    assert seen == Seen(
        ObjectKey("Pod", "shop", "web-0"),
        "8d1f",
        "1234",
        Pod(
            "shop",
            "web-0",
            "8d1f",
            {"app": "web"},
            statuses=(NetworkStatus("default/net1", "net1", ADDRESSES),),
            local=False,
        ),
    )


NO_PEERS: list[dict[str, Any] | None] = [
    None,
    {},
    {STATUS: ""},
    {STATUS: None},
    {STATUS: 5},
    {STATUS: ["x"]},
    {STATUS: "[]"},
    {STATUS: "{}"},
    {STATUS: "[{"},
    {STATUS: "x" * 300_000},
    {STATUS: "[" * 100_000},
    status(DEFAULT),
    status({"name": "default/net1", "interface": "net1"}),
    status({"name": "default/net1", "ips": []}),
    status({"name": "default/net1", "ips": None}),
    # What no pod can have as its address, whoever wrote it there.
    status({"name": "default/net1", "ips": ["127.0.0.1", "224.0.0.1", "0.0.0.0", "::1", "::", "ff02::1"]}),
    status({"name": "default/net1", "ips": ["10.0.0.0/8", "fe80::1%eth0", "x", 5, "10.0.0.256"]}),
    status({"name": "Default/net1", "ips": ["10.0.0.1"]}, {"name": "a/b/c", "ips": ["10.0.0.1"]}, 5),
]


@pytest.mark.parametrize("annotations", NO_PEERS, ids=lambda found: repr(found)[:50])
def test_nothing_is_kept_of_what_is_no_peer(annotations: dict[str, Any] | None) -> None:
    seen = see(PEERS, partial(annotations=annotations))
    assert seen == Seen(ObjectKey("Pod", "shop", "web-0"), "8d1f", "1234")


@pytest.mark.parametrize("slash", ["\\/", "\\u002f", "\\u002F"])
def test_a_name_whose_slash_is_escaped(slash: str) -> None:
    """Most are told to be no peers by the lack of a slash alone."""
    text = status(NET1)[STATUS].replace("/", slash)
    pod = see(PEERS, partial(annotations={STATUS: text})).object
    assert isinstance(pod, Pod)
    assert pod.statuses == (NetworkStatus("default/net1", "net1", ADDRESSES),)


def test_of_a_bad_status_the_good_entries_are_kept_in_silence() -> None:
    forged = {"name": "default/net2", "interface": 5, "ips": ["224.0.0.1", "10.0.0.1"]}
    pod = see(PEERS, partial(annotations=status(5, forged, NET1))).object
    assert isinstance(pod, Pod)
    assert pod.statuses == (
        NetworkStatus("default/net2", "", ADDRESSES[:1]),
        NetworkStatus("default/net1", "net1", ADDRESSES),
    )
    # Its own node reports them.
    assert pod.problems == ()


def test_a_peer_with_a_name_that_no_pod_has() -> None:
    raw = partial(annotations=status(NET1))
    raw["metadata"]["name"] = "../x"
    assert see(PEERS, raw).object is None


# --- what is asked for -----------------------------------------------------------------------------------


def test_the_collections() -> None:
    assert OWN.fields == "spec.nodeName=node-1"
    assert not OWN.metadata_only
    usual = "spec.nodeName!=node-1,spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
    assert PEERS.fields == f"{usual},spec.hostNetwork=false"
    assert PEERS.metadata_only
    assert PEERS.fallback is not None
    assert (PEERS.fallback.fields, PEERS.fallback.name, PEERS.fallback.fallback) == (usual, PEERS.name, None)
    assert NAMESPACES.metadata_only
    assert len({collection.name for collection in ALL}) == len(ALL)
    assert [path for _, path in POLICIES.versions] == [
        "/apis/k8s.cni.cncf.io/v1beta2/multi-networkpolicies",
        "/apis/k8s.cni.cncf.io/v1beta1/multi-networkpolicies",
    ]


MARKS: list[tuple[Any, tuple[str, bool]]] = [
    ({"kind": "Pod", "metadata": {"resourceVersion": "7", "creationTimestamp": None}}, ("7", False)),
    (
        {"metadata": {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}},
        ("7", True),
    ),
    (
        {"metadata": {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "false"}}},
        ("7", False),
    ),
    ({"metadata": {"resourceVersion": "7", "annotations": {}}, "spec": {"containers": None}}, ("7", False)),
]


@pytest.mark.parametrize(("raw", "want"), MARKS)
def test_bookmarks(raw: Any, want: tuple[str, bool]) -> None:
    assert read_mark(NAMESPACES, msgspec.Raw(json.dumps(raw).encode())) == want


@pytest.mark.parametrize("raw", [b"{}", b"5", b'{"metadata":{"resourceVersion":7}}', b'{"metadata":"\xff"}'])
def test_what_is_no_bookmark(raw: bytes) -> None:
    with pytest.raises(BadAnswerError, match="watch namespaces: a bookmark without metadata"):
        read_mark(NAMESPACES, msgspec.Raw(raw))


@pytest.mark.parametrize(
    ("version", "than", "want"),
    [
        ("2", "1", True),
        ("1", "1", False),
        ("1", "2", False),
        ("10", "9", True),
        ("18446744073709551615", "9", True),
        ("", "", False),
        ("", "1", True),
        ("a", "a", False),
        ("a", "1", True),
        ("9" * 5000, "1", True),
    ],
)
def test_newer(version: str, than: str, want: bool) -> None:
    assert newer(version, than) is want


def test_what_is_missing_is_named() -> None:
    assert missing_kind(POLICIES.resource).endswith("it comes with conf/crd.yaml")
    assert missing_kind(NET_ATTACH_DEFS.resource).endswith("it comes with Multus' own manifests")
    assert missing_kind("pods") == "not served"
    assert missing_right("list", "pods") == "list on pods is not granted; conf/rbac.yaml grants it"
