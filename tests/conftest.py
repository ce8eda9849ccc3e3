"""What all tiers share: the tier's marker by its folder, root where a kernel is needed, a lab."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.lab import Lab

# How long an example takes says nothing on a machine that does other things too.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
hypothesis.settings.load_profile("house")

HERE = Path(__file__).parent
BACKENDS = ("nftables", "iptables")
TIERS = ("unit", "contract", "netns", "cni", "kube", "vm")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        tier = item.path.relative_to(HERE).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """What stays together in one of several processes: a file, or its part for one packet filter."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    backend = parameters.get("backend", parameters.get("subject", ""))
    return f"{item.path.relative_to(HERE)} {backend}".strip()


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
