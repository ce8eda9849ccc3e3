"""What unit tests share: the events that the daemon's modules log."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest


class _Listening(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.events.append((record.getMessage(), vars(record)["fields"]))


@pytest.fixture
def events() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Name and fields of each event that is logged meanwhile."""
    # Not caplog: a test of the logs themselves may have taken them away from the root.
    logger, made = logging.getLogger("daemon"), _Listening()
    level = logger.level
    logger.addHandler(made)
    logger.setLevel(logging.INFO)
    yield made.events
    logger.removeHandler(made)
    logger.setLevel(level)
