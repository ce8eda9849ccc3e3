"""Room in the kernel's neighbour tables, whose limit all network namespaces of a machine share.

Several hundred pods that all talk with each other need more than the 1,024 entries that are usual; beyond
them packets are lost (ENOBUFS; "neighbor table overflow" in the kernel's log). Only the machine's first
network namespace has the setting: elsewhere things stay as they are.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

ENOUGH = 16_384
_LIMITS = [Path(f"/proc/sys/net/{family}/neigh/default/gc_thresh3") for family in ("ipv4", "ipv6")]


@contextlib.contextmanager
def room_for_neighbours() -> Iterator[None]:
    """Raise both limits to ENOUGH, where that may be done, and put back what they were."""
    with contextlib.ExitStack() as stack:
        for path in _LIMITS:
            with contextlib.suppress(OSError):
                before = path.read_text()
                if int(before) < ENOUGH:
                    path.write_text(str(ENOUGH))
                    stack.callback(path.write_text, before)
        yield
