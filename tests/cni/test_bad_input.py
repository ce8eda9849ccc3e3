"""Bad input with the real daemon listening: the right code, words that help, and nothing left behind."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cni.bad_input import ROWS, BadInput
from tests.cni.node import Node, plain, variables
from tests.cni.run_plugin import SLACK, run_plugin
from tests.lab import Attachment

UNKNOWN_UID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(scope="module")
def victim(node: Node) -> Attachment:
    """An interface in good order, which none of these inputs may get enrolled."""
    return node.attached()


@pytest.fixture(autouse=True)
def _nothing_left(victim: Attachment, node: Node) -> Iterator[None]:
    """Whatever was refused: no rules in the pod, no record of anything, and a daemon that goes on."""
    yield
    assert node.ruleset(victim.pod) == ""
    assert os.listdir(node.daemon.state / "attachments") == []
    assert node.waiting == 0


def test_good_input_is_enrolled(node: Node) -> None:
    """The positive control of this module."""
    attachment = node.attached()
    node.assert_open(plain(attachment))
    assert node.plugin("ADD", attachment).code == 0
    node.assert_governed(plain(attachment))
    assert node.plugin("DEL", attachment).code == 0
    node.lab.detach(attachment)
    node.assert_nothing_left(attachment.pod)


# --- what the plugin refuses by itself -------------------------------------------------------------------


def aimed(row: BadInput, node: Node) -> bytes:
    """Direct a row's configuration to this daemon, where that leaves it as bad as it is."""
    if not row.stdin.startswith(b'{"'):
        return row.stdin
    return b'{"socketPath": "%s", ' % bytes(node.daemon.socket) + row.stdin[1:]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refused_before_the_daemon_hears_of_it(row: BadInput, victim: Attachment, node: Node) -> None:
    done = run_plugin(aimed(row, node), {"CNI_NETNS": str(victim.pod.netns), **row.env})
    assert done.error()["code"] == row.code, done
    assert row.says in done.words()


def is_for_the_daemon(row: BadInput) -> bool:
    """Whether the daemon, which trusts no client, must refuse it too."""
    env = row.env
    if env.get("CNI_COMMAND", "ADD") != "ADD" or any(isinstance(value, bytes) for value in env.values()):
        return False
    if len(row.stdin) > 900_000:
        return False
    if row.code == 4:
        return bool({"CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"} & set(env))
    # A null means "not given" to the daemon.
    checked = ("guard = ", "trackConnections = ", "onUnready = ", "prevResult a")
    return row.code == 6 or (row.name.startswith(checked) and not row.name.endswith("None"))


@pytest.mark.parametrize("row", [row for row in ROWS if is_for_the_daemon(row)], ids=lambda row: row.name)
def test_refused_by_the_daemon_too(row: BadInput, victim: Attachment, node: Node) -> None:
    """Sent past the plugin."""
    merged = {**variables("ADD", victim), **row.env}
    env = {name: str(value) for name, value in merged.items() if value is not None}
    reply = node.daemon.cni("add", env, row.stdin)
    assert (reply["ok"], reply["code"]) == (False, row.code), reply
    assert reply["msg"]


MALFORMED = [
    {},
    {"v": 1},
    {"v": 2, "op": "add"},
    {"v": "1", "op": "add"},
    {"v": 1, "op": "explode"},
    {"v": 1, "op": ["add"]},
    {"v": 1, "op": "add"},
    {"v": 1, "op": "add", "env": [], "config": b"{}"},
    {"v": 1, "op": "add", "env": {"CNI_NETNS": 7}, "config": b"{}"},
    {"v": 1, "op": "add", "env": {}, "config": "{}"},
    {"v": 1, "op": "del"},
    {"v": 1, "op": "del", "env": {}},
    {"v": 1, "op": "check", "env": {}, "config": b"{}"},
]


@pytest.mark.parametrize("request_map", MALFORMED, ids=str)
def test_malformed_requests(request_map: dict[str, Any], node: Node) -> None:
    reply = node.daemon.rpc(request_map)
    assert reply["ok"] is False
    assert reply["code"] > 0
    assert reply["msg"]
    assert "unexpected" not in reply["msg"]


@pytest.mark.parametrize("left", [0, -5, "30", None, 2**63, 1e300], ids=str)
def test_any_time_left(left: Any, node: Node) -> None:
    """An ADD of an unknown pod, with nonsense for its time: answered within its second, at the latest."""
    pod = node.lab.pod("nobody", suffix=f"-{next(node.numbers)}")
    attachment = node.lab.attach(pod)
    env = {name: str(value) for name, value in variables("ADD", attachment).items()}
    body = {"v": 1, "op": "add", "env": env, "config": node.stdin(attachment), "timeLeftMs": left}
    assert node.daemon.rpc(body, timeout=5.0)["code"] == 11
    pod.end()


# --- what only the daemon can judge ----------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """env: changes to the variables; {folder} and {daemon} in a value stand for a place and a process."""

    name: str
    code: int
    says: str
    env: dict[str, str] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)


def netns(path: str, what: str) -> Judged:
    return Judged(f"CNI_NETNS is {what}", 4, "CNI_NETNS", {"CNI_NETNS": path})


def args(text: str, what: str, says: str = "CNI_ARGS", code: int = 4) -> Judged:
    return Judged(f"CNI_ARGS {what}", code, says, {"CNI_ARGS": text})


def result(what: str, says: str, **changes: Any) -> Judged:
    keys = {"prevResult": {"cniVersion": "1.0.0", **changes}}
    return Judged(f"prevResult with {what}", 7, f"prevResult.{says}", keys=keys)


POD = "K8S_POD_NAMESPACE=default;K8S_POD_NAME=server-1"
NETNS_ROWS = [
    netns("{folder}/file", "a plain file"),
    netns("{folder}/empty", "an empty file"),
    netns("{folder}", "a folder"),
    netns("{folder}/fifo", "a pipe that nobody writes to"),
    netns("{folder}/socket", "a socket"),
    netns("{folder}/nowhere", "a link to nothing"),
    netns("{folder}/loop", "a link to itself"),
    netns("{folder}/file/below", "below a plain file"),
    netns("{folder}/deleted", "a netns that was unmounted"),
    netns("/dev/zero", "a device without end"),
    netns("/dev/tty", "a terminal that is not there"),
    netns("/proc/1/ns/mnt", "a mount namespace"),
    netns("/proc/1/ns/pid", "a PID namespace"),
    netns("/proc/1/ns/user", "a user namespace"),
    netns("/proc/1/ns/uts", "an UTS namespace"),
    netns("/proc/1/ns/ipc", "an IPC namespace"),
    netns("/proc/1/ns/cgroup", "a cgroup namespace"),
    netns("/proc/1/ns/net", "the host's own"),
    netns("/proc/{daemon}/ns/net", "the daemon's own"),
    netns("/proc/{daemon}/task/{daemon}/ns/net", "that of the daemon's thread"),
    netns("/proc/self/ns/mnt", "the daemon's own mount namespace"),
    netns("/proc/4194304999/ns/net", "that of a process that can't be"),
    netns("/proc/self/mem", "memory"),
    netns("/" + "n" * 4000, "too long a name"),
    netns("/a" * 3000, "too long a path"),
    netns("/run/netns/mnpt-\n", "with a line feed"),
]
INTERFACE_ROWS = [
    Judged("no such interface", 4, "net7", {"CNI_IFNAME": "net7"}),
    Judged("an interface in capitals", 4, "NET1", {"CNI_IFNAME": "NET1"}),
    Judged("an interface with a percent sign", 4, "net%d", {"CNI_IFNAME": "net%d"}),
    Judged("an interface with an at sign", 4, "net1@if2", {"CNI_IFNAME": "net1@if2"}),
    Judged("an interface that is a number", 4, "2", {"CNI_IFNAME": "2"}),
]
ARGS_ROWS = [
    args("K8S_POD_NAME", "that have no value"),
    args(f"{POD};;x", "with a pair that has no value"),
    args("nonsense", "that are a word"),
    args(f"{POD};K8S_POD_NAME=server-2", "that name two pods", "K8S_POD_NAME"),
    args(f"{POD};K8S_POD_NAMESPACE=kube-system", "that name two namespaces", "K8S_POD_NAMESPACE"),
    args(f"{POD};K8S_POD_UID=a;K8S_POD_UID=b", "that name two UIDs", "K8S_POD_UID"),
    args("K8S_POD_NAMESPACE=default;K8S_POD_NAME=../server-1", "with a name that climbs", "K8S_POD_NAME"),
    args("K8S_POD_NAMESPACE=Default;K8S_POD_NAME=server-1", "with capitals", "K8S_POD_NAMESPACE"),
    args("K8S_POD_NAMESPACE= default;K8S_POD_NAME=server-1", "with a space", "K8S_POD_NAMESPACE"),
    args(f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={'n' * 254}", "with a name of 254 letters", "K8S_POD_NAME"),
    args("K8S_POD_NAMESPACE=default;K8S_POD_NAME=a\nb", "with a line feed", "K8S_POD_NAME"),
    args(f"{POD};K8S_POD_UID=a/b", "with a slash in the UID", "K8S_POD_UID"),
    args(f"{POD};K8S_POD_UID={'u' * 129}", "with a UID of 129 letters", "K8S_POD_UID"),
    args("K8S_POD_NAMESPACE=default;K8S_POD_NAME=none", "of an unknown pod", "default/none", 11),
    args("K8S_POD_NAMESPACE=none;K8S_POD_NAME=server-1", "of an unknown namespace", "none/server-1", 11),
    args(f"{POD};K8S_POD_UID={UNKNOWN_UID}", "of another UID", UNKNOWN_UID, 11),
]
RESULT_ROWS = [
    result("an address that is a number", "ips[0].address", ips=[{"address": 7}]),
    result("no address", "ips[0].address", ips=[{"gateway": "10.1.0.1"}]),
    result("an address that is null", "ips[1].address", ips=[{"address": "10.0.0.1/8"}, {"address": None}]),
    result("an address that is a word", "ips[0].address", ips=[{"address": "localhost"}]),
    result("an empty address", "ips[0].address", ips=[{"address": ""}]),
    result("an address of 5 parts", "ips[0].address", ips=[{"address": "10.0.0.0.1/8"}]),
    result("33 bits", "ips[0].address", ips=[{"address": "10.0.0.1/33"}]),
    result("129 bits", "ips[0].address", ips=[{"address": "fd00::1/129"}]),
    result("negative bits", "ips[0].address", ips=[{"address": "10.0.0.1/-1"}]),
    result("a zone", "ips[0].address", ips=[{"address": "fe80::1%eth0%x/64"}]),
    result("an address in a list", "ips[0].address", ips=[{"address": ["10.0.0.1/8"]}]),
    result("1000 addresses", "ips", ips=[{"address": f"10.0.{n >> 8}.{n & 255}/8"} for n in range(1000)]),
    result("an interface's number in a list", "ips[0].interface", ips=[{"address": "::1", "interface": []}]),
    result("an interface's number in a map", "ips[0].interface", ips=[{"address": "::1", "interface": {}}]),
    result("an interface's number in quotes", "ips[0].interface", ips=[{"address": "::1", "interface": "0"}]),
    result("ip4 in a string", "ip4", ip4="10.0.0.1/8"),
    result("ip4 in a list", "ip4", ip4=[{"ip": "10.0.0.1/8"}]),
    result("ip4 without an address", "ip4.ip", ip4={"gateway": "10.0.0.1"}),
    result("ip6 that is a number", "ip6.ip", ip6={"ip": 6}),
    result("ip6 that is a word", "ip6.ip", ip6={"ip": "six"}),
]
JUDGED = NETNS_ROWS + INTERFACE_ROWS + ARGS_ROWS + RESULT_ROWS


@pytest.fixture(scope="module")
def places(node: Node) -> Path:
    """What CNI_NETNS may lead to by mistake."""
    folder = node.lab.folder / "places"
    folder.mkdir()
    (folder / "file").write_text("not a netns\n")
    (folder / "empty").touch()
    os.mkfifo(folder / "fifo")
    (folder / "nowhere").symlink_to(folder / "gone")
    (folder / "loop").symlink_to(folder / "loop")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    pod = node.lab.pod("deleted-netns")
    (folder / "deleted").symlink_to(pod.netns)
    pod.end()
    return folder


@pytest.mark.parametrize("row", JUDGED, ids=lambda row: row.name)
def test_refused_by_the_daemon(row: Judged, victim: Attachment, node: Node, places: Path) -> None:
    env: dict[str, str | bytes | None] = {
        name: value.replace("{folder}", str(places)).replace("{daemon}", str(node.daemon.pid))
        for name, value in row.env.items()
    }
    done = node.plugin("ADD", victim, env, **row.keys)
    assert done.error()["code"] == row.code, done
    assert row.says in done.words()
    assert "unexpected" not in done.words()
    assert len(done.out) < 5000
    assert done.seconds < 1 + SLACK


@pytest.mark.parametrize("row", NETNS_ROWS, ids=lambda row: row.name)
def test_a_guard_is_refused_there_too(row: Judged, victim: Attachment, node: Node, places: Path) -> None:
    path = row.env["CNI_NETNS"].replace("{folder}", str(places)).replace("{daemon}", str(node.daemon.pid))
    env = {name: str(value) for name, value in variables("ADD", victim).items()} | {"CNI_NETNS": path}
    reply = node.daemon.cni("add", env, {"cniVersion": "1.0.0", "name": "net1", "guard": True})
    assert (reply["ok"], reply["code"]) == (False, row.code), reply


@pytest.mark.parametrize("row", NETNS_ROWS + INTERFACE_ROWS, ids=lambda row: row.name)
def test_del_of_it_succeeds(row: Judged, victim: Attachment, node: Node, places: Path) -> None:
    env: dict[str, str | bytes | None] = {
        name: value.replace("{folder}", str(places)) for name, value in row.env.items()
    }
    assert node.plugin("DEL", victim, env).code == 0
