"""What is kept of policies: so much for each namespace, by the bytes that the server sends of them. Pure.

In: policies as lists and events bring them. Out: what is to be told of each; and for a namespace of which any
is not kept a *closure*, a policy of our own that isolates all its pods and permits nothing, until none is
missing any more (F3). What the others permit passes: no more than if all were there. Of what is not kept
nothing is remembered but the number, for a tenant may make millions. That is exact: a list begins anew, and a
watch tells each change once.
"""

import msgspec

from daemon.model import EVERYWHERE, ObjectKey, Policy, Problem, Selector
from daemon.sources.kubernetes.stream import DELETED, MODIFIED, Event
from daemon.sources.kubernetes.watched import Collection, Seen, identify, newer

NOT_KEPT = "(not kept)"
"""A closure's name, which no object can have."""

# What is kept of a namespace, for each element and each rule that it may have (F1). A block takes 31 bytes to
# 67, a port less; a policy with one rule takes 600, and is charged 600 more.
_ELEMENT_BYTES = 60
_RULE_BYTES = 1500

# Decoded, a byte takes ten at the most. What would take more is charged beside its bytes: a policy in all
# indices, a network in those of its name, a rule and a port as objects, a problem with its text.
_POLICY = 500
_NETWORK = 100
_RULE = _PORT = 10
_PROBLEM = 40

_PLURAL = "multi-networkpolicies.k8s.cni.cncf.io"


def most_bytes(rules: int, elements: int) -> int:
    """What may be kept of a namespace that may have so many rules and elements in force."""
    return _RULE_BYTES * rules + _ELEMENT_BYTES * elements


class _Kept(msgspec.Struct, frozen=True):
    """What a policy takes. valid: of that its last version that may be in force longer than it is there."""

    bytes: int
    valid: int


class _Place(msgspec.Struct):
    """A namespace. missing: policies that are not kept; version: the latest of those.

    told: what was said last of how many these are. freed: there is more room than at the last list.
    wasted: bytes of it that were decoded in vain.
    """

    kept: dict[str, _Kept] = {}
    bytes: int = 0
    missing: int = 0
    version: str = "0"
    told: str = ""
    freed: bool = False
    wasted: int = 0


class Allowance:
    """begin() with each list, take() and lose() what it or the watch after it brings. One thread's own.

    most: bytes for each namespace; None: everything is kept.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._places: dict[str, _Place] = {}  # only of those that have any policy
        self._worth: set[str] = set()
        self._listing = False

    @property
    def worth_listing(self) -> bool:
        """Whether some namespace has room for much of what was not kept of it."""
        return bool(self._worth)

    def begin(self) -> None:
        """A list begins: nothing is there yet."""
        self._places.clear()
        self._worth.clear()
        self._listing = True

    def follow(self, collection: Collection, event: Event) -> list[tuple[bool, Seen]]:
        """What an event after the list comes to: (whether it was deleted, object). Raises BadAnswerError.

        What closes a namespace comes before that for which it does, what opens it comes last.
        """
        if event.type == DELETED:
            change = (True, self.lose(collection, event.object))
        else:
            change = (False, self.take(collection, event.object, known=event.type == MODIFIED))
        closure = self._news(change[1].key.namespace)
        if closure is None:
            return [change]
        return [change, closure] if closure[0] else [closure, change]

    def take(self, collection: Collection, raw: msgspec.Raw, *, known: bool) -> Seen:
        """An object that is there; known: it was before. Raises BadAnswerError.

        Without object and problem: nothing of it is kept.
        """
        if self._most is None:
            return collection.decode(collection, raw)
        key, metadata = identify(collection, raw)
        place = self._places.setdefault(key.namespace, _Place())
        before = place.kept.get(key.name)
        room = self._most - place.bytes + (before.bytes if before is not None else 0)
        seen = nothing = Seen(key, metadata.uid, metadata.resource_version)
        kept = None
        # Decoding takes a second for 2 MB, so of a list only what may fit is decoded, and not without end.
        if len(raw) + _POLICY <= room and not (self._listing and place.wasted >= self._most):
            seen = collection.decode(collection, raw)
            kept = _weigh(seen, len(raw), before)
            if kept.bytes > room:
                place.wasted += len(raw)
                seen, kept = nothing, None
        if kept is None and newer(seen.version, place.version):
            place.version = seen.version  # lists are not in the order of versions
        self._put(key, place, kept, was_missing=known and before is None, is_missing=kept is None)
        return seen

    def lose(self, collection: Collection, raw: msgspec.Raw) -> Seen:
        """An object that is there no more. Raises BadAnswerError."""
        key, metadata = identify(collection, raw)
        place = self._places.get(key.namespace)
        if place is not None:
            self._put(key, place, None, was_missing=key.name not in place.kept, is_missing=False)
        return Seen(key, metadata.uid, metadata.resource_version)

    def closures(self) -> list[Seen]:
        """Those of a list that has come to its end."""
        self._listing = False
        found = [self._news(namespace) for namespace in list(self._places)]
        return [closure[1] for closure in found if closure is not None]

    # --- inside ------------------------------------------------------------------------------------------

    def _put(
        self, key: ObjectKey, place: _Place, kept: _Kept | None, *, was_missing: bool, is_missing: bool
    ) -> None:
        before = place.kept.pop(key.name, None)
        if kept is not None:
            place.kept[key.name] = kept
        more = (kept.bytes if kept is not None else 0) - (before.bytes if before is not None else 0)
        place.bytes += more
        place.missing = max(0, place.missing + is_missing - was_missing)
        # One that grew beyond all bounds made no room for others: it would be read first again.
        place.freed |= more < 0 and not is_missing
        if place.missing and place.freed and self._most is not None and 2 * place.bytes <= self._most:
            self._worth.add(key.namespace)
        else:
            self._worth.discard(key.namespace)

    def _news(self, namespace: str) -> tuple[bool, Seen] | None:
        """(whether it goes, closure) where that of a namespace is another than was told last."""
        place = self._places.get(namespace)
        if place is None:
            return None
        told, place.told = place.told, _roughly(place.missing)
        if not place.kept and not place.missing:
            del self._places[namespace]
        if place.told == told:
            return None
        return not place.told, self._close(namespace, place)

    def _close(self, namespace: str, place: _Place) -> Seen:
        message = (
            f"of its policies {place.told} not kept: all together may come to {self._most} bytes. While any "
            "is missing all secondary interfaces here are isolated, and only what the others permit passes. "
            "Delete or shrink policies, or have namespaceElements or namespaceRules raised; against too many "
            f"there is a ResourceQuota with count/{_PLURAL}"
        )
        problem = Problem("metadata.namespace", message)
        closure = Policy(namespace, NOT_KEPT, (EVERYWHERE,), Selector(), (), (), (problem,))
        return Seen(closure.key, "", place.version, closure)


def _weigh(seen: Seen, size: int, before: _Kept | None) -> _Kept:
    """What it takes to keep an object of so many bytes, whose last version was kept as `before`."""
    found = seen.object
    if not isinstance(found, Policy):
        valid, whole = False, size + _POLICY + _PROBLEM
    else:
        valid = found.pod_selector is not None
        rules = (*(found.ingress or ()), *(found.egress or ()))
        whole = size + _POLICY + _NETWORK * len(found.networks) + _RULE * len(rules)
        whole += _PORT * sum(len(rule.ports or ()) for rule in rules)
        whole += _PROBLEM * len(found.problems)
    if valid:
        return _Kept(whole, whole)
    # Beside it there is what is still in force of the last valid one (A4).
    last = before.valid if before is not None else 0
    return _Kept(whole + last, last)


def _roughly(number: int) -> str:
    """A number in words that change seldom while it grows; "" for none."""
    if number < 2:
        return "1 is" if number else ""
    if number < 10:
        return f"{number} are"
    return f"more than {10 ** (len(str(number - 1)) - 1)} are" if number > 10 else "10 are"
