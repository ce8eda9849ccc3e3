"""Telling what is wrong with objects, in the log and to their authors: a slice at a time.

In: the store, which notes what has changed; the report, which knows what is wrong with attachments. Out: log
events, and all findings for the source. Only the dataplane thread calls this module. Whoever may write
objects may make thousands of them stale at once: so it works for a slice and leaves the thread to others.
"""

import time
from collections.abc import Callable, Mapping

from daemon.model import ObjectKey, Problem
from daemon.policy.dicts import put
from daemon.policy.problems import Problems
from daemon.problemlog import ProblemLog
from daemon.report import Report
from daemon.slices import Pausing
from daemon.sources.base import Finding

FINDINGS_SECONDS = 2.0
"""From the end of one round to the next."""
SLICE_SECONDS = 0.01
SPARING = 10
"""So many times as long as a slice took others have the thread to themselves."""
_AT_ONCE = 10
"""Objects whose news is told in one go."""


class Telling:
    """tell: takes all findings; None: nobody wants them. `clock`: monotonic seconds."""

    def __init__(
        self,
        faults: Problems,
        report: Report,
        tell: Callable[[Mapping[ObjectKey, tuple[Finding, ...]]], None] | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._faults = faults
        self._report = report
        self._tell = tell
        self._clock = clock
        self._log = ProblemLog(clock)
        self._of_objects: dict[ObjectKey, tuple[Finding, ...]] = {}
        self._of_attachments: dict[ObjectKey, tuple[Finding, ...]] = {}
        self._all: Mapping[ObjectKey, tuple[Finding, ...]] = {}
        self._round: Pausing[None] | None = None
        self._next = 0.0

    def next_due(self) -> float | None:
        """When a round that is under way goes on; None: none is."""
        return None if self._round is None else self._next

    def step(self) -> None:
        """Go on for a slice, if it is time. Not before all has been listed: until then much seems missing."""
        begun = self._clock()
        if begun < self._next:
            return
        self._round = self._round or self._work()
        for _ in self._round:
            if (now := self._clock()) - begun >= SLICE_SECONDS:
                self._next = now + SPARING * (now - begun)
                return
        self._round = None
        self._next = self._clock() + FINDINGS_SECONDS

    def _work(self) -> Pausing[None]:
        """A round: what is wrong is found out, then told."""
        yield from self._faults.settle()
        news = self._faults.take_news()
        for first in range(0, len(news), _AT_ONCE):
            some = {key: self._faults.of(key) for key in news[first : first + _AT_ONCE]}
            self._log.tell(some)
            if self._tell is not None:
                self._find(some)
            yield
        self._log.tell({})
        if self._tell is not None:
            self._tell(self._findings(changed=bool(news)))

    def _find(self, some: Mapping[ObjectKey, tuple[Problem, ...]]) -> None:
        for key, problems in some.items():
            put(self._of_objects, key, self._report.findings_of(key, problems) or None)

    def _findings(self, *, changed: bool) -> Mapping[ObjectKey, tuple[Finding, ...]]:
        """All of them; the same tuples, and the same map, as long as they are the same."""
        attachments = self._report.findings()
        if changed or attachments != self._of_attachments:
            self._of_attachments = attachments
            both = {key: self._of_objects.get(key, ()) + found for key, found in attachments.items()}
            self._all = {**self._of_objects, **both}
        return self._all
