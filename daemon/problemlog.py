"""What is reported about objects, in the log: once when it comes up, once when it is gone.

In: the problems of objects of which something else may be wrong than before. Out: events, so many for each
namespace and no more, for whoever may edit an object makes them. What is left out is counted; `mnpctl
policies` shows all.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from daemon.log import get_logger
from daemon.model import ObjectKey, Problem
from daemon.policy.dicts import put

log = get_logger(__name__)

BURST = 25
REFILL_SECONDS = 5.0
"""Events in a row about one namespace's objects, and the time after which one more may follow."""
SKIPPED_SECONDS = 60.0
"""Between two words about what was left out."""

Found = Mapping[ObjectKey, tuple[Problem, ...]]


class _Bucket(msgspec.Struct):
    tokens: float
    filled: float


class ProblemLog:
    """`clock`: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: dict[ObjectKey, tuple[Problem, ...]] = {}
        self._buckets: dict[str, _Bucket] = {}
        self._skipped = 0
        self._said_skipped = -SKIPPED_SECONDS

    def tell(self, news: Found) -> None:
        """All problems of these objects as they are now; what is not in it is as it was."""
        before = {key: self._last.get(key, ()) for key in news}
        for key, problem in _differences(before, news):
            self._say(key, problem, "hint" if problem.hint else "problem")
        for key, problem in _differences(news, before):
            self._say(key, problem, "gone")
        for key, problems in news.items():
            put(self._last, key, problems or None)
        if news:
            self._forget_full()
        self._say_skipped()

    def _say(self, key: ObjectKey, problem: Problem, what: str) -> None:
        if not self._take(key.namespace or key.name):
            self._skipped += 1
            return
        fields = {"object": str(key), "field": problem.field, "problem": problem.message}
        if what == "problem":
            log.warning("object-problem", extra=fields)
        else:
            log.info("object-hint" if what == "hint" else "object-problem-gone", extra=fields)

    def _take(self, namespace: str) -> bool:
        now = self._clock()
        bucket = self._buckets.setdefault(namespace, _Bucket(float(BURST), now))
        bucket.tokens = min(float(BURST), bucket.tokens + (now - bucket.filled) / REFILL_SECONDS)
        bucket.filled = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _say_skipped(self) -> None:
        now = self._clock()
        if self._skipped and now - self._said_skipped >= SKIPPED_SECONDS:
            log.warning("object-problems", extra={"more": self._skipped, "see": "mnpctl status"})
            self._skipped, self._said_skipped = 0, now

    def _forget_full(self) -> None:
        now, full = self._clock(), BURST * REFILL_SECONDS
        self._buckets = {name: one for name, one in self._buckets.items() if now - one.filled < full}


def _differences(old: Found, new: Found) -> Iterator[tuple[ObjectKey, Problem]]:
    """What is in `new` and was not in `old`."""
    for key, problems in new.items():
        before = old.get(key, ())
        if problems != before:
            yield from ((key, problem) for problem in problems if problem not in before)
