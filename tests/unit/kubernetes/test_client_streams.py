"""Streams of a server on loopback: their pieces, and their end from another thread."""

import socket
import ssl
import threading
import time
from collections.abc import Callable

import pytest

from daemon.sources.kubernetes.client import Client, Connection
from daemon.sources.kubernetes.errors import UnreachableError
from daemon.sources.kubernetes.kubeconfig import Access
from tests.unit.kubernetes.serving import (
    CA,
    HOST,
    LEAF,
    LIMITS,
    Exchange,
    Server,
    connect,
    failure,
    pem,
    speak_and_idle,
    watch,
)

# --- streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "until it closes"])
def test_pieces_come_as_they_are_flushed(server: Server, connection: Connection, framing: str) -> None:
    taken = threading.Semaphore(0)

    def answer(exchange: Exchange) -> None:
        if framing == "chunked":
            exchange.begin()
            write: Callable[[bytes], object] = exchange.chunk
        else:
            exchange.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            write = exchange.wfile.write
        for number in range(3):
            write(b"%d\n" % number)
            # Nothing more comes before this has arrived.
            assert taken.acquire(timeout=3)
        exchange.close_connection = True
        if framing == "chunked":
            exchange.chunk(b"")

    server.answer = answer
    found = []
    with watch(connection) as pieces:
        for piece in pieces:
            found.append(piece)
            taken.release()
    assert found == [b"0\n", b"1\n", b"2\n"]


def test_a_piece_is_never_large(server: Server, connection: Connection) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        exchange.wfile.write(b"7fffffff\r\n" + b"x" * 500_000)
        exchange.idle()

    server.answer = answer
    with watch(connection) as pieces:
        sizes = [len(next(pieces)) for _ in range(5)]
    assert max(sizes) <= 1 << 16


def test_silence_ends_a_stream(server: Server, connection: Connection) -> None:
    server.answer = speak_and_idle
    with watch(connection, silence=0.2) as pieces:
        assert next(pieces) == b"123"
        with pytest.raises(UnreachableError, match="timed out"):
            next(pieces)


def test_a_stream_may_be_left_early(server: Server, connection: Connection) -> None:
    server.answer = speak_and_idle
    with watch(connection) as pieces:
        next(pieces)
    server.answer = Exchange.reply
    assert connection.get("list pods", "/") == b"{}"


def test_what_its_reader_raises_is_not_the_servers(
    server: Server, client: Client, connection: Connection
) -> None:
    server.answer = speak_and_idle
    for error in (OSError("disk"), ValueError("ours"), AttributeError("ours")):
        with pytest.raises(type(error), match=str(error)), watch(connection):
            raise error
    assert client.cost.summary()["errors"] == 0


# --- interrupt() -----------------------------------------------------------------------------------------


def interrupt_soon(connection: Connection) -> threading.Timer:
    timer = threading.Timer(0.2, connection.interrupt)
    timer.start()
    return timer


def test_a_silent_stream_is_interrupted_at_once(server: Server, connection: Connection) -> None:
    server.answer = speak_and_idle
    for _ in range(3):
        with watch(connection) as pieces:
            assert next(pieces) == b"123"
            timer, started = interrupt_soon(connection), time.monotonic()
            with pytest.raises(UnreachableError, match="watch pods: interrupted"):
                next(pieces)
            assert time.monotonic() - started < 3
            timer.join()
        # Until resume() nothing is even sent.
        before = len(server.seen)
        assert failure(connection).message == "interrupted"
        with pytest.raises(UnreachableError, match="interrupted"), watch(connection):
            pass
        assert len(server.seen) == before
        connection.resume()


def test_a_wait_for_the_first_byte_is_interrupted(server: Server, connection: Connection) -> None:
    server.answer = Exchange.idle
    timer, started = interrupt_soon(connection), time.monotonic()
    with pytest.raises(UnreachableError, match="interrupted"), watch(connection):
        pass
    assert time.monotonic() - started < 3
    timer.join()


def test_an_attempt_to_connect_is_interrupted() -> None:
    over = threading.Event()

    def speak_late(listener: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        LEAF.configure_cert(context)
        accepted, _ = listener.accept()
        time.sleep(0.4)
        with context.wrap_socket(accepted, server_side=True):
            over.wait(10)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=speak_late, args=(listener,))
        thread.start()
        url = f"https://{HOST}:{listener.getsockname()[1]}"
        with connect(Access(url, authority=pem(CA)), LIMITS) as connection:
            timer, started = interrupt_soon(connection), time.monotonic()
            with pytest.raises(UnreachableError, match="interrupted"), watch(connection):
                pass
            assert time.monotonic() - started < 3
            timer.join()
        over.set()
        thread.join()


def test_nothing_comes_out_of_an_interrupted_stream(server: Server, connection: Connection) -> None:
    def answer(exchange: Exchange) -> None:
        exchange.begin()
        while not exchange.server.over.is_set():
            exchange.chunk(b"event\n" * 100)

    server.answer = answer
    for close in (False, True):
        with watch(connection) as pieces:
            assert next(pieces).startswith(b"event")
            connection.interrupt()
            for _ in range(3):
                with pytest.raises((UnreachableError, StopIteration)):
                    next(pieces)
        if close:
            connection.close()
        connection.resume()


def test_interrupt_at_any_time(server: Server, connection: Connection) -> None:
    """Whatever it meets, it is an UnreachableError, and resume() makes it good again."""

    def answer(exchange: Exchange) -> None:
        exchange.begin()
        for _ in range(20):
            exchange.chunk(b"event\n")
        exchange.chunk(b"")

    server.answer = answer
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(0.001):
            connection.interrupt()

    thread = threading.Thread(target=disturb)
    thread.start()
    outcomes = set()
    for _ in range(80):
        connection.resume()
        try:
            with watch(connection) as pieces:
                outcomes.add(b"".join(pieces))
        except UnreachableError:
            outcomes.add(b"")
    done.set()
    thread.join()
    assert outcomes <= {b"", b"event\n" * 20}
    assert b"" in outcomes
    connection.resume()
    assert connection.get("list pods", "/") == b"event\n" * 20
