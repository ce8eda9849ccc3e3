"""The dataplane thread: it alone owns attachments, enters network namespaces and programs the kernel.

In: the server's requests and the source's updates, through the inbox. Out: replies, programs in the kernel.
It takes one task of each lane in turn and reconciles one sandbox between, so that a large update delays an
ADD by the programming of one netns at most.
"""

import contextlib
import gc
import queue
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cni_plugin import wire
from cni_plugin.errors import INTERNAL, TRY_AGAIN_LATER, CniError
from daemon import planner
from daemon.barrier import Barriers
from daemon.errors import DataplaneError, NetnsError
from daemon.inbox import Inbox, Lane
from daemon.lifecycle import Lifecycle
from daemon.log import get_logger
from daemon.model import ObjectKey
from daemon.reconcile import Reconciler
from daemon.registry import Registry
from daemon.replies import reply_bug, reply_error
from daemon.report import Report
from daemon.server import Request
from daemon.slices import Pausing
from daemon.sources.base import Finding, Update
from daemon.tamper import Watch
from daemon.telling import Telling
from daemon.upkeep import Upkeep

log = get_logger(__name__)

NETNS_SWEEP_SECONDS = 0.25
"""A stat per netns: what is ours goes within a second of the netns' end, or of the link's after a DEL."""
LINK_SWEEP_SECONDS = 5.0
"""An entry per netns: for interfaces whose DEL was lost."""

ANSWER_SECONDS = 0.01
"""So long an answer that takes more is worked at before others have their turn."""

SETTLE_OBJECTS = 1000
"""So many objects make a full collection worth avoiding."""
UNSEEN_OBJECTS = 20_000
"""After so many, or a tenth of what is out of the collector's sight, that is looked at again."""


class Dataplane:
    """run() until stop(). post_* may be called from any thread."""

    def __init__(
        self,
        inbox: Inbox,
        registry: Registry,
        reconciler: Reconciler,
        upkeep: Upkeep,
        lifecycle: Lifecycle,
        barriers: Barriers,
        report: Report,
        watch: Watch,
        tell: Callable[[Mapping[ObjectKey, tuple[Finding, ...]]], None] | None,
        governs: Callable[[], None],
    ) -> None:
        """governs: hands over which policies govern something here, once all that there is has been read."""
        self._inbox = inbox
        self._registry = registry
        self._reconciler = reconciler
        self._upkeep = upkeep
        self._lifecycle = lifecycle
        self._barriers = barriers
        self._report = report
        self._watch = watch
        self._governs = governs
        self._telling = Telling(report.faults, report, tell)
        self._stopping = ""
        self._new_objects = self._unseen_objects = 0
        self._next_sweep = 0.0
        self._next_link_sweep = 0.0
        self._operations: dict[str, Callable[[Request], None]] = {
            wire.OP_ADD: lifecycle.add,
            wire.OP_DEL: lifecycle.delete,
            wire.OP_CHECK: lifecycle.check,
            wire.OP_GC: lifecycle.collect,
            wire.OP_STATUS: lifecycle.status,
            wire.OP_WAIT: barriers.add,
            **report.operations,
        }

    # --- from other threads ------------------------------------------------------------------------------

    def post_request(self, request: Request) -> None:
        """A client's request; ADDs have a lane of their own."""
        lane = Lane.ADD if request.op == wire.OP_ADD else Lane.CONTROL
        self._inbox.put(lane, lambda: self._serve(request))

    def post_update(self, update: Update) -> None:
        """What the source has found."""
        self._inbox.put(Lane.SOURCE, lambda: self._take_update(update))

    def ask_status(self, seconds: float) -> Mapping[str, Any]:
        """The status map, for another thread. Raises TimeoutError when there is none in time."""
        answer: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._inbox.put(Lane.CONTROL, lambda: answer.put(self._report.figures()))
        try:
            return answer.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None

    def stop(self, reason: str) -> None:
        """End run() after the work in hand."""
        self._inbox.put(Lane.CONTROL, lambda: self._begin_stop(reason))

    # --- the thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until stop(); then answer what waits and bring the records up to date."""
        while not self._stopping:
            for task in self._inbox.take(self._patience()):
                task()
            busy = self._reconciler.step()
            self._upkeep.search()
            self._upkeep_step()
            self._watch.step()
            self._lifecycle.advance()
            self._barriers.advance()
            if self._upkeep.ready:
                self._governs()
            # Replacing a file takes longer than programming a netns: records wait until all is in force.
            if not busy:
                self._save_one()
                self._settle_memory()
                if self._upkeep.ready:
                    self._telling.step()
        self._lifecycle.refuse_waiting(self._stopping)
        while self._save_one():
            pass

    def _patience(self) -> float:
        """Seconds until something is due; 0 when there is work at once."""
        deadlines = (
            self._next_sweep,
            self._reconciler.next_due(),
            self._lifecycle.next_deadline(),
            self._barriers.next_deadline(),
            self._watch.next_due(),
            self._telling.next_due(),
        )
        nearest = min(deadline for deadline in deadlines if deadline is not None)
        at_once = self._reconciler.lagging or self._upkeep.adoption.searching
        return 0.0 if at_once else max(0.0, nearest - time.monotonic())

    def _serve(self, request: Request) -> None:
        operation, pausing = self._operations.get(request.op), self._report.pausing.get(request.op)
        with _replying(request):
            if operation is None and pausing is None:
                raise CniError(INTERNAL, f"unknown operation {request.op!r}")
            if self._stopping:
                raise CniError(TRY_AGAIN_LATER, self._stopping)
            if operation is not None:
                operation(request)
            elif pausing is not None:
                self._go_on_answering(request, pausing(request.body))

    def _go_on_answering(self, request: Request, pieces: Pausing[Any]) -> None:
        """Work at an answer for a while, and at the rest of it after all that waits by then."""
        until = time.monotonic() + ANSWER_SECONDS
        with _replying(request):
            while time.monotonic() < until:
                try:
                    next(pieces)
                except StopIteration as end:
                    request.reply({"ok": True, "result": end.value})
                    return
            if not request.gone:
                self._inbox.put(Lane.CONTROL, lambda: self._go_on_answering(request, pieces))

    def _take_update(self, update: Update) -> None:
        self._new_objects += len(update.changes)
        self._go_on(update, self._upkeep.take(update))

    def _go_on(self, update: Update, pieces: Iterator[None]) -> None:
        """Take a piece of an update over, and the rest of it before anything else that the source sends."""
        for _ in pieces:
            self._inbox.put_first(Lane.SOURCE, lambda: self._go_on(update, pieces))
            return
        self._report.source_problems = dict(update.problems)
        for found in update.found:
            self._lifecycle.on_found(found)
        for token in update.tokens:
            self._barriers.reached(token)

    def _upkeep_step(self) -> None:
        now = time.monotonic()
        if now < self._next_sweep:
            return
        links = now >= self._next_link_sweep
        self._upkeep.sweep(links=links)
        self._next_sweep = now + NETNS_SWEEP_SECONDS
        if links:
            self._next_link_sweep = now + LINK_SWEEP_SECONDS

    def _save_one(self) -> bool:
        """Bring one sandbox's records up to date, off any reply's path. False: none lags behind."""
        sandbox = self._reconciler.unsaved()
        if sandbox is None:
            return False
        if sandbox.actual is not None:
            self._registry.save_applied(sandbox, planner.digest(sandbox.actual))
        return True

    def _settle_memory(self) -> None:
        """After many objects came: take them out of the collector's sight.

        A full collection over 10,000 pods takes 20 to 60 ms, and would hit an ADD now and then. Out of sight
        most of what goes is freed all the same, but for what refers to itself in a circle: that is looked for
        now and then, while nothing waits, or it would stay for ever.
        """
        if self._new_objects < SETTLE_OBJECTS or self._reconciler.lagging:
            return
        self._unseen_objects += self._new_objects
        self._new_objects = 0
        if self._unseen_objects >= max(UNSEEN_OBJECTS, gc.get_freeze_count() // 10):
            self._unseen_objects = 0
            gc.unfreeze()
        gc.collect()
        gc.freeze()

    def _begin_stop(self, reason: str) -> None:
        self._stopping = reason


@contextlib.contextmanager
def _replying(request: Request) -> Iterator[None]:
    """Answer a request with what went wrong: it must not be able to end the daemon."""
    try:
        yield
    except CniError as error:
        reply_error(request, error)
    except (DataplaneError, NetnsError, OSError) as error:
        reply_error(request, CniError(INTERNAL, str(error)))
    except Exception as error:  # noqa: BLE001 (a bug of ours, which it has met)
        reply_bug(request, error)
