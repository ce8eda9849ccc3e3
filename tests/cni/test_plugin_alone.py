"""The built plugin with a scripted daemon: what it refuses by itself, what it prints, how long it waits."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import wire
from tests.cni import fake_daemon
from tests.cni.bad_input import ABSENT, CONFIG, ENV, ROWS, BadInput, config
from tests.cni.fake_daemon import FakeDaemon, Script
from tests.cni.run_plugin import PLUGIN, REPOSITORY, Done, environment, run_plugin

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
# What a call may take on top of what it waits for, on a machine that runs other tests too.
SLACK = 3.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """A place for sockets: a short path (108 bytes are all that there is), and not in /tmp."""
    with tempfile.TemporaryDirectory(prefix=f"mnpt-{os.getpid()}-", dir="/run") as made:
        yield Path(made)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "daemon.sock"


def call(command: str, path: Path, env: dict[str, str | bytes | None] | None = None, **changes: Any) -> Done:
    return run_plugin(config(socketPath=str(path), **changes), {"CNI_COMMAND": command, **(env or {})})


# What it refuses by itself


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refuses_bad_input(row: BadInput) -> None:
    done = run_plugin(row.stdin, row.env)
    assert done.error()["code"] == row.code, done
    assert row.says in done.words()
    assert len(done.out) < 1000


def test_the_unchanged_input_of_the_rows_is_good(path: Path) -> None:
    with FakeDaemon(path):
        done = call("ADD", path)
    assert (done.code, json.loads(done.out)) == (0, CONFIG["prevResult"])


def test_bad_input_never_reaches_the_daemon(path: Path) -> None:
    with FakeDaemon(path) as daemon:
        call("ADD", path, name=ABSENT).error()
        call("ADD", path, {"CNI_NETNS": "/proc/self/ns/net"}).error()
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
def test_prints_prev_result_byte_for_byte(text: bytes, path: Path) -> None:
    stdin = b'{"name":"a","cniVersion":"0.4.0" ,"socketPath":"%s", "prevResult" :\n%s ,"x":1}' % (
        bytes(path),
        text,
    )
    with FakeDaemon(path) as daemon:
        done = run_plugin(stdin)
    assert (done.code, done.out, done.err) == (0, text, b"")
    assert daemon.requests[0]["config"] == stdin


def test_the_last_of_two_prev_results_counts(path: Path) -> None:
    stdin = config(socketPath=str(path))[:-1] + b', "prevResult": {"last":1}}'
    with FakeDaemon(path):
        assert run_plugin(stdin).out == b'{"last":1}'


def test_what_add_tells_the_daemon(path: Path) -> None:
    text = config(socketPath=str(path), timeoutSeconds=20, guard=False)
    with FakeDaemon(path) as daemon:
        assert run_plugin(text).code == 0
    (request,) = daemon.requests
    left = request.pop("timeLeftMs")
    assert 20_000 - SLACK * 1000 < left <= 20_000
    told = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")
    assert request == {"v": 1, "op": "add", "env": {name: ENV[name] for name in told}, "config": text}


def test_absent_and_empty_variables_are_not_sent(path: Path) -> None:
    with FakeDaemon(path) as daemon:
        call("DEL", path, {"CNI_ARGS": None, "CNI_NETNS": ""})
        call("GC", path, {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""}, **GC_EMPTY)
    assert daemon.requests[0]["env"] == {"CNI_CONTAINERID": ENV["CNI_CONTAINERID"], "CNI_IFNAME": "net1"}
    assert daemon.requests[1]["env"] == {"CNI_ARGS": ENV["CNI_ARGS"]}


def test_largest_configuration(path: Path) -> None:
    frame = len(config(socketPath=str(path), x=""))
    text = config(socketPath=str(path), x="y" * (wire.MAX_CONFIG - frame))
    assert len(text) == wire.MAX_CONFIG
    long = {"CNI_ARGS": "A=" + "b" * 8190, "CNI_CONTAINERID": "c" * 8192, "CNI_NETNS": "/" + "n" * 8191}
    with FakeDaemon(path) as daemon:
        assert run_plugin(text, long).code == 0
        assert "too large" in run_plugin(text + b" ").words()
    assert daemon.requests[0]["config"] == text


GC_EMPTY: dict[str, Any] = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}


@pytest.mark.parametrize("version", [*VERSIONS, ""])
@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_every_version(command: str, version: str, path: Path) -> None:
    with FakeDaemon(path) as daemon:
        done = call(command, path, cniVersion=version or ABSENT, **{"cni.dev/attachments": None})
    oldest = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(command, "")
    if version < oldest:
        assert done.error()["code"] == 1
        assert daemon.requests == []
        return
    assert (done.code, done.err) == (0, b"")
    assert json.loads(done.out or b"null") == (CONFIG["prevResult"] if command == "ADD" else None)
    assert daemon.requests[0]["op"] == command.lower()


@pytest.mark.parametrize("version", [*VERSIONS, ""])
def test_guard_prints_an_empty_result(version: str, path: Path) -> None:
    with FakeDaemon(path) as daemon:
        done = call("ADD", path, guard=True, prevResult=ABSENT, cniVersion=version or ABSENT)
    assert (done.code, json.loads(done.out)) == (0, {"cniVersion": version or "0.1.0"})
    assert json.loads(daemon.requests[0]["config"])["guard"] is True


@pytest.mark.parametrize("prev_result", [ABSENT, CONFIG["prevResult"]], ids=["without", "with"])
def test_check_of_a_guard_takes_any_prev_result(prev_result: Any, path: Path) -> None:
    with FakeDaemon(path):
        done = call("CHECK", path, guard=True, prevResult=prev_result)
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
def test_good_keys(keys: dict[str, Any], path: Path) -> None:
    with FakeDaemon(path):
        assert call("ADD", path, **keys).code == 0


@pytest.mark.parametrize("word", ["1", "true", "True", "TRUE"])
def test_own_netns_when_overridden(word: str, path: Path) -> None:
    with FakeDaemon(path) as daemon:
        done = call("ADD", path, {"CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": word})
    assert (done.code, len(daemon.requests)) == (0, 1)


@pytest.mark.parametrize("command", ["ADD", "CHECK", "STATUS", "GC"])
def test_the_daemons_error_is_passed_on(command: str, path: Path) -> None:
    with FakeDaemon(path, fake_daemon.refuse(7, "bad “net”\n", "line\ttwo \x01")):
        done = call(command, path, **GC_EMPTY)
    assert done.error() == {
        "cniVersion": "1.1.0",
        "code": 7,
        "msg": "bad “net”\n",
        "details": "line\ttwo \x01",
    }


def test_a_refusal_before_the_request_was_read_is_passed_on(path: Path) -> None:
    with FakeDaemon(path, fake_daemon.refuse_unread):
        done = call("ADD", path, x="y" * 900_000)
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


# DEL never fails

TOLERATED = [
    pytest.param(config(prevResult=ABSENT), id="no prevResult"),
    pytest.param(config(prevResult=7), id="bad prevResult"),
    pytest.param(b'{"name":"a","type":"multi-networkpolicy"}', id="keys stripped by Multus"),
    pytest.param(config(x="y" * 2_000_000), id="too large"),
    pytest.param(b'{"name":"a","x":' + b"[" * 5000 + b"]" * 5000 + b"}", id="nested too deep"),
    pytest.param(config(guard="x", timeoutSeconds="x", onUnready=1, netAttachDef=7), id="bad own keys"),
    pytest.param(config(socketPath="relative"), id="bad socketPath"),
    pytest.param(config(socketPath="/dev/null/x"), id="socketPath below a file"),
    pytest.param(config(socketPath="/"), id="socketPath is a directory"),
]


@pytest.mark.parametrize("text", TOLERATED)
def test_del_without_a_daemon(text: bytes) -> None:
    # An unpriv network would not help here: the default socket may be a real daemon's, and a DEL of this
    # key is nothing.
    done = run_plugin(text, {"CNI_COMMAND": "DEL"})
    assert (done.code, done.out, done.err) == (0, b"", b"")
    assert done.seconds < 1.0 + SLACK


@pytest.mark.parametrize(
    "env",
    [
        {"CNI_NETNS": None},
        {"CNI_NETNS": "/proc/self/ns/net"},
        {"CNI_NETNS": "relative"},
        {"CNI_NETNS": b"\xff"},
        {"CNI_ARGS": b"\xff"},
        {"CNI_ARGS": "A=" + "b" * 100_000},
    ],
    ids=str,
)
def test_del_with_odd_variables_reaches_the_daemon(env: dict[str, str | bytes | None], path: Path) -> None:
    with FakeDaemon(path) as daemon:
        done = call("DEL", path, env)
    assert (done.code, done.out) == (0, b"")
    assert daemon.requests[0]["env"]["CNI_IFNAME"] == "net1"


BAD_DAEMONS: list[tuple[str, Script]] = [
    ("refuses", fake_daemon.refuse(7, "no", "")),
    ("refuses unread", fake_daemon.refuse_unread),
    ("closes at once", fake_daemon.close_at_once),
    ("closes after the request", fake_daemon.close_unanswered),
    ("closes in its reply", fake_daemon.close_mid_reply),
    ("answers with text", fake_daemon.raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
    ("announces 4 GiB", fake_daemon.raw(b"\xff\xff\xff\xff")),
    ("answers with another version", fake_daemon.answer({"v": 99, "ok": True})),
]


@pytest.mark.parametrize("script", [s for _, s in BAD_DAEMONS], ids=[n for n, _ in BAD_DAEMONS])
def test_del_with_a_bad_daemon(script: Script, path: Path) -> None:
    with FakeDaemon(path, script):
        done = call("DEL", path)
    assert (done.code, done.out) == (0, b"")
    assert done.seconds < 1.0 + SLACK


@pytest.mark.parametrize("script", [fake_daemon.hang, fake_daemon.deaf])
def test_del_with_a_hanging_daemon_ends_in_5_seconds(script: Script, path: Path) -> None:
    with FakeDaemon(path, script):
        done = call("DEL", path, timeoutSeconds=600)
    assert (done.code, done.out) == (0, b"")
    assert 4.9 < done.seconds < 5.0 + SLACK


# ADD and a daemon that is not there, or not well


def test_add_without_a_daemon_waits_until_its_timeout(path: Path) -> None:
    done = call("ADD", path, timeoutSeconds=1.5)
    assert done.error()["code"] == 11
    assert str(path) in done.words()
    assert "No such file" in done.words()
    assert 1.3 < done.seconds < 1.5 + SLACK


def test_add_with_a_dead_daemons_socket(path: Path) -> None:
    with FakeDaemon(path):
        os.link(path, path.with_suffix(".dead"))
    done = call("ADD", path.with_suffix(".dead"), timeoutSeconds=1)
    assert done.error()["code"] == 11
    assert "refused" in done.words()


@pytest.mark.parametrize(
    ("target", "says"),
    [("/dev/null/x", "Not a directory"), ("/proc/self/fdinfo/../status/x", "Not a directory")],
)
def test_add_does_not_wait_for_what_will_not_pass(target: str, says: str) -> None:
    done = run_plugin(config(socketPath=target, timeoutSeconds=60))
    assert done.error()["code"] == 11
    assert says in done.words()
    assert done.seconds < SLACK


def test_a_daemon_that_appears_late(path: Path) -> None:
    opened = threading.Event()
    daemon = FakeDaemon(path)

    def appear() -> None:
        daemon.__enter__()
        opened.set()

    timer = threading.Timer(0.7, appear)
    timer.start()
    try:
        done = call("ADD", path, timeoutSeconds=20)
    finally:
        timer.join()
        daemon.__exit__(None, None, None)
    assert opened.is_set()
    assert done.code == 0
    assert done.seconds > 0.6
    assert daemon.requests[0]["timeLeftMs"] < 19_500


@pytest.mark.parametrize(
    "script", [fake_daemon.close_at_once, fake_daemon.close_unanswered, fake_daemon.close_mid_reply]
)
def test_add_asks_again_when_the_daemon_restarts(script: Script, path: Path) -> None:
    with FakeDaemon(path, script, script, fake_daemon.ok) as daemon:
        done = call("ADD", path, timeoutSeconds=20)
    assert (done.code, daemon.connections) == (0, 3)
    lefts = [request["timeLeftMs"] for request in daemon.requests]
    assert lefts == sorted(lefts, reverse=True)
    assert len(set(lefts)) == len(lefts)


@pytest.mark.parametrize("script", [fake_daemon.close_at_once, fake_daemon.close_mid_reply])
def test_add_gives_up_on_a_daemon_that_always_closes(script: Script, path: Path) -> None:
    with FakeDaemon(path, script) as daemon:
        done = call("ADD", path, timeoutSeconds=1)
    assert done.error()["code"] == 11
    assert str(path) in done.words()
    assert 5 < daemon.connections < 15
    assert done.seconds < 1.0 + SLACK


@pytest.mark.parametrize(
    "script",
    [fake_daemon.hang, fake_daemon.deaf, fake_daemon.trickle(0.05, size=7), fake_daemon.trickle(0.3)],
    ids=["hangs", "never reads", "stops in its reply", "is too slow"],
)
def test_add_with_a_hanging_daemon_ends_at_its_timeout(script: Script, path: Path) -> None:
    with FakeDaemon(path, script):
        done = call("ADD", path, timeoutSeconds=1.5, x="y" * 900_000)
    assert done.error()["code"] == 11
    assert "no answer in time" in done.words()
    assert 1.4 < done.seconds < 1.5 + SLACK


def test_a_full_backlog_is_waited_for(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            done = call("ADD", path, timeoutSeconds=1)
    assert done.error()["code"] == 11
    assert done.seconds > 0.8


def test_check_waits_10_seconds_at_most(path: Path) -> None:
    with FakeDaemon(path) as daemon:
        call("CHECK", path, timeoutSeconds=600)
        call("CHECK", path, timeoutSeconds=2)
    assert daemon.requests[0]["timeLeftMs"] <= 10_000
    assert daemon.requests[1]["timeLeftMs"] <= 2_000


def test_check_without_a_daemon(path: Path) -> None:
    assert call("CHECK", path, timeoutSeconds=1).error()["code"] == 11


def test_a_slow_reply_is_read(path: Path) -> None:
    with FakeDaemon(path, fake_daemon.trickle(0.02)):
        assert call("ADD", path).code == 0


NONSENSE = [
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", 999, "announced", id="text"),
    pytest.param(b"\x7f\xff\xff\xff", 999, "announced", id="2 GiB announced"),
    pytest.param((wire.MAX_REPLY + 1).to_bytes(4, "big"), 999, "announced", id="one byte over 1 MiB"),
    pytest.param(b"\0\0\0\0", 999, "cut off", id="nothing"),
    pytest.param(b"\0\0\0\1\xc1", 999, "0xc1", id="no msgpack"),
    pytest.param(b"\0\0\0\2\xc0\xc0", 999, "after the message", id="two values"),
    pytest.param(b"\0\0\xff\xff" + b"\x91" * 0xFFFF, 999, "nested deeper", id="65535 lists deep"),
    pytest.param(b"\0\0\0\5\xdf\xff\xff\xff\xff", 999, "announced", id="map of 4 billion"),
    pytest.param(fake_daemon.framed([]), 999, "list", id="list"),
    pytest.param(fake_daemon.framed({}), 11, "version None", id="empty map"),
    pytest.param(fake_daemon.framed({"v": 2, "ok": True}), 11, "version 2", id="next version"),
    pytest.param(fake_daemon.framed({"v": [1], "ok": True}), 11, "version [1]", id="version in a list"),
    pytest.param(fake_daemon.framed({"v": 1}), 999, "without ok", id="no ok"),
    pytest.param(fake_daemon.framed({"v": 1, "ok": 1}), 999, "without ok", id="ok that is a number"),
    pytest.param(
        fake_daemon.framed({"v": 1, "ok": False, "code": 7}), 999, "without ok", id="error without msg"
    ),
    pytest.param(
        fake_daemon.framed({"v": 1, "ok": False, "code": 0, "msg": "a"}),
        999,
        "without ok",
        id="error of code 0",
    ),
    pytest.param(
        fake_daemon.framed({"v": 1, "ok": False, "code": "7", "msg": "a"}),
        999,
        "without ok",
        id="code in a string",
    ),
]


@pytest.mark.parametrize(("text", "code", "says"), NONSENSE)
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_nonsense_is_refused_at_once(command: str, text: bytes, code: int, says: str, path: Path) -> None:
    with FakeDaemon(path, fake_daemon.raw(text)) as daemon:
        done = call(command, path, timeoutSeconds=20)
    assert done.error()["code"] == code
    assert says in done.words()
    assert str(path) in done.words()
    assert daemon.connections == 1
    assert done.seconds < SLACK


# STATUS and GC


def test_status_without_a_daemon_is_50_at_once(path: Path) -> None:
    done = call("STATUS", path, cniVersion="1.1.0", timeoutSeconds=60)
    assert done.error()["code"] == 50
    assert str(path) in done.words()
    assert done.seconds < SLACK


def test_status_of_a_hanging_daemon_is_50_in_5_seconds(path: Path) -> None:
    with FakeDaemon(path, fake_daemon.hang):
        done = call("STATUS", path, cniVersion="1.1.0", timeoutSeconds=60)
    assert done.error()["code"] == 50
    assert done.seconds < 5 + SLACK


def test_status_when_an_add_would_fail(path: Path) -> None:
    with FakeDaemon(path, fake_daemon.refuse(50, "not synced", "wait")):
        assert call("STATUS", path, cniVersion="1.1.0").error()["code"] == 50


def test_gc_that_names_no_attachments_asks_nobody(path: Path) -> None:
    with FakeDaemon(path) as daemon:
        done = call("GC", path, cniVersion="1.1.0")
        assert (done.code, done.out, daemon.connections) == (0, b"", 0)


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
@pytest.mark.parametrize("value", [None, [], [{"containerID": "a", "ifname": "net1"}]], ids=str)
def test_gc_is_forwarded(key: str, value: Any, path: Path) -> None:
    with FakeDaemon(path) as daemon:
        done = call("GC", path, cniVersion="1.1.0", **{key: value})
    assert (done.code, done.out) == (0, b"")
    assert json.loads(daemon.requests[0]["config"])[key] == value


def test_gc_without_a_daemon_leaves_nothing_undone(path: Path) -> None:
    done = call("GC", path, **GC_EMPTY)
    assert (done.code, done.out) == (0, b"")
    assert done.seconds < 1.0 + SLACK


# The process


def test_the_plugin_is_a_relative_link_into_a_versioned_folder() -> None:
    target = os.readlink(PLUGIN)
    assert not os.path.isabs(target)
    assert target.startswith(".multi-networkpolicy-")
    assert PLUGIN.resolve().is_file()
    assert [p.name for p in PLUGIN.parent.iterdir() if not p.name.startswith(".")] == ["multi-networkpolicy"]


def test_size_on_disk() -> None:
    size = sum(p.stat().st_size for p in PLUGIN.resolve().parent.rglob("*") if p.is_file())
    assert size <= 8_000_000


def test_memory(path: Path) -> None:
    with FakeDaemon(path, fake_daemon.hold) as daemon:
        process = subprocess.Popen(
            [PLUGIN], env=environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(config(socketPath=str(path)))
        process.stdin.close()
        wait_for(lambda: len(daemon.requests) == 1)
        status = Path(f"/proc/{process.pid}/status").read_text()
        daemon.released.set()
        assert process.wait(10) == 0
        assert process.stdout is not None
        process.stdout.close()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert 0 < peak <= 12 * 1024


def wait_for(condition: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


ENVIRONMENTS: list[dict[str, str | bytes | None]] = [
    {"LC_ALL": "tr_TR"},
    {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    {"LC_ALL": "C"},
    {"LC_ALL": "xx_XX.nonsense", "LANGUAGE": "xx"},
    {"LANG": ""},
    {"HOME": "/nonexistent", "TMPDIR": "/nonexistent"},
    {
        "PYTHONHOME": "/nonexistent",
        "PYTHONPATH": "/nonexistent",
        "PYTHONWARNINGS": "error",
        "PYTHONVERBOSE": "1",
    },
    {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONDEVMODE": "1", "PYTHONMALLOC": "debug"},
    {"LD_BIND_NOW": "1"},
    {"TZ": "nonsense"},
    {b"\xff".decode("latin-1"): b"\xff\xfe"},
]


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=str)
def test_any_environment(env: dict[str, str | bytes | None], path: Path) -> None:
    with FakeDaemon(path):
        done = call("ADD", path, env)
    assert (done.code, json.loads(done.out), done.err) == (0, CONFIG["prevResult"], b"")


def test_as_a_module(path: Path) -> None:
    command = [sys.executable, "-m", "cni_plugin"]
    with FakeDaemon(path):
        done = run_plugin(config(socketPath=str(path)), command=command, cwd=REPOSITORY)
        assert (done.code, json.loads(done.out)) == (0, CONFIG["prevResult"])
    broken = run_plugin(b'{"name": nul}', command=command, cwd=REPOSITORY)
    assert "a value is missing at character 9" in broken.words()


CLOSED = [
    pytest.param(["2"], True, id="stderr"),
    pytest.param(["1"], False, id="stdout"),
    pytest.param(["1", "2"], False, id="stdout and stderr"),
]


@pytest.mark.parametrize(("streams", "succeeds"), CLOSED)
def test_closed_streams(streams: list[str], succeeds: bool, path: Path) -> None:
    closing = " ".join(f"{stream}>&-" for stream in streams)
    with FakeDaemon(path):
        done = run_plugin(
            config(socketPath=str(path)), command=["/bin/sh", "-c", f'exec "$0" {closing}', PLUGIN]
        )
    # A result that nobody can read is no success.
    assert (done.code == 0) == succeeds
    assert done.out == (json.dumps(CONFIG["prevResult"]).encode() if succeeds else b"")


def test_closed_stdin() -> None:
    done = run_plugin(b"", command=["/bin/sh", "-c", 'exec "$0" <&-', PLUGIN])
    assert done.error()["code"] == 5
    assert "stdin" in done.words()


def test_read_only_tmp(path: Path) -> None:
    script = 'mount -t tmpfs -o ro tmpfs /tmp && cd /tmp && ! touch /tmp/x 2>/dev/null && exec "$0"'
    with FakeDaemon(path):
        done = run_plugin(
            config(socketPath=str(path)), command=["unshare", "-m", "/bin/sh", "-c", script, PLUGIN]
        )
    assert (done.code, json.loads(done.out)) == (0, CONFIG["prevResult"])


def test_nothing_is_written(path: Path) -> None:
    """All but /run is read-only: the bundle unpacks nothing."""
    script = 'mount -o remount,bind,ro / && ! touch /var/tmp/x 2>/dev/null && exec "$0"'
    with FakeDaemon(path):
        done = run_plugin(
            config(socketPath=str(path)),
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            command=["unshare", "-m", "/bin/sh", "-c", f"mount --bind / / && cd / && {script}", PLUGIN],
        )
    assert (done.code, done.err) == (0, b"")


def test_in_a_chroot_from_another_directory(folder: Path) -> None:
    """As Multus does it: chroot without chdir, the folder of plugins and the libraries at the same paths inside."""
    root = folder / "root"
    inside = root / "opt/cni/bin"
    inside.parent.mkdir(parents=True)
    (root / "proc").mkdir()
    subprocess.run(["cp", "-a", PLUGIN.parent, inside], check=True)
    copy_libraries(root)
    code = (
        "import os, sys; os.chroot(sys.argv[1]);"
        "os.execve('/opt/cni/bin/multi-networkpolicy', ['multi-networkpolicy'], os.environ)"
    )
    script = 'mount -t proc proc "$1/proc" && exec "$0" -I -S -c "$2" "$1"'
    command = ["unshare", "-m", "/bin/sh", "-c", script, sys.executable, str(root), code]
    with FakeDaemon(root / "daemon.sock"):
        done = run_plugin(config(socketPath="/daemon.sock"), command=command, cwd=folder)
    assert (done.code, json.loads(done.out or b"null"), done.err) == (0, CONFIG["prevResult"], b"")


def copy_libraries(root: Path) -> None:
    """Copy the C library's own files and libz: all that the plugin takes from a node."""
    found = subprocess.run(["ldd", PLUGIN.resolve()], check=True, capture_output=True, text=True).stdout
    math = found.replace("libdl.so.2", "libm.so.6")
    for word in {*found.split(), *math.split()}:
        if word.startswith("/"):
            target = root / word.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-L", word, target], check=True)


def test_50_at_once(path: Path) -> None:
    with FakeDaemon(path) as daemon:
        calls = [
            subprocess.Popen([PLUGIN], env=environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(50)
        ]
        outs = [process.communicate(config(socketPath=str(path)), timeout=60)[0] for process in calls]
    assert [process.returncode for process in calls] == [0] * 50
    assert {*outs} == {json.dumps(CONFIG["prevResult"]).encode()}
    assert len(daemon.requests) == 50
