"""One collection kept as the server has it: list, watch, resume, start over.

In: a Collection and a connection. Out: what the sink is told, from this reflector's own thread. It keeps
nothing but the version to go on from. A broken watch is resumed; only a history that is gone, another
history, or an object that can't be read makes it list again.
"""

import random
import threading
import time
from collections.abc import Iterable, Mapping

from daemon.log import get_logger
from daemon.model import ObjectKey
from daemon.sources.kubernetes.allowance import Allowance
from daemon.sources.kubernetes.client import JSON, METADATA, METADATA_LIST, Connection
from daemon.sources.kubernetes.errors import (
    ApiError,
    BadAnswerError,
    ForbiddenError,
    GoneError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    TooLongError,
    UnreachableError,
    makes_no_sense,
)
from daemon.sources.kubernetes.pages import (
    FIRST_ITEMS,
    MOST_BYTES,
    PAGE_ITEMS,
    PageSize,
    decode_page,
    page_query,
)
from daemon.sources.kubernetes.sink import LIVE, Sink, Standing
from daemon.sources.kubernetes.stream import BOOKMARK, CHANGES, DELETED, MODIFIED, Event, read_events
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import Collection, Seen, explain, identify, newer, read_mark

log = get_logger(__name__)

UNREADABLE_TRIES = 3
"""After so many answers in a row that make no sense everything is listed again."""


class Reflector:
    """run() in a thread of its own until stop(). allowance: of what is to be kept of the collection."""

    def __init__(
        self,
        collection: Collection,
        connection: Connection,
        sink: Sink,
        timing: Timing,
        allowance: Allowance | None = None,
    ) -> None:
        self._collection = collection
        self._connection = connection
        self._sink = sink
        self._timing = timing
        self._allowance = allowance if allowance is not None else Allowance(None)
        self._listed_at = 0.0
        self._again = timing.again
        self._standing = Standing()
        self._served = 0  # index into the collection's versions
        self._absent = 0  # how many of them were not served, in a row
        self._streaming = True
        self._broke_off = False  # the last list did, or never said that it is whole: the next one by pages
        self._version: str | None = None
        self._doubtful = False
        self._failures = 0
        self._unreadable = 0
        self._opened = False  # whether the last try got what it asked for
        self._answered = True  # whether it got an answer at all
        self._called = threading.Condition()  # of the rest, and of whether the connection is interrupted
        self._stopping = False
        self._forget = False
        self._nudged = False

    # --- from other threads ------------------------------------------------------------------------------

    def stop(self) -> None:
        """End run() soon."""
        with self._called:
            self._stopping = True
            self._connection.interrupt()
            self._called.notify()

    def start_over(self) -> None:
        """List again, whatever goes on."""
        with self._called:
            self._forget = True
            self._connection.interrupt()
            self._called.notify()

    def nudge(self) -> None:
        """The server answers others: try at once, if only the network was in the way.

        Not after an answer that broke off: two collections would keep each other from resting.
        """
        with self._called:
            self._nudged = True
            self._called.notify()

    # --- the thread --------------------------------------------------------------------------------------

    def run(self) -> None:
        """List and watch until stop()."""
        while not self._stopping:
            try:
                self._turn()
            except NotFoundError as error:
                self._try_other_version(error)
            except GoneError as error:
                log.info("history-gone", extra={"which": self._collection.name, "error": str(error)})
                self._owe_list("the history that it could go on from is gone")
                self._rest(error, self._failures > 0)
            except ApiError as error:
                self._rest(error, wait=True)
        self._connection.close()

    def _turn(self) -> None:
        if self._begin():
            self._broke_off = False  # by ourselves, if at all
            self._owe_list("the server's history is another one")
        if self._version is None and self._streaming and not self._broke_off:
            try:
                self._watch(None)
            except InvalidRequestError:
                # Servers before 1.32, or with the feature off.
                self._streaming = False
        elif self._version is None:
            self._broke_off = False
            self._list_pages()
        else:
            if self._doubtful:
                self._check_history(self._version)
            self._watch(self._version)

    def _begin(self) -> bool:
        """Begin a try; whether to start over with it."""
        with self._called:
            forget, self._forget = self._forget, False
            self._opened = self._nudged = False
            if forget and not self._stopping:
                self._connection.resume()
        return forget

    def _try_other_version(self, error: NotFoundError) -> None:
        """The kind is not served in this version; in none of them, it is not installed."""
        self._version = None
        if not self._standing.owes_list:
            self._owe_list("another version of its kind is tried")
        self._served = (self._served + 1) % len(self._collection.versions)
        self._absent += 1
        if self._absent >= len(self._collection.versions):
            self._absent = 0
            self._rest(error, wait=True)

    def _rest(self, error: ApiError, wait: bool) -> None:
        """Say why it stands still, and wait."""
        if self._is_called():
            return
        self._doubtful = True
        answered = self._opened or isinstance(error, RefusedError)
        if answered and not self._answered:
            # It is back: what it says in its first seconds (403, 429) is over soon.
            self._failures = 0
        self._answered = answered
        self._failures += 1
        if makes_no_sense(error):
            self._unreadable += 1
            if self._unreadable >= UNREADABLE_TRIES:
                self._owe_list("what the server sent could not be read")
                self._unreadable = 0
        absent = isinstance(error, NotFoundError)
        refused = absent or isinstance(error, ForbiddenError)
        self._stand(Standing(False, self._version is None, refused, explain(self._collection, error), absent))
        unreached = isinstance(error, UnreachableError) and not self._opened
        with self._called:
            seconds = self._pause(error) if wait else 0.0
            self._called.wait_for(lambda: self._is_called() or (unreached and self._nudged), seconds)

    def _is_called(self) -> bool:
        return self._stopping or self._forget

    def _pause(self, error: ApiError) -> float:
        most = self._timing.absent_rest if isinstance(error, NotFoundError) else self._timing.most_rest
        longest = min(most, self._timing.first_rest * 2.0 ** min(self._failures - 1, 16))
        asked = error.retry_after if isinstance(error, RefusedError) else 0.0
        # Full jitter: a server that comes back is asked by every node of the cluster.
        return asked + random.uniform(0.1, 1.0) * longest  # noqa: S311 (jitter, no secret)

    def _stand(self, standing: Standing) -> None:
        if standing != self._standing:
            self._standing = standing
            self._sink.stands(self._collection, standing)

    def _owe_list(self, reason: str) -> None:
        self._version = None
        self._stand(Standing(False, True, self._standing.refused, reason))

    def _live(self) -> None:
        self._doubtful = False
        self._absent = 0
        self._stand(LIVE)

    # --- requests ----------------------------------------------------------------------------------------

    @property
    def _path(self) -> str:
        return self._collection.versions[self._served][1]

    def _check_history(self, version: str) -> None:
        """A server that was restored from a backup would let a watch from its future wait in silence."""
        # Of the same collection: kinds may be kept in different etcds.
        what = f"list {self._collection.resource}"
        body = self._connection.get(what, self._path, {"limit": "1"}, METADATA_LIST)
        now = decode_page(what, body).metadata.version
        if newer(version, now):
            log.warning("history-changed", extra={"which": self._collection.name, "had": version, "has": now})
            self._owe_list("the server's history is another one")
            self._sink.history_changed()
            raise GoneError(what, 410, f"the server is at version {now}, we had {version}")
        self._doubtful = False

    def _list_pages(self) -> None:
        """All objects by pages, consistent as of the first one."""
        what = f"list {self._collection.resource}"
        accept = METADATA_LIST if self._collection.metadata_only else JSON
        found: dict[ObjectKey, Seen] = {}
        more, size = "", PageSize(PAGE_ITEMS if self._collection.metadata_only else FIRST_ITEMS)
        self._allowance.begin()
        while True:
            query = page_query(self._collection, more, size.items)
            try:
                body = self._connection.get(what, self._path, query, accept, MOST_BYTES)
            except TooLongError:
                if not size.shrink():
                    raise
                continue
            except InvalidRequestError:
                if self._collection.fallback is None:
                    raise
                self._collection = self._collection.fallback
                return
            self._opened = True
            size.came(len(body))
            page = decode_page(what, body)
            for raw in page.items or ():
                self._keep(found, self._allowance.take(self._collection, raw, known=False))
            more = page.metadata.more
            if not more:
                break
        self._list_ended(found, page.metadata.version)

    def _list_ended(self, found: Mapping[ObjectKey, Seen], version: str) -> None:
        if not version:
            raise BadAnswerError(f"list {self._collection.resource}", "a list without resourceVersion")
        closures = self._allowance.closures()
        if not closures:
            self._again = self._timing.again
        # What closes comes first.
        self._sink.listed(self._collection, [*closures, *found.values()])
        self._listed_at = time.monotonic()
        self._version, self._standing = version, LIVE
        self._live()

    def _watch(self, version: str | None) -> None:
        """Events from a version on; None: of all that there is, then of what changes."""
        what = f"watch {self._collection.resource}"
        seconds = int(random.uniform(*self._timing.watch))  # noqa: S311 (jitter, no secret)
        query = {"watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if self._collection.fields:
            query["fieldSelector"] = self._collection.fields
        if version is None:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            query["resourceVersion"] = version
        accept = METADATA if self._collection.metadata_only else JSON
        with self._connection.stream(what, self._path, query, accept, self._timing.silence) as pieces:
            started = time.monotonic()
            self._opened = True
            try:
                self._follow(what, pieces, version is None)
            finally:
                self._broke_off = self._version is None
                lasted = time.monotonic() - started
                if lasted >= self._timing.steady:
                    self._failures = 0
        if self._is_called() or self._lists_again():
            return
        # One that ends before its time was ended by a server that stops.
        self._doubtful = lasted < 0.9 * seconds
        if lasted < min(self._timing.steady, 0.9 * seconds):
            raise UnreachableError(what, "closed at once")

    def _is_worth_listing(self) -> bool:
        """Whether there is room again for much of what was not kept, and the last list is long ago (F3)."""
        return self._allowance.worth_listing and time.monotonic() - self._listed_at >= self._again

    def _lists_again(self) -> bool:
        """List again for that sake. Nothing is out of date by it: what is known was told a moment ago."""
        if not self._is_worth_listing():
            return False
        self._again = min(2 * self._again, self._timing.most_again)
        self._version = None
        reason = "there is room again for what was not kept: all is read again"
        self._stand(Standing(False, False, False, reason))
        return True

    def _follow(self, what: str, pieces: Iterable[bytes], whole: bool) -> None:
        """Take over what a watch sends until it ends; whole: it begins with all that there is."""
        deadline = time.monotonic() + self._timing.initial
        initial: dict[ObjectKey, Seen] | None = {} if whole else None
        if initial is None:
            self._live()
        else:
            self._allowance.begin()
        for batch in read_events(what, pieces):
            if self._is_called():
                return
            initial = self._take(batch, initial)
            if initial is None:
                self._unreadable = 0
                if self._is_worth_listing():
                    return
            elif time.monotonic() > deadline:
                raise UnreachableError(what, f"no whole list in {self._timing.initial:g} s")
        if initial is not None:
            raise UnreachableError(what, "the list broke off")

    def _take(
        self, batch: list[Event], initial: dict[ObjectKey, Seen] | None
    ) -> dict[ObjectKey, Seen] | None:
        """Take events over; `initial` collects those of a list, and is None after its end."""
        if initial is not None:
            batch, initial = self._collect(batch, initial)
        if initial is None:
            self._apply(batch)
            self._live()
        return initial

    def _collect(
        self, batch: list[Event], initial: dict[ObjectKey, Seen]
    ) -> tuple[list[Event], dict[ObjectKey, Seen] | None]:
        """Events of a list; those after its end are left over."""
        for number, event in enumerate(batch):
            if event.type == BOOKMARK:
                version, ends = read_mark(self._collection, event.object)
                if ends:
                    self._list_ended(initial, version)
                    return batch[number + 1 :], None
            elif event.type in CHANGES:
                if event.type == DELETED:
                    initial.pop(self._allowance.lose(self._collection, event.object).key, None)
                else:
                    known = event.type == MODIFIED
                    self._keep(initial, self._allowance.take(self._collection, event.object, known=known))
        return [], initial

    def _apply(self, batch: list[Event]) -> None:
        """Events after a list; also those before one that can't be read."""
        changes: list[tuple[bool, Seen]] = []
        version = self._version or "0"
        try:
            for event in batch:
                if event.type == BOOKMARK:
                    mark, _ = read_mark(self._collection, event.object)
                    version = mark if newer(mark, version) else version
                elif event.type in CHANGES:
                    at = identify(self._collection, event.object)[1].resource_version
                    # Versions only grow; with one that was there already it would go back in time.
                    if newer(at, version):
                        changes += self._allowance.follow(self._collection, event)
                        version = at
        finally:
            if changes:
                self._sink.changed(self._collection, changes)
            self._version = version

    @staticmethod
    def _keep(found: dict[ObjectKey, Seen], seen: Seen) -> None:
        if seen.object is None and seen.problem is None:
            found.pop(seen.key, None)
        else:
            found[seen.key] = seen
