"""Waiting for a condition instead of sleeping for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL = 0.005  # seconds


def poll(read: Callable[[], T], done: Callable[[T], bool], timeout: float = 10.0) -> T:
    """Read until it is done and return what was read; fails with the last reading after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not done(last := read()):
        assert time.monotonic() < deadline, f"not within {timeout:g} s; the last reading is {last!r}"
        time.sleep(_INTERVAL)
    return last
