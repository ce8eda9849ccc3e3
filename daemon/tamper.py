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
from dataclasses import dataclass

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
"""The same with comparisons that were begun, which then go on with the next tick."""
COMPARE_SHARE = 0.05
"""Of a core, for comparisons and repairs where somebody has committed."""
_LOOKS, _READINGS = 0.7, 0.3
"""How looks, and reading back though nothing seems touched, share what the backend may take."""
_FAILED_SECONDS = 60.0
_DONE = object()


@dataclass(slots=True)
class _Look:
    """One that may take several turns. cost: seconds of processor time; resumed: that clock, at the last."""

    sandbox: Sandbox
    work: Pausing[None] | None = None
    cost: float = 0.0
    resumed: float = 0.0


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
        self._under_way: dict[int, _Look] = {}

    def next_due(self) -> float | None:
        """When to call step() next, on the clock; None: there is nothing to look at."""
        return self._next if self._reconciler.sandboxes else None

    def step(self) -> None:
        """Look at those whose turn it is, and go on with looks that were begun, as far as a slice allows."""
        now = self._clock()
        if now < self._next:
            return
        self._begin(now + SLICE_SECONDS)
        self._go_on(now + MOST_SECONDS)
        self._next = self._clock() + TICK_SECONDS

    def _begin(self, until: float) -> None:
        everyone, now = self._reconciler.sandboxes, self._clock()
        due = [
            s
            for s in everyone.values()
            if s.tampering.look_at <= now and _is_known(s) and s.identity.token not in self._under_way
        ]
        due.sort(key=lambda sandbox: sandbox.tampering.look_at)
        self._busy &= everyone.keys()
        for sandbox in due:
            look = _Look(sandbox)
            look.work = self._look(look)
            self._advance(look)
            if self._clock() >= until:
                break

    def _go_on(self, until: float) -> None:
        """A piece of each in turn: one that takes long keeps nobody from having his own."""
        while self._under_way and self._clock() < until:
            self._advance(self._under_way.pop(next(iter(self._under_way))))

    def _advance(self, look: _Look) -> None:
        token = look.sandbox.identity.token
        assert look.work is not None
        if self._reconciler.sandboxes.get(token) is not look.sandbox:
            look.work.close()
            return
        look.resumed = self._spent()
        done = next(look.work, _DONE) is _DONE
        look.cost += self._spent() - look.resumed
        if not done:
            self._under_way[token] = look

    def _cost(self, look: _Look) -> float:
        """Of a look that is being gone on with, so far."""
        return look.cost + self._spent() - look.resumed

    def _look(self, look: _Look) -> Pausing[None]:
        sandbox = look.sandbox
        now, tampering = self._clock(), sandbox.tampering
        if (pause := tampering.wait(now)) > 0.0:
            tampering.look_at = now + pause
            return
        if not tampering.read_at:
            tampering.read_at = now + self._backend.survey_seconds * random.uniform(0.1, 1.0)  # noqa: S311
        tampering.look_at = now + LOOK_SECONDS
        try:
            yield from self._examine(look, now)
        except NetnsError:
            pass  # the sweep finds out what became of it
        except Exception as error:  # noqa: BLE001 (what one pod holds must not end the daemon for all)
            log.error("watch-failed", extra={"netns": sandbox.identity.path, "error": repr(error)})
            tampering.look_at = now + _FAILED_SECONDS

    def _examine(self, look: _Look, now: float) -> Pausing[None]:
        sandbox = look.sandbox
        tampering, token = sandbox.tampering, sandbox.identity.token
        everyone, share = len(self._reconciler.sandboxes), self._backend.watch_share
        if now >= tampering.read_at:
            yield from self._compare(sandbox)
            pause = self._cost(look) * everyone / (share * _READINGS)
            tampering.read_at = now + max(self._backend.survey_seconds, pause)
        elif self._untouched(sandbox):
            self._busy.discard(token)
            self._calm(sandbox)
            tampering.look_at = now + max(LOOK_SECONDS, self._cost(look) * everyone / (share * _LOOKS))
        else:
            self._busy.add(token)
            yield from self._compare(sandbox)
            pause = self._cost(look) * len(self._busy) / COMPARE_SHARE
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
