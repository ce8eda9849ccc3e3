"""The watch: looks at each governed namespace once a second, and restores what somebody has changed there.

In: sandboxes, the passing of time. Out: what of ours was changed is as it was within 2 s, logged, counted and
kept for the report. Only the dataplane thread calls this module.

It is bounded three ways. It works in slices of SLICE_SECONDS, those that have waited longest first. What a
look costs says when the next one is: all looks together take the backend's share of a core, all comparisons
COMPARE_SHARE, so whoever makes his own namespace slow to read is looked at less often, and no other is. And a
namespace has a few repairs in a row (standing.Tampering): while it has none left it costs nothing at all, and
is shown as tampered with.
"""

import random
from collections.abc import Callable

from daemon.backends.base import Backend
from daemon.errors import DataplaneError, NetnsError
from daemon.log import get_logger
from daemon.reconcile import Reconciler, Sandbox
from daemon.slices import Pausing

log = get_logger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at a namespace, where they cost as little as they should."""
TICK_SECONDS = 0.05
SLICE_SECONDS = 0.005
"""Of each tick."""
MOST_SECONDS = 0.02
"""The same where a comparison has begun, which then goes on with the next tick."""
COMPARE_SHARE = 0.05
"""Of a core, for comparisons and repairs where somebody has committed."""
_LOOKS, _READINGS = 0.7, 0.3
"""How looks, and reading back though nothing seems touched, share what the backend may take."""
_FAILED_SECONDS = 60.0
_DONE = object()


class Watch:
    """`clock`: monotonic seconds; `spent`: seconds of processor time that this thread has had."""

    def __init__(
        self,
        reconciler: Reconciler,
        backend: Backend,
        clock: Callable[[], float],
        spent: Callable[[], float],
    ) -> None:
        self._reconciler = reconciler
        self._backend = backend
        self._clock = clock
        self._spent = spent
        self._busy: set[int] = set()
        self._next = 0.0
        self._going_on: tuple[Sandbox, Pausing[None]] | None = None
        self._cost = self._resumed = 0.0  # of the look that goes on; when it was gone on with

    def next_due(self) -> float | None:
        """When to call step() next, on the clock; None: there is nothing to look at."""
        return self._next if self._reconciler.sandboxes else None

    def step(self) -> None:
        """Look at those whose turn it is, as many as a slice allows."""
        now = self._clock()
        if now < self._next:
            return
        if self._go_on(now):
            self._look_at_some(now)
        self._next = self._clock() + TICK_SECONDS

    def _look_at_some(self, now: float) -> None:
        everyone = self._reconciler.sandboxes
        due = [s for s in everyone.values() if s.tampering.look_at <= now and _is_known(s)]
        due.sort(key=lambda sandbox: sandbox.tampering.look_at)
        self._busy &= everyone.keys()
        for sandbox in due:
            self._going_on, self._cost = (sandbox, self._look(sandbox)), 0.0
            if not self._go_on(now) or self._clock() >= now + SLICE_SECONDS:
                break

    def _go_on(self, now: float) -> bool:
        """Go on with the look that was begun; whether there is none now."""
        while self._going_on is not None:
            sandbox, work = self._going_on
            if self._reconciler.sandboxes.get(sandbox.identity.token) is not sandbox:
                work.close()
                self._going_on = None
                break
            self._resumed = self._spent()
            if next(work, _DONE) is _DONE:
                self._going_on = None
                break
            self._cost += self._spent() - self._resumed
            if self._clock() >= now + MOST_SECONDS:
                return False
        return True

    def _spent_on_it(self) -> float:
        """What the look that goes on has cost so far."""
        return self._cost + self._spent() - self._resumed

    def _look(self, sandbox: Sandbox) -> Pausing[None]:
        now, tampering = self._clock(), sandbox.tampering
        if (pause := tampering.wait(now)) > 0.0:
            tampering.look_at = now + pause
            return
        if not tampering.read_at:
            tampering.read_at = now + self._backend.survey_seconds * random.uniform(0.1, 1.0)  # noqa: S311
        tampering.look_at = now + LOOK_SECONDS
        try:
            yield from self._examine(sandbox, now)
        except NetnsError:
            pass  # the sweep finds out what became of it
        except Exception as error:  # noqa: BLE001 (what one pod holds must not end the daemon for all)
            log.error("watch-failed", extra={"netns": sandbox.identity.path, "error": repr(error)})
            tampering.look_at = now + _FAILED_SECONDS

    def _examine(self, sandbox: Sandbox, now: float) -> Pausing[None]:
        tampering, token = sandbox.tampering, sandbox.identity.token
        everyone, share = len(self._reconciler.sandboxes), self._backend.watch_share
        if now >= tampering.read_at:
            yield from self._compare(sandbox)
            pause = self._spent_on_it() * everyone / (share * _READINGS)
            tampering.read_at = now + max(self._backend.survey_seconds, pause)
        elif self._untouched(sandbox):
            self._busy.discard(token)
            self._calm(sandbox)
            tampering.look_at = now + max(LOOK_SECONDS, self._spent_on_it() * everyone / (share * _LOOKS))
        else:
            self._busy.add(token)
            yield from self._compare(sandbox)
            pause = self._spent_on_it() * len(self._busy) / COMPARE_SHARE
            tampering.look_at = now + max(LOOK_SECONDS, pause)

    def _untouched(self, sandbox: Sandbox) -> bool:
        try:
            return self._reconciler.untouched(sandbox)
        except DataplaneError:
            return False

    def _compare(self, sandbox: Sandbox) -> Pausing[None]:
        """Read all back; where something of ours is changed, write it anew."""
        if (yield from self._reconciler.comparing(sandbox)):
            self._calm(sandbox)
            return
        sandbox.tampering.spend(self._clock())
        self._reconciler.repair(sandbox)

    def _calm(self, sandbox: Sandbox) -> None:
        if sandbox.tampering.calm(self._clock()):
            self._reconciler.restate(sandbox)


def _is_known(sandbox: Sandbox) -> bool:
    """Whether there is something to compare with: not what was restored and must stay as it is (A13)."""
    return sandbox.actual is not None and not sandbox.held
