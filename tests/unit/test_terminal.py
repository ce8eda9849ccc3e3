"""Both commands end in order when they are interrupted, or what they print can't be written."""

import os
import signal
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from daemon.terminal import INTERRUPTED

pytestmark = pytest.mark.unit

SCRIPTS = Path(sys.executable).parent
COMMANDS = ("mnpctl", "multi-networkpolicyd")
PRINTS = [[name, option] for name in COMMANDS for option in ("--help", "--version")] + [
    ["mnpctl", command, "--help"] for command in ("status", "attachments", "policies", "render", "wait")
]


def started(*line: str, stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    module = (
        "from daemon.cli import main_ctl as main"
        if line[0] == "mnpctl"
        else ("from daemon.cli import main_daemon as main")
    )
    source = f"import sys; sys.argv[0] = {line[0]!r}; {module}; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", source, *line[1:]], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("line", PRINTS, ids=" ".join)
def test_a_full_disk(line: list[str]) -> None:
    with open("/dev/full", "w") as full, started(*line, stdout=full.fileno()) as command:
        assert command.stderr is not None
        said = command.stderr.read()
    assert said == f"{line[0]}: the output can't be written: No space left on device\n"
    assert command.returncode == 1


@pytest.mark.parametrize("line", PRINTS, ids=" ".join)
def test_a_pager_that_was_closed(line: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with started(*line, stdout=writer) as command:
        os.close(writer)
        assert command.stderr is not None
        said = command.stderr.read()
    assert (command.returncode, said) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_version(name: str) -> None:
    with started(name, "--version") as command:
        assert command.stdout is not None
        assert command.stdout.read() == f"{name} {version('multi-networkpolicy')}\n"
    assert command.returncode == 0


WAITING = [
    ["status"],
    ["attachments"],
    ["policies", "web"],
    ["render", "web"],
    ["wait", "--synced"],
]


@pytest.mark.parametrize("line", WAITING, ids=" ".join)
def test_ctrl_c_while_the_daemon_does_not_answer(line: list[str], tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with started("mnpctl", "--socket", path, *line) as command:
            listener.settimeout(20)
            client, _ = listener.accept()
            command.send_signal(signal.SIGINT)
            assert command.stderr is not None
            said = command.stderr.read()
        client.close()
    assert (command.returncode, said) == (INTERRUPTED, "")


FILES = [
    ("/dev/zero", "larger than 4194304 bytes"),
    ("/nowhere", "No such file or directory"),
    ("/", "Is a directory"),
]


@pytest.mark.parametrize(("path", "said"), FILES)
def test_a_configuration_that_can_not_be_read(path: str, said: str) -> None:
    with started("multi-networkpolicyd", "run", "--config", path) as command:
        assert command.stderr is not None
        assert command.stderr.read() == f"multi-networkpolicyd: --config {path}: {said}\n"
    assert command.returncode == 2
