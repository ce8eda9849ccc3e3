"""From what shall be in each netns to what is: coalesce, apply, fail closed, retry.

In: attachments placed in sandboxes, and marks of what became dirty. Out: programs in the kernel, and the
state of each attachment. Only the dataplane thread calls this module.

A sandbox (one network namespace) is the unit of work: its program holds every attachment in it and is
applied as one atomic batch. What was applied is kept as a model; `actual` None means that the kernel's
state is not known, and then everything of ours there is rewritten.
"""

import random
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from daemon import imprint, netns, planner
from daemon.attachments import Record
from daemon.backends.base import Backend
from daemon.commits import Commits
from daemon.desired import make_program
from daemon.errors import DataplaneError, NetnsError, NetnsGoneError
from daemon.linkkinds import GOVERNED, Reach
from daemon.liveness import further_names
from daemon.log import get_logger
from daemon.model import AttachmentKey, Direction
from daemon.netns import NetnsIdentity
from daemon.program import Program, closed
from daemon.reaching import Closing, Reaching
from daemon.rivals import Rivals
from daemon.slices import Pausing, Slice
from daemon.standing import Standing, State
from daemon.steps import first_step, next_step
from daemon.store import Store

log = get_logger(__name__)

RETRY_FIRST_SECONDS = 0.5
RETRY_MOST_SECONDS = 60.0


@dataclass(slots=True)
class Attachment:
    """One attachment alive. labels and ports in the record may lag; the store has the current ones.

    notes, doubts: what speaks against its network-status, its configuration (doubts.py).
    reach: how rules reach its packets, by the last look. missing: its interface is not in the netns, and no
    DEL came; beside: the numbers of the links that are; unseen: there are more than are looked at.
    written: its imprint, or that of an earlier record.
    """

    record: Record
    state: State = State.PENDING
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    reach: Reach = GOVERNED
    missing: bool = False
    beside: frozenset[int] = frozenset()
    unseen: bool = False
    written: imprint.Written | None = None

    @property
    def key(self) -> AttachmentKey:
        """(containerID, ifname)."""
        return self.record.key


@dataclass(slots=True)
class Sandbox(Standing):
    """One network namespace and what is ours in it. dirty_since None: as desired.

    held: restored at the start and not verified yet; its rules stay as they are, whatever happens meanwhile.
    closing: what is closed below IP. crowded: it has many links.
    """

    attachments: dict[str, Attachment] = field(default_factory=dict)
    held: bool = False
    dirty_since: int | None = None
    failures: int = 0
    retry_at: float = 0.0
    error: str = ""
    closing: Closing = field(default_factory=Closing)
    crowded: bool = False


class Reconciler:
    """Owns the sandboxes.

    `clock` is monotonic seconds; `on_gone` is told of sandboxes whose netns is gone. `rivals`: the backends
    that are not in use, but may have been. signature: what this daemon's imprints are known by.
    """

    def __init__(
        self,
        store: Store,
        backend: Backend,
        clock: Callable[[], float],
        on_gone: Callable[[Sandbox], None],
        rivals: Sequence[Backend] = (),
        signature: str = "",
    ) -> None:
        self.signature = signature
        self._rivals = Rivals(rivals)
        self._commits = Commits(backend, self._rivals, clock)
        self.reaching = Reaching(store, backend)
        self._store = store
        self._backend = backend
        self._clock = clock
        self._on_gone = on_gone
        self._tick = 0
        self._dirty: dict[int, Sandbox] = {}
        self._unsaved: dict[int, Sandbox] = {}
        self.sandboxes: dict[int, Sandbox] = {}
        self.failed_total = 0

    @property
    def applied_total(self) -> int:
        """Programs committed."""
        return self._commits.applied_total

    @property
    def tampered_total(self) -> int:
        """Changes of what is ours by somebody else that were found."""
        return self._commits.tampered_total

    @property
    def follows_renames(self) -> bool:
        """As the backend's."""
        return self._backend.follows_renames

    # --- placing -----------------------------------------------------------------------------------------

    def sandbox(self, identity: NetnsIdentity) -> Sandbox:
        """The sandbox of a netns, made when it is new."""
        found = self.sandboxes.get(identity.token)
        if found is None:
            found = self.sandboxes[identity.token] = Sandbox(identity)
        return found

    def forget(self, sandbox: Sandbox) -> None:
        """Drop a sandbox that holds no attachment or whose netns is gone."""
        self.sandboxes.pop(sandbox.identity.token, None)
        self._dirty.pop(sandbox.identity.token, None)
        self._unsaved.pop(sandbox.identity.token, None)

    def mark(self, sandboxes: Iterable[Sandbox]) -> None:
        """These no longer are as desired."""
        self._tick += 1
        for sandbox in sandboxes:
            if sandbox.held:
                continue
            if sandbox.dirty_since is None:
                sandbox.dirty_since = self._tick
            self._dirty[sandbox.identity.token] = sandbox

    # --- working -----------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do a piece of work for one dirty sandbox that is due. False: none is."""
        now = self._clock()
        for token, sandbox in self._dirty.items():
            if sandbox.retry_at <= now:
                # What takes several turns lets the others have theirs.
                self._dirty[token] = self._dirty.pop(token)
                self.reconcile(sandbox)
                return True
        return False

    def next_due(self) -> float | None:
        """When the next sandbox is due, on the clock; 0: at once; None: nothing is dirty."""
        nearest: float | None = None
        for sandbox in self._dirty.values():
            if sandbox.failures == 0:
                return 0.0
            nearest = sandbox.retry_at if nearest is None else min(nearest, sandbox.retry_at)
        return nearest

    def reconcile(self, sandbox: Sandbox) -> None:
        """Make one sandbox as desired, or do a part of that.

        On failure: deny what could not be programmed and set the time of a retry.
        """
        try:
            self.advance(sandbox)
        except NetnsGoneError:
            self._on_gone(sandbox)
        except (DataplaneError, NetnsError) as error:
            self.fail(sandbox, error)
        except Exception as error:  # noqa: BLE001 (what one pod holds must not end the daemon for all)
            self.survive(sandbox, error)

    def survive(self, sandbox: Sandbox, error: Exception) -> None:
        """An exception about one sandbox that nobody foresaw: that one is denied and tried again."""
        found = DataplaneError(f"unexpected {type(error).__name__}: {error}")
        if sandbox.error != str(found):
            trace = "".join(traceback.format_exception(error))
            log.critical("unexpected", extra={"netns": sandbox.identity.path, "traceback": trace})
        if not sandbox.held:
            self.fail(sandbox, found)

    def apply(self, sandbox: Sandbox, *, confirm: bool = False) -> None:
        """Program what is desired, or raise DataplaneError or NetnsError with nothing changed.

        confirm: where nothing is to be done, make sure that the kernel holds what was applied.
        """
        while not self.advance(sandbox, confirm=confirm):
            pass

    def advance(self, sandbox: Sandbox, *, confirm: bool = False) -> bool:
        """Do a part of apply() that does not hold up others for long; whether all is done."""
        if not sandbox.attachments:
            self._remove(sandbox)
            return True
        if not self._prepare(sandbox):
            return False
        self._close(sandbox, first=True)
        desired = self._desired(sandbox)
        if desired != sandbox.actual or (confirm and not self._commits.confirm(sandbox)):
            if sandbox.actual is None:
                step = first_step(desired, _is_new(sandbox))
            else:
                step = next_step(desired, sandbox.actual)
            self._commits.commit(sandbox, step, _chain_names(sandbox))
            if step is not desired:
                return False
        elif not sandbox.searched:
            with netns.entered(sandbox.identity.path, sandbox.identity):
                self._commits.evict_rivals(sandbox, _chain_names(sandbox))
        self._close(sandbox)
        self._mark_applied(sandbox)
        self._settle(sandbox)
        return True

    def _prepare(self, sandbox: Sandbox) -> bool:
        """Whether it is known what is desired; a slice of work at most."""
        pause = Slice(self._clock)
        governed = [a.key for a in sandbox.attachments.values() if not (a.record.guard or a.record.unready)]
        return all(self._store.prepare(key, pause.over) for key in governed)

    def take_over(self, sandbox: Sandbox, digest: str, generation: int) -> bool:
        """At the start: believe that the kernel holds what a record says, if digests and generation agree.

        False: something differs, so `actual` stays unknown and the sandbox is to be rewritten.
        """
        desired = self._desired(sandbox)
        if planner.digest(desired) != digest:
            return False
        if not self._commits.take_over(sandbox, desired, generation, _chain_names(sandbox)):
            return False
        self._close(sandbox)
        self._mark_applied(sandbox)
        self._settle(sandbox)
        return True

    def untouched(self, sandbox: Sandbox) -> bool:
        """Whether nobody seems to have changed what was applied; cheap. DataplaneError, NetnsError."""
        return self._commits.untouched(sandbox)

    def comparing(self, sandbox: Sandbox) -> Pausing[bool]:
        """Read what was applied back. False: it is to be restored, see repair(). NetnsError."""
        return self._commits.comparing(sandbox)

    def repair(self, sandbox: Sandbox) -> None:
        """Write all anew what somebody has changed, whatever else it waits for."""
        sandbox.retry_at = 0.0
        self.mark([sandbox])
        self.reconcile(sandbox)

    def restate(self, sandbox: Sandbox) -> None:
        """It turned out whether somebody changes what was applied again and again."""
        if sandbox.dirty_since is None:
            self._mark_applied(sandbox)

    def verify(self, sandbox: Sandbox) -> str:
        """What in the kernel differs from what was applied; "": nothing. Reads only (CHECK)."""
        if sandbox.actual is None:
            return sandbox.error or "not programmed yet"
        return self._commits.verify(sandbox)

    def counters(self, sandbox: Sandbox) -> dict[str, tuple[int, int]]:
        """The drop counters in a sandbox."""
        with netns.entered(sandbox.identity.path, sandbox.identity):
            return self._backend.counters()

    # --- what others wait for ----------------------------------------------------------------------------

    @property
    def tick(self) -> int:
        """Rises with every mark; what was dirty at tick t is applied when `waiting(t)` has none."""
        return self._tick

    def waiting(self, tick: int) -> Iterator[Sandbox]:
        """The sandboxes that were dirty at that tick and still are."""
        return (s for s in self._dirty.values() if s.dirty_since is not None and s.dirty_since <= tick)

    def pending(self) -> list[Sandbox]:
        """The sandboxes that are not as desired now."""
        return list(self._dirty.values())

    @property
    def lagging(self) -> bool:
        """Whether unsaved() has something to give."""
        return bool(self._unsaved)

    def unsaved(self) -> Sandbox | None:
        """One sandbox whose records lag behind what was applied; each is given once a change."""
        return self._unsaved.popitem()[1] if self._unsaved else None

    # --- inside ------------------------------------------------------------------------------------------

    def _desired(self, sandbox: Sandbox) -> Program:
        gates = [self._gate(attachment, sandbox.closing) for attachment in sandbox.attachments.values()]
        track = any(attachment.record.track for attachment in sandbox.attachments.values())
        imprints = imprint.write_all(sandbox.attachments, self.signature)
        return make_program(gates, self._store.members, track, imprints)

    def _gate(self, attachment: Attachment, closing: Closing) -> planner.GateRequest:
        record, reach = attachment.record, attachment.reach
        named = (record.ifname, record.ifindex or None, str(record.key))
        names = further_names(record, missing=attachment.missing, by_number=self.follows_renames)
        # What passes rules by and can't be stopped gets no answer at least.
        unstopped = self._out_of_reach(attachment) and (closing.failed or not reach.closable)
        if record.guard or record.unready or unstopped:
            return planner.denied_gate(*named, reach.carriers, names)
        return planner.GateRequest(*named, self._store.ruleset(record.key), reach.carriers, names)

    def _remove(self, sandbox: Sandbox) -> None:
        """Nothing of ours is left to govern: the table goes too."""
        self._close(sandbox)
        with netns.entered(sandbox.identity.path, sandbox.identity):
            self._backend.remove()
        self.forget(sandbox)

    def _mark_applied(self, sandbox: Sandbox) -> None:
        applied = State.TAMPERED if sandbox.tampering.endless else State.APPLIED
        for attachment in sandbox.attachments.values():
            state = State.DENIED if sandbox.clash(attachment.record.ifname) else applied
            attachment.state = State.NOT_ENFORCED if self._out_of_reach(attachment) else state

    def _out_of_reach(self, attachment: Attachment) -> bool:
        return bool(self.reaching.missed(attachment.record, attachment.reach))

    def _close(self, sandbox: Sandbox, *, first: bool = False) -> None:
        seals = self.reaching.seals((a.record, a.reach) for a in sandbox.attachments.values())
        (self.reaching.close_more if first else self.reaching.close)(sandbox.closing, seals, sandbox.identity)

    def _settle(self, sandbox: Sandbox) -> None:
        failures, sandbox.failures = sandbox.failures, 0
        sandbox.dirty_since = None
        sandbox.retry_at = 0.0
        sandbox.error = ""
        self._dirty.pop(sandbox.identity.token, None)
        self._unsaved[sandbox.identity.token] = sandbox
        if not sandbox.searched:
            self._postpone(sandbox, failures + 1)

    def fail(self, sandbox: Sandbox, error: Exception) -> None:
        """It can't be made as desired now: deny what can be, and try again later."""
        self.failed_total += 1
        self._postpone(sandbox, sandbox.failures + 1)
        if sandbox.error != str(error):
            log.error("apply-failed", extra={"netns": sandbox.identity.path, "error": str(error)})
        sandbox.error = str(error)
        if isinstance(error, DataplaneError):
            self._deny(sandbox)

    def _postpone(self, sandbox: Sandbox, failures: int) -> None:
        """Once more, later each time."""
        sandbox.failures = failures
        delay = min(RETRY_MOST_SECONDS, RETRY_FIRST_SECONDS * 2 ** min(failures - 1, 10))
        sandbox.retry_at = self._clock() + delay * random.uniform(0.5, 1.0)  # noqa: S311 (jitter, no secret)
        self.mark([sandbox])

    def _deny(self, sandbox: Sandbox) -> None:
        """Fail closed, narrowly: directions that can't be made as desired let nothing new in or out."""
        try:
            desired = self._desired(sandbox)
            denied = closed(desired, sandbox.actual or sandbox.believed)
            if denied != sandbox.actual:
                self._commits.rewrite(sandbox, denied, _chain_names(sandbox))
            for attachment in sandbox.attachments.values():
                name = attachment.record.ifname
                as_desired = denied.gates[name] == desired.gates[name] and not self._out_of_reach(attachment)
                attachment.state = State.APPLIED if as_desired else State.DENIED
        except NetnsGoneError:
            self._on_gone(sandbox)
        except Exception as error:  # noqa: BLE001 (see reconcile)
            # What is in the kernel stays: the rules that were there last.
            sandbox.actual = None
            for attachment in sandbox.attachments.values():
                attachment.state = State.PENDING
            log.error("deny-failed", extra={"netns": sandbox.identity.path, "error": str(error)})


def _is_new(sandbox: Sandbox) -> bool:
    """Whether nothing of ours was ever in it, so that nothing that is permitted could stop for a moment."""
    return sandbox.believed is None and all(a.state is State.PENDING for a in sandbox.attachments.values())


def _chain_names(sandbox: Sandbox) -> set[str]:
    return {planner.chain_name(d, ifname) for ifname in sandbox.attachments for d in Direction}
