"""The built plugin with a daemon that is absent, slow, restarting or talks nonsense: how long it waits."""

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from cni_plugin import wire
from tests.cni import fake_daemon
from tests.cni.bad_input import ABSENT, config
from tests.cni.fake_daemon import FakeDaemon, Script
from tests.cni.run_plugin import (
    GC_EMPTY,
    SLACK,
    call,
    run_plugin,
)

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
def test_del_with_odd_variables_reaches_the_daemon(
    env: dict[str, str | bytes | None], socket_path: Path
) -> None:
    with FakeDaemon(socket_path) as daemon:
        done = call("DEL", socket_path, env)
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
def test_del_with_a_bad_daemon(script: Script, socket_path: Path) -> None:
    with FakeDaemon(socket_path, script):
        done = call("DEL", socket_path)
    assert (done.code, done.out) == (0, b"")
    assert done.seconds < 1.0 + SLACK


def test_del_with_a_hanging_daemon_ends_in_5_seconds(socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.hang):
        done = call("DEL", socket_path, timeoutSeconds=600)
    assert (done.code, done.out) == (0, b"")
    assert 4.9 < done.seconds < 5.0 + SLACK


# ADD and a daemon that is not there, or not well


def test_add_without_a_daemon_waits_until_its_timeout(socket_path: Path) -> None:
    done = call("ADD", socket_path, timeoutSeconds=1.5)
    assert done.error()["code"] == 11
    assert str(socket_path) in done.words()
    assert "No such file" in done.words()
    assert 1.3 < done.seconds < 1.5 + SLACK


def test_add_with_a_dead_daemons_socket(socket_path: Path) -> None:
    with FakeDaemon(socket_path):
        os.link(socket_path, socket_path.with_suffix(".dead"))
    done = call("ADD", socket_path.with_suffix(".dead"), timeoutSeconds=1)
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


def test_a_daemon_that_appears_late(socket_path: Path) -> None:
    opened = threading.Event()
    daemon = FakeDaemon(socket_path)

    def appear() -> None:
        daemon.__enter__()
        opened.set()

    timer = threading.Timer(0.7, appear)
    timer.start()
    try:
        done = call("ADD", socket_path, timeoutSeconds=20)
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
def test_add_asks_again_when_the_daemon_restarts(script: Script, socket_path: Path) -> None:
    with FakeDaemon(socket_path, script, script, fake_daemon.ok) as daemon:
        done = call("ADD", socket_path, timeoutSeconds=20)
    assert (done.code, daemon.connections) == (0, 3)
    lefts = [request["timeLeftMs"] for request in daemon.requests]
    assert lefts == sorted(lefts, reverse=True)
    assert len(set(lefts)) == len(lefts)


@pytest.mark.parametrize("script", [fake_daemon.close_at_once, fake_daemon.close_mid_reply])
def test_add_gives_up_on_a_daemon_that_always_closes(script: Script, socket_path: Path) -> None:
    with FakeDaemon(socket_path, script) as daemon:
        done = call("ADD", socket_path, timeoutSeconds=1)
    assert done.error()["code"] == 11
    assert str(socket_path) in done.words()
    assert 5 < daemon.connections < 15
    assert done.seconds < 1.0 + SLACK


@pytest.mark.parametrize(
    "script",
    [fake_daemon.hang, fake_daemon.deaf, fake_daemon.trickle(0.05, size=7), fake_daemon.trickle(0.3)],
    ids=["hangs", "never reads", "stops in its reply", "is too slow"],
)
def test_add_with_a_hanging_daemon_ends_at_its_timeout(script: Script, socket_path: Path) -> None:
    with FakeDaemon(socket_path, script):
        done = call("ADD", socket_path, timeoutSeconds=1.5, x="y" * 900_000)
    assert done.error()["code"] == 11
    assert "no answer in time" in done.words()
    assert 1.4 < done.seconds < 1.5 + SLACK


def test_a_full_backlog_is_waited_for(socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(socket_path))
            done = call("ADD", socket_path, timeoutSeconds=1)
    assert done.error()["code"] == 11
    assert done.seconds > 0.8


def test_check_waits_10_seconds_at_most(socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        call("CHECK", socket_path, timeoutSeconds=600)
        call("CHECK", socket_path, timeoutSeconds=2)
    assert daemon.requests[0]["timeLeftMs"] <= 10_000
    assert daemon.requests[1]["timeLeftMs"] <= 2_000


def test_check_without_a_daemon(socket_path: Path) -> None:
    assert call("CHECK", socket_path, timeoutSeconds=1).error()["code"] == 11


def test_a_slow_reply_is_read(socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.trickle(0.02)):
        assert call("ADD", socket_path).code == 0


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
def test_nonsense_is_refused_at_once(
    command: str, text: bytes, code: int, says: str, socket_path: Path
) -> None:
    with FakeDaemon(socket_path, fake_daemon.raw(text)) as daemon:
        done = call(command, socket_path, timeoutSeconds=20)
    assert done.error()["code"] == code
    assert says in done.words()
    assert str(socket_path) in done.words()
    assert daemon.connections == 1
    assert done.seconds < SLACK


# STATUS and GC


def test_status_without_a_daemon_is_50_at_once(socket_path: Path) -> None:
    done = call("STATUS", socket_path, cniVersion="1.1.0", timeoutSeconds=60)
    assert done.error()["code"] == 50
    assert str(socket_path) in done.words()
    assert done.seconds < SLACK


def test_status_of_a_hanging_daemon_is_50_in_5_seconds(socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.hang):
        done = call("STATUS", socket_path, cniVersion="1.1.0", timeoutSeconds=60)
    assert done.error()["code"] == 50
    assert done.seconds < 5 + SLACK


def test_status_when_an_add_would_fail(socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.refuse(50, "not synced", "wait")):
        assert call("STATUS", socket_path, cniVersion="1.1.0").error()["code"] == 50


def test_gc_that_names_no_attachments_asks_nobody(socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        done = call("GC", socket_path, cniVersion="1.1.0")
        assert (done.code, done.out, daemon.connections) == (0, b"", 0)


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
@pytest.mark.parametrize("value", [None, [], [{"containerID": "a", "ifname": "net1"}]], ids=str)
def test_gc_is_forwarded(key: str, value: Any, socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        done = call("GC", socket_path, cniVersion="1.1.0", **{key: value})
    assert (done.code, done.out) == (0, b"")
    assert json.loads(daemon.requests[0]["config"])[key] == value


def test_gc_without_a_daemon_leaves_nothing_undone(socket_path: Path) -> None:
    done = call("GC", socket_path, **GC_EMPTY)
    assert (done.code, done.out) == (0, b"")
    assert done.seconds < 1.0 + SLACK
