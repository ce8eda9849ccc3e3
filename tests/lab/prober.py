"""The test's end of a prober in a pod: one process, jobs to its stdin, answers from its stdout.

In: targets. Out: verdicts: "open" (answered), "refused" (an answer said that nobody listens there),
"timeout", or "error:ERRNO"; "error:EPERM" is what the kernel says to a sender whose packet a local rule
dropped.
"""

import contextlib
import itertools
import json
import os
import select
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.lab.namespaces import inside

CHILD = Path(__file__).parents[1] / "prober/__main__.py"
BLOCKED_TIMEOUT = 0.3  # seconds that a probe waits for an answer that should not come
OPEN_TIMEOUT = 3.0  # seconds for one that should: more than a SYN's first repetition, on a busy machine
_ANSWER_TIMEOUT = 30.0
_PYTHON = Path("/usr/bin/python3")  # starts faster than a virtual environment's

BLOCKED = frozenset({"timeout", "error:EPERM"})


class ProberError(Exception):
    """A job that could not be done, or a prober that is gone."""


@dataclass(frozen=True)
class Target:
    """Where a probe goes: protocol tcp, udp, sctp or icmp (which means ICMPv6 to an IPv6 address)."""

    protocol: str
    address: str
    port: int = 0
    timeout: float = BLOCKED_TIMEOUT
    source: str = ""
    source_port: int = 0

    def __str__(self) -> str:
        """Name it the way that a failed test should."""
        return f"{self.protocol} {self.address}" + (f" port {self.port}" if self.port else "")


def is_blocked(verdict: str) -> bool:
    """Tell whether the verdict means that something dropped the packet or its answer."""
    return verdict in BLOCKED


class Prober:
    """The process in one namespace; for one thread at a time."""

    def __init__(self, netns: Path) -> None:
        """Start it; the first answer tells whether that went well."""
        with inside(netns):
            self._child = subprocess.Popen(
                [str(_PYTHON), "-I", "-S", "-E", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # a Ctrl-C is for the test alone, which then ends this
            )
        self._ids = itertools.count()
        self._answers: dict[int, Any] = {}
        self._rest = b""

    @property
    def pid(self) -> int:
        """The process in the namespace."""
        return self._child.pid

    def submit(self, op: str, **arguments: Any) -> int:
        """Hand over a job without waiting for its end; returns the number that `result` takes."""
        number = next(self._ids)
        line = json.dumps({"id": number, "op": op, **arguments}).encode() + b"\n"
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(line)
            self._child.stdin.flush()
        except BrokenPipeError:
            raise ProberError(f"the prober of {op} ended with {self._child.wait()}") from None
        return number

    def result(self, number: int, timeout: float = _ANSWER_TIMEOUT) -> Any:
        """Wait for a job's end; raises ProberError with its reason."""
        deadline = time.monotonic() + timeout
        while number not in self._answers:
            self._read(deadline - time.monotonic())
        answer = self._answers.pop(number)
        if "error" in answer:
            raise ProberError(answer["error"])
        return answer["result"]

    def ask(self, op: str, timeout: float = _ANSWER_TIMEOUT, **arguments: Any) -> Any:
        """Do a job and wait for it."""
        return self.result(self.submit(op, **arguments), timeout)

    def serve(
        self,
        *ports: int,
        tcp: Iterable[int] = (),
        udp: Iterable[int] = (),
        sctp: Iterable[int] = (),
        address: str = "",
    ) -> None:
        """Echo on these ports (`ports`: TCP and UDP), on all addresses of both families or on one."""
        versions = (4, 6) if not address else ((6,) if ":" in address else (4,))
        wanted = {"tcp": (*ports, *tcp), "udp": (*ports, *udp), "sctp": tuple(sctp)}
        listen = [[p, v, port, address] for p, some in wanted.items() for port in some for v in versions]
        self.ask("serve", listen=listen)

    def unserve(self, *ports: int) -> None:
        """Stop echoing on these ports."""
        self.ask("unserve", ports=ports)

    def start_probes(self, targets: Iterable[Target]) -> int:
        """Begin all the probes at once; `result` of the number returned gives a verdict for each."""
        rows = [[t.protocol, t.address, t.port, t.timeout, t.source, t.source_port] for t in targets]
        return self.submit("probe", targets=rows)

    def probe(self, *targets: Target) -> list[str]:
        """Probe all targets at once: a verdict for each, in their order."""
        verdicts: list[str] = self.result(self.start_probes(targets))
        return verdicts

    def mismatches(self, want: Mapping[Target, bool]) -> list[str]:
        """Probe all: True wants an answer (and waits long for it), False a drop. Says what came otherwise."""
        targets = [replace(t, timeout=OPEN_TIMEOUT) if open_ else t for t, open_ in want.items()]
        verdicts = self.probe(*targets)
        return [
            f"{target}: {'open' if open_ else 'blocked'} wanted, {verdict}"
            for (target, open_), verdict in zip(want.items(), verdicts, strict=True)
            if (verdict != "open" if open_ else not is_blocked(verdict))
        ]

    def hold(
        self, name: str, address: str, port: int, timeout: float = OPEN_TIMEOUT, source_port: int = 0
    ) -> str:
        """Open a TCP connection that stays, under a name; returns the verdict."""
        where = {"address": address, "port": port, "source_port": source_port}
        # Its own deadline lies in the pod; the answer comes a little later.
        verdict: str = self.ask("hold", timeout + _ANSWER_TIMEOUT, name=name, wait=timeout, **where)
        return verdict

    def exchange(self, name: str, text: str = "ping", timeout: float = OPEN_TIMEOUT) -> str:
        """Send on a held connection and wait for the echo: "open", "timeout", or how the connection ended."""
        sent = self.ask("send", name=name, text=text)
        if isinstance(sent, str):
            return sent
        return self.receive(name, len(text), timeout)

    def receive(self, name: str, length: int, timeout: float = OPEN_TIMEOUT) -> str:
        """Wait for `length` bytes on a held connection: "open", "timeout", or how the connection ended."""
        text, ended = self.ask("receive", timeout + _ANSWER_TIMEOUT, name=name, length=length, wait=timeout)
        return "open" if len(text) == length else (ended or "timeout")

    def push(self, port: int, text: str = "push") -> int:
        """Let this pod's server send unasked on all connections that it accepted; returns on how many."""
        count: int = self.ask("push", port=port, text=text)
        return count

    def release(self, name: str) -> None:
        """Close a held connection."""
        self.ask("release", name=name)

    def flood(
        self,
        name: str,
        address: str,
        port: int = 0,
        rate: float = 1000,
        protocol: str = "udp",
        source: str = "",
        source_port: int = 0,
    ) -> None:
        """Start sending numbered packets (udp or icmp), `rate` a second, until `flooded(name, end=True)`."""
        self.ask(
            "flood",
            name=name,
            address=address,
            port=port,
            rate=rate,
            protocol=protocol,
            source=source,
            source_port=source_port,
        )

    def flooded(self, name: str, end: bool = False) -> dict[str, Any]:
        """Report a flood: sent, failed (by verdict), replies, first_reply, last_reply.

        The last two are None or [number, time], and the time is this machine's monotonic clock.
        """
        report: dict[str, Any] = self.ask("flooded", name=name, end=end)
        return report

    def count(self, port: int) -> None:
        """Count floods that arrive at a UDP port, both families; nothing is echoed."""
        self.ask("count", port=port)

    def counted(self, port: int) -> dict[str, Any]:
        """Return for each source address: count, first and last as [number, monotonic time]."""
        sources: dict[str, Any] = self.ask("counted", port=port)
        return sources

    def send_frames(self, ifname: str, *frames: bytes) -> None:
        """Send whole Ethernet frames by an interface, as a spoofing pod would (see `frames`)."""
        self.ask("frames", ifname=ifname, frames=[frame.hex() for frame in frames])

    def close(self) -> None:
        """End the process; twice is fine."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _read(self, timeout: float) -> None:
        assert self._child.stdout is not None
        number = self._child.stdout.fileno()
        if not select.select([number], [], [], max(0.0, timeout))[0]:
            raise ProberError(f"no answer from prober {self.pid} in time")
        piece = os.read(number, 1 << 20)  # past the file object, which nothing else reads
        if not piece:
            raise ProberError(f"prober {self.pid} ended with {self._child.wait()}: its words are on stderr")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self._answers[answer["id"]] = answer


def probe_all(wanted: Mapping[Prober, Sequence[Target]]) -> dict[Prober, list[str]]:
    """Let many probers probe at the same time: blocked probes in all of them cost one timeout together."""
    numbers = {prober: prober.start_probes(targets) for prober, targets in wanted.items()}
    return {prober: prober.result(number) for prober, number in numbers.items()}
