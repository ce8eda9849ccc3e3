"""A plugin's request, checked: what comes out, and which code and field a bad one is refused with."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugin.errors import CniError
from daemon.cni import AddRequest, PodIdentity, parse_add, parse_identity, parse_key, parse_result
from daemon.userspace import drives, missing

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


ADDRESS = {"address": "10.0.0.5/24"}
GATEWAY = {"address": "10.0.0.1/24", "interface": 0}
INSIDE = {"name": "net1", "sandbox": "/run/netns/x"}
SAME_NAME = {"interfaces": [{"name": "net1", "sandbox": ""}, INSIDE]}
BRIDGE = [{"name": "cni0"}, {"name": "veth1"}, INSIDE]
NO_SANDBOX = [{"name": "cni0"}, {"name": "net1", "mac": "02:00:00:00:00:05"}]

# What is ours: what is said of an interface of our name in the pod, and what is said of none.
RESULTS = [
    ("0.1.0", {"ip4": {"ip": "10.0.0.5/24"}, "ip6": {"ip": "fd00::5/64"}}, (V4, V6)),
    ("0.2.0", {"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1"}}, (V4,)),
    ("0.2.0, one family", {"ip4": None, "ip6": {"ip": "fd00::5/64"}}, (V6,)),
    ("no interface index", {"ips": [{"version": "4", **ADDRESS}]}, (V4,)),
    ("no index, but interfaces", {"interfaces": BRIDGE, "ips": [ADDRESS]}, (V4,)),
    ("index of none", {"interfaces": BRIDGE, "ips": [{**ADDRESS, "interface": -1}]}, (V4,)),
    ("index without interfaces", {"ips": [{**ADDRESS, "interface": 0}]}, (V4,)),
    ("index past the interfaces", {"interfaces": BRIDGE, "ips": [{**ADDRESS, "interface": 3}]}, ()),
    ("another's address", {**RESULT, "ips": [{"address": "10.0.0.6/24", "interface": 0}]}, ()),
    ("of the host's side", {"interfaces": BRIDGE, "ips": [GATEWAY, {**ADDRESS, "interface": 2}]}, (V4,)),
    ("host side of the same name", {**SAME_NAME, "ips": [GATEWAY, {**ADDRESS, "interface": 1}]}, (V4,)),
    ("no sandbox", {"interfaces": NO_SANDBOX, "ips": [GATEWAY, {**ADDRESS, "interface": 1}]}, (V4,)),
    ("another name", {"interfaces": [{"name": "eth0"}], "ips": [{**ADDRESS, "interface": 0}]}, ()),
    ("twice", {"ips": [ADDRESS, ADDRESS]}, (V4,)),
    ("IPv4 in IPv6's form", {"ips": [{"address": "::ffff:10.0.0.5/120"}]}, ()),
    ("without addresses", {}, ()),
    ("interfaces without addresses", {"interfaces": BRIDGE}, ()),
]


@pytest.mark.parametrize(("name", "result", "wanted"), RESULTS, ids=[r[0] for r in RESULTS])
def test_addresses_of_a_result(name: str, result: dict[str, Any], wanted: tuple[bytes, ...]) -> None:
    assert parse_result(result, "net1") == wanted


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
@pytest.mark.parametrize("sandbox", ["/run/netns/x", "", None])
def test_of_every_version_with_a_sandbox_and_without(version: str, sandbox: str | None) -> None:
    own: dict[str, Any] = {"name": "net1", "mac": "02:00:00:00:00:05"}
    own |= {} if sandbox is None else {"sandbox": sandbox}
    own |= {"mtu": 1500, "pciID": "0000:3b:02.1"} if version == "1.1.0" else {}
    families = ("4", "6") if version.startswith("0.") else (None, None)
    texts = zip(("10.0.0.5/24", "fd00::5/64"), families, strict=True)
    ips = [{"address": text, "interface": 0, **({"version": v} if v else {})} for text, v in texts]
    assert parse_result({"cniVersion": version, "interfaces": [own], "ips": ips}, "net1") == (V4, V6)


PCI = "0000:3b:02.1"
ON_VF = {**RESULT, "interfaces": [{"name": "eth9", "pciID": "0000:00:00.0"}, {**INSIDE, "pciID": PCI}]}
DEVICES = [
    ({}, ""),
    ({"prevResult": ON_VF}, PCI),
    (
        {"prevResult": {**RESULT, "interfaces": [{**INSIDE, "socketPath": "/run/vhost.sock"}]}},
        "/run/vhost.sock",
    ),
    ({"runtimeConfig": {"deviceID": PCI}}, PCI),
    ({"deviceID": PCI}, PCI),
    ({"deviceID": 7, "pciBusID": PCI, "runtimeConfig": []}, PCI),
]


@pytest.mark.parametrize(("config", "wanted"), DEVICES)
def test_what_is_said_of_the_device(config: dict[str, Any], wanted: str) -> None:
    assert parse_add(request(config)).device == wanted


def test_a_vf_on_a_user_space_driver_is_told(tmp_path: Path) -> None:
    add = parse_add(request({"deviceID": PCI, "netAttachDef": "default/vf"}))
    for driver, ours in (("vfio-pci", True), ("iavf", False)):
        device = tmp_path / PCI
        device.mkdir(exist_ok=True)
        (device / "driver").unlink(missing_ok=True)
        (device / "driver").symlink_to(f"../../../drivers/{driver}")
        assert drives(add, tmp_path) is ours
        error = missing(add, tmp_path)
        assert (error.code, f"'{PCI}', bound to {driver}" in error.msg) == (7, True)
        assert "never meet the kernel's packet filter" in error.msg
        assert (
            "take multi-networkpolicy out of the plugins list of the net-attach-def default/vf"
            in error.details
        )


@pytest.mark.parametrize("device", ["", "../../../etc", "0000:3b:02.1/..", "/run/vhost.sock", "x" * 500])
def test_a_device_that_is_none(device: str, tmp_path: Path) -> None:
    add = parse_add(request({"deviceID": device}))
    assert not drives(add, tmp_path)
    error = missing(add, tmp_path)
    assert error.code == (7 if device else 4)
    assert "user-space" in error.msg + error.details
    assert len(error.msg) < 500


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
