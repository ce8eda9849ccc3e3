"""Problems of objects in the log: once when they come up, once when they are gone, and never a flood."""

import logging
from collections.abc import Iterator

import pytest

from daemon import problemlog
from daemon.model import ObjectKey, Problem
from daemon.problemlog import BURST, REFILL_SECONDS, SKIPPED_SECONDS, Found, ProblemLog

WEB, OTHER = ObjectKey("MultiNetworkPolicy", "shop", "web"), ObjectKey("MultiNetworkPolicy", "other", "web")
BAD, WORSE = Problem("spec", "bad"), Problem("spec", "worse")
HINT = Problem("spec", "perhaps", hint=True)


class Logged(logging.Handler):
    """A log, its clock, and what came out of it: level and event, and the problem."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.now = 1000.0
        self.log = ProblemLog(lambda: self.now)
        self._found: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        fields = vars(record)["fields"]
        event = f"{record.levelname} {record.getMessage()}"
        self._found.append((event, str(fields.get("problem", fields.get("more")))))

    def tell(self, found: Found, seconds: float = 2.0) -> list[tuple[str, str]]:
        """What is logged for it, after so much time."""
        self._found = []
        self.now += seconds
        self.log.tell(found)
        return self._found


@pytest.fixture
def logged() -> Iterator[Logged]:
    # Not caplog: a test of the logs themselves may have taken them away from the root.
    logger, made = logging.getLogger(problemlog.__name__), Logged()
    level = logger.level
    logger.addHandler(made)
    logger.setLevel(logging.INFO)
    yield made
    logger.removeHandler(made)
    logger.setLevel(level)


def test_each_is_told_once_and_once_when_it_is_gone(logged: Logged) -> None:
    assert logged.tell({WEB: (BAD, HINT)}) == [
        ("WARNING object-problem", "bad"),
        ("INFO object-hint", "perhaps"),
    ]
    assert logged.tell({WEB: (BAD, HINT)}) == []
    assert logged.tell({WEB: (BAD, WORSE)}) == [
        ("WARNING object-problem", "worse"),
        ("INFO object-problem-gone", "perhaps"),
    ]
    assert logged.tell({}) == [], "nothing is new"
    assert logged.tell({WEB: (WORSE,), OTHER: (BAD,)}) == [
        ("WARNING object-problem", "bad"),
        ("INFO object-problem-gone", "bad"),
    ]
    assert len(logged.tell({WEB: (), OTHER: ()})) == 2
    assert logged.tell({WEB: ()}) == []


def test_one_namespace_floods_neither_the_log_nor_the_others(logged: Logged) -> None:
    flood: dict[ObjectKey, tuple[Problem, ...]] = {
        ObjectKey("Pod", "shop", f"p{n}"): (BAD,) for n in range(1000)
    }
    found = logged.tell({**flood, OTHER: (BAD,)})
    assert len(found) == BURST + 2
    assert found[-2:] == [("WARNING object-problem", "bad"), ("WARNING object-problems", str(1000 - BURST))]
    # While it goes on there is one word a minute about what is left out, and a little more each minute.
    total = 0
    for turn in range(100):
        key = ObjectKey("Pod", "shop", f"q{turn}")
        gone: dict[ObjectKey, tuple[Problem, ...]] = dict.fromkeys(flood, ())
        total += len(logged.tell({**gone, key: (BAD,)} if turn % 2 else flood, SKIPPED_SECONDS / 10))
    assert total <= 10 * (SKIPPED_SECONDS / REFILL_SECONDS + 1) + 1


def test_after_a_while_it_speaks_again(logged: Logged) -> None:
    logged.tell({ObjectKey("Pod", "shop", f"p{n}"): (BAD,) for n in range(1000)})
    logged.tell({}, seconds=1.0)
    assert logged.tell({WEB: (BAD,)}, seconds=BURST * REFILL_SECONDS)[0] == ("WARNING object-problem", "bad")
