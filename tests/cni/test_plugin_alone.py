"""The built plugin alone: what it refuses by itself, what it tells the daemon and what it prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import wire
from tests.cni import fake_daemon
from tests.cni.bad_input import ABSENT, CONFIG, ENV, ROWS, BadInput, config
from tests.cni.fake_daemon import FakeDaemon
from tests.cni.run_plugin import (
    GC_EMPTY,
    SLACK,
    VERSIONS,
    call,
    run_plugin,
)

# What it refuses by itself


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refuses_bad_input(row: BadInput) -> None:
    done = run_plugin(row.stdin, row.env)
    assert done.error()["code"] == row.code, done
    assert row.says in done.words()
    assert len(done.out) < 1000


PLACES = [
    (b'{"name": "a', "Unterminated string starting at: character 9"),
    (b'{"name": ["a" "b"]}', "Expecting ',' delimiter: character 14"),
    (b'{"name": {"a" 1}}', "Expecting ':' delimiter: character 14"),
    (b'{"name": nul}', "a value is missing: character 9"),
    (b'{"name" 1}', "':' is missing: character 8"),
]


@pytest.mark.parametrize(("text", "says"), PLACES)
def test_says_where_the_json_is_wrong(text: bytes, says: str) -> None:
    assert says in run_plugin(text).words()


def test_the_unchanged_input_of_the_rows_is_good(socket_path: Path) -> None:
    with FakeDaemon(socket_path):
        done = call("ADD", socket_path)
    assert (done.code, json.loads(done.out)) == (0, CONFIG["prevResult"])


def test_bad_input_never_reaches_the_daemon(socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        call("ADD", socket_path, name=ABSENT).error()
        call("ADD", socket_path, {"CNI_NETNS": "/proc/self/ns/net"}).error()
        assert daemon.connections == 0


# What the daemon is told, and what the runtime gets

WRITTEN = [
    pytest.param(b'{"ips":[]}', id="plain"),
    pytest.param(b'{ "a" :\n\t1.10, "b": -0,"c":1e400 }', id="spaces and numbers"),
    pytest.param(b'{"a":123456789012345678901234567890}', id="huge integer"),
    pytest.param(b'{"a":' + b"9" * 5000 + b"}", id="integer of 5000 digits"),
    pytest.param(b'{"a":1,"a":2}', id="duplicate keys"),
    pytest.param(rb'{"a":"\ud800","b":"\u00e9\/"}', id="escapes"),
    pytest.param('{"ä":"é漢🙂"}'.encode(), id="beyond ASCII"),
    pytest.param(b"{}", id="empty"),
    pytest.param(b'{"prevResult":{"prevResult":7}}', id="itself as key"),
    pytest.param(b'{"interfaces":null,"ips":null}', id="nulls"),
    pytest.param(b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", id="300 lists deep"),
    pytest.param(b'{"a":"' + b"x" * 500_000 + b'"}', id="500 kB"),
]


@pytest.mark.parametrize("text", WRITTEN)
def test_prints_prev_result_byte_for_byte(text: bytes, socket_path: Path) -> None:
    stdin = b'{"name":"a","cniVersion":"0.4.0" ,"socketPath":"%s", "prevResult" :\n%s ,"x":1}' % (
        bytes(socket_path),
        text,
    )
    with FakeDaemon(socket_path) as daemon:
        done = run_plugin(stdin)
    assert (done.code, done.out, done.err) == (0, text, b"")
    assert daemon.requests[0]["config"] == stdin


def test_the_last_of_two_prev_results_counts(socket_path: Path) -> None:
    stdin = config(socketPath=str(socket_path))[:-1] + b', "prevResult": {"last":1}}'
    with FakeDaemon(socket_path):
        assert run_plugin(stdin).out == b'{"last":1}'


def test_what_add_tells_the_daemon(socket_path: Path) -> None:
    text = config(socketPath=str(socket_path), timeoutSeconds=20, guard=False)
    with FakeDaemon(socket_path) as daemon:
        assert run_plugin(text).code == 0
    (request,) = daemon.requests
    left = request.pop("timeLeftMs")
    assert 20_000 - SLACK * 1000 < left <= 20_000
    told = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")
    assert request == {"v": 1, "op": "add", "env": {name: ENV[name] for name in told}, "config": text}


def test_absent_and_empty_variables_are_not_sent(socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        call("DEL", socket_path, {"CNI_ARGS": None, "CNI_NETNS": ""})
        call("GC", socket_path, {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""}, **GC_EMPTY)
    assert daemon.requests[0]["env"] == {"CNI_CONTAINERID": ENV["CNI_CONTAINERID"], "CNI_IFNAME": "net1"}
    assert daemon.requests[1]["env"] == {"CNI_ARGS": ENV["CNI_ARGS"]}


def test_largest_configuration(socket_path: Path) -> None:
    frame = len(config(socketPath=str(socket_path), x=""))
    text = config(socketPath=str(socket_path), x="y" * (wire.MAX_CONFIG - frame))
    assert len(text) == wire.MAX_CONFIG
    long = {"CNI_ARGS": "A=" + "b" * 8190, "CNI_CONTAINERID": "c" * 8192, "CNI_NETNS": "/" + "n" * 8191}
    with FakeDaemon(socket_path) as daemon:
        assert run_plugin(text, long).code == 0
        assert "too large" in run_plugin(text + b" ").words()
    assert daemon.requests[0]["config"] == text


@pytest.mark.parametrize("version", [*VERSIONS, ""])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_every_version(command: str, version: str, socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        done = call(command, socket_path, cniVersion=version or ABSENT, **{"cni.dev/attachments": None})
    oldest = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(command, "")
    if version < oldest:
        assert done.error()["code"] == 1
        assert daemon.requests == []
        return
    assert (done.code, done.err) == (0, b"")
    assert json.loads(done.out or b"null") == (CONFIG["prevResult"] if command == "ADD" else None)
    assert daemon.requests[0]["op"] == command.lower()


@pytest.mark.parametrize("version", [*VERSIONS, ""])
def test_guard_prints_an_empty_result(version: str, socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        done = call("ADD", socket_path, guard=True, prevResult=ABSENT, cniVersion=version or ABSENT)
    assert (done.code, json.loads(done.out)) == (0, {"cniVersion": version or "0.1.0"})
    assert json.loads(daemon.requests[0]["config"])["guard"] is True


@pytest.mark.parametrize("prev_result", [ABSENT, CONFIG["prevResult"]], ids=["without", "with"])
def test_check_of_a_guard_takes_any_prev_result(prev_result: Any, socket_path: Path) -> None:
    with FakeDaemon(socket_path):
        done = call("CHECK", socket_path, guard=True, prevResult=prev_result)
    assert (done.code, done.out) == (0, b"")


GOOD_KEYS = [
    {"timeoutSeconds": 1},
    {"timeoutSeconds": 600},
    {"timeoutSeconds": 1.5},
    {"onUnready": "deny"},
    {"onUnready": "fail"},
    {"trackConnections": False},
    {"guard": False},
    {"netAttachDef": "default/macvlan-a"},
    {"netAttachDef": f"{'n' * 63}/{'a' * 63}.b-1.c"},
    {"args": {"cni": {"guard": "nonsense", "socketPath": 7}}},
    {"capabilities": {"mac": True}, "runtimeConfig": {"mac": "x"}, "unknown": [1, {"deep": None}]},
    {"name": "a" * 300},
]


@pytest.mark.parametrize("keys", GOOD_KEYS, ids=str)
def test_good_keys(keys: dict[str, Any], socket_path: Path) -> None:
    with FakeDaemon(socket_path):
        assert call("ADD", socket_path, **keys).code == 0


@pytest.mark.parametrize("word", ["1", "true", "True", "TRUE"])
def test_own_netns_when_overridden(word: str, socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        done = call("ADD", socket_path, {"CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": word})
    assert (done.code, len(daemon.requests)) == (0, 1)


@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS", "GC"])
def test_the_daemons_error_is_passed_on(command: str, socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.refuse(7, "bad “net”\n", "line\ttwo \x01")):
        done = call(command, socket_path, **GC_EMPTY)
    assert done.error() == {
        "cniVersion": "1.1.0",
        "code": 7,
        "msg": "bad “net”\n",
        "details": "line\ttwo \x01",
    }


def test_a_refusal_before_the_request_was_read_is_passed_on(socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.refuse_unread):
        done = call("ADD", socket_path, x="y" * 900_000)
    assert done.error()["msg"] == "busy"


# VERSION, and no command at all


def test_version_needs_neither_environment_nor_stdin() -> None:
    nothing = dict.fromkeys(ENV)
    done = run_plugin(b"\xff{", {**nothing, "CNI_COMMAND": "VERSION"})
    assert (done.code, done.err) == (0, b"")
    assert json.loads(done.out) == {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)}


@pytest.mark.parametrize("command", [None, ""])
def test_without_a_command_it_says_what_it_is(command: str | None) -> None:
    done = run_plugin(b"", {"CNI_COMMAND": command})
    assert (done.code, done.out) == (0, b"")
    assert b"multi-networkpolicy" in done.err
    assert b"1.1.0" in done.err
