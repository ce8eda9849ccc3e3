"""Jobs in, answers out.

In: one JSON object a line on stdin, {"id", "op", ...}. Out: {"id", "result"} or {"id", "error"}, one a line
on stdout, in the order in which the jobs end. Jobs run at the same time in one event loop; the end of stdin
ends it.
"""

import functools
import itertools
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from tests.prober.incoming import Counter, Echo
from tests.prober.loop import Loop
from tests.prober.outgoing import Attempt, Flood, Held
from tests.prober.sockets import endpoint, family_of, open_socket, verdict_of

Job = dict[str, Any]


class Child:
    """The jobs: a method `do_<op>` each."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._input = b""
        self._tokens = itertools.count(int(time.time() * 1000) << 16)
        self._echoes: dict[tuple[str, int, int, str], Echo] = {}
        self._counters: dict[tuple[int, int], Counter] = {}
        self._floods: dict[str, Flood] = {}
        self._held: dict[str, Held] = {}
        loop.watch(0, select.EPOLLIN | select.EPOLLHUP, self._on_stdin)

    def _on_stdin(self, events: int) -> None:
        piece = os.read(0, 1 << 20)
        if not piece:
            os._exit(0)
        *lines, self._input = (self._input + piece).split(b"\n")
        for line in lines:
            job = json.loads(line)
            try:
                getattr(self, f"do_{job['op']}")(job)
            except (OSError, LookupError) as error:
                _write({"id": job["id"], "error": f"{job['op']}: {type(error).__name__}: {error}"})

    def do_hello(self, job: Job) -> None:
        _answer(job, os.getpid())

    def do_serve(self, job: Job) -> None:
        for protocol, version, port, address in job["listen"]:
            key = (protocol, version, port, address)
            if key not in self._echoes:
                family = socket.AF_INET6 if version == 6 else socket.AF_INET
                self._echoes[key] = Echo(self._loop, protocol, family, port, address)
        _answer(job, None)

    def do_unserve(self, job: Job) -> None:
        for key in [key for key in self._echoes if key[2] in job["ports"]]:
            self._echoes.pop(key).end()
        _answer(job, None)

    def do_probe(self, job: Job) -> None:
        verdicts: list[str] = [""] * len(job["targets"])
        left = len(verdicts)

        def settle(index: int, verdict: str) -> None:
            nonlocal left
            verdicts[index] = verdict
            left -= 1
            if not left:
                _answer(job, verdicts)

        for index, target in enumerate(job["targets"]):
            token = struct.pack(">Q", next(self._tokens))
            Attempt(self._loop, target, token, functools.partial(settle, index))
        if not verdicts:
            _answer(job, verdicts)

    def do_hold(self, job: Job) -> None:
        sock = open_socket("tcp", family_of(job["address"]))
        if job["source_port"]:
            sock.bind(("", job["source_port"]))
        sock.connect_ex(endpoint(job["address"], job["port"]))
        state = {"told": False}

        def finish(verdict: str) -> None:
            if state["told"]:
                return
            state["told"] = True
            if verdict == "open":
                self._held[job["name"]] = Held(self._loop, sock)
            else:
                self._loop.forget(sock)
            _answer(job, verdict)

        def on_connected(events: int) -> None:
            self._loop.unwatch(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            finish(verdict_of(OSError(number, "")) if number else "open")

        self._loop.watch(sock, select.EPOLLOUT, on_connected)
        self._loop.at(time.monotonic() + job["wait"], lambda: finish("timeout"))

    def do_send(self, job: Job) -> None:
        held = self._held[job["name"]]
        _answer(job, held.sock.send(job["text"].encode()) if not held.ended else held.ended)

    def do_receive(self, job: Job) -> None:
        held = self._held[job["name"]]
        deadline = time.monotonic() + job["wait"]
        held.when(job["length"], deadline, lambda got: _answer(job, [got.decode("latin-1"), held.ended]))

    def do_release(self, job: Job) -> None:
        self._loop.forget(self._held.pop(job["name"]).sock)
        _answer(job, None)

    def do_push(self, job: Job) -> None:
        text = job["text"].encode()
        _answer(job, sum(echo.push(text) for key, echo in self._echoes.items() if key[2] == job["port"]))

    def do_flood(self, job: Job) -> None:
        self._floods[job["name"]] = Flood(self._loop, job)
        _answer(job, None)

    def do_flooded(self, job: Job) -> None:
        flood = self._floods[job["name"]]
        if job["end"]:
            self._floods.pop(job["name"]).end()
        _answer(job, flood.report())

    def do_count(self, job: Job) -> None:
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            self._counters[version, job["port"]] = Counter(self._loop, family, job["port"])
        _answer(job, None)

    def do_counted(self, job: Job) -> None:
        _answer(job, self._counters[4, job["port"]].sources | self._counters[6, job["port"]].sources)

    def do_frames(self, job: Job) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((job["ifname"], 0))
            for frame in job["frames"]:
                sock.send(bytes.fromhex(frame))
        _answer(job, None)


def _answer(job: Job, result: Any) -> None:
    _write({"id": job["id"], "result": result})


def _write(answer: Job) -> None:
    line = json.dumps(answer).encode() + b"\n"
    while line:
        line = line[os.write(1, line) :]


def main() -> None:
    """Serve jobs until stdin ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = Loop()
    Child(loop)
    loop.run()


if __name__ == "__main__":
    main()
