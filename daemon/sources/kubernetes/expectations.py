"""What the caches must hold before `mnpctl wait --synced` is answered.

In: consistent lists of metadata, and which objects the caches get and lose. Out: whether all that was listed
has arrived. Pure.
"""

from collections.abc import Collection, Mapping
from typing import TypeAlias

from daemon.model import ObjectKey
from daemon.sources.kubernetes.allowance import NOT_KEPT
from daemon.sources.kubernetes.cache import Entry
from daemon.sources.kubernetes.watched import newer


class Expectations:
    """One round. What is deleted while it lasts is noted, since the lists may have it still."""

    def __init__(self) -> None:
        self._missing: dict[tuple[str, ObjectKey], tuple[str, str]] = {}
        self._surplus: dict[tuple[str, ObjectKey], str] = {}
        self._deleted: set[tuple[str, ObjectKey, str]] = set()
        self._dropped: dict[tuple[str, ObjectKey, str], str] = {}

    @property
    def done(self) -> bool:
        """Whether the caches hold what the lists said, or newer."""
        return not self._missing and not self._surplus

    def expect(
        self,
        name: str,
        listed: Mapping[ObjectKey, tuple[str, str]],
        version: str,
        held: Mapping[ObjectKey, Entry],
        leaving: Collection[ObjectKey] = (),
    ) -> None:
        """A collection was listed at `version`: (uid, resourceVersion) of what is kept of it.

        leaving: held for a last moment, although it is known to be deleted.
        """
        for key, wanted in listed.items():
            whole = (name, key, wanted[0])
            late = whole in self._dropped and not newer(wanted[1], self._dropped[whole])
            if not _holds(held.get(key), *wanted) and whole not in self._deleted and not late:
                self._missing[name, key] = wanted
        for key, entry in held.items():
            # What came after the list is no surplus.
            if key not in listed and (key in leaving or not newer(entry.version, version)):
                self._surplus[name, key] = entry.uid

    def touched(self, name: str, key: ObjectKey, entry: Entry | None, gone: str = "") -> None:
        """The cache has this now; gone: the UID of what it has lost by it."""
        place = (name, key)
        if gone:
            self._deleted.add((name, key, gone))
        wanted = self._missing.get(place)
        if wanted is not None and (_holds(entry, *wanted) or gone == wanted[0]):
            del self._missing[place]
        if place in self._surplus and (entry is None or entry.uid != self._surplus[place]):
            del self._surplus[place]

    def dropped(self, name: str, key: ObjectKey, uid: str, version: str) -> None:
        """It is there, but as of this version nothing of it is kept."""
        self._dropped[name, key, uid] = version
        wanted = self._missing.get((name, key))
        if wanted is not None and wanted[0] == uid and not newer(wanted[1], version):
            del self._missing[name, key]
        self._surplus.pop((name, key), None)

    def listed(self, name: str, held: Mapping[ObjectKey, Entry], newest: str) -> None:
        """The cache has a whole list now: what of it is not kept is not waited for, as in awaited()."""
        closed = _closed(held)
        for place, (_, version) in list(self._missing.items()):
            if place[0] == name and place[1].namespace in closed and not newer(version, newest):
                del self._missing[place]


Listed: TypeAlias = Mapping[ObjectKey, tuple[str, str]]
"""(uid, resourceVersion) by key."""


def awaited(
    listed: Listed, held: Mapping[ObjectKey, Entry], newest: str, leaving: Collection[ObjectKey]
) -> Listed:
    """A list as it is to be expected: with the closures, which no server has, without what is not kept (F3).

    newest: the latest version that has come. What is not kept leaves no trace; what has that version, or an
    earlier one, has come all the same, for versions come in order.
    """
    closed = _closed(held)
    if not closed:
        return listed
    found = {
        key: wanted
        for key, wanted in listed.items()
        if key.namespace not in closed or key in held or newer(wanted[1], newest)
    }
    staying = (key for key in closed.values() if key not in leaving)
    return found | {key: (held[key].uid, held[key].version) for key in staying}


def _closed(held: Mapping[ObjectKey, Entry]) -> dict[str, ObjectKey]:
    """The closures, by namespace."""
    return {key.namespace: key for key in held if key.name == NOT_KEPT}


def _holds(entry: Entry | None, uid: str, version: str) -> bool:
    return entry is not None and entry.uid == uid and not newer(version, entry.version)


def is_one_history(
    listed: Mapping[ObjectKey, tuple[str, str]], version: str, held: Mapping[ObjectKey, Entry], newest: str
) -> bool:
    """Whether a list at `version` may belong to what is held, of which `newest` was known before it.

    It does not when it is older than that, or has an object older than we have it, although we have it no
    later than the list.
    """
    if newest and newer(newest, version):
        return False
    both = ((held[key], *wanted) for key, wanted in listed.items() if key in held)
    return not any(
        entry.uid == uid and newer(entry.version, at) and not newer(entry.version, version)
        for entry, uid, at in both
    )
