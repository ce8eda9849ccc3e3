"""What all files together say: one object a key, and what changed since the last look.

In: contents of files, unreadable files, vanished files. Out: changes, and all problems by place. Pure.
Rules: the first file name counts where two have the same object; what can't be read or decoded keeps its last
version; a namespace exists when something is in it.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from daemon.decode import NAMESPACE_LABEL, keep_last_valid
from daemon.model import Change, ClusterObject, Namespace, ObjectKey, Policy, Problem
from daemon.sources.documents import Memo, Reading, read_documents

MAX_PLACES = 1000
"""Of one file, that problems are told of."""

_NOTHING = Memo()


class _File(msgspec.Struct):
    """A file's state. whole: read without an error of syntax; such content is kept through later errors.

    positions: each item's key, to know which object an item without a readable name used to be.
    """

    digest: bytes = b""
    objects: dict[ObjectKey, ClusterObject] = {}
    positions: tuple[ObjectKey | None, ...] = ()
    memo: Memo = _NOTHING
    whole: bool = False
    problems: dict[str, tuple[Problem, ...]] = {}
    trouble: tuple[Problem, ...] = ()


class Catalog:
    """put_*, remove, then take_changes()."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._owners: dict[ObjectKey, list[str]] = {}
        self._shared: set[ObjectKey] = set()
        self._published: dict[ObjectKey, ClusterObject] = {}
        self._population: Counter[str] = Counter()
        self._touched: set[ObjectKey] = set()
        self._problems: dict[str, tuple[Problem, ...]] | None = None

    def put_content(self, name: str, content: bytes) -> None:
        """A file as it now is. A syntax error keeps its last content."""
        digest = blake2b(content, digest_size=16).digest()
        old = self._files.get(name, _File())
        self._problems = None
        if old.digest == digest:
            old.trouble = ()
            return
        reading = read_documents(content, old.memo, json=name.endswith(".json"))
        if reading.errors and old.whole:
            kept = "; the file's last content stays in force"
            problems = {
                place: (Problem(problem.field, problem.message + kept),) for place, problem in reading.errors
            }
            # The digest is the new one: what is broken is not parsed again until it changes.
            self._files[name] = msgspec.structs.replace(old, digest=digest, problems=problems, trouble=())
            return
        self._replace(name, old, _settle(reading, old, digest))

    def put_error(self, name: str, message: str) -> None:
        """A file that can't be read; its last content stays."""
        self._problems = None
        file = self._files.setdefault(name, _File())
        file.trouble = (Problem("", message),)

    def remove(self, name: str) -> None:
        """A file that is gone, and its objects with it."""
        self._problems = None
        old = self._files.get(name)
        if old is not None:
            self._replace(name, old, _File())
            del self._files[name]

    def take_changes(self) -> tuple[Change, ...]:
        """What is different from the last call."""
        changes: list[Change] = []
        emptied: set[ObjectKey] = set()
        for key in sorted(self._touched):
            if key.kind != "Namespace":
                changes += self._publish(key, self._winner(key))
                emptied.add(ObjectKey("Namespace", "", key.namespace))
        for key in sorted(emptied | {key for key in self._touched if key.kind == "Namespace"}):
            changes += self._publish(key, self._winner(key) or self._implied(key.name))
        self._touched.clear()
        return tuple(changes)

    def problems(self) -> dict[str, tuple[Problem, ...]]:
        """All that is wrong with files and undecodable objects, by place; the rest is in the objects."""
        if self._problems is None:
            self._problems = self._find_problems()
        return self._problems

    def _find_problems(self) -> dict[str, tuple[Problem, ...]]:
        found: dict[str, tuple[Problem, ...]] = {}
        for name, file in sorted(self._files.items()):
            if file.trouble:
                found[shown_name(name)] = file.trouble
            for place, problems in file.problems.items():
                at = shown_name(name) + place
                found[at] = found.get(at, ()) + problems
        for key in sorted(self._shared):
            first, *others = self._owners[key]
            for name in others:
                message = f"{key} is in {shown_name(first)} too, which comes first and counts"
                at = shown_name(name)
                found[at] = (*found.get(at, ()), Problem("metadata.name", message))
        return found

    # --- files to objects --------------------------------------------------------------------------------

    def _replace(self, name: str, old: _File, new: _File) -> None:
        self._files[name] = new
        for key in old.objects.keys() | new.objects.keys():
            before, after = old.objects.get(key), new.objects.get(key)
            if before is after:
                continue
            self._touched.add(key)
            if before is None:
                insort(self._owners.setdefault(key, []), name)
            elif after is None:
                self._owners[key].remove(name)
            owners = self._owners[key]
            if len(owners) > 1:
                self._shared.add(key)
            else:
                self._shared.discard(key)
            if not owners:
                del self._owners[key]

    def _winner(self, key: ObjectKey) -> ClusterObject | None:
        owners = self._owners.get(key)
        if not owners:
            return None
        found = self._files[owners[0]].objects[key]
        last = self._published.get(key)
        if isinstance(found, Policy) and isinstance(last, Policy):
            return keep_last_valid(found, last)
        return found

    def _implied(self, name: str) -> Namespace | None:
        return Namespace(name, {NAMESPACE_LABEL: name}) if self._population[name] else None

    def _publish(self, key: ObjectKey, new: ClusterObject | None) -> Iterable[Change]:
        old = self._published.get(key)
        if old == new:
            return ()
        if new is None:
            del self._published[key]
        else:
            self._published[key] = new
        if key.namespace:
            self._population[key.namespace] += (new is not None) - (old is not None)
            if not self._population[key.namespace]:
                del self._population[key.namespace]
        return (Change(key, new),)


def shown_name(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8, and control characters, escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _settle(reading: Reading, old: _File, digest: bytes) -> _File:
    """A file's new state: what can't be decoded keeps its last version."""
    objects: dict[ObjectKey, ClusterObject] = {}
    problems: dict[str, list[Problem]] = {place: [problem] for place, problem in reading.errors}
    ignored: Counter[str] = Counter()
    unnamed: list[int] = []
    for index, item in enumerate(reading.items):
        key = item.key
        if item.ignored:
            ignored[item.ignored] += 1
        elif key is None:
            unnamed.append(index)
            untold = item.problem if item.meant is None else None
            problems.setdefault(reading.place(index), []).extend([untold] if untold else [])
        elif key in objects:
            message = f"{key} stands in this file twice: the first counts"
            problems.setdefault(reading.place(index), []).append(Problem("metadata.name", message))
        elif item.object is not None:
            objects[key] = item.object
        else:
            _keep_last(key, item.problem, old, objects, problems.setdefault(reading.place(index), []))
    positions = _settle_unnamed(unnamed, reading, old, objects, problems)
    for kind, count in sorted(ignored.items()):
        message = f"{count} of kind {kind}, which means nothing here: ignored"
        problems.setdefault("", []).append(Problem("kind", message))
    found = {place: tuple(problems[place]) for place in list(problems)[:MAX_PLACES]}
    if len(problems) > MAX_PLACES:
        found[" (more)"] = (Problem("", f"{len(problems) - MAX_PLACES} more places have problems"),)
    return _File(digest, objects, positions, reading.memo, not reading.errors, found)


def _settle_unnamed(
    unnamed: list[int],
    reading: Reading,
    old: _File,
    objects: dict[ObjectKey, ClusterObject],
    problems: dict[str, list[Problem]],
) -> tuple[ObjectKey | None, ...]:
    """Objects without a readable kind and name are what they seem to be, or used to be; each item's key."""
    positions = [item.key for item in reading.items]
    taken = set(positions)
    aligned = len(old.positions) == len(positions)
    for index in unnamed:
        item, told = reading.items[index], problems[reading.place(index)]
        key = item.meant or (old.positions[index] if aligned else None)
        # Nobody else in the file bears the name that this item used to have: it is the same object, broken.
        if key is not None and key not in taken:
            _keep_last(key, item.problem if item.meant else None, old, objects, told)
            positions[index] = key
            taken.add(key)
        elif item.meant is not None and item.problem is not None:
            told.append(Problem(item.problem.field, f"{item.meant}: {item.problem.message}"))
    return tuple(positions)


def _keep_last(
    key: ObjectKey,
    problem: Problem | None,
    old: _File,
    objects: dict[ObjectKey, ClusterObject],
    problems: list[Problem],
) -> None:
    last = old.objects.get(key)
    if last is not None:
        objects[key] = last
    outcome = "its last version stays in force" if last is not None else "it counts as absent"
    told = problem or Problem("metadata", "no readable name any more")
    problems.append(Problem(told.field, f"{key}: {told.message}; {outcome}"))
