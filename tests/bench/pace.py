"""Events at a steady pace, and what a process computes meanwhile.

In: jobs, a process ID. Out: the rate that was kept, the share of a core that was used.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

THREADS = 4


def keep_pace(rate: float, seconds: float, job: Callable[[int], object]) -> float:
    """Call the job with 0, 1, 2 … at `rate` a second; the rate that was reached. One that fails ends all."""
    total = int(rate * seconds)
    failures: list[BaseException] = []
    begun = time.monotonic()

    def work(first: int) -> None:
        try:
            for number in range(first, total, THREADS):
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
                if failures:
                    return
                job(number)
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failures.append(error)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return total / (time.monotonic() - begun)


def cpu_seconds(pid: int) -> float:
    """What a process has computed until now, in user and system mode, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class CpuClock:
    """Runs from its making."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu, self._begun = cpu_seconds(pid), time.monotonic()

    def share(self) -> float:
        """Of one core, in percent."""
        return 100 * (cpu_seconds(self._pid) - self._cpu) / (time.monotonic() - self._begun)
