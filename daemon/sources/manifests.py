"""The manifests source: a directory of YAML and JSON files as the cluster's objects.

In: a directory. Out: updates, published from this source's own thread. It decides nothing about policies.
Changes are seen at once by inotify; a look at everything twice a second finds the rest: link targets edited
in place, network file systems, a directory that is made later or replaced. What a missing directory held
stays.
"""

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from daemon.log import get_logger
from daemon.model import ObjectKey, Problem
from daemon.sources.base import Finding, Update
from daemon.sources.catalog import Catalog
from daemon.sources.directory import SUFFIXES, Directory, Look
from daemon.sources.memory import FORGETFUL, Memory
from daemon.sources.mounts import Mounts
from daemon.sources.watch import Wake, Watch

log = get_logger(__name__)

POLL_SECONDS = 0.5
# A look at 10,000 files takes 40 ms: the thread sleeps at least so many times as long as it looked.
POLL_REST = 10
MAX_LOGGED = 50


class _Request(msgspec.Struct):
    """A barrier. waits_for None: no look since the request yet; else the names that were unsettled then.

    deadline: in monotonic seconds; afterwards nobody waits for it any more.
    """

    token: int
    deadline: float
    waits_for: set[str] | None = None


class ManifestsSource:
    """start(), request_sync(), stop(). publish is called from the source's thread and must not block long."""

    def __init__(
        self, directory: Path, publish: Callable[[Update], None], memory: Memory = FORGETFUL
    ) -> None:
        self._path = str(directory)
        self._publish = publish
        self._directory = Directory(self._path, Mounts().is_remote)
        self._catalog = Catalog(memory)
        self._watch = Watch(self._path, SUFFIXES)
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._lock = threading.Lock()
        self._asked: dict[int, float] = {}
        self._stopping = False
        # The thread's own from here on.
        self._requests: list[_Request] = []
        self._first: set[str] | None = None
        self._complete = self._told_complete = False
        self._problems: Mapping[str, tuple[Problem, ...]] = {}
        self._trouble = ""
        self._next_poll = 0.0

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """End the thread; False when it still works after `timeout` seconds."""
        with self._lock:
            self._stopping = True
            self._watch.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        with self._lock:
            self._watch.close()
        return True

    def request_sync(self, token: int, deadline: float = math.inf) -> None:
        """Read the directory anew; an update with the token follows, once that could be done."""
        with self._lock:
            if not self._stopping:
                self._asked[token] = deadline
                self._watch.wake()

    @property
    def look_up_seconds(self) -> float:
        """See Source: what a look at the directory takes, many times over."""
        return 1.0

    def look_up(self, namespace: str, name: str, uid: str) -> None:
        """See Source: the directory is read anew; a pod that is there comes as a change."""
        self.request_sync(0, time.monotonic() + self.look_up_seconds)

    @property
    def wants_findings(self) -> bool:
        """See Source."""
        return False

    def tell(self, findings: Mapping[ObjectKey, tuple[Finding, ...]]) -> None:
        """See Source: a directory has nobody to tell."""

    def cost(self) -> Mapping[str, Any]:
        """See Source: none to others."""
        return {}

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._step(self._watch.wait(self._patience()))

    def _patience(self) -> float:
        due = self._directory.next_due()
        nearest = self._next_poll if due is None else min(due, self._next_poll)
        return nearest - time.monotonic()

    def _step(self, wake: Wake) -> None:
        with self._lock:
            # Asked before the look that follows: it sees all that the directory held at the call.
            self._requests += [_Request(*asked) for asked in self._asked.items()]
            self._asked.clear()
        now = time.monotonic()
        asked = any(request.waits_for is None for request in self._requests)
        everything = wake.everything or asked or now >= self._next_poll
        if everything:
            everything |= self._watch.follow()
        look = self._look(wake, now, everything=everything)
        if everything:
            # What a look reads is rare; what it costs to find nothing is paid for ever.
            spent = 0.0 if look is not None and look.contents else time.monotonic() - now
            self._next_poll = time.monotonic() + max(POLL_SECONDS, POLL_REST * spent)
        if look is not None:
            self._take(look)
        self._hand_over(self._answered(looked=look is not None and everything))

    def _look(self, wake: Wake, now: float, *, everything: bool) -> Look | None:
        """None: the directory can't be read; what it held stays."""
        try:
            look = self._directory.look(now, wake.closed, None if everything else wake.closed | wake.touched)
        except OSError as error:
            self._trouble = _trouble(error, read_before=self._first is not None)
            return None
        if everything:
            self._trouble = ""
        return look

    def _take(self, look: Look) -> None:
        for name in look.gone:
            self._catalog.remove(name)
        for name, message in look.errors.items():
            self._catalog.put_error(name, message)
        for name, content in look.contents.items():
            self._catalog.put_content(name, content)

    def _answered(self, *, looked: bool) -> tuple[int, ...]:
        """The requests for which all is settled that was not when the directory was first looked at."""
        unsettled = self._directory.unsettled()
        if looked and self._first is None:
            self._first = unsettled
        if self._first is not None:
            self._first &= unsettled
            self._complete = self._complete or not self._first
        for request in self._requests:
            if request.waits_for is not None:
                request.waits_for &= unsettled
            elif looked or (self._complete and self._trouble):
                request.waits_for = set(unsettled)
        if not self._complete:
            # That can last: there may be no such directory.
            now = time.monotonic()
            self._requests = [request for request in self._requests if request.deadline > now]
            return ()
        done = tuple(request.token for request in self._requests if request.waits_for == set())
        self._requests = [request for request in self._requests if request.waits_for != set()]
        return done

    def _hand_over(self, tokens: tuple[int, ...]) -> None:
        changes = self._catalog.take_changes()
        problems = self._catalog.problems()
        if self._trouble:
            problems = {**problems, self._path: (Problem("", self._trouble),)}
        told = problems == self._problems and self._complete == self._told_complete
        if changes or tokens or not told:
            _log_new(self._problems, problems)
            self._problems = problems
            self._told_complete = self._complete
            self._publish(Update(changes, problems, self._complete, self._because(), tokens=tokens))

    def _because(self) -> str:
        """Why not all has been handed over yet; "": it has."""
        if self._complete:
            return ""
        return f"{self._path} {self._trouble or 'has not been read as a whole yet'}"


def _trouble(error: OSError, *, read_before: bool) -> str:
    """What is wrong with the directory, and what follows."""
    if isinstance(error, FileNotFoundError):
        what, remedy = "does not exist", "make it"
    elif isinstance(error, NotADirectoryError):
        what, remedy = "is no directory", "make it one"
    else:
        what, remedy = f"can't be read: {error.strerror or error}", "mend that"
    if read_before:
        return f"{what}; what it held stays in force"
    return f"{what}: {remedy}, or name another one with --source; ADDs wait until then"


def _log_new(old: Mapping[str, tuple[Problem, ...]], new: Mapping[str, tuple[Problem, ...]]) -> None:
    """One event for each problem that was not there before, and for each that is there no more."""
    found, gone = _not_in(old, new), _not_in(new, old)
    for fields in found[:MAX_LOGGED]:
        log.warning("manifest-problem", extra=fields)
    for fields in gone[:MAX_LOGGED]:
        log.info("manifest-problem-gone", extra=fields)
    if more := sum(max(0, len(each) - MAX_LOGGED) for each in (found, gone)):
        log.warning("manifest-problems", extra={"more": more, "see": "mnpctl status"})


def _not_in(
    old: Mapping[str, tuple[Problem, ...]], new: Mapping[str, tuple[Problem, ...]]
) -> list[dict[str, str]]:
    return [
        {"place": place, "field": problem.field, "problem": problem.message}
        for place, problems in new.items()
        for problem in problems
        if problem not in old.get(place, ())
    ]
