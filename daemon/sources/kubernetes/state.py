"""What the reflectors have found, as one: the cache, how each collection stands, and what follows from it.

In: the reflectors' news, and the answers to errands. Out: updates, one at a time, whichever thread brings the
news. A policy that is deleted stays for a moment: first it is made sure that it is not its kind that is being
removed, which would delete all policies and shall open nothing.
"""

import threading
import time
from collections.abc import Container, Iterable, Mapping

import msgspec

from daemon.log import get_logger
from daemon.model import Change, ContainerPort, Namespace, ObjectKey, Pod, Policy, Problem
from daemon.sources.base import Finding, Found, Update
from daemon.sources.kubernetes.cache import Cache
from daemon.sources.kubernetes.departures import Departures
from daemon.sources.kubernetes.expectations import Expectations, awaited, is_one_history
from daemon.sources.kubernetes.needs import Needs
from daemon.sources.kubernetes.sink import LIVE, Callbacks, Standing
from daemon.sources.kubernetes.summary import standing_problems, summarize
from daemon.sources.kubernetes.watched import NAMESPACES, POLICIES, Collection, Seen, newer

log = get_logger(__name__)

MOST_CHANGES = 500
"""In one update, so that a large list does not hold up an ADD."""


class ClusterState:
    """The reflectors' sink. `always`: collections that must be listed; `peers`: one more, when needed."""

    def __init__(self, always: Iterable[Collection], peers: Collection, callbacks: Callbacks) -> None:
        self._always = tuple(collection.name for collection in always)
        self._peers = peers.name
        self._do = callbacks
        self._changed = threading.Condition()
        self._cache = Cache((*self._always, self._peers), callbacks.memory)
        self._standings = {name: Standing() for name in self._always}
        self._listed: set[str] = set()
        self._newest: dict[str, str] = {}
        self._distrusted: set[str] = set()  # collections as an earlier history had them
        self._needs = Needs()
        self._takes_peers = False  # and for a while after the last policy that needed them
        self._departures = Departures()
        self._portless: dict[ObjectKey, str] = {}
        self._expectations: Expectations | None = None  # of the round that is going on
        self._complete = self._ending = False
        self._last = Update()

    # --- the sink ----------------------------------------------------------------------------------------

    def listed(self, collection: Collection, seen: Iterable[Seen]) -> None:
        """All that there is of a collection."""
        name, present = collection.name, set()
        before = self._standings.get(name, Standing())
        with _Publishing(self) as changes:
            if not self._wants(name):
                return
            self._newest.pop(name, None)
            self._distrusted.discard(name)
            for one in seen:
                present.add(one.key)
                changes += self._put(name, one)
            gone = [key for key in self._cache.view(name) if key not in present]
            if name == POLICIES.name:
                self._departures.listed(gone, time.monotonic())
            else:
                changes += [change for key in gone for change in self._remove(name, key)]
            if self._expectations is not None:
                self._expectations.listed(name, self._cache.view(name), self._newest.get(name, "0"))
            self._listed.add(name)
            self._standings[name] = LIVE
        self._note(name, before, LIVE)

    def changed(self, collection: Collection, changes: Iterable[tuple[bool, Seen]]) -> None:
        """Events of a collection."""
        with _Publishing(self) as found:
            if not self._wants(collection.name):
                return
            for deleted, seen in changes:
                if not deleted:
                    found += self._put(collection.name, seen)
                elif collection.name == POLICIES.name:
                    if seen.key in self._cache.view(POLICIES.name):
                        self._departures.deleted(seen.key, time.monotonic())
                else:
                    found += self._remove(collection.name, seen.key)

    def stands(self, collection: Collection, standing: Standing) -> None:
        """Another standing of a collection."""
        before = self._standings.get(collection.name, Standing())
        with _Publishing(self):
            self._standings[collection.name] = standing
            if collection.name == POLICIES.name and standing.absent:
                self._departures.kind_missing()
        self._note(collection.name, before, standing)

    def history_changed(self) -> None:
        """Another history: a restored backup."""
        with self._changed:
            self._distrusted = set(self._listed)
        self._do.history_changed()

    def _note(self, name: str, before: Standing, now: Standing) -> None:
        if now.live and not before.live:
            log.info("watching", extra={"which": name})
            self._do.answered()
        elif now.reason and now.reason != before.reason:
            log.warning("not-watching", extra={"which": name, "reason": now.reason})

    # --- the peers ---------------------------------------------------------------------------------------

    @property
    def needs_peers(self) -> bool:
        """Whether other nodes' pods are needed now."""
        return self._needs.peers

    def forget_peers(self) -> bool:
        """Their reflector has ended, since no policy refers to pods. False: one does again."""
        with _Publishing(self) as changes:
            if self._needs.peers:
                return False
            self._takes_peers = False
            for key in list(self._cache.view(self._peers)):
                changes += self._remove(self._peers, key)
            self._listed.discard(self._peers)
            self._standings.pop(self._peers, None)
            self._portless.clear()
        return True

    # --- errands -----------------------------------------------------------------------------------------

    def end(self) -> None:
        """End every wait, for good."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def wait_chore(self) -> None:
        """Until there may be something due, or something has changed."""
        with self._changed:
            self._publish([])  # what the passing of time has changed
            if not self._portless and not self._ending:
                due = self._departures.next
                self._changed.wait(None if due is None else max(0.0, due - time.monotonic()))

    def is_leaving_due(self) -> bool:
        """Whether a deleted policy's last moment is over."""
        with self._changed:
            return self._departures.is_due(time.monotonic())

    def ending_places(self, asked: float) -> set[str]:
        """The namespaces of the policies that are due: do they end, too?"""
        with self._changed:
            return {key.namespace for key in self._departures.due(asked)}

    def resolve_leaving(self, kind_goes: bool, ending: Container[str], asked: float) -> None:
        """Let the policies go that were due when it was asked, unless their kind is being removed.

        ending: the namespaces that are being deleted or gone.
        """
        with _Publishing(self) as changes:
            was_going = self._departures.kind_goes
            going = self._departures.resolve(kind_goes, asked, time.monotonic())
            changes += [
                change for key in going for change in self._remove_policy(key, key.namespace in ending)
            ]
            if kind_goes and not was_going:
                log.error("kind-removed", extra={"kind": POLICIES.resource, "kept": len(self._departures)})

    def next_portless(self) -> tuple[ObjectKey, str] | None:
        """(pod, UID) of a pod whose container ports are needed."""
        with self._changed:
            return next(iter(self._portless.items()), None)

    def put_off_ports(self, key: ObjectKey) -> None:
        """They can't be had now: the others' turn comes first."""
        with self._changed:
            if (uid := self._portless.pop(key, None)) is not None:
                self._portless[key] = uid

    def put_ports(self, key: ObjectKey, uid: str, ports: tuple[ContainerPort, ...]) -> None:
        """The container ports of a pod; none where it is gone meanwhile."""
        with _Publishing(self) as changes:
            if self._portless.get(key) == uid:
                del self._portless[key]
            changes += self._cache.put_ports(key, uid, ports)

    def found(self, answer: Found) -> None:
        """An answer to look_up()."""
        with self._changed:
            self._publish([], found=(answer,))

    def has_pod(self, namespace: str, name: str, uid: str) -> bool:
        """Whether this node's pods are known to hold one, the one that the runtime means."""
        with self._changed:
            entry = self._cache.view(self._always[0]).get(ObjectKey("Pod", namespace, name))
        return entry is not None and isinstance(entry.object, Pod) and entry.object.is_meant_by(uid)

    def reference(self, key: ObjectKey) -> str:
        """The UID of an object, "" where it is not known."""
        with self._changed:
            return self._cache.reference(key)

    def is_concerned(self, key: ObjectKey) -> bool:
        """Whether this node has a pod in an object's namespace."""
        with self._changed:
            return any(pod.namespace == key.namespace for pod in self._cache.view(self._always[0]))

    def undecodable(self) -> dict[ObjectKey, Finding]:
        """The objects that can't be decoded as they are now, and why."""
        with self._changed:
            return {
                key: Finding("Undecodable", f"{problem.field}: {problem.message}")
                for key, problem in self._cache.problems.items()
            }

    # --- barriers ----------------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """From now on note what is deleted; lists that are asked for now may have it still."""
        with self._changed:
            self._expectations = Expectations()

    def newest(self, collection: Collection) -> str:
        """The latest resourceVersion that was seen of a collection's objects."""
        with self._changed:
            return self._newest.get(collection.name, "")

    def expect(
        self, collection: Collection, listed: Mapping[ObjectKey, tuple[str, str]], version: str, newest: str
    ) -> bool:
        """A consistent list of a collection: (uid, resourceVersion) of what is kept of it.

        newest: what newest() said before. False: the list contradicts what is known; it is another history.
        """
        name = collection.name
        with self._changed:
            held = self._cache.view(name)
            agrees = bool(self._distrusted & self._listed) or is_one_history(listed, version, held, newest)
            if agrees and self._expectations is not None:
                leaving = self._departures.keys if name == POLICIES.name else ()
                come = awaited(listed, held, self._newest.get(name, "0"), leaving)
                self._expectations.expect(name, come, version, held, leaving)
        if not agrees:
            log.warning("history-changed", extra={"which": name, "had": newest, "has": version})
            self.history_changed()
        return agrees

    def wait_settled(self, seconds: float) -> bool:
        """Wait until all that the round expects has arrived, with container ports. False: not in time.

        What comes later is not waited for. While anything is out of date, what has arrived is not in force.
        """
        owing: set[tuple[ObjectKey, str]] | None = None

        def settled() -> bool:
            nonlocal owing
            arrived = self._expectations is None or self._expectations.done
            # An empty collection holds all that it should before it was ever listed.
            listed = self._last.complete and self._last.peers_listed and not self._last.behind
            if arrived and listed and not self._distrusted & self._listed:
                under_way = set(self._portless.items())
                owing = under_way if owing is None else owing & under_way
            return owing is not None and not owing

        with self._changed:
            self._changed.wait_for(lambda: settled() or self._ending, seconds)
            return settled()

    def answer(self, tokens: tuple[int, ...]) -> None:
        """The round is over."""
        with self._changed:
            self._expectations = None
            self._publish([], tokens=tokens)

    # --- inside ------------------------------------------------------------------------------------------

    def _wants(self, name: str) -> bool:
        """Last words of a reflector that was ended count no more."""
        return name != self._peers or self._takes_peers

    def _put(self, name: str, seen: Seen) -> list[Change]:
        before = self._cache.view(name).get(seen.key)
        if newer(seen.version, self._newest.get(name, "0")):
            self._newest[name] = seen.version
        changes = list(self._cache.put(name, seen))
        after = self._cache.view(name).get(seen.key)
        gone = before.uid if before is not None and before.uid != seen.uid else ""
        if self._expectations is not None:
            self._expectations.touched(name, seen.key, after, gone)
            if after is None:
                self._expectations.dropped(name, seen.key, seen.uid, seen.version)
        if name == POLICIES.name:
            self._departures.stay(seen.key)
        elif name == self._peers:
            self._want_ports(seen.key)
        return changes

    def _remove(self, name: str, key: ObjectKey) -> list[Change]:
        before = self._cache.view(name).get(key)
        changes = list(self._cache.remove(name, key))
        if self._expectations is not None:
            self._expectations.touched(name, key, None, before.uid if before else "")
        # Another collection may have a pod of that name, whose ports were hidden by this one.
        self._want_ports(key)
        return changes

    def _remove_policy(self, key: ObjectKey, ends: bool) -> list[Change]:
        """Whoever takes it must know before that its namespace ends (A13); the watch may tell it later."""
        changes = self._remove(POLICIES.name, key)
        place = ObjectKey(NAMESPACES.kind, "", key.namespace)
        entry = self._cache.view(NAMESPACES.name).get(place)
        labels = entry.object.labels if entry is not None and isinstance(entry.object, Namespace) else {}
        if not ends or not changes:
            return changes
        ending = Change(place, Namespace(key.namespace, labels, terminating=True))
        return [ending, *changes, *([Change(place, None)] if entry is None else [])]

    def _want_ports(self, key: ObjectKey) -> None:
        entry = self._cache.view(self._peers).get(key)
        pod = entry.object if entry is not None else None
        self._portless.pop(key, None)
        if entry is None or not isinstance(pod, Pod) or not self._cache.lacks_ports(self._peers, key):
            return
        if any(status.network in self._needs.port_networks for status in pod.statuses):
            self._portless[key] = entry.uid

    def _follow_needs(self, changes: Iterable[Change]) -> bool:
        """Whether the policies need peers now and did not before, or the other way round."""
        before, different = self._needs.peers, False
        for key, found in ((change.key, change.object) for change in changes):
            if key.kind == POLICIES.kind:
                different |= self._needs.put(key, found if isinstance(found, Policy) else None)
        if different:
            for key in self._cache.view(self._peers):
                self._want_ports(key)
        self._takes_peers |= self._needs.peers
        return self._needs.peers != before

    # --- updates -----------------------------------------------------------------------------------------

    def _publish(
        self, changes: list[Change], tokens: tuple[int, ...] = (), found: tuple[Found, ...] = ()
    ) -> None:
        standing = self._describe()
        listed = self._last.peers_listed and standing.peers_listed
        as_before = msgspec.structs.replace(self._last, peers_listed=listed)
        while len(changes) > MOST_CHANGES:
            part, changes = changes[:MOST_CHANGES], changes[MOST_CHANGES:]
            # Until all of it is handed over, everything else is as it was.
            self._do.publish(msgspec.structs.replace(as_before, changes=tuple(part)))
        if changes or tokens or found or standing != self._last:
            self._last = standing
            update = msgspec.structs.replace(standing, changes=tuple(changes), tokens=tokens, found=found)
            self._do.publish(update)

    def _describe(self) -> Update:
        """Everything of an update but its news."""
        self._departures.settle(time.monotonic())
        wanted = [*self._always, *([self._peers] if self._needs.peers else [])]
        self._complete = self._complete or self._listed.issuperset(wanted)
        standings = {name: self._standings.get(name, Standing()) for name in wanted}
        problems = standing_problems(standings, self._listed)
        if self._departures.kind_goes:
            message = f"the kind {POLICIES.resource} is being removed; its policies stay in force"
            problems["kind"] = (Problem("", message),)
        problems |= self._cache.told()
        return msgspec.structs.replace(
            summarize(standings, self._listed, self._complete),
            problems=problems,
            peers_listed=not self._needs.peers or self._peers in self._listed,
            recreating=not self._departures.settled,
        )


class _Publishing:
    """Collects changes under the lock and publishes them at its end; tells of needs without the lock."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._changes: list[Change] = []

    def __enter__(self) -> list[Change]:
        self._state._changed.acquire()
        return self._changes

    def __exit__(self, *failure: object) -> None:
        state = self._state
        try:
            different = state._follow_needs(self._changes)
            state._publish(self._changes)
            state._changed.notify_all()
        finally:
            state._changed.release()
        if different:
            state._do.needs_peers()
