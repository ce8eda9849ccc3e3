"""Objects of every kind: their keys, what can't be decoded at all, and pods, namespaces, net-attach-defs.

proves: A7, A8, A9, A10, A12, D4
"""

import json
from typing import Any

import pytest

from daemon.decode import decode_object, read_key
from daemon.errors import DecodeError
from daemon.model import (
    ContainerPort,
    Namespace,
    NetAttachDef,
    NetworkRequest,
    NetworkStatus,
    ObjectKey,
    Pod,
)

NETWORKS = "k8s.v1.cni.cncf.io/networks"
STATUS = "k8s.v1.cni.cncf.io/network-status"
POLICY = {"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy", "metadata": {"name": "p"}}


def make(kind: str = "Pod", version: str | None = "v1", name: Any = "a", **parts: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "ns", **parts.pop("metadata", {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **parts}


def pod(annotations: dict[str, Any] | None = None, **parts: Any) -> Pod:
    found = decode_object(make(metadata={"annotations": annotations or {}}, **parts))
    assert isinstance(found, Pod)
    return found


UNDECODABLE = [
    ({}, "kind"),
    ({"kind": 5}, "kind"),
    ({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a"}}, "kind"),
    ({"kind": "Pod", "apiVersion": "v1"}, "metadata.name"),
    ({"kind": "Pod", "apiVersion": "v1", "metadata": []}, "metadata"),
    (make(name=""), "metadata.name"),
    (make(name=7), "metadata.name"),
    (make(name="Upper"), "metadata.name"),
    (make(name="a_b"), "metadata.name"),
    (make(name="-a"), "metadata.name"),
    (make(name="a."), "metadata.name"),
    (make(name="a" * 254), "metadata.name"),
    (make("Namespace", name="with.dot"), "metadata.name"),
    (make("Namespace", name="a" * 64), "metadata.name"),
    (make(metadata={"namespace": "a/b"}), "metadata.namespace"),
    (make(metadata={"namespace": 5}), "metadata.namespace"),
    (make(version="v2"), "apiVersion"),
    (make(version=None), "apiVersion"),
    (make("NetworkAttachmentDefinition", "v1"), "apiVersion"),
    (make("NetworkAttachmentDefinition", "k8s.cni.cncf.io/"), "apiVersion"),
    (make("MultiNetworkPolicy", "k8s.cni.cncf.io/v1"), "apiVersion"),
    (make("MultiNetworkPolicy", "networking.k8s.io/v1"), "apiVersion"),
    (make("MultiNetworkPolicy", "k8s.cni.cncf.io/v1beta1", spec=[]), "spec"),
    (make("MultiNetworkPolicy", "k8s.cni.cncf.io/v1beta1", spec="x"), "spec"),
    (make(spec="x"), "spec"),
    (make(metadata={"labels": {"a": True}}), "metadata.labels[a]"),
    (make(metadata={"labels": {"a": 1.5}}), "metadata.labels[a]"),
    (make(metadata={"labels": ["a"]}), "metadata.labels"),
    (make(metadata={"annotations": {NETWORKS: ["net1"]}}), f"metadata.annotations[{NETWORKS}]"),
    (make(metadata={"annotations": {NETWORKS: "x" * 300_000}}), f"metadata.annotations[{NETWORKS}]"),
    (make(spec={"hostNetwork": "yes"}), "spec.hostNetwork"),
    (make(spec={"containers": {}}), "spec.containers"),
    (make(spec={"containers": ["x"]}), "spec.containers[0]"),
    (make(spec={"containers": [{"ports": "80"}]}), "spec.containers[0].ports"),
    (make("NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1", spec={"config": {}}), "spec.config"),
]


@pytest.mark.parametrize(("raw", "field"), UNDECODABLE)
def test_undecodable(raw: dict[str, Any], field: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_object(raw)
    assert caught.value.field == field
    assert caught.value.message


@pytest.mark.parametrize("raw", [None, [], "x", 5])
def test_no_object(raw: Any) -> None:
    with pytest.raises(DecodeError):
        decode_object(raw)


def test_a_boolean_label_is_told_to_be_quoted() -> None:
    with pytest.raises(DecodeError, match=r"metadata\.labels\[app\].*boolean.*quotes"):
        decode_object(make(metadata={"labels": {"app": True}}))


KEYS = [
    (make(), ObjectKey("Pod", "ns", "a")),
    (make(metadata={"namespace": ""}), ObjectKey("Pod", "default", "a")),
    (make("Namespace"), ObjectKey("Namespace", "", "a")),
    (make("Deployment", "apps/v1"), None),
]


@pytest.mark.parametrize(("raw", "key"), KEYS)
def test_key(raw: dict[str, Any], key: ObjectKey | None) -> None:
    assert read_key(raw) == key


def test_versions_mean_the_same() -> None:
    spec = {
        "podSelector": {},
        "ingress": [{"ports": [{"port": 80, "endPort": 90}]}],
        "policyTypes": ["Ingress"],
    }
    one, two = (
        decode_object({**POLICY, "apiVersion": f"k8s.cni.cncf.io/{version}", "spec": spec})
        for version in ("v1beta1", "v1beta2")
    )
    assert one == two


@pytest.mark.parametrize("labels", [None, {}, {"kubernetes.io/metadata.name": "other"}])
def test_a_namespace_always_has_its_name_as_label(labels: dict[str, str] | None) -> None:
    found = decode_object(make("Namespace", metadata={"labels": labels}))
    assert found == Namespace("a", {"kubernetes.io/metadata.name": "a"})


@pytest.mark.parametrize(
    ("deleted", "status", "want"),
    [
        ("2024-01-01T00:00:00Z", None, True),
        (None, {"phase": "Terminating"}, True),
        ("", {"phase": "Active"}, False),
        (None, {}, False),
        (5, "Terminating", False),
    ],
)
def test_a_namespace_that_is_being_deleted(deleted: object, status: object, want: bool) -> None:
    found = decode_object(make("Namespace", metadata={"deletionTimestamp": deleted}, status=status))
    assert found == Namespace("a", {"kubernetes.io/metadata.name": "a"}, terminating=want)


# --- pods ------------------------------------------------------------------------------------------------


def test_a_bare_pod() -> None:
    assert decode_object({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}) == Pod(
        "default", "a", "", {}
    )


def test_a_whole_pod() -> None:
    found = pod(
        {"kubernetes.io/config.hash": "abc"},
        spec={"hostNetwork": True},
        status={"phase": "Failed"},
    )
    assert (found.host_network, found.finished, found.config_hash) == (True, True, "abc")


@pytest.mark.parametrize(
    ("phase", "finished"),
    [("Succeeded", True), ("Failed", True), ("Running", False), ("Pending", False), (None, False)],
)
def test_finished(phase: str | None, finished: bool) -> None:
    assert pod(status={"phase": phase}).finished is finished


def containers(*ports: Any, **more: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", "ports": list(ports)}], **more}


PORTS: list[tuple[dict[str, Any], tuple[ContainerPort, ...], int]] = [
    (containers(), (), 0),
    (containers({"containerPort": 80}), (), 0),
    (containers({"name": "http", "containerPort": 80}), (ContainerPort("http", 6, 80),), 0),
    (
        containers({"name": "d", "containerPort": 53, "protocol": "UDP"}, {"name": "d", "containerPort": 53}),
        (ContainerPort("d", 17, 53), ContainerPort("d", 6, 53)),
        0,
    ),
    (
        containers({"name": "s", "containerPort": 9, "protocol": "SCTP"}),
        (ContainerPort("s", 132, 9),),
        0,
    ),
    (containers({"name": "x", "containerPort": "80"}), (), 1),
    (containers({"name": "x", "containerPort": 0}), (), 1),
    (containers({"name": "x", "containerPort": True}), (), 1),
    (containers({"name": "x", "containerPort": 80, "protocol": "tcp"}), (), 1),
    (containers({"name": "x", "containerPort": 80, "protocol": ["TCP"]}), (), 1),
    (containers("x"), (), 1),
    (
        {
            "initContainers": [
                {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 1}]},
                {"ports": [{"name": "gone", "containerPort": 2}]},
            ]
        },
        (ContainerPort("side", 6, 1),),
        0,
    ),
]


@pytest.mark.parametrize(("spec", "ports", "problems"), PORTS)
def test_named_ports(spec: dict[str, Any], ports: tuple[ContainerPort, ...], problems: int) -> None:
    found = pod(spec=spec)
    assert found.ports == ports
    assert len(found.problems) == problems


def requests(*pairs: tuple[str, str | None]) -> tuple[NetworkRequest, ...]:
    return tuple(NetworkRequest(network, interface) for network, interface in pairs)


REQUESTS = [
    ("", (), 0),
    ("  ", (), 0),
    ("net1", requests(("ns/net1", None)), 0),
    ("other/net1@eth1", requests(("other/net1", "eth1")), 0),
    (
        " a , b/c@x ,, d@y\n",
        requests(("ns/a", None), ("b/c", "x"), ("ns/d", "y")),
        0,
    ),
    ("a,a@net7", requests(("ns/a", None), ("ns/a", "net7")), 0),
    ("a/b/c,ok", requests(("ns/ok", None)), 1),
    ("/a,ok", requests(("ns/ok", None)), 1),
    ("a@,ok", requests(("ns/ok", None)), 1),
    ("a@x/y,ok", requests(("ns/ok", None)), 1),
    ("a@sixteencharacters,ok", requests(("ns/ok", None)), 1),
    ("Upper,ok", requests(("ns/ok", None)), 1),
    ('[{"name": "a"}]', requests(("ns/a", None)), 0),
    (
        '[{"name":"a","namespace":"o","interface":"n1"},{"name":"b","interfaceRequest":"n2"}]',
        requests(("o/a", "n1"), ("ns/b", "n2")),
        0,
    ),
    ('[{"name":"a","mac":"x","ips":["y"],"cni-args":{"z":[1]}}]', requests(("ns/a", None)), 0),
    ('[{"name": "a/b"}, {"name": "ok"}]', requests(("ns/ok", None)), 1),
    ('[{}, {"name": "ok"}]', requests(("ns/ok", None)), 1),
    ('[5, {"name": "ok"}]', requests(("ns/ok", None)), 1),
    ('[{"name": 5}, {"name": "ok"}]', requests(("ns/ok", None)), 1),
    ('[{"name": "a", "interface": "a b"}, {"name": "ok"}]', requests(("ns/ok", None)), 1),
    ('{"name": "a"}', (), 1),
    ('[{"name": "a"}', (), 1),
    ("[" * 10_000, (), 1),
    ('"a"', (), 1),
]


@pytest.mark.parametrize(("text", "wanted", "problems"), REQUESTS)
def test_networks_annotation(text: str, wanted: tuple[NetworkRequest, ...], problems: int) -> None:
    found = pod({NETWORKS: text})
    assert found.requests == wanted
    assert len(found.problems) == problems
    assert all(problem.field.startswith(f"metadata.annotations[{NETWORKS}]") for problem in found.problems)


def test_entries_are_bounded() -> None:
    found = pod({NETWORKS: ",".join(f"n{index}" for index in range(5000))})
    assert len(found.requests) == 1000
    assert "5000 entries" in found.problems[-1].message


V4, V6 = bytes([10, 0, 0, 1]), bytes([0xFD] + [0] * 14 + [1])
NET1 = NetworkStatus("ns/a", "net1", (V4,))
STATUSES: list[tuple[Any, tuple[NetworkStatus, ...], int]] = [
    ([], (), 0),
    ([{"name": "ns/a", "interface": "net1", "ips": ["10.0.0.1"]}], (NET1,), 0),
    ([{"name": "cbr0", "interface": "eth0", "ips": ["10.0.0.1"], "default": True}], (), 0),
    ([{"name": "", "ips": ["10.0.0.1"]}], (), 0),
    ([{"name": "ns/a", "ips": ["10.0.0.1"]}], (NetworkStatus("ns/a", "", (V4,)),), 0),
    (
        [{"name": "ns/a", "interface": "net1", "ips": ["10.0.0.1", "fd00::1", "10.0.0.1"]}],
        (NetworkStatus("ns/a", "net1", (V4, V6)),),
        0,
    ),
    ([{"name": "ns/a", "interface": "net1"}], (NetworkStatus("ns/a", "net1", ()),), 0),
    ([{"name": "ns/a", "interface": "net1", "ips": ["10.0.0.1", "10.0.0.300", 5]}], (NET1,), 2),
    ([{"name": "ns/a", "interface": "net1", "ips": ["10.0.0.1/24", "10.0.0.1"]}], (NET1,), 1),
    ([{"name": "ns/a", "interface": "net1", "ips": "10.0.0.1"}], (NetworkStatus("ns/a", "net1", ()),), 1),
    ([{"name": "a/b/c"}, {"name": "ns/a", "interface": "net1", "ips": ["10.0.0.1"]}], (NET1,), 1),
    (["x", {"name": "ns/a", "interface": "net1", "ips": ["10.0.0.1"]}], (NET1,), 1),
    ({"name": "ns/a"}, (), 1),
]


@pytest.mark.parametrize(("entries", "wanted", "problems"), STATUSES)
def test_network_status(entries: Any, wanted: tuple[NetworkStatus, ...], problems: int) -> None:
    found = pod({STATUS: json.dumps(entries)})
    assert found.statuses == wanted
    assert len(found.problems) == problems


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.18",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.2",
    ],
)
def test_an_address_that_no_pod_can_have_is_no_peers(address: str) -> None:
    found = pod({STATUS: json.dumps([{"name": "ns/a", "interface": "net1", "ips": [address, "10.0.0.1"]}])})
    assert found.statuses == (NET1,)
    assert found.problems[0].field == f"metadata.annotations[{STATUS}][0].ips[0]"


def test_addresses_of_one_pod_are_bounded() -> None:
    """What it says costs others; its networks are read all the same, for they restrict."""
    entries = [
        {"name": f"ns/n{n}", "interface": f"net{n}", "ips": [f"10.0.{n}.{host}" for host in range(1, 61)]}
        for n in range(6)
    ]
    found = pod({STATUS: json.dumps(entries)})
    assert [len(status.addresses) for status in found.statuses] == [60, 60, 60, 60, 16, 0]
    assert "360 addresses; only the first 256 are read" in found.problems[-1].message


def test_a_pods_node() -> None:
    assert (pod().node, pod(spec={"nodeName": "here"}).node) == ("", "here")


# --- net-attach-defs -------------------------------------------------------------------------------------

OURS, GUARD = {"type": "multi-networkpolicy"}, {"type": "multi-networkpolicy", "guard": True}
MACVLAN = {"type": "macvlan"}
CONFIGS = [
    ("", "a", False, 0),
    ("  ", "a", False, 0),
    (json.dumps({"type": "macvlan", "name": "x"}), "x", False, 0),
    (json.dumps({"plugins": [MACVLAN]}), "a", False, 0),
    (json.dumps({"name": "x", "plugins": [MACVLAN, OURS]}), "x", True, 0),
    (json.dumps({"name": "x", "plugins": [GUARD, MACVLAN, OURS]}), "x", True, 0),
    (json.dumps({"name": "x", "plugins": [GUARD, MACVLAN]}), "x", False, 1),
    (json.dumps({"name": "x", "plugins": [MACVLAN, {**OURS, "guard": False}]}), "x", True, 0),
    (json.dumps({"name": 5, "plugins": [OURS, 7, "x"]}), "a", True, 1),
    (json.dumps({"name": 5, "plugins": [7, MACVLAN, "x", OURS]}), "a", True, 0),
    (json.dumps({"name": "x", "plugins": {"type": "multi-networkpolicy"}}), "x", False, 0),
    (json.dumps({"type": "multi-networkpolicy"}), "a", False, 1),
    ("{", "a", False, 1),
    ("[]", "a", False, 1),
    ("[" * 10_000, "a", False, 1),
    (" " * 10 + "x" * 300_000, "a", False, 1),
]


@pytest.mark.parametrize(("config", "name", "chained", "problems"), CONFIGS)
def test_net_attach_def(config: str, name: str, chained: bool, problems: int) -> None:
    found = decode_object(make("NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1", spec={"config": config}))
    assert isinstance(found, NetAttachDef)
    assert (found.network, found.config_name, found.chained) == ("ns/a", name, chained)
    assert len(found.problems) == problems


def test_a_net_attach_def_without_spec() -> None:
    found = decode_object(make("NetworkAttachmentDefinition", "k8s.cni.cncf.io/v1beta7"))
    assert found == NetAttachDef("ns", "a", "a", False, on_disk=True)
