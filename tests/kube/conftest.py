"""What the tests of this tier share: an API server with everything installed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.crds import NET_ATTACH_DEF_CRD
from tests.lab.apiserver import CONF, ApiServer
from tests.lab.faults import FaultProxy


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """With conf/crd.yaml, conf/rbac.yaml and the net-attach-defs' kind; for tests that leave it running."""
    with ApiServer(tmp_path_factory.mktemp("apiserver")) as made:
        install(made)
        yield made


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The same for one test, which may do with it what it likes."""
    with ApiServer(tmp_path_factory.mktemp("own")) as made:
        install(made)
        yield made


@pytest.fixture
def proxy(server: ApiServer, tmp_path: Path) -> Iterator[FaultProxy]:
    """What stands between a client and `server`, without a fault yet."""
    with FaultProxy(tmp_path, server.url, server.ca_file) as made:
        yield made


def install(server: ApiServer) -> None:
    """All kinds and rights of conf/, and the kind that Multus brings."""
    server.admin.apply(NET_ATTACH_DEF_CRD)
    server.admin.wait_established(NET_ATTACH_DEF_CRD["metadata"]["name"])
    server.install(crds=[CONF / "crd.yaml"], rbac=CONF / "rbac.yaml")
