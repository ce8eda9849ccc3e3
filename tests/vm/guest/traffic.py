"""The chosen rows by real packets, on all drivers at the same time.

In: LANs and a daemon. Out: a result for each row and driver. Each row has its positive control: before there
is any policy, all of its probes pass.
"""

from collections.abc import Sequence
from dataclasses import replace

from tests.lab import Daemon
from tests.netns.crowd import Crowd, serve
from tests.semantics import Probe
from tests.vm.cases import VmCase
from tests.vm.guest.lans import Lan, cnitool_all, tries
from tests.vm.guest.results import Results
from tests.vm.rows import ROWS


def run_traffic(lans: Sequence[Lan], daemon: Daemon, backend: str, results: Results) -> None:
    """Attach all pods, run the rows."""
    with results.section(f"{backend}: ADDs"):
        Crowd(daemon, [lan.place(lan.everyone) for lan in lans]).apply(4)
        cnitool_all("add", lans)
    with results.section(f"{backend}: control"):
        closed = _closed(lans)
    for row in ROWS:
        placed = [lan.place(row) for lan in lans]
        made = Crowd(daemon, placed)
        made.apply(4)
        wrong = made.probe({one: tries(one.case) for one in placed})
        for lan, one in zip(lans, placed, strict=True):
            lines = [
                f"{probe}, without policies" for probe in tries(row) if _way(probe) in closed[lan.driver]
            ]
            results.add(VmCase(backend, lan.driver, row.name), lines + wrong[str(one.case)])


def _closed(lans: Sequence[Lan]) -> dict[str, set[str]]:
    """Probe all that any row probes, while everything should be open; returns what is not, by driver."""
    ways = {_way(probe): replace(probe, want=True) for row in ROWS for probe in tries(row)}
    for lan in lans:
        serve(lan.pods, ways.values())
    placed = {lan.driver: lan.place(lan.everyone) for lan in lans}
    wrong = Crowd.probe({one: list(ways.values()) for one in placed.values()})
    return {
        driver: {line.rpartition(": ")[0] for line in wrong[str(one.case)]} for driver, one in placed.items()
    }


def _way(probe: Probe) -> str:
    return str(replace(probe, want=True))
