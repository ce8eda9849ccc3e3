"""The plugin, run by somebody who may not use the socket, says so."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

# Imports first: this tree may be closed to others, too.
ASK = """
import os, sys, time
from cni_plugin.client import ask
from cni_plugin.errors import CniError
os.setuid(65534)
try:
    ask(sys.argv[1], "status", {}, b"{}", time.monotonic() + 5, time.monotonic() + 5)
except CniError as error:
    print(error.code, error.msg, error.details, sep="|")
"""


def test_who_may_not_use_the_socket_is_told_to_be_root(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        path.chmod(0o600)
        tmp_path.chmod(0o700)
        done = subprocess.run(
            [sys.executable, "-c", ASK, str(path)], capture_output=True, text=True, check=True, timeout=30
        )
    code, message, details = done.stdout.strip().split("|")
    assert code == "11"
    assert message == f"multi-networkpolicyd is not reachable at {path}: Permission denied"
    assert details == "waited 0.0 s; run the plugin as root, as runtimes do"
