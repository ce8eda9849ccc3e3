"""Memory over 20,000 ADDs and DELs, each with a container, an address and a pod that no other has.

In: nothing. Out: figures, for both backends. See tests/netns/churn.py for what comes and goes.
"""

import time

from tests.bench.figures import Figure
from tests.bench.memory import peak_kib
from tests.lab import Lab
from tests.netns.churn import Churn

TURNS = 20_000
MOST_GROWTH_MIB = 3.0


def measure() -> list[Figure]:
    """Measure both backends, one after the other."""
    return [figure for backend in ("nftables", "iptables") for figure in _measure(backend)]


def _measure(backend: str) -> list[Figure]:
    with Lab() as lab:
        churn = Churn(lab, backend)
        start = churn.resident_mib()
        churn.run(TURNS // 2)
        half = churn.resident_mib()
        begun = time.monotonic()
        churn.run(TURNS // 2)
        seconds = time.monotonic() - begun
        end, peak = churn.resident_mib(), peak_kib(churn.daemon.pid) / 1024
    note = f"{start:.0f} MiB at the start, {half:.1f} at half, {end:.1f} at the end, peak {peak:.1f}"
    name = f"{backend}: RSS, the last {TURNS // 2:,} of {TURNS:,} ADDs and DELs"
    pace = Figure(f"{backend}: an ADD, its DEL, and their peers", seconds * 1000 / (TURNS // 2), "ms")
    return [Figure(name, end - half, "MiB", MOST_GROWTH_MIB, note=note), pace]
