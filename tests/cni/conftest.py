"""What the tests of this tier share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def socket_folder() -> Iterator[Path]:
    """A place for sockets: its path is short (108 bytes are all that there is), and not in /tmp."""
    with tempfile.TemporaryDirectory(prefix=f"mnpt-{os.getpid()}-", dir="/run") as made:
        yield Path(made)


@pytest.fixture
def socket_path(socket_folder: Path) -> Path:
    """Where a daemon's socket shall be."""
    return socket_folder / "daemon.sock"
