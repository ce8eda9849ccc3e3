"""A plugin's request, checked: what comes out, and which code and field a bad one is refused with."""

import json
from typing import Any

import pytest

from cni_plugin.errors import CniError
from daemon.cni import AddRequest, PodIdentity, parse_add, parse_identity, parse_key, parse_result

V4, V6 = b"\x0a\0\0\x05", b"\xfd" + bytes(14) + b"\x05"
RESULT = {
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "eth9"}, {"name": "net1", "mac": "02:00:00:00:00:05", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.0.0.5/24", "interface": 1}, {"address": "fd00::5/64", "interface": 1}],
}


def request(config: Any = None, **env: str) -> dict[str, Any]:
    variables = {"CNI_CONTAINERID": "abc", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "net1", **env}
    base = {"cniVersion": "1.0.0", "name": "n", "type": "multi-networkpolicy", "prevResult": RESULT}
    body = base if config is None else {**base, **config}
    return {"op": "add", "env": variables, "config": json.dumps(body).encode()}


def test_a_whole_request() -> None:
    body = request(
        {"netAttachDef": "default/net-a", "onUnready": "deny", "trackConnections": False},
        CNI_ARGS="K8S_POD_NAME=web;IgnoreUnknown=1;K8S_POD_NAMESPACE=prod;K8S_POD_UID=u-1",
    )
    add = parse_add(body)
    assert add.pod == PodIdentity("prod", "web", "u-1")
    assert (add.network, add.deny_unready, add.track, add.guard) == ("default/net-a", True, False, False)
    assert add.addresses == (V4, V6)


def test_a_guard_needs_no_previous_result() -> None:
    add = parse_add(request({"guard": True, "prevResult": None}))
    assert add.guard
    assert add.addresses == ()


IDENTITIES = [
    ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b", PodIdentity("a", "b", "")),
    ("K8S_POD_NAME=b;K8S_POD_UID=;K8S_POD_NAMESPACE=a", PodIdentity("a", "b", "")),
    ("K8S_POD_NAME=b;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_NAMESPACE=", PodIdentity("a", "b", "")),
    (" K8S_POD_NAMESPACE=a; K8S_POD_NAME=b", PodIdentity("a", "b", "")),
    (";;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;", PodIdentity("a", "b", "")),
    ("K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;MAC=02:0;K8S_POD_INFRA_CONTAINER_ID=", PodIdentity("a", "b", "")),
    ("K8S_POD_NAME=only-podman", None),
    ("K8S_POD_NAMESPACE=a", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "wanted"), IDENTITIES, ids=[text or "empty" for text, _ in IDENTITIES])
def test_identity(text: str, wanted: PodIdentity | None) -> None:
    assert parse_identity(text) == wanted


RESULTS = [
    ("0.1.0", {"ip4": {"ip": "10.0.0.5/24"}, "ip6": {"ip": "fd00::5/64"}}, (V4, V6)),
    ("0.2.0, one family", {"ip4": None, "ip6": {"ip": "fd00::5/64"}}, (V6,)),
    ("no interface index", {"ips": [{"version": "4", "address": "10.0.0.5/24"}]}, (V4,)),
    ("another's address", {**RESULT, "ips": [{"address": "10.0.0.6/24", "interface": 0}]}, ()),
    (
        "host side of the same name",
        {"interfaces": [{"name": "net1"}], "ips": [{"address": "10.0.0.5/8", "interface": 0}]},
        (),
    ),
    ("twice", {"ips": [{"address": "10.0.0.5/24"}, {"address": "10.0.0.5/24"}]}, (V4,)),
    ("without addresses", {}, ()),
]


@pytest.mark.parametrize(("name", "result", "wanted"), RESULTS, ids=[r[0] for r in RESULTS])
def test_addresses_of_a_result(name: str, result: dict[str, Any], wanted: tuple[bytes, ...]) -> None:
    assert parse_result(result, "net1") == wanted


BAD: list[tuple[str, dict[str, Any], int, str]] = [
    ("no container", request(CNI_CONTAINERID=""), 4, "CNI_CONTAINERID"),
    ("container with slash", request(CNI_CONTAINERID="../../etc"), 4, "CNI_CONTAINERID"),
    ("interface too long", request(CNI_IFNAME="x" * 16), 4, "CNI_IFNAME"),
    ("interface ..", request(CNI_IFNAME=".."), 4, "CNI_IFNAME"),
    ("loopback", request(CNI_IFNAME="lo"), 4, "CNI_IFNAME lo"),
    ("interface with a newline", request(CNI_IFNAME="a\nb"), 4, "CNI_IFNAME"),
    ("relative netns", request(CNI_NETNS="run/netns/x"), 4, "CNI_NETNS"),
    ("netns with a NUL", request(CNI_NETNS="/run/\0"), 4, "CNI_NETNS"),
    ("no pair", request(CNI_ARGS="K8S_POD_NAME"), 4, "CNI_ARGS"),
    ("contradiction", request(CNI_ARGS="K8S_POD_NAME=a;K8S_POD_NAME=b;K8S_POD_NAMESPACE=c"), 4, "twice"),
    ("illegal pod name", request(CNI_ARGS="K8S_POD_NAME=../x;K8S_POD_NAMESPACE=c"), 4, "K8S_POD_NAME"),
    ("illegal uid", request(CNI_ARGS="K8S_POD_NAME=x;K8S_POD_NAMESPACE=c;K8S_POD_UID=a b"), 4, "K8S_POD_UID"),
    ("env is a list", {**request(), "env": []}, 4, "env"),
    ("env holds bytes", {**request(), "env": {"CNI_IFNAME": b"x"}}, 4, "env"),
    ("config is text", {**request(), "config": "{}"}, 6, "configuration"),
    ("config is no JSON", {**request(), "config": b"{"}, 6, "JSON"),
    ("config is a list", {**request(), "config": b"[]"}, 6, "object"),
    ("config nests too deep", {**request(), "config": b"[" * 100_000}, 6, "JSON"),
    ("no prevResult", request({"prevResult": None}), 7, "prevResult"),
    ("prevResult a list", request({"prevResult": []}), 7, "prevResult"),
    ("ips no list", request({"prevResult": {"ips": {}}}), 7, "prevResult.ips"),
    ("address missing", request({"prevResult": {"ips": [{}]}}), 7, "prevResult.ips[0].address"),
    ("address nonsense", request({"prevResult": {"ips": [{"address": "10.0.0.256/24"}]}}), 7, "ips[0]"),
    ("ip4 a text", request({"prevResult": {"ip4": "10.0.0.1/8"}}), 7, "prevResult.ip4"),
    ("many addresses", request({"prevResult": {"ips": [{"address": "::1/64"}] * 257}}), 7, "257"),
    ("netAttachDef without namespace", request({"netAttachDef": "net-a"}), 7, "netAttachDef"),
    ("netAttachDef a number", request({"netAttachDef": 1}), 7, "netAttachDef"),
    ("guard a text", request({"guard": "yes"}), 7, "guard"),
    ("onUnready open", request({"onUnready": "open"}), 7, "onUnready"),
    ("trackConnections a number", request({"trackConnections": 1}), 7, "trackConnections"),
]


@pytest.mark.parametrize(("name", "body", "code", "words"), BAD, ids=[row[0] for row in BAD])
def test_bad_requests_name_what_is_bad(name: str, body: dict[str, Any], code: int, words: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_add(body)
    assert caught.value.code == code
    assert words in caught.value.msg


def test_del_needs_the_key_alone() -> None:
    key = parse_key({"env": {"CNI_CONTAINERID": "abc", "CNI_IFNAME": "net1"}})
    assert (key.container_id, key.ifname) == ("abc", "net1")


def test_args_of_the_configuration_are_never_read() -> None:
    evil = {"args": {"cni": {"netAttachDef": "evil/x", "guard": True, "onUnready": "deny"}}}
    add: AddRequest = parse_add(request(evil))
    assert (add.network, add.guard, add.deny_unready) == (None, False, False)
