"""Which signals end a daemon: SIGTERM, and those of a terminal unless whoever started it has them ignored."""

import os
import signal
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.unit.test_signals import numbers_in

TERMINAL = (signal.SIGINT, signal.SIGHUP)
IGNORING = ["sh", "-c", "trap '' INT HUP TERM CHLD; exec \"$@\"", "sh"]


@pytest.mark.parametrize("number", [*TERMINAL, signal.SIGTERM], ids=lambda number: number.name)
def test_it_ends_in_order(lab: Lab, number: signal.Signals) -> None:
    daemon = lab.daemon()
    os.kill(daemon.pid, number)
    assert daemon.wait_ended() == 0
    assert f"stopping reason={number.name}" in daemon.log
    assert not daemon.socket.exists()


def test_what_its_starter_ignores_it_ignores(lab: Lab) -> None:
    """As with nohup, or `&` in a script: Ctrl-C there is not meant for it. SIGTERM is."""
    daemon = lab.daemon(wrapper=IGNORING)
    ignored = numbers_in(Path(f"/proc/{daemon.pid}/status").read_text(), "SigIgn")
    assert set(TERMINAL) <= ignored
    # But this one: without it no program's end can be told.
    assert signal.SIGCHLD not in ignored
    for number in TERMINAL:
        os.kill(daemon.pid, number)
        daemon.wait_synced()
    assert daemon.stop() == 0
    assert "stopping reason=SIGTERM" in daemon.log
