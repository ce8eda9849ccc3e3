"""The plugin as a process: an ADD against the reference `tuning` plugin's, memory, size on disk.

In: the built plugin, a real daemon, one attachment in a real namespace. Out: figures. The daemon's part is in
it, as it is for a runtime; each ADD but the first repeats one that is in force, so that all do the same.
"""

import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import wire
from tests.bench.figures import Figure
from tests.bench.memory import peak_kib
from tests.bench.timing import interleaved, percentile, ratio, spread
from tests.lab import Attachment, Daemon, Lab, objects
from tests.lab.lab import PLUGIN_FOLDER, tools_folder
from tests.netns.enroll import CNI_VERSION, environment

ROUNDS = 200
WARM_UP = 3
PLUGIN = PLUGIN_FOLDER / "multi-networkpolicy"
# Where Debian's containernetworking-plugins lie. The budget is for their tuning, which is linked dynamically
# and a little slower than the static one of our tools folder; without them only that one is compared with.
DEBIAN_PLUGINS = Path(os.environ.get("BENCH_DEBIAN_CNI", "/usr/lib/cni"))
PYTHON = "/usr/bin/python3"

MOST_RATIO = 3.0
MOST_RSS_MIB = 12.0
MOST_DISK_MB = 8.0


@dataclass(frozen=True)
class Program:
    """A program with all that one run needs; its stdout is checked once and then thrown away."""

    line: tuple[str, ...]
    env: dict[str, str]
    stdin: Path

    def run(self) -> float:
        """Return the seconds from starting it to its end; a failure is an error with its words."""
        begun = time.perf_counter()
        pid = os.posix_spawn(self.line[0], self.line, self.env, file_actions=self._files())
        _, status = os.waitpid(pid, 0)
        seconds = time.perf_counter() - begun
        if status != 0:
            self.check()
        return seconds

    def check(self) -> None:
        """Run it once with its output kept; a failure is an error with its words."""
        with self.stdin.open("rb") as stdin:
            done = subprocess.run(
                self.line, env=self.env, stdin=stdin, capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            raise RuntimeError(f"{self.line[0]} ended with {done.returncode}: {done.stdout}{done.stderr}")

    def _files(self) -> list[tuple[int, int, str, int, int]]:
        return [
            (os.POSIX_SPAWN_OPEN, 0, str(self.stdin), os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        ]


def measure() -> list[Figure]:
    """Measure the plugin's ADD, its memory and its size."""
    with Lab() as lab:
        daemon = lab.daemon()
        attachment = lab.attach(lab.pod("measured"))
        daemon.apply("pods", [objects.pod("measured"), objects.network("net1")])
        daemon.wait_synced()
        programs = _programs(lab, daemon, attachment)
        for program in programs.values():
            for _ in range(WARM_UP):
                program.check()
        jobs: dict[str, Callable[[], float]] = {name: program.run for name, program in programs.items()}
        request = wire.add_request(attachment)
        jobs["daemon"] = lambda: wire.exchange(daemon, request)
        samples = interleaved(ROUNDS, jobs)
        memory = _resident(programs["ours"], daemon)
    return [*_times(samples), Figure("plugin RSS", memory, "MiB", MOST_RSS_MIB), _disk()]


def _programs(lab: Lab, daemon: Daemon, attachment: Attachment) -> dict[str, Program]:
    env = environment(attachment.pod, attachment.ifname) | {"CNI_COMMAND": "ADD", "CNI_PATH": "/nowhere"}
    common = {"cniVersion": CNI_VERSION, "name": "net1", "prevResult": attachment.result(CNI_VERSION)}
    ours = {"type": "multi-networkpolicy", "netAttachDef": "default/net1", **daemon.plugin_keys}
    sysctl = {"net.ipv4.conf.net1.arp_filter": "1"}
    tuning = {"type": "tuning", "sysctl": sysctl, "dataDir": str(lab.folder / "tuning")}
    ours_file = _write(lab.folder / "ours.json", {**common, **ours})
    tuning_file = _write(lab.folder / "tuning.json", {**common, **tuning})
    found = {
        "ours": Program((str(PLUGIN),), env, ours_file),
        "static": Program((str(tools_folder() / "tuning"),), env, tuning_file),
        "python": Program((PYTHON, "-I", "-S", "-E", "-c", "pass"), {}, ours_file),
    }
    if (DEBIAN_PLUGINS / "tuning").exists():
        found["debian"] = Program((str(DEBIAN_PLUGINS / "tuning"),), env, tuning_file)
    return found


def _write(path: Path, content: dict[str, object]) -> Path:
    path.write_text(json.dumps(content))
    return path


def _times(samples: dict[str, list[float]]) -> list[Figure]:
    ours = samples["ours"]
    middle = statistics.median(ours) * 1000
    figures = [
        Figure("plugin ADD", middle, "ms", note=f"{ROUNDS} rounds, {spread(ours)}"),
        Figure("plugin ADD, p99", percentile(ours, 0.99) * 1000, "ms"),
        Figure(
            "of it the daemon's",
            statistics.median(samples["daemon"]) * 1000,
            "ms",
            note="the same ADD by wire",
        ),
    ]
    for name, what, budget in (
        ("debian", "Debian's tuning ADD", MOST_RATIO),
        ("static", "static tuning ADD", MOST_RATIO),
        ("python", "python3 -I -S -E -c pass", None),
    ):
        if name in samples:
            theirs = samples[name]
            note = f"it takes {statistics.median(theirs) * 1000:.2f} ms"
            figures.append(Figure(f"plugin ADD : {what}", ratio(ours, theirs), "x", budget, note=note))
    return figures


def _resident(program: Program, daemon: Daemon) -> float:
    """Return the plugin's peak in MiB, read while it waits for a daemon that was stopped.

    wait4's ru_maxrss would be this process's own: the kernel counts it in when a large process starts a small
    one.
    """
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        pid = os.posix_spawn(program.line[0], program.line, program.env, file_actions=program._files())
        peak = _settled_peak(pid)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    _, status = os.waitpid(pid, 0)
    if status != 0:
        program.check()
    return peak / 1024


def _settled_peak(pid: int) -> int:
    """Return the peak RSS in KiB once the process waits in a system call and its peak rests."""
    deadline = time.monotonic() + 5
    seen = [0]
    while len(seen) < 6 or len(set(seen[-5:])) > 1:
        if time.monotonic() > deadline:
            raise RuntimeError("the plugin's memory does not settle")
        time.sleep(0.02)
        seen.append(peak_kib(pid))
    return seen[-1]


def _disk() -> Figure:
    folder = PLUGIN.resolve().parent
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    return Figure("plugin on disk", size / 1e6, "MB", MOST_DISK_MB)
