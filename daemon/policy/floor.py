"""The floor: what each attachment was allowed at one moment, below which nothing relaxes.

In: rulesets and members of that moment, then the current ones as they are asked for. Out: rulesets that
permit what both permit, and in the end the attachments from which something was held back. Copies no members:
those of then and now are the peer sets' own.

What the rulesets of one namespace come to is bounded by its budget (F4), and worked out in pieces.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from daemon.model import AttachmentKey, Direction
from daemon.policy.bounds import Room
from daemon.policy.budget import Budget
from daemon.policy.literals import size
from daemon.policy.peerset import PodRef
from daemon.policy.peersets import PeerSets
from daemon.policy.ruleset import OPEN, BlockSet, Members, Ruleset, SharedRef
from daemon.policy.strict import Combined, Drift, combining, make_drift
from daemon.slices import Pausing

_SPARE_DRIFTS = 64
"""So many drifts of sets that nobody holds any more are let be: policies may change often while held."""
_LOOKS_AN_ELEMENT = 10
"""What all that a namespace may have takes to be united and met, and as much again."""


class Allowed(msgspec.Struct, frozen=True):
    """What an attachment was allowed, and of which pod it is."""

    pod_ref: PodRef | None
    pod_uid: str
    ruleset: Ruleset


class _Result(msgspec.Struct, frozen=True):
    """What came of a floor and a current ruleset, as long as the sets of both hold `members`."""

    floor: Ruleset
    current: Ruleset
    members: tuple[Members, ...]
    combined: Combined


@dataclass(slots=True)
class _Attached:
    """An attachment, of a pod of that namespace, whose ruleset was asked for.

    refs: of floor and current. literals: that count for it now.
    """

    namespace: str
    current: Ruleset
    refs: tuple[SharedRef, ...]
    result: _Result | None = None
    literals: tuple[BlockSet, ...] = ()


class _Literals:
    """The literals of all rulesets of one namespace: equal ones are one, and count once."""

    def __init__(self) -> None:
        self.known: dict[BlockSet, BlockSet] = {}
        self.elements = 0
        self._users: Counter[BlockSet] = Counter()

    def take(self, literals: tuple[BlockSet, ...]) -> None:
        """One more ruleset has these."""
        for blocks in literals:
            if blocks not in self.known:
                self.known[blocks] = blocks
                self.elements += size(blocks)
            self._users[blocks] += 1

    def give_back(self, literals: tuple[BlockSet, ...]) -> None:
        """One ruleset less has these."""
        for blocks in literals:
            self._users[blocks] -= 1
            if not self._users[blocks]:
                del self._users[blocks], self.known[blocks]
                self.elements -= size(blocks)


class Floor:
    """Of the moment in which it is made; an attachment that is not in `allowed` has none. Single-threaded."""

    def __init__(self, peers: PeerSets, allowed: Mapping[AttachmentKey, Allowed], budget: Budget) -> None:
        self._peers = peers
        self._allowed = dict(allowed)
        self._budget = budget
        self._then = peers.snapshot()
        self._drifts: dict[SharedRef, tuple[Members, Drift]] = {}
        self._attached: dict[AttachmentKey, _Attached] = {}
        self._works: dict[str, tuple[AttachmentKey, Pausing[None]]] = {}  # one at a time for each namespace
        self._literals: dict[str, _Literals] = {}  # by namespace

    def advance(
        self, key: AttachmentKey, namespace: str, current: Ruleset, enough: Callable[[], bool]
    ) -> bool:
        """Work towards `ruleset`, for an attachment of a pod of that namespace, until `enough`.

        Whether that is done. The attachment holds the sets of both from now on, for the members of both
        count.
        """
        found = self._attached.get(key)
        if found is None or found.current is not current:
            found = self._follow(key, namespace, current)
        if not self._peers.advance(key, enough):
            return False
        while not self._is_known(found):
            if namespace not in self._works:
                self._works[namespace] = (key, self._combine(found, self._floor(key)))
            # Where another one's is in work that goes first, so that never more than one is unfinished.
            for _ in self._works[namespace][1]:
                if enough():
                    return False
            del self._works[namespace]
            if enough():
                return self._is_known(found)
        return True

    def ruleset(self, key: AttachmentKey) -> Ruleset:
        """What both the floor and the current ruleset permit, when advance() is done.

        The same object as long as nothing changed.
        """
        result = self._attached[key].result
        assert result is not None, "advance() is not done"
        return result.combined.ruleset

    def closed(self, key: AttachmentKey) -> tuple[Direction, ...]:
        """The directions in which less than both is permitted, for want of room (F4)."""
        found = self._attached.get(key)
        return () if found is None or found.result is None else found.result.combined.closed

    def members(self, ref: SharedRef) -> Members:
        """Who is in a set now and was so then. Of a set that is new since: who is in it now."""
        return self._drift(ref).common

    def admit(self, key: AttachmentKey, pod_ref: PodRef | None, pod_uid: str) -> None:
        """An attachment is made, or made again: of another pod than then, the floor is not its own."""
        known = self._allowed.get(key)
        if known is None:
            return
        same_uid = known.pod_uid == pod_uid or "" in (known.pod_uid, pod_uid)
        if known.pod_ref != pod_ref or not same_uid:
            del self._allowed[key]

    def leave(self, key: AttachmentKey) -> None:
        """An attachment is gone. Should it come again, its floor is still there."""
        found = self._attached.pop(key, None)
        if found is not None:
            self._stop(key, found)
            self._count(found, ())

    def release(self) -> set[AttachmentKey]:
        """Give the sets back; the attachments from which something was held back when last asked for."""
        dirty = {key for key, found in self._attached.items() if self._holds_back(found)}
        for key, found in self._attached.items():
            self._peers.hold(key, found.current.sets(), found.namespace)
        return dirty

    # --- inside ------------------------------------------------------------------------------------------

    def _floor(self, key: AttachmentKey) -> Ruleset:
        known = self._allowed.get(key)
        return OPEN if known is None else known.ruleset

    def _follow(self, key: AttachmentKey, namespace: str, current: Ruleset) -> _Attached:
        """From now on an attachment's current ruleset is this one."""
        refs = tuple(dict.fromkeys((*self._floor(key).sets(), *current.sets())))
        found = self._attached.get(key)
        if found is None:
            found = self._attached[key] = _Attached(namespace, current, refs)
        self._stop(key, found)
        self._peers.hold(key, refs, namespace)
        found.current, found.refs = current, refs
        return found

    def _stop(self, key: AttachmentKey, found: _Attached) -> None:
        """What is in work for it is of no use any more."""
        if self._works.get(found.namespace, (None,))[0] == key:
            del self._works[found.namespace]

    def _is_known(self, found: _Attached) -> bool:
        known = found.result
        return (
            known is not None
            and known.current is found.current
            and _same(known.members, self._members(found))
        )

    def _members(self, found: _Attached) -> tuple[Members, ...]:
        return tuple(self._peers.members(ref) for ref in found.refs)

    def _combine(self, found: _Attached, floor: Ruleset) -> Pausing[None]:
        """Work out what both permit. Where members change meanwhile, that is seen by `_is_known`."""
        last, current, members = found.result, found.current, self._members(found)
        combined = self._find_equal(found.namespace, floor, current, members)
        if combined is None:
            # What it had so far does not stand in its own way.
            self._count(found, ())
            combined = yield from combining(floor, current, self._drift, self._room(found.namespace))
        self._count(found, combined.literals)
        for known in (current, *([last.combined.ruleset] if last else [])):
            if combined.ruleset == known:
                combined = msgspec.structs.replace(combined, ruleset=known)
        found.result = _Result(floor, current, members, combined)

    def _find_equal(
        self, namespace: str, floor: Ruleset, current: Ruleset, members: tuple[Members, ...]
    ) -> Combined | None:
        """What came of the same for another attachment: often one policy governs all pods of a namespace."""
        for found in self._attached.values():
            known = found.result
            if known is None or found.namespace != namespace or not _same(known.members, members):
                continue
            if known.current == current and known.floor == floor:
                return known.combined
        return None

    def _room(self, namespace: str) -> Room:
        known = self._literals.get(namespace, _Literals())
        elements = self._budget.elements
        looks = _LOOKS_AN_ELEMENT * elements
        return Room(self._budget.rules, max(0, elements - known.elements), looks, known.known)

    def _count(self, found: _Attached, literals: tuple[BlockSet, ...]) -> None:
        """These literals are in its ruleset from now on, in place of those before."""
        counted = self._literals.setdefault(found.namespace, _Literals())
        counted.take(literals)
        counted.give_back(found.literals)
        found.literals = literals
        if not counted.elements:
            del self._literals[found.namespace]

    def _holds_back(self, found: _Attached) -> bool:
        known = found.result
        if known is None or known.combined.ruleset is not found.current:
            return True
        return any(self.members(ref) is not self._peers.members(ref) for ref in found.current.sets())

    def _drift(self, ref: SharedRef) -> Drift:
        now = self._peers.members(ref)
        known = self._drifts.get(ref)
        if known is not None and known[0] is now:
            return known[1]
        drift = make_drift(self._then.get(ref, now), now)
        if known is not None and known[1].common == drift.common:
            drift = msgspec.structs.replace(drift, common=known[1].common)
        self._drifts[ref] = (now, drift)
        if len(self._drifts) > 2 * len(self._peers) + _SPARE_DRIFTS:
            self._drifts = {kept: known for kept, known in self._drifts.items() if kept in self._peers}
        return drift


def _same(one: tuple[Members, ...], two: tuple[Members, ...]) -> bool:
    return len(one) == len(two) and all(a is b for a, b in zip(one, two, strict=True))
