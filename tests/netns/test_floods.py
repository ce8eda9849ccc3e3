"""Clients that come in larger numbers than the daemon has descriptors, and never say what they want.

The metrics port is open to every user of the node, the socket to its root.
"""

import contextlib
import re
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.bench import wire
from tests.lab import Daemon, Lab, objects
from tests.lab.polling import poll
from tests.netns.enroll import add, check, must

DESCRIPTORS = 300
MANY = DESCRIPTORS + 50


@pytest.fixture
def daemon(lab: Lab, backend: str) -> Daemon:
    """A daemon with few descriptors, and a metrics port."""
    made = lab.daemon(
        backend=backend,
        options=[f"--metrics-address=127.0.0.1:{free_port()}"],
        wrapper=["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"],
    )
    policy = objects.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress"]})
    pods = [objects.pod(f"pod-{number}", networks="net1") for number in range(4)]
    made.apply("all", [objects.network("net1"), policy, *pods])
    made.wait_synced()
    return made


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def metrics_port(daemon: Daemon) -> int:
    found = poll(lambda: re.search(r"metrics address=127\.0\.0\.1:(\d+)", daemon.log), bool)
    assert found is not None
    return int(found[1])


def scrape(daemon: Daemon) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port(daemon)}/metrics", timeout=10) as reply:
        text: str = reply.read().decode()
        return text


def slow_scraper(daemon: Daemon) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", metrics_port(daemon)), timeout=10)
    client.sendall(b"GET /metrics HTTP/1.1\r\n")
    return client


def silent_client(daemon: Daemon) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(str(daemon.socket))
    return client


@contextlib.contextmanager
def flooded(daemon: Daemon, *connect: Callable[[Daemon], socket.socket]) -> Iterator[None]:
    """MANY clients of each kind, who never come to an end; each sends a byte now and then."""
    ended = threading.Event()
    made: list[socket.socket] = []

    def drip() -> None:
        while not ended.wait(0.5):
            for client in list(made):
                with contextlib.suppress(OSError):
                    client.send(b"\0")

    dripping = threading.Thread(target=drip)
    with contextlib.ExitStack() as clients:
        clients.callback(dripping.join)
        clients.callback(ended.set)
        dripping.start()
        for one in connect:
            for _ in range(MANY):
                made.append(clients.enter_context(one(daemon)))
        yield


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


def test_an_add_gets_its_descriptors(lab: Lab, daemon: Daemon) -> None:
    attachments = [lab.attach(lab.pod(f"pod-{number}")) for number in range(4)]
    must(add(daemon, attachments[0]))
    before = descriptors(daemon)
    with flooded(daemon, slow_scraper, silent_client):
        # The positive control: each place that there is for clients is taken.
        poll(lambda: descriptors(daemon), lambda now: now >= before + 100)
        for attachment in attachments[1:]:
            must(add(daemon, attachment, timeout=10.0))
            must(check(daemon, attachment))
        # Whoever says at once what he wants is heard.
        assert "multi_networkpolicy_ready 1" in scrape(daemon)
        assert len(daemon.ctl("attachments")) == 4
    assert 'attachments{state="applied"} 4' in scrape(daemon)
    poll(lambda: descriptors(daemon), lambda now: now <= before + 2)
    log = daemon.log
    assert "few-descriptors" in log
    for event in (" metrics-clients-dropped ", " clients-dropped "):
        assert 1 <= log.count(event) <= 3
    assert "Too many open files" not in log


def test_adds_of_clients_that_have_gone_wait_no_longer(lab: Lab, backend: str) -> None:
    """Each would be kept for its whole time, and its place is given to the next client at once."""
    daemon = lab.adopt(Daemon(lab.daemon_folder(), backend=backend))
    daemon.manifests.rmdir()
    daemon.start(wait=False)
    daemon.wait_listening()
    request = wire.add_request(lab.attach(lab.pod("pod-0")))
    with contextlib.ExitStack() as clients:
        for _ in range(50):
            clients.enter_context(silent_client(daemon)).sendall(request)
        assert poll(lambda: daemon.ctl("status")["waitingAdds"], lambda count: count == 50) == 50
    poll(lambda: daemon.ctl("status")["waitingAdds"], lambda count: count == 0)
    assert daemon.log.count("add-abandoned") == 50
