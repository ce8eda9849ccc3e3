"""What a process holds, as the kernel counts it.

In: a process ID. Out: KiB.
"""

from pathlib import Path


def peak_kib(pid: int) -> int:
    """Return the most resident memory that a process has had."""
    return _size(pid, "VmHWM")


def resident_kib(pid: int) -> int:
    """Return the resident memory that a process has now."""
    return _size(pid, "VmRSS")


def _size(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {pid} has no {field}: has it ended?")
