"""All collections merged into the objects that the daemon knows.

In: what lists and events gave, by collection. Out: Changes, where an object means something else than before.
Not thread-safe: its owner locks. Two collections may know one pod: this node's own view of it counts.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

import msgspec

from daemon.decode import keep_last_valid
from daemon.model import Change, ClusterObject, ContainerPort, ObjectKey, Pod, Policy, Problem
from daemon.sources.kubernetes.watched import POLICIES, Seen
from daemon.sources.memory import FORGETFUL, Memory

MOST_TOLD = 1000
"""Objects that can't be decoded: all are gone through with each update."""


class Entry(msgspec.Struct, frozen=True):
    """An object as one collection has it. object None: it could never be decoded."""

    uid: str
    version: str
    object: ClusterObject | None


class Cache:
    """`order`: names of the collections; of two that have one object the earlier one counts.

    memory: knows policies' last valid versions of a run before.
    """

    def __init__(self, order: Iterable[str], memory: Memory = FORGETFUL) -> None:
        self._memory = memory
        self._views: dict[str, dict[ObjectKey, Entry]] = {name: {} for name in order}
        self._ports: dict[str, tuple[ContainerPort, ...]] = {}
        self._published: dict[ObjectKey, ClusterObject] = {}
        self._problems: dict[str, dict[ObjectKey, Problem]] = {name: {} for name in self._views}

    def view(self, name: str) -> Mapping[ObjectKey, Entry]:
        """One collection's objects."""
        return self._views[name]

    @property
    def problems(self) -> dict[ObjectKey, Problem]:
        """The objects that can't be decoded as they are now, in some collection: MOST_TOLD of them."""
        found = (place for known in reversed(self._problems.values()) for place in known.items())
        return dict(islice(found, MOST_TOLD))

    def told(self) -> dict[str, tuple[Problem, ...]]:
        """The same by name, and how many more there are."""
        found: dict[str, tuple[Problem, ...]] = {
            str(key): (problem,) for key, problem in self.problems.items()
        }
        more = sum(len(known) for known in self._problems.values()) - MOST_TOLD
        if more > 0:
            found["more"] = (Problem("", f"{more} more objects can't be decoded"),)
        return found

    def reference(self, key: ObjectKey) -> str:
        """The UID of an object; "" when no collection has it."""
        return next((view[key].uid for view in self._views.values() if key in view), "")

    def put(self, name: str, seen: Seen) -> Iterator[Change]:
        """An object as it is now; one of which nothing is kept is as good as gone."""
        if seen.object is None and seen.problem is None:
            yield from self.remove(name, seen.key)
            return
        view = self._views[name]
        last = view.get(seen.key)
        if last is not None and last.uid != seen.uid:
            # Another object of the same name, of which the last one's end was not told.
            self._ports.pop(last.uid, None)
            last = None
        if last is None and seen.key.kind == POLICIES.kind:
            last = self._recall(seen)
        counts = self._settle(name, seen, last)
        if seen.key.kind == POLICIES.kind:
            found = counts if isinstance(counts, Policy) else None
            self._memory.put(seen.key, found, last=counts is not seen.object, uid=seen.uid)
        view[seen.key] = Entry(seen.uid, seen.version, counts)
        yield from self._publish(seen.key)

    def remove(self, name: str, key: ObjectKey) -> Iterator[Change]:
        """An object that a collection has no more."""
        entry = self._views[name].pop(key, None)
        if entry is not None:
            self._problems[name].pop(key, None)
            self._ports.pop(entry.uid, None)
            if key.kind == POLICIES.kind:
                self._memory.remove(key)
            yield from self._publish(key)

    def put_ports(self, key: ObjectKey, uid: str, ports: tuple[ContainerPort, ...]) -> Iterator[Change]:
        """The container ports of a pod that only its metadata is known of."""
        if self.reference(key) == uid:
            self._ports[uid] = ports
            yield from self._publish(key)

    def lacks_ports(self, name: str, key: ObjectKey) -> bool:
        """Whether a collection of metadata has this pod, and nobody its ports."""
        entry = self._views[name].get(key)
        return entry is not None and entry.uid not in self._ports

    def _recall(self, seen: Seen) -> Entry | None:
        """The last valid version that a run before had of a policy that is not valid now (A4)."""
        found = seen.object
        if not seen.uid or (isinstance(found, Policy) and found.pod_selector is not None):
            return None
        version = self._memory.recall(seen.key, seen.uid)
        return None if version is None else Entry(seen.uid, seen.version, version.shown)

    def _settle(self, name: str, seen: Seen, last: Entry | None) -> ClusterObject | None:
        """What counts: an object that can't be decoded keeps its last version. last: of the same object."""
        if seen.problem is not None:
            kept = last.object if last is not None else None
            outcome = "its last version stays in force" if kept is not None else "it counts as absent"
            message = f"{seen.problem.message}; {outcome}"
            self._problems[name][seen.key] = Problem(seen.problem.field, message)
            return kept
        self._problems[name].pop(seen.key, None)
        if last is not None and isinstance(seen.object, Policy) and isinstance(last.object, Policy):
            return keep_last_valid(seen.object, last.object)
        return seen.object

    def _effective(self, key: ObjectKey) -> ClusterObject | None:
        for view in self._views.values():
            entry = view.get(key)
            if entry is not None:
                found = entry.object
                if isinstance(found, Pod) and entry.uid in self._ports:
                    return msgspec.structs.replace(found, ports=self._ports[entry.uid])
                return found
        return None

    def _publish(self, key: ObjectKey) -> Iterator[Change]:
        new, old = self._effective(key), self._published.get(key)
        if new == old:
            return
        if new is None:
            del self._published[key]
        else:
            self._published[key] = new
        yield Change(key, new)
