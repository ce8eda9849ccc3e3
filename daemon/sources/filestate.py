"""One file of manifests as it counts: what it says now, and the last versions of what can't be read in it.

In: a Reading, the file's state before, and what is remembered of a run before. Out: its new state. Pure, but
for that memory.
"""

from collections import Counter

import msgspec

from daemon.model import ClusterObject, ObjectKey, Problem
from daemon.sources.documents import Memo, Reading
from daemon.sources.lastvalid import Version
from daemon.sources.memory import Memory

MAX_PLACES = 1000
"""Of one file, that problems are told of."""
MAX_NAMES = 10
"""Of policies, in one message."""
POLICY = "MultiNetworkPolicy"
"""The kind whose last versions outlive the daemon."""

_NOTHING = Memo()


class File(msgspec.Struct, frozen=True):
    """A file's state. whole: read without an error of syntax; such content is kept through later errors.

    positions: each item's key, to know which object an item without a readable name used to be. broken: it
    can't be read as it is now, and its last content counts. last: its objects that are not what it says now,
    but their last versions; borrowed: those of them that a run before had from another file, and that yield
    to any file that has them.
    """

    digest: bytes = b""
    objects: dict[ObjectKey, ClusterObject] = {}
    positions: tuple[ObjectKey | None, ...] = ()
    memo: Memo = _NOTHING
    whole: bool = False
    broken: bool = False
    problems: dict[str, tuple[Problem, ...]] = {}
    trouble: tuple[Problem, ...] = ()
    last: frozenset[ObjectKey] = frozenset()
    borrowed: frozenset[ObjectKey] = frozenset()

    @property
    def is_frozen(self) -> bool:
        """Whether its last content counts as a whole."""
        return self.whole and (self.broken or bool(self.trouble))

    def is_last(self, key: ObjectKey) -> bool:
        """Whether an object's last version counts, and not what the file says now."""
        return self.is_frozen or key in self.last


def file_name(name: str) -> bytes:
    """A file's name as the file system has it."""
    return name.encode("utf-8", "surrogateescape")


def settle(reading: Reading, old: File | None, digest: bytes, name: str, memory: Memory) -> File:
    """A file's new state: what can't be decoded keeps its last version. old None: it was not read before."""
    if old is not None and old.whole and reading.errors:
        problems = _errors(reading, "; the file's last content stays in force")
        # The digest is the new one: what is broken is not parsed again until it changes.
        return msgspec.structs.replace(old, digest=digest, problems=problems, trouble=(), broken=True)
    settled = _Settling(reading, old, file_name(name), memory).settle(digest)
    kept = memory.given(file_name(name)) if old is None and reading.errors else ()
    if not kept:
        return settled
    problems = settled.problems | _errors(reading, _told(kept))
    return msgspec.structs.replace(_resume(settled, kept), problems=problems, broken=True)


def settle_unreadable(message: str, old: File | None, name: str, memory: Memory) -> File:
    """The state of a file of which nothing can be read; its last content stays."""
    kept = memory.given(file_name(name)) if old is None else ()
    file = _resume(old or File(), kept) if kept else old or File()
    return msgspec.structs.replace(file, trouble=(Problem("", message + _told(kept)),))


def _resume(file: File, kept: tuple[Version, ...]) -> File:
    """With what a run before has kept of its content: its policies."""
    objects = {version.key: version.shown for version in kept}
    last = file.last | objects.keys()
    return msgspec.structs.replace(file, objects=file.objects | objects, last=last, whole=True)


def _errors(reading: Reading, outcome: str) -> dict[str, tuple[Problem, ...]]:
    return {place: (Problem(each.field, each.message + outcome),) for place, each in reading.errors}


def _told(kept: tuple[Version, ...]) -> str:
    if not kept:
        return ""
    names = ", ".join(f"{v.key.namespace}/{v.key.name}" for v in kept[:MAX_NAMES])
    more = f" and {len(kept) - MAX_NAMES} more" if len(kept) > MAX_NAMES else ""
    return f"; the last valid versions of its policies stay in force: {names}{more}"


class _Settling:
    """A reading becomes a file's state."""

    def __init__(self, reading: Reading, old: File | None, file: bytes, memory: Memory) -> None:
        self._reading = reading
        self._is_new = old is None
        self._old = old or File()
        self._file = file
        self._memory = memory
        self._objects: dict[ObjectKey, ClusterObject] = {}
        self._problems: dict[str, list[Problem]] = {place: [problem] for place, problem in reading.errors}
        self._positions = [item.key for item in reading.items]
        self._last: set[ObjectKey] = set()
        self._borrowed: set[ObjectKey] = set()

    def settle(self, digest: bytes) -> File:
        ignored: Counter[str] = Counter()
        unnamed: list[int] = []
        for index, item in enumerate(self._reading.items):
            if item.ignored:
                ignored[item.ignored] += 1
            elif item.key is None:
                unnamed.append(index)
                untold = item.problem if item.meant is None else None
                self._tell(index, *([untold] if untold else []))
            elif item.key in self._objects:
                message = f"{item.key} stands in this file twice: the first counts"
                self._tell(index, Problem("metadata.name", message))
            elif item.object is not None:
                self._objects[item.key] = item.object
            else:
                self._keep_last(item.key, item.problem, index)
        self._settle_unnamed(unnamed)
        for kind, count in sorted(ignored.items()):
            message = f"{count} of kind {kind}, which means nothing here: ignored"
            self._problems.setdefault("", []).append(Problem("kind", message))
        return File(
            digest,
            self._objects,
            tuple(self._positions),
            self._reading.memo,
            not self._reading.errors,
            problems=self._found(),
            last=frozenset(self._last),
            borrowed=frozenset(self._borrowed),
        )

    def _found(self) -> dict[str, tuple[Problem, ...]]:
        problems = self._problems
        found = {place: tuple(problems[place]) for place in list(problems)[:MAX_PLACES]}
        if len(problems) > MAX_PLACES:
            found[" (more)"] = (Problem("", f"{len(problems) - MAX_PLACES} more places have problems"),)
        return found

    def _tell(self, index: int, *problems: Problem) -> None:
        self._problems.setdefault(self._reading.place(index), []).extend(problems)

    def _settle_unnamed(self, unnamed: list[int]) -> None:
        """Objects without a readable kind and name are what they seem to be, or used to be."""
        taken = set(self._positions)
        aligned = len(self._old.positions) == len(self._positions)
        nameless: list[int] = []
        for index in unnamed:
            item = self._reading.items[index]
            key = item.meant or (self._old.positions[index] if aligned else None)
            # Nobody else in the file bears the name that this item used to have: it is that object, broken.
            if key is not None and key not in taken:
                self._keep_last(key, item.problem if item.meant else None, index)
                self._positions[index] = key
                taken.add(key)
            elif item.meant is not None and item.problem is not None:
                self._tell(index, Problem(item.problem.field, f"{item.meant}: {item.problem.message}"))
            elif item.meant is None:
                nameless.append(index)
        for key in self._unplaced() if nameless else ():
            if key not in taken:
                self._keep_last(key, None, nameless[0])

    def _unplaced(self) -> list[ObjectKey]:
        """What a run before had of this file, at a place that nobody knows: it may be nameless now."""
        if self._is_new:
            return [version.key for version in self._memory.given(self._file)]
        return sorted(self._old.last.difference(self._old.positions))

    def _keep_last(self, key: ObjectKey, problem: Problem | None, index: int) -> None:
        last, borrowed = self._old.objects.get(key), key in self._old.borrowed
        if last is None and key.kind == POLICY:
            version = self._memory.recall(key)
            if version is not None:
                last, borrowed = version.shown, version.file != self._file
        if last is not None:
            self._objects[key] = last
            self._last.add(key)
            if borrowed:
                self._borrowed.add(key)
        outcome = "its last version stays in force" if last is not None else "it counts as absent"
        told = problem or Problem("metadata", "no readable name any more")
        self._tell(index, Problem(told.field, f"{key}: {told.message}; {outcome}"))
