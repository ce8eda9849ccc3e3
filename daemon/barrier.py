"""`mnpctl wait --synced`: the exact barrier for scripts and tests.

In: a request, the source's answer that everything it held then has been handed over, and the reconciler's
progress. Out: the reply, when all of that is in the kernel, or at the timeout with what is missing by name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from daemon.reconcile import Reconciler, Sandbox
from daemon.server import Request

MOST_WAIT_SECONDS = 3600.0


@dataclass(slots=True)
class _Barrier:
    request: Request
    deadline: float
    tick: int | None = None
    searched: bool = True


class Barriers:
    """All waits that are under way.

    `unverified()`: what an earlier run has programmed and this one has still to look at; `searching()`:
    whether there may be more of that.
    `ask(token, deadline)`: the source reads anew, and answers with the token once it has handed over what it
    found, unless that is late.
    """

    def __init__(
        self, reconciler: Reconciler, clock: Callable[[], float], ask: Callable[[int, float], None]
    ) -> None:
        self._reconciler = reconciler
        self._clock = clock
        self._ask = ask
        self._last_token = 0
        self._waiting: dict[int, _Barrier] = {}
        self.notes: Callable[[], list[str]] = list
        self.unverified: Callable[[], list[Sandbox]] = list
        self.searching: Callable[[], bool] = bool

    def add(self, request: Request) -> None:
        """Begin one wait; `timeoutMs` in the request bounds it."""
        asked = request.body.get("timeoutMs")
        seconds = asked / 1000 if isinstance(asked, int) and asked >= 0 else MOST_WAIT_SECONDS
        self._last_token += 1
        deadline = self._clock() + min(seconds, MOST_WAIT_SECONDS)
        self._waiting[self._last_token] = _Barrier(request, deadline)
        self._ask(self._last_token, deadline)

    def reached(self, token: int) -> None:
        """The source has handed over everything that it held at the call, and it has been marked."""
        if token in self._waiting:
            self._waiting[token].tick = self._reconciler.tick
            self._waiting[token].searched = not self.searching()

    def advance(self) -> None:
        """Answer every wait that is over."""
        now = self._clock()
        for token, barrier in list(self._waiting.items()):
            if not barrier.request.alive():
                del self._waiting[token]
                continue
            reply = self._answer(barrier, late=now >= barrier.deadline)
            if reply is not None:
                del self._waiting[token]
                barrier.request.reply({"ok": True, "result": reply})

    def next_deadline(self) -> float | None:
        """When the next wait times out."""
        return min((barrier.deadline for barrier in self._waiting.values()), default=None)

    def _answer(self, barrier: _Barrier, *, late: bool) -> dict[str, Any] | None:
        if barrier.tick is not None and not barrier.searched and not self.searching():
            # What was found since is waited for too.
            barrier.tick, barrier.searched = self._reconciler.tick, True
        if barrier.tick is not None and barrier.searched and not self._waiting_for(barrier.tick):
            return {"synced": True, "waitingFor": [], "notes": self.notes()}
        if not late:
            return None
        return {"synced": False, "waitingFor": self._missing(barrier), "notes": self.notes()}

    def _missing(self, barrier: _Barrier) -> list[str]:
        if barrier.tick is None:
            return ["the source has not answered"]
        if not barrier.searched:
            return ["namespaces are still searched for rules whose records were lost"]
        return [_name(sandbox) for sandbox in self._waiting_for(barrier.tick)]

    def _waiting_for(self, tick: int) -> list[Sandbox]:
        return [*self._reconciler.waiting(tick), *self.unverified()]


def _name(sandbox: Sandbox) -> str:
    pods = sorted({f"{a.record.pod_namespace}/{a.record.pod_name}" for a in sandbox.attachments.values()})
    interfaces = ",".join(sorted(sandbox.attachments))
    because = f": {sandbox.error}" if sandbox.error else ""
    return f"{' '.join(pods)} {interfaces} in {sandbox.identity.path}{because}"
