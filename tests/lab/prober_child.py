"""What runs inside a pod: answers probes, sends probes, holds connections, floods and counts.

In: one JSON object a line on stdin: {"id", "op", ...}. Out: one {"id", "result"} or {"id", "error"} a line on stdout,
in the order in which jobs end. Jobs run at the same time in one event loop. It ends at the end of stdin.
Started with `-I -S -E`, so it imports nothing but the standard library; its parent is `prober.py`.
"""

import errno
import heapq
import itertools
import json
import os
import resource
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

Job = dict[str, Any]

_ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_ECHO_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PING = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_FLOOD_MAGIC = b"mnpt"
_FLOOD_PAYLOAD = struct.Struct(">4sQ")
_TICK = 0.001  # of a flood, in seconds: what epoll can wait at least
_BURST = 256  # packets a tick at most, so that a flood never starves the other jobs
_PKTINFO = {
    socket.AF_INET: (socket.IPPROTO_IP, 8, 8),  # IP_PKTINFO, which the socket module names from 3.12 on
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO),
}


def family_of(address: str) -> socket.AddressFamily:
    """Tell the family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def endpoint(address: str, port: int) -> tuple[Any, ...]:
    """Return what connect and bind take; a link-local address carries its interface after `%`."""
    if "%" in address:
        return socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0][4]
    return (address, port)


def open_socket(protocol: str, family: socket.AddressFamily) -> socket.socket:
    """Open a socket that never blocks."""
    kinds = {
        "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
        "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
        "icmp": (socket.SOCK_DGRAM, _PING[family]),
    }
    kind, number = kinds[protocol]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
    if protocol == "tcp":
        # End by RST: no TIME_WAIT, so that a source port can be used again at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def name_of(error: OSError) -> str:
    """Return the verdict that an error of the kernel stands for."""
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return f"error:{errno.errorcode.get(error.errno or 0, error.errno)}"


class Loop:
    """Calls back when a socket has something, or when a time has come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def watch(self, sock: socket.socket | int, events: int, callback: Callable[[int], None]) -> None:
        number = sock if isinstance(sock, int) else sock.fileno()
        self._callbacks[number] = callback
        self._epoll.register(number, events)

    def unwatch(self, sock: socket.socket) -> None:
        number = sock.fileno()
        if self._callbacks.pop(number, None) is not None:
            self._epoll.unregister(number)

    def forget(self, sock: socket.socket) -> None:
        """Close the socket; twice is fine."""
        self.unwatch(sock)
        sock.close()

    def at(self, when: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), callback))

    def run(self) -> None:
        while True:
            wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
            for number, events in self._epoll.poll(wait):
                callback = self._callbacks.get(number)
                if callback is not None:
                    callback(events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()


class Attempt:
    """One probe: a socket, a packet or a handshake, and a verdict that is given once."""

    def __init__(self, loop: Loop, target: list[Any], token: bytes, settle: Callable[[str], None]) -> None:
        self._loop = loop
        self._protocol, address, port, timeout, source, source_port = target
        self._token = token
        self._settle: Callable[[str], None] | None = settle
        self._family = family_of(address)
        try:
            self._sock = open_socket(self._protocol, self._family)
        except OSError as error:
            self._give(name_of(error))
            return
        loop.at(time.monotonic() + timeout, lambda: self._give("timeout"))
        try:
            if source or source_port:
                self._bind(source, source_port)
            self._start(endpoint(address, port))
        except OSError as error:
            self._give(name_of(error))

    def _bind(self, source: str, source_port: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        anyone = "::" if self._family == socket.AF_INET6 else "0.0.0.0"
        self._sock.bind(endpoint(source or anyone, source_port))

    def _start(self, target: tuple[Any, ...]) -> None:
        if self._protocol in ("tcp", "sctp"):
            outcome = self._sock.connect_ex(target)
            if outcome not in (0, errno.EINPROGRESS):
                raise OSError(outcome, os.strerror(outcome))
            self._loop.watch(self._sock, select.EPOLLOUT, self._on_connected)
            return
        self._sock.connect(target)
        self._loop.watch(self._sock, select.EPOLLIN, self._on_reply)
        self._sock.send(self._packet())

    def _packet(self) -> bytes:
        if self._protocol == "udp":
            return self._token
        # The kernel fills in the checksum and an ID that is this socket's.
        return struct.pack(">BBHHH", _ECHO_REQUEST[self._family], 0, 0, 0, 1) + self._token

    def _on_connected(self, events: int) -> None:
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._give(name_of(OSError(number, "")) if number else "open")

    def _on_reply(self, events: int) -> None:
        try:
            reply = self._sock.recv(2048)
        except BlockingIOError:
            return
        except OSError as error:
            self._give(name_of(error))
            return
        if reply.endswith(self._token):
            self._give("open")

    def _give(self, verdict: str) -> None:
        if self._settle is None:
            return
        settle, self._settle = self._settle, None
        if hasattr(self, "_sock"):
            self._loop.forget(self._sock)
        settle(verdict)


class Held:
    """A TCP connection that stays, and what came in on it."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.ended = ""
        self._loop = loop
        self._waiting: list[Callable[[], bool]] = []
        loop.watch(sock, select.EPOLLIN, self._on_input)

    def _on_input(self, events: int) -> None:
        try:
            piece = self.sock.recv(65536)
            self.ended = "" if piece else "closed"
        except BlockingIOError:
            return
        except OSError as error:
            piece, self.ended = b"", name_of(error)
        self.received += piece
        if self.ended:
            self._loop.forget(self.sock)
        self._waiting = [check for check in self._waiting if not check()]

    def when(self, length: int, deadline: float, tell: Callable[[bytes], None]) -> None:
        """Tell once, when `length` bytes are there or the connection ended, else at the deadline."""
        told = False

        def check(late: bool = False) -> bool:
            nonlocal told
            if not told and (late or self.ended or len(self.received) >= length):
                told = True
                taken, self.received = self.received[:length], self.received[length:]
                tell(taken)
            return told

        if not check():
            self._waiting.append(check)
            self._loop.at(deadline, lambda: check(late=True) and None)


class Flood:
    """UDP packets or pings with a sequence number at a steady rate, whatever becomes of them."""

    def __init__(self, loop: Loop, job: Job) -> None:
        self._loop = loop
        self._protocol = job["protocol"]
        self._family = family_of(job["address"])
        self._target = endpoint(job["address"], job["port"])
        self._rate = float(job["rate"])
        self._sock = open_socket(self._protocol, self._family)
        if job["source"] or job["source_port"]:
            anyone = "::" if self._family == socket.AF_INET6 else "0.0.0.0"
            self._sock.bind(endpoint(job["source"] or anyone, job["source_port"]))
        self._began = time.monotonic()
        self._next = 0  # sequence number
        self._failed: dict[str, int] = {}
        self._replies: list[Any] = []
        self._reply_count = 0
        self._live = True
        loop.watch(self._sock, select.EPOLLIN, self._on_reply)
        self._tick()

    def _tick(self) -> None:
        if not self._live:
            return
        now = time.monotonic()
        due = int((now - self._began) * self._rate) + 1 - self._next
        for _ in range(min(due, _BURST)):
            self._send_one()
        self._loop.at(now + max(_TICK, 1 / self._rate), self._tick)

    def _send_one(self) -> None:
        payload = _FLOOD_PAYLOAD.pack(_FLOOD_MAGIC, self._next)
        if self._protocol == "icmp":
            kind = _ECHO_REQUEST[self._family]
            payload = struct.pack(">BBHHH", kind, 0, 0, 0, self._next & 0xFFFF) + payload
        self._next += 1
        try:
            self._sock.sendto(payload, self._target)
        except OSError as error:
            verdict = name_of(error)
            self._failed[verdict] = self._failed.get(verdict, 0) + 1

    def _on_reply(self, events: int) -> None:
        while True:
            try:
                reply = self._sock.recv(2048)
            except OSError:
                return
            magic, sequence = _FLOOD_PAYLOAD.unpack(reply[-_FLOOD_PAYLOAD.size :])
            if magic == _FLOOD_MAGIC:
                self._reply_count += 1
                last = [sequence, time.monotonic()]
                self._replies = [self._replies[0] if self._replies else last, last]

    def report(self) -> Job:
        return {
            "sent": self._next - sum(self._failed.values()),
            "failed": self._failed,
            "replies": self._reply_count,
            "first_reply": self._replies[0] if self._replies else None,
            "last_reply": self._replies[1] if self._replies else None,
        }

    def end(self) -> None:
        self._live = False
        self._loop.forget(self._sock)


class Counter:
    """Counts a flood's packets at a port, by their source."""

    def __init__(self, loop: Loop, family: socket.AddressFamily, port: int) -> None:
        self.sources: dict[str, Job] = {}
        self._sock = _listening("udp", family, port)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        loop.watch(self._sock, select.EPOLLIN, self._on_input)

    def _on_input(self, events: int) -> None:
        while True:
            try:
                packet, sender = self._sock.recvfrom(2048)
            except OSError:
                return
            if len(packet) == _FLOOD_PAYLOAD.size:
                self._add(sender[0], _FLOOD_PAYLOAD.unpack(packet)[1])

    def _add(self, source: str, sequence: int) -> None:
        now = time.monotonic()
        seen = self.sources.setdefault(source, {"count": 0, "first": [sequence, now]})
        seen["count"] += 1
        seen["last"] = [sequence, now]


def _listening(protocol: str, family: socket.AddressFamily, port: int, address: str = "") -> socket.socket:
    sock = open_socket(protocol, family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if protocol == "udp":
        level, option, _ = _PKTINFO[family]
        sock.setsockopt(level, option, 1)
    sock.bind(endpoint(address or ("::" if family == socket.AF_INET6 else "0.0.0.0"), port))
    if protocol != "udp":
        sock.listen(1024)
    return sock


class Echo:
    """A server that sends back what it gets, from the address that it was sent to."""

    def __init__(
        self, loop: Loop, protocol: str, family: socket.AddressFamily, port: int, address: str
    ) -> None:
        self._loop = loop
        self.accepted: set[socket.socket] = set()
        self._sock = _listening(protocol, family, port, address)
        self._control = _PKTINFO[family]
        loop.watch(self._sock, select.EPOLLIN, self._on_packet if protocol == "udp" else self._on_connection)

    def _on_packet(self, events: int) -> None:
        level, _, kind = self._control
        while True:
            try:
                packet, control, _, sender = self._sock.recvmsg(65536, 256)
            except OSError:
                return
            # Wildcard sockets would answer from whichever address the route prefers, were it not for this.
            where = [item for item in control if item[:2] == (level, kind)]
            try:
                self._sock.sendmsg([packet], where, 0, sender)
            except OSError:
                continue  # a governed pod may not be allowed to answer: that is the other side's timeout

    def _on_connection(self, events: int) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            sock.setblocking(False)
            self.accepted.add(sock)
            self._loop.watch(sock, select.EPOLLIN, lambda events, sock=sock: self._on_bytes(sock))

    def _on_bytes(self, sock: socket.socket) -> None:
        try:
            piece = sock.recv(65536)
            if piece:
                sock.send(piece)
                return
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        self.accepted.discard(sock)
        self._loop.forget(sock)

    def push(self, text: bytes) -> int:
        """Send unasked on all connections that it accepted; returns on how many the kernel took it."""
        taken = 0
        for sock in self.accepted:
            try:
                taken += sock.send(text) == len(text)
            except OSError:
                continue
        return taken

    def end(self) -> None:
        for sock in self.accepted:
            self._loop.forget(sock)
        self._loop.forget(self._sock)


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
            Attempt(self._loop, target, token, lambda verdict, index=index: settle(index, verdict))
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
            finish(name_of(OSError(number, "")) if number else "open")

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
    sys.exit(main())
