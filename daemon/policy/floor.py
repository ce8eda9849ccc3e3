"""The floor: what each attachment was allowed at one moment, below which nothing relaxes.

In: rulesets and members of that moment, then the current ones as they are asked for. Out: rulesets that
permit what both permit, and in the end the attachments from which something was held back. Copies no members:
those of then and now are the peer sets' own.
"""

from collections.abc import Mapping

import msgspec

from daemon.model import AttachmentKey
from daemon.policy.peerset import PodRef
from daemon.policy.peersets import PeerSets
from daemon.policy.ruleset import OPEN, Members, Ruleset, SharedRef
from daemon.policy.strict import Drift, forget, make_drift, strict

_SPARE_DRIFTS = 64
"""So many drifts of sets that nobody holds any more are let be: policies may change often while held."""


class Allowed(msgspec.Struct, frozen=True):
    """What an attachment was allowed, and of which pod it is."""

    pod_ref: PodRef | None
    pod_uid: str
    ruleset: Ruleset


class _Combined(msgspec.Struct, frozen=True):
    """What came of a floor and a current ruleset, as long as the sets of both hold `members`."""

    namespace: str
    current: Ruleset
    refs: tuple[SharedRef, ...]
    members: tuple[Members, ...]
    ruleset: Ruleset


class Floor:
    """Of the moment in which it is made; an attachment that is not in `allowed` has none. Single-threaded."""

    def __init__(self, peers: PeerSets, allowed: Mapping[AttachmentKey, Allowed]) -> None:
        self._peers = peers
        self._allowed = dict(allowed)
        self._then = peers.snapshot()
        self._drifts: dict[SharedRef, tuple[Members, Drift]] = {}
        self._combined: dict[AttachmentKey, _Combined] = {}

    def ruleset(self, key: AttachmentKey, namespace: str, current: Ruleset) -> Ruleset:
        """What both the floor and the current ruleset permit; the same object as long as nothing changed.

        The attachment, of a pod of that namespace, holds the sets of both from now on, for the members of
        both count.
        """
        known, last = self._allowed.get(key), self._combined.get(key)
        floor = OPEN if known is None else known.ruleset
        if last is not None and last.current is current:
            refs = last.refs
        else:
            refs = tuple(dict.fromkeys((*floor.sets(), *current.sets())))
            self._peers.hold(key, refs, namespace)
        members = tuple(self._peers.members(ref) for ref in refs)
        if last is not None and last.current is current and _same(last.members, members):
            return last.ruleset
        ruleset = strict(floor, current, self._drift)
        if last is not None and last.ruleset == ruleset:
            ruleset = last.ruleset
        self._combined[key] = _Combined(namespace, current, refs, members, ruleset)
        return ruleset

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
        self._combined.pop(key, None)

    def release(self) -> set[AttachmentKey]:
        """Give the sets back; the attachments from which something was held back when last asked for."""
        dirty = {key for key, last in self._combined.items() if self._holds_back(last)}
        for key, last in self._combined.items():
            self._peers.hold(key, last.current.sets(), last.namespace)
        forget()
        return dirty

    def _holds_back(self, last: _Combined) -> bool:
        return last.ruleset is not last.current or any(
            self.members(ref) is not self._peers.members(ref) for ref in last.current.sets()
        )

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
    return all(a is b for a, b in zip(one, two, strict=True))
