"""What all tiers share: the tier's marker by its folder, root where a kernel is needed, a lab."""

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.signals import let_children_start_afresh

if TYPE_CHECKING:
    from xdist.remote import Producer

    from tests.lab import Lab

# How long an example takes says nothing on a machine that does other things too.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")

let_children_start_afresh()

HERE = Path(__file__).parent
BACKENDS = ("nftables", "iptables")
TIERS = ("unit", "contract", "netns", "cni", "kube", "vm")


class FilesByBackend(LoadScopeScheduling):
    """Which tests stay together in one of several processes: a file, or its part for one packet filter."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, rest = nodeid.partition("::")
        parameters = re.split(r"[][-]", rest.partition("[")[2])
        return " ".join([path, *(backend for backend in BACKENDS if backend in parameters)])


def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> LoadScopeScheduling:
    return FilesByBackend(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    # With several processes, in the one that waits for the others.
    if hasattr(session.config, "workerinput") or os.geteuid() != 0:
        return (yield)
    from tests.lab.neighbours import room_for_neighbours

    with room_for_neighbours():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        if tier in TIERS:
            item.add_marker(tier)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if os.geteuid() != 0 and item.get_closest_marker("unit") is None:
        pytest.fail("makes network namespaces: run it as root", pytrace=False)


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The packet filter that daemons of a test program: each test that asks runs with either one."""
    name: str = request.param
    return name


@pytest.fixture
def lab() -> Iterator["Lab"]:
    """A node with one network, net1."""
    # The unit tier needs none of what this imports.
    from tests.lab import Lab

    with Lab() as made:
        yield made
