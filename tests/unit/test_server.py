"""The server over a real Unix socket: transport, bounds, and that a bad client never hurts another."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from cni_plugin import wire
from daemon import server as server_module
from daemon.errors import SocketTakenError
from daemon.server import Request, Server

DEADLINE = 10.0


class Echo:
    """Answers `echo` at once and keeps `hold` requests until release()."""

    def __init__(self) -> None:
        self.held: list[Request] = []
        self.arrived = threading.Condition()

    def dispatch(self, request: Request) -> None:
        if request.op == "hold":
            with self.arrived:
                self.held.append(request)
                self.arrived.notify_all()
        else:
            request.reply({"ok": True, "result": request.body.get("payload")})

    def wait_held(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.held) >= count, DEADLINE)


class Running:
    def __init__(self, path: Path, most: int = server_module.MAX_CONNECTIONS) -> None:
        self.echo = Echo()
        self.path = path
        self.server = Server(path, self.echo.dispatch, most=most)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(DEADLINE)
        client.connect(str(self.path))
        return client

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.connect() as client:
            client.sendall(frame({"v": 1, **body}))
            return receive(client)


def frame(body: Any) -> bytes:
    payload: bytes = msgpack.packb(body)
    return len(payload).to_bytes(4, "big") + payload


def receive(client: socket.socket) -> dict[str, Any]:
    received = b""
    while chunk := client.recv(1 << 20):
        received += chunk
    assert int.from_bytes(received[:4], "big") == len(received) - 4
    reply: dict[str, Any] = msgpack.unpackb(received[4:])
    return reply


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.005)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "run" / "daemon.sock")
    yield made
    made.server.stop()
    made.thread.join(DEADLINE)
    assert not made.thread.is_alive()
    assert not made.path.exists()


def test_one_request_one_reply(running: Running) -> None:
    assert running.ask({"op": "echo", "payload": b"\0\xff"})["result"] == b"\0\xff"


def test_directory_and_socket_are_private(running: Running) -> None:
    assert running.path.parent.stat().st_mode & 0o777 == 0o700
    assert running.path.stat().st_mode & 0o777 == 0o600


BAD = [
    ("empty frame", b"\0\0\0\0", "map"),
    ("not msgpack", (4).to_bytes(4, "big") + b"\xc1\xc1\xc1\xc1", "msgpack"),
    ("two objects", (2).to_bytes(4, "big") + b"\x80\x80", "msgpack"),
    ("a list", frame([1]), "map"),
    ("keys that are no texts", frame({1: 2}), "msgpack"),
    ("texts that are no UTF-8", (4).to_bytes(4, "big") + b"\x81\xa1v\xff", "version"),
    ("too deep", (9000).to_bytes(4, "big") + b"\x91" * 9000, "msgpack"),
    ("a huge array announced", (5).to_bytes(4, "big") + b"\xdd\xff\xff\xff\xff", "msgpack"),
    ("no version", frame({"op": "echo"}), "version"),
    ("a version of the future", frame({"v": 2, "op": "echo"}), "wire version 2"),
    ("too large", (wire.MAX_REQUEST + 1).to_bytes(4, "big"), str(wire.MAX_REQUEST)),
]


@pytest.mark.parametrize(("name", "sent", "words"), BAD, ids=[row[0] for row in BAD])
def test_nonsense_is_refused_with_the_reason(name: str, sent: bytes, words: str, running: Running) -> None:
    with running.connect() as client:
        client.sendall(sent)
        reply = receive(client)
    assert reply["ok"] is False
    assert words in reply["msg"]
    assert running.ask({"op": "echo", "payload": 1})["result"] == 1


def test_a_request_byte_by_byte_is_read_and_a_slow_one_is_dropped(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "READ_SECONDS", 0.2)
    with running.connect() as slow, running.connect() as steady:
        for byte in frame({"v": 1, "op": "echo", "payload": "x"}):
            steady.sendall(bytes([byte]))
        slow.sendall(b"\0\0")
        assert receive(steady)["result"] == "x"
        assert slow.recv(1) == b""


def test_clients_that_hang_never_hold_up_another(running: Running) -> None:
    silent = [running.connect() for _ in range(300)]
    try:
        assert running.ask({"op": "echo", "payload": "through"})["result"] == "through"
    finally:
        for client in silent:
            client.close()


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Running]:
    """A server that takes four clients at a time."""
    made = Running(tmp_path / "daemon.sock", most=4)
    yield made
    made.server.stop()
    made.thread.join(DEADLINE)
    assert not made.thread.is_alive()


def test_one_past_the_bound_gets_the_place_of_who_was_silent_longest(
    cramped: Running, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = cramped.connect()
    waiting.sendall(frame({"v": 1, "op": "hold"}))
    cramped.echo.wait_held(1)
    silent = [cramped.connect() for _ in range(3)]
    begun = time.monotonic()
    for number in range(3):
        assert cramped.ask({"op": "echo", "payload": number})["result"] == number
        assert silent[number].recv(1) == b""
        silent.append(cramped.connect())
    assert time.monotonic() - begun < server_module.READ_SECONDS
    assert cramped.echo.held[0].alive()
    cramped.echo.held[0].reply({"ok": True})
    assert receive(waiting)["ok"] is True
    for client in (waiting, *silent):
        client.close()
    # Three times in less than a second, and told once.
    assert [record.message for record in caplog.records].count("clients-dropped") == 1


def test_one_past_the_bound_waits_where_all_others_wait_for_us(cramped: Running) -> None:
    waiting = [cramped.connect() for _ in range(4)]
    for client in waiting:
        client.sendall(frame({"v": 1, "op": "hold"}))
    cramped.echo.wait_held(4)
    with cramped.connect() as late:
        late.sendall(frame({"v": 1, "op": "echo", "payload": "late"}))
        late.settimeout(0.5)
        with pytest.raises(TimeoutError):
            late.recv(1)
        late.settimeout(DEADLINE)
        cramped.echo.held[2].reply({"ok": True})
        assert receive(waiting[2])["ok"] is True
        waiting[2].close()
        assert receive(late)["result"] == "late"
    for request in cramped.echo.held:
        request.reply({"ok": True})
    assert [receive(waiting[n])["ok"] for n in (0, 1, 3)] == [True] * 3
    for client in waiting:
        client.close()


def test_far_more_silent_clients_than_places(cramped: Running) -> None:
    silent = [cramped.connect() for _ in range(60)]
    assert cramped.ask({"op": "echo", "payload": "through"})["result"] == "through"
    for client in silent:
        client.close()


def test_two_hundred_wait_at_once_and_each_gets_its_own_reply(running: Running) -> None:
    clients = [running.connect() for _ in range(200)]
    for number, client in enumerate(clients):
        client.sendall(frame({"v": 1, "op": "hold", "number": number}))
    running.echo.wait_held(200)
    assert running.ask({"op": "echo", "payload": "meanwhile"})["result"] == "meanwhile"
    for request in running.echo.held:
        request.reply({"ok": True, "result": request.body["number"]})
    for number, client in enumerate(clients):
        assert receive(client)["result"] == number
        client.close()


def test_alive_tells_a_client_that_has_gone_from_one_that_waits(running: Running) -> None:
    gone, half, waiting = running.connect(), running.connect(), running.connect()
    for count, client in enumerate((gone, half, waiting), start=1):
        client.sendall(frame({"v": 1, "op": "hold"}))
        running.echo.wait_held(count)
    held_gone, held_half, held_waiting = running.echo.held
    gone.close()
    half.shutdown(socket.SHUT_WR)
    eventually(lambda: not held_gone.alive())
    assert held_half.alive()
    assert held_waiting.alive()
    for request in running.echo.held:
        request.reply({"ok": True})
        request.reply({"ok": False})
    assert receive(waiting)["ok"] is True
    assert receive(half)["ok"] is True
    half.close()
    waiting.close()


def test_a_large_reply_to_a_reader_that_pauses(running: Running) -> None:
    payload = b"x" * (600 << 10)
    with running.connect() as client:
        client.sendall(frame({"v": 1, "op": "hold"}))
        running.echo.wait_held(1)
        running.echo.held[0].reply({"ok": True, "result": payload * 20})
        assert running.ask({"op": "echo", "payload": 1})["result"] == 1
        assert len(receive(client)["result"]) == len(payload) * 20


def test_a_reply_beyond_the_bound_becomes_an_error(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_CTL_REPLY", 1000)
    reply = running.ask({"op": "echo", "payload": "x" * 2000})
    assert reply["ok"] is False
    assert "ask for less" in reply["msg"]


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "daemon.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    running = Running(path)
    try:
        assert running.ask({"op": "echo", "payload": 1})["ok"]
    finally:
        running.server.stop()
        running.thread.join(DEADLINE)


def test_a_reply_posted_before_stop_is_still_written(tmp_path: Path) -> None:
    running = Running(tmp_path / "daemon.sock")
    with running.connect() as client:
        client.sendall(frame({"v": 1, "op": "hold"}))
        running.echo.wait_held(1)
        running.echo.held[0].reply({"ok": True, "result": "last words"})
        running.server.stop()
        assert receive(client)["result"] == "last words"
    running.thread.join(DEADLINE)


def test_a_socket_that_somebody_listens_at_is_left_to_them(running: Running) -> None:
    with pytest.raises(SocketTakenError, match="another process listens"):
        Server(running.path, running.echo.dispatch)
    assert running.ask({"op": "echo", "payload": 1})["ok"]


def test_what_is_no_socket_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious.txt"
    path.write_text("precious")
    with pytest.raises(SocketTakenError, match=r"precious\.txt is there and is no socket"):
        Server(path, Echo().dispatch)
    assert path.read_text() == "precious"


def test_only_its_own_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    first = Running(tmp_path / "daemon.sock")
    first.path.unlink()
    second = Running(first.path)
    first.server.stop()
    first.thread.join(DEADLINE)
    assert second.ask({"op": "echo", "payload": 1})["ok"]
    second.server.stop()
    second.thread.join(DEADLINE)
    assert not second.path.exists()
