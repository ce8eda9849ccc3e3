"""Which last valid versions of policies are kept on disk, so that they survive a restart (A4).

In: what the source has, and which policies govern something here. Out: files, a few a second; and what a run
before has kept, for objects that can't be read now. Kept are versions that count in the place of what can't
be read, and, since an object may break while no daemon runs, those of policies that govern something.
"""

import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from daemon.log import get_logger
from daemon.model import ObjectKey, Policy
from daemon.sources.keptfiles import KeptFiles, file_name
from daemon.sources.lastvalid import Version, encode

log = get_logger(__name__)

SETTLE_SECONDS = 1.0
"""An edit waits so long to be written, so that many in a row cost one write."""
LINGER_SECONDS = 60.0
"""So long a file stays that governs nothing any more: pods come and go."""
PACE_SECONDS = 0.05
PACE_REST = 10
"""After a write nothing is done for so long, and after any look for so many times of what it took."""
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
MAX_TOLD = 10

PolicyRef: TypeAlias = tuple[str, str]
"""(namespace, name)."""


class _Held(msgspec.Struct, frozen=True):
    """A policy that the source has. policy None: there never was a valid version. last: see Memory.put."""

    policy: Policy | None
    last: bool
    uid: str
    file: bytes


class Keeping:
    """See Memory; governs() is the dataplane's. Thread-safe: files are written in run() alone.

    Before governs() was called nothing is said to be gone but what the source has taken back: not all has
    been read.
    """

    def __init__(self, files: KeptFiles, clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._changed = threading.Condition()
        self._held: dict[ObjectKey, _Held] = {}
        self._governing: set[PolicyRef] = set()
        self._complete = False
        # Taken back before all was read: their files may still be there.
        self._taken_back: set[ObjectKey] = set()
        # What is to be looked at, in order: at once, or from some moment on.
        self._urgent: dict[ObjectKey, None] = {}
        self._later: dict[ObjectKey, float] = {}
        self._lingering: dict[ObjectKey, float] = {}
        self._given: dict[bytes, list[ObjectKey]] | None = None
        self._idle = self._news = self._stopping = False
        # The thread's own from here on.
        self._swept = False
        self._ownerless: dict[str, None] = {}
        self._failures = 0
        self._failed = ""
        self._rests_until = 0.0
        self._beyond: dict[ObjectKey, str] = {}

    # --- from the source ---------------------------------------------------------------------------------

    def recall(self, key: ObjectKey, uid: str = "") -> Version | None:
        """See Memory."""
        with self._changed:
            # What comes after all was read is new, whatever its name was used for before.
            if self._complete or key in self._held or key in self._taken_back:
                return None
        version = self._files.read(key)
        return version if version is not None and version.uid == uid else None

    def given(self, file: bytes) -> tuple[Version, ...]:
        """See Memory."""
        if self._given is None:
            self._given = {}
            for version in self._files.scan():
                if version.file:
                    self._given.setdefault(version.file, []).append(version.key)
        found = (self.recall(key) for key in self._given.get(file, ()))
        return tuple(version for version in found if version is not None and version.file == file)

    def put(
        self, key: ObjectKey, policy: Policy | None, *, last: bool, uid: str = "", file: bytes = b""
    ) -> None:
        """See Memory."""
        valid = policy if policy is not None and policy.pod_selector is not None else None
        held = _Held(valid, last, uid, file)
        with self._changed:
            self._held[key] = held
            if last or valid is None:
                self._urgent[key] = None
            elif _ref(key) in self._governing:
                self._later.setdefault(key, self._clock() + SETTLE_SECONDS)
            elif self._complete and self._files.knows(file_name(key)):
                self._lingering.setdefault(key, self._clock() + LINGER_SECONDS)
            self._wake()

    def remove(self, key: ObjectKey) -> None:
        """See Memory."""
        with self._changed:
            if self._held.pop(key, None) is not None:
                if not self._complete:
                    self._taken_back.add(key)
                self._urgent[key] = None
                self._wake()

    # --- from the dataplane ------------------------------------------------------------------------------

    def governs(self, changes: Mapping[PolicyRef, bool]) -> None:
        """Which policies govern something here from now on, or no more. All that there is has been read."""
        if not changes and self._complete:
            return
        now = self._clock()
        with self._changed:
            for ref, yes in changes.items():
                key = ObjectKey("MultiNetworkPolicy", *ref)
                if yes:
                    self._governing.add(ref)
                    self._later.setdefault(key, now + SETTLE_SECONDS)
                else:
                    self._governing.discard(ref)
                    self._lingering.setdefault(key, now + LINGER_SECONDS)
            self._complete = True
            self._taken_back.clear()
            self._wake()

    def _wake(self) -> None:
        self._news = True
        if self._idle:
            self._changed.notify()

    # --- for whoever asks --------------------------------------------------------------------------------

    def notes(self) -> list[str]:
        """What is not as it should be, a line each."""
        with self._changed:
            failed, beyond = self._failed, dict(self._beyond)
        lines = [f"{self._files.directory}: last valid versions of policies can't be kept: {failed}"] * bool(
            failed
        )
        found = [(str(key), reason) for key, reason in sorted(beyond.items())]
        found += [
            (str(self._files.directory / name), f"set aside, no last valid version: {reason}")
            for name, reason in sorted(self._files.aside.items())
        ]
        lines += [f"{where}: {reason}" for where, reason in found[:MAX_TOLD]]
        if len(found) > MAX_TOLD:
            lines.append(f"{self._files.directory}: {len(found) - MAX_TOLD} more of this kind")
        return lines

    # --- the thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until stop()."""
        while not self._stopping:
            patience = self.step()
            with self._changed:
                # What comes while it rests does not wake it: it would do so for each of 500 objects.
                self._idle = self._clock() >= self._rests_until
                self._changed.wait_for(lambda: self._stopping or (self._idle and self._news), patience)
                self._news = False

    def stop(self) -> None:
        """End run()."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def flush(self, deadline: float) -> None:
        """Write what is still to be written, without rests, until then. After run()."""
        with self._changed:
            due = [*self._urgent, *self._later]
        for key in due:
            if self._clock() >= deadline or self._failed:
                return
            self._settle(key, expired=False)

    def step(self) -> float | None:
        """Look at one policy that is due; the seconds until the next is. None: until something changes."""
        now = self._clock()
        if now < self._rests_until:
            return self._rests_until - now
        if self._complete and not self._swept:
            self._swept = True
            self._look_for_ownerless(now)
        with self._changed:
            key, expired = self._next(now)
            dues = [next(iter(queue.values())) for queue in (self._later, self._lingering) if queue]
        if key is not None:
            self._settle(key, expired=expired)
        elif self._ownerless:
            self._drop(self._ownerless.popitem()[0])
        else:
            return max(0.0, min(dues) - now) if dues else None
        self._rest(PACE_REST * (self._clock() - now))
        return max(0.0, self._rests_until - self._clock())

    def _look_for_ownerless(self, now: float) -> None:
        """Files about policies that are gone, and about such as may govern nothing here."""
        with self._changed:
            held = list(self._held)
        owned = {file_name(key): key for key in held}
        self._ownerless = dict.fromkeys(self._files.names - owned.keys())
        known = [key for name, key in owned.items() if self._files.knows(name)]
        with self._changed:
            for key in known:
                self._lingering.setdefault(key, now + LINGER_SECONDS)

    def _next(self, now: float) -> tuple[ObjectKey | None, bool]:
        """(what is due, whether it was to be given up by now): what counts in the place of another first."""
        for key in self._urgent:
            del self._urgent[key]
            return key, False
        for queue in (self._later, self._lingering):
            for key, due in queue.items():
                if due <= now:
                    del queue[key]
                    return key, queue is self._lingering
                break  # all wait for the same time, so that the first is due first
        return None, False

    def _settle(self, key: ObjectKey, *, expired: bool) -> None:
        with self._changed:
            held = self._held.get(key)
            governs = _ref(key) in self._governing
            self._beyond.pop(key, None)
        if held is not None and held.policy is None:
            # Another object of that name was valid. What was set aside stays told: it may be missed.
            self._delete(file_name(key), key)
        elif held is not None and held.policy is not None and (held.last or governs):
            self._keep(key, Version(held.policy, held.uid, held.file))
        elif held is None or expired:
            self._drop(file_name(key), key)

    def _keep(self, key: ObjectKey, version: Version) -> None:
        name = file_name(key)
        self._ownerless.pop(name, None)  # of one that has come again
        has_place = self._files.has_place(name)
        encoded = encode(version, self._files.room(name)) if has_place else None
        if encoded is None:
            with self._changed:
                self._beyond[key] = "not kept over a restart: more than there is room for"
        elif name not in self._files or self._files.content(name) != encoded:
            self._try(lambda: self._files.write(name, encoded), lambda: self._urgent.update({key: None}))

    def _drop(self, name: str, key: ObjectKey | None = None) -> None:
        self._files.excuse(name)
        self._delete(name, key)

    def _delete(self, name: str, key: ObjectKey | None) -> None:
        """key: the policy that it is about; None: one that is gone."""

        def again() -> None:
            if key is None:
                self._ownerless[name] = None
            else:
                self._lingering.setdefault(key, self._clock())

        if name in self._files:
            self._try(lambda: self._files.delete(name), again)

    def _try(self, work: Callable[[], None], again: Callable[[], None]) -> None:
        """Do it, or have it done again some time later; enforcement goes on meanwhile."""
        try:
            work()
        except OSError as error:
            rest = RETRY_SECONDS[min(self._failures, len(RETRY_SECONDS) - 1)]
            self._failures += 1
            self._tell(f"{error.strerror or error}; tried again in {rest:g} s")
            with self._changed:
                again()
            self._rest(rest)
            return
        self._failures = 0
        self._tell("")
        self._rest(PACE_SECONDS)

    def _tell(self, failed: str) -> None:
        if bool(failed) != bool(self._failed):
            fields = {"directory": str(self._files.directory), "reason": failed}
            if failed:
                log.warning("not-kept", extra=fields)
            else:
                log.info("kept", extra=fields)
        with self._changed:
            self._failed = failed

    def _rest(self, seconds: float) -> None:
        self._rests_until = max(self._rests_until, self._clock() + seconds)


def _ref(key: ObjectKey) -> PolicyRef:
    return (key.namespace, key.name)
