"""A server that answers as a test says, and a connection to it."""

from collections.abc import Iterator

import pytest

from daemon.sources.kubernetes.client import Client, Connection
from daemon.sources.kubernetes.kubeconfig import Access, Material
from tests.unit.kubernetes.serving import (
    CA,
    LEAF,
    LIMITS,
    Server,
    make_client,
    pem,
    serve,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(LEAF) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Client:
    return make_client(Access(server.url, authority=pem(CA), token=Material(b"secret")), LIMITS)


@pytest.fixture
def connection(client: Client) -> Iterator[Connection]:
    made = client.connect()
    yield made
    made.close()
