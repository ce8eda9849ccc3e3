"""What the tests of this tier share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cni.node import Node


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A place for sockets: its path is short (108 bytes are all that there is), and not in /tmp."""
    with tempfile.TemporaryDirectory(prefix=f"mnpt-{os.getpid()}-", dir="/run") as made:
        yield Path(made)


@pytest.fixture
def socket_path(socket_folder: Path) -> Path:
    """Where a daemon's socket shall be."""
    return socket_folder / "daemon.sock"


@pytest.fixture(scope="module")
def node(backend: str) -> Iterator["Node"]:
    """A node with a running daemon, for all tests of a module: each takes fresh pods."""
    # The plugin's own tests need none of what this imports.
    from tests.cni.node import Node
    from tests.lab import Lab

    with Lab() as made:
        yield Node(made, backend)
