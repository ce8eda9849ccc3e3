"""What the tests of this tier share."""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from daemon.backends.base import Backend


@pytest.fixture(scope="module")
def packet_filter(backend: str, tmp_path_factory: pytest.TempPathFactory) -> "Backend":
    """The backend itself, without a daemon."""
    from tests.netns.governed import make_backend

    return make_backend(backend, tmp_path_factory.mktemp("lock") / "xtables.lock")
