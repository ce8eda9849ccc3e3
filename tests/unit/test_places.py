"""Places that can't be used are named, each with the option that names another one; a lock is waited for."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from daemon import places
from daemon.errors import MultiNetworkPolicyError, StopAskedError
from daemon.places import StateLock, using_socket, using_state
from daemon.server import Server

pytestmark = pytest.mark.unit

SOCKETS = [
    ("/proc/x/d.sock", "/proc/x: No such file"),
    ("/sys/x/d.sock", "/sys/x: "),
    ("/etc/passwd/d.sock", "move away what is no directory"),
    ("/etc/passwd/x/d.sock", "move away what is no directory"),
    ("/proc/d.sock", "/proc: "),
]


@pytest.mark.parametrize(("path", "words"), SOCKETS)
def test_a_socket_that_can_not_be_made(path: str, words: str) -> None:
    with (
        pytest.raises(MultiNetworkPolicyError) as caught,
        using_state(Path("/var")),
        using_socket(Path(path)),
    ):
        Server(Path(path), lambda request: None)
    said = str(caught.value)
    assert said.startswith(f"the socket {path} can't be used: ")
    assert words in said
    assert "or name another one with --socket" in said


def raised(error: OSError) -> str:
    with pytest.raises(MultiNetworkPolicyError) as caught, using_state(Path("/var/state")):
        raise error
    return str(caught.value)


def test_the_state_directory_is_blamed_for_what_is_its_own() -> None:
    said = raised(PermissionError(errno.EACCES, "Permission denied", "/var/state/attachments"))
    assert said.startswith("the state directory /var/state can't be used: /var/state/attachments: Permission")
    assert "--state-dir" in said
    assert "mount it writable" in raised(OSError(errno.EROFS, "Read-only file system", "/var"))
    assert "free space there" in raised(OSError(errno.ENOSPC, "No space left on device"))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied", "/etc/other"),
        OSError(errno.EMFILE, "Too many open files"),
        PermissionError(errno.EPERM, "Operation not permitted"),
    ],
)
def test_and_for_nothing_else(error: OSError) -> None:
    with pytest.raises(OSError, match=str(error.strerror)) as caught, using_state(Path("/var/state")):
        raise error
    assert caught.value is error


def never(seconds: float) -> str:
    return ""


def held(path: Path) -> int:
    path.mkdir(exist_ok=True)
    descriptor = os.open(path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_a_lock_that_is_held_is_waited_for_and_told_once(
    tmp_path: Path, events: list[tuple[str, dict[str, Any]]]
) -> None:
    first, pauses = held(tmp_path), []

    def pause(seconds: float) -> str:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.close(first)
        return ""

    with StateLock(tmp_path, pause):
        assert len(pauses) == 3
    assert [(name, fields["lock"]) for name, fields in events] == [
        ("waiting-for-lock", str(tmp_path / "lock"))
    ]


def test_a_lock_that_is_free_is_taken_without_a_word(
    tmp_path: Path, events: list[tuple[str, dict[str, Any]]]
) -> None:
    with StateLock(tmp_path, never):
        assert events == []


def test_who_waits_for_a_lock_ends_when_asked_to(tmp_path: Path) -> None:
    first = held(tmp_path)
    with pytest.raises(StopAskedError, match="SIGTERM"), StateLock(tmp_path, lambda seconds: "SIGTERM"):
        pass
    os.close(first)


def test_a_lock_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LOCK_SECONDS", 0.0)
    first = held(tmp_path)
    with (
        pytest.raises(MultiNetworkPolicyError, match="another multi-networkpolicyd"),
        StateLock(tmp_path, never),
    ):
        pass
    os.close(first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_daemon_that_waits_for_another_ends_at_once(tmp_path: Path, number: signal.Signals) -> None:
    first = held(tmp_path)
    line = ["run", f"--state-dir={tmp_path}", f"--socket={tmp_path}/s", "--netns-paths="]
    with subprocess.Popen(
        [sys.executable, "-m", "daemon", *line], stderr=subprocess.PIPE, text=True, process_group=0
    ) as second:
        assert second.stderr is not None
        assert any("waiting-for-lock" in line for line in second.stderr)
        asked = time.monotonic()
        second.send_signal(number)
        said = second.stderr.read()
    assert second.returncode == 0
    assert f"stopped reason={number.name}" in said
    assert time.monotonic() - asked < 3
    os.close(first)
