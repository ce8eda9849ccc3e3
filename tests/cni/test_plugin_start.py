"""The built plugin as a file and a process: size, memory, and the odd places where runtimes start it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cni import fake_daemon
from tests.cni.bad_input import CONFIG, config
from tests.cni.fake_daemon import FakeDaemon
from tests.cni.run_plugin import (
    PLUGIN,
    REPOSITORY,
    call,
    environment,
    run_plugin,
)


def test_the_plugin_is_a_relative_link_into_a_versioned_folder() -> None:
    target = os.readlink(PLUGIN)
    assert not os.path.isabs(target)
    assert target.startswith(".multi-networkpolicy-")
    assert PLUGIN.resolve().is_file()
    assert [p.name for p in PLUGIN.parent.iterdir() if not p.name.startswith(".")] == ["multi-networkpolicy"]


def test_size_on_disk() -> None:
    size = sum(p.stat().st_size for p in PLUGIN.resolve().parent.rglob("*") if p.is_file())
    assert size <= 8_000_000


def test_memory(socket_path: Path) -> None:
    with FakeDaemon(socket_path, fake_daemon.hold) as daemon:
        process = subprocess.Popen(
            [PLUGIN], env=environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdin is not None
        process.stdin.write(config(socketPath=str(socket_path)))
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
    {"LD_LIBRARY_PATH": "/nonexistent"},
    # What a bundle of PyInstaller leaves to the programs that it starts.
    {"_PYI_ARCHIVE_FILE": "/nonexistent", "_PYI_PARENT_PROCESS_LEVEL": "1", "_MEIPASS2": "/nonexistent"},
    {b"\xff".decode("latin-1"): b"\xff\xfe"},
]


@pytest.mark.parametrize("env", ENVIRONMENTS, ids=str)
def test_any_environment(env: dict[str, str | bytes | None], socket_path: Path) -> None:
    with FakeDaemon(socket_path):
        done = call("ADD", socket_path, env)
    assert (done.code, json.loads(done.out), done.err) == (0, CONFIG["prevResult"], b"")


def test_as_a_module(socket_path: Path) -> None:
    command = [sys.executable, "-m", "cni_plugin"]
    with FakeDaemon(socket_path):
        done = run_plugin(config(socketPath=str(socket_path)), command=command, cwd=REPOSITORY)
        assert (done.code, json.loads(done.out)) == (0, CONFIG["prevResult"])
    broken = run_plugin(b'{"name": nul}', command=command, cwd=REPOSITORY)
    assert "a value is missing: character 9" in broken.words()


CLOSED = [
    pytest.param(["2"], True, id="stderr"),
    pytest.param(["1"], False, id="stdout"),
    pytest.param(["1", "2"], False, id="stdout and stderr"),
]


@pytest.mark.parametrize(("streams", "succeeds"), CLOSED)
def test_closed_streams(streams: list[str], succeeds: bool, socket_path: Path) -> None:
    closing = " ".join(f"{stream}>&-" for stream in streams)
    with FakeDaemon(socket_path):
        done = run_plugin(
            config(socketPath=str(socket_path)), command=["/bin/sh", "-c", f'exec "$0" {closing}', PLUGIN]
        )
    # A result that nobody can read is no success.
    assert (done.code == 0) == succeeds
    assert done.out == (json.dumps(CONFIG["prevResult"]).encode() if succeeds else b"")


def test_closed_stdin() -> None:
    done = run_plugin(b"", command=["/bin/sh", "-c", 'exec "$0" <&-', PLUGIN])
    assert done.error()["code"] == 5
    assert "stdin" in done.words()


def test_read_only_tmp(socket_path: Path) -> None:
    seal = "mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp && cd /tmp"
    script = f'{seal} && ! touch /tmp/x 2>/dev/null && exec "$0"'
    with FakeDaemon(socket_path):
        done = run_plugin(
            config(socketPath=str(socket_path)), command=["unshare", "-m", "/bin/sh", "-c", script, PLUGIN]
        )
    assert (done.code, json.loads(done.out)) == (0, CONFIG["prevResult"])


def test_nothing_is_written(socket_path: Path) -> None:
    """All but /run is read-only: the bundle unpacks nothing."""
    script = 'mount -o remount,bind,ro / && ! touch /var/tmp/x 2>/dev/null && exec "$0"'
    with FakeDaemon(socket_path):
        done = run_plugin(
            config(socketPath=str(socket_path)),
            {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            command=["unshare", "-m", "/bin/sh", "-c", f"mount --bind / / && cd / && {script}", PLUGIN],
        )
    assert (done.code, done.err) == (0, b"")


def test_in_a_chroot_from_another_directory(socket_folder: Path) -> None:
    """As Multus does it: chroot without chdir, the plugins at the same path inside."""
    root = socket_folder / "root"
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
        done = run_plugin(config(socketPath="/daemon.sock"), command=command, cwd=socket_folder)
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


def test_50_at_once(socket_path: Path) -> None:
    with FakeDaemon(socket_path) as daemon:
        calls = [
            subprocess.Popen([PLUGIN], env=environment({}), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(50)
        ]
        outs = [process.communicate(config(socketPath=str(socket_path)), timeout=60)[0] for process in calls]
    assert [process.returncode for process in calls] == [0] * 50
    assert {*outs} == {json.dumps(CONFIG["prevResult"]).encode()}
    assert len(daemon.requests) == 50
