"""What a test starts gets the signals that it needs, although who started the tests had them ignored."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.signals import ORDINARY

# Says to a program before it starts: ignore these, block those.
STARTER = """
import os, signal, sys
for number in eval(sys.argv[1]):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, eval(sys.argv[2]))
os.execvp(sys.argv[3], sys.argv[3:])
"""


def numbers_in(status: str, field: str) -> set[int]:
    """The signals in a mask of /proc/PID/status."""
    (line,) = (line for line in status.splitlines() if line.startswith(f"{field}:"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> number - 1 & 1}


def started(ignored: object, blocked: object, *command: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-c", STARTER, repr(ignored), repr(blocked), *command]
    # Not as a part of this run of pytest.
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    return subprocess.run(line, capture_output=True, text=True, check=False, env=env, timeout=120)


def test_a_process_starts_with_none_of_them_ignored_or_blocked() -> None:
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    assert not numbers_in(status, "SigIgn") & set(ORDINARY)
    assert not numbers_in(status, "SigBlk") & set(ORDINARY)


ORDINARY_NUMBERS = [int(number) for number in ORDINARY]


@pytest.mark.parametrize(
    ("ignored", "blocked"), [(ORDINARY_NUMBERS, []), ([], ORDINARY_NUMBERS)], ids=["ignored", "blocked"]
)
def test_so_it_is_under_one_who_ignores_or_blocks_them(ignored: list[int], blocked: list[int]) -> None:
    control = started(ignored, blocked, "cat", "/proc/self/status").stdout
    assert set(ORDINARY) <= numbers_in(control, "SigIgn") | numbers_in(control, "SigBlk")
    test = f"{Path(__file__)}::{test_a_process_starts_with_none_of_them_ignored_or_blocked.__name__}"
    inner = started(ignored, blocked, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test)
    assert inner.returncode == 0, inner.stdout + inner.stderr
    assert "1 passed" in inner.stdout
