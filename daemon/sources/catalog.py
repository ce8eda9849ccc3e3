"""What all files together say: one object a key, and what changed since the last look.

In: contents of files, unreadable files, vanished files. Out: changes, and all problems by place. Pure.
Rules: the first file name counts where two have the same object; what can't be read or decoded keeps its last
version, over a restart too where it is a policy (A4); a namespace exists when something is in it.
"""

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from daemon.decode import NAMESPACE_LABEL, keep_last_valid
from daemon.model import Change, ClusterObject, Namespace, ObjectKey, Policy, Problem
from daemon.sources.documents import read_documents
from daemon.sources.filestate import POLICY, File, file_name, settle, settle_unreadable
from daemon.sources.memory import FORGETFUL, Memory


class Catalog:
    """put_*, remove, then take_changes(). memory: knows policies' last valid versions of a run before."""

    def __init__(self, memory: Memory = FORGETFUL) -> None:
        self._memory = memory
        self._files: dict[str, File] = {}
        self._owners: dict[ObjectKey, list[str]] = {}
        self._shared: set[ObjectKey] = set()
        self._published: dict[ObjectKey, ClusterObject] = {}
        self._population: Counter[str] = Counter()
        self._touched: set[ObjectKey] = set()
        self._noted: set[ObjectKey] = set()  # policies that are their last version from now on, or no more
        self._problems: dict[str, tuple[Problem, ...]] | None = None

    def put_content(self, name: str, content: bytes) -> None:
        """A file as it now is. A syntax error keeps its last content."""
        digest = blake2b(content, digest_size=16).digest()
        old = self._files.get(name)
        self._problems = None
        if old is not None and old.digest == digest:
            self._replace(name, msgspec.structs.replace(old, trouble=()))
            return
        reading = read_documents(content, (old or File()).memo, json=name.endswith(".json"))
        self._replace(name, settle(reading, old, digest, name, self._memory))

    def put_error(self, name: str, message: str) -> None:
        """A file that can't be read; its last content stays."""
        self._problems = None
        self._replace(name, settle_unreadable(message, self._files.get(name), name, self._memory))

    def remove(self, name: str) -> None:
        """A file that is gone, and its objects with it."""
        self._problems = None
        if name in self._files:
            self._replace(name, File())
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
        for key in self._noted.union(key for key in self._touched if key.kind == POLICY):
            self._remember(key)
        self._touched.clear()
        self._noted.clear()
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
            first, *others = self._ranked(key)
            for name in others:
                message = f"{key} is in {shown_name(first)} too, which comes first and counts"
                at = shown_name(name)
                found[at] = (*found.get(at, ()), Problem("metadata.name", message))
        return found

    # --- files to objects --------------------------------------------------------------------------------

    def _replace(self, name: str, new: File) -> None:
        old = self._files.get(name, File())
        self._files[name] = new
        for key in old.objects.keys() | new.objects.keys() if old.objects is not new.objects else ():
            before, after = old.objects.get(key), new.objects.get(key)
            if before is not after:
                self._touch(name, key, before, after)
        self._note(old, new)

    def _touch(
        self, name: str, key: ObjectKey, before: ClusterObject | None, after: ClusterObject | None
    ) -> None:
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

    def _note(self, old: File, new: File) -> None:
        changed: Iterable[ObjectKey] = old.last ^ new.last
        if old.is_frozen != new.is_frozen:
            changed = new.objects
        self._noted.update(key for key in changed if key.kind == POLICY)

    def _ranked(self, key: ObjectKey) -> list[str]:
        """The files that have an object, the one that counts first."""
        owners = self._owners.get(key, [])
        if len(owners) < 2:
            return owners
        return sorted(owners, key=lambda name: (key in self._files[name].borrowed, name))

    def _winner(self, key: ObjectKey) -> ClusterObject | None:
        owners = self._ranked(key)
        if not owners:
            return None
        found = self._files[owners[0]].objects[key]
        if isinstance(found, Policy):
            return keep_last_valid(found, self._last_valid(found))
        return found

    def _last_valid(self, policy: Policy) -> Policy | None:
        """What counted before a policy became malformed (A4)."""
        last = self._published.get(policy.key)
        if last is None and policy.pod_selector is None:
            version = self._memory.recall(policy.key)
            return version.shown if version is not None else None
        return last if isinstance(last, Policy) else None

    def _remember(self, key: ObjectKey) -> None:
        """Tell the memory which version of a policy counts, and whether it is the last valid one."""
        counts, owners = self._published.get(key), self._ranked(key)
        if not isinstance(counts, Policy) or not owners:
            self._memory.remove(key)
            return
        file = self._files[owners[0]]
        found = file.objects[key]
        malformed = isinstance(found, Policy) and found.pod_selector is None
        self._memory.put(key, counts, last=malformed or file.is_last(key), file=file_name(owners[0]))

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
