"""The last moments of deleted policies: whether one was meant, or its whole kind is being removed.

In: keys of policies that the server has no more, what discovery says of their kind, the time. Out: which go,
and whether the first list can be believed. Pure. Removing the kind deletes all policies, and shall open
nothing, nor shall a daemon that starts meanwhile.
"""

from collections.abc import Collection, Iterable

from daemon.model import ObjectKey

DELETION_SECONDS = 0.2
"""A deleted policy's last moment, for discovery to show whether its kind is being removed."""
REINSTALLED_SECONDS = 30.0
"""After their kind was missing: time to create the policies again, before those of before go."""
KIND_SECONDS = 5.0
"""Between looks at a kind that is being removed."""


class Departures:
    """kind_goes: the last look saw the kind being removed."""

    def __init__(self) -> None:
        self._due: dict[ObjectKey, float] = {}
        self._was_missing = False
        self._listed = False
        self._settles_at: float | None = None  # None: discovery has to be asked, at `_asks_at`
        self._asks_at = 0.0
        self.kind_goes = False
        self.settled = False

    def __len__(self) -> int:
        return len(self._due)

    @property
    def keys(self) -> Collection[ObjectKey]:
        """All that are about to go."""
        return self._due.keys()

    @property
    def next(self) -> float | None:
        """When something is due; None: never."""
        return min([*self._due.values(), *self._first_look()], default=None)

    def is_due(self, now: float) -> bool:
        """Whether discovery has to be asked: somebody's last moment is over, or nobody has asked it yet."""
        unasked = self._listed and not self.settled and self._settles_at is None and self._asks_at <= now
        return unasked or any(due <= now for due in self._due.values())

    def due(self, now: float) -> list[ObjectKey]:
        """Whose last moment is over."""
        return [key for key, due in self._due.items() if due <= now]

    def settle(self, now: float) -> None:
        """Time has passed: from some moment on the first list can be believed, even if it is empty."""
        self.settled = self.settled or (self._settles_at is not None and self._settles_at <= now)

    def deleted(self, key: ObjectKey, now: float) -> None:
        """The server says that it was deleted."""
        self._leave(key, now + DELETION_SECONDS)

    def listed(self, gone: Iterable[ObjectKey], now: float) -> None:
        """All policies were listed, and these are not among them."""
        back = self._was_missing or self.kind_goes
        due = now + (REINSTALLED_SECONDS if back else 0.0)
        if back:
            self._settles_at = due
        self._listed = True
        self._was_missing = self.kind_goes = False
        for key in gone:
            self._leave(key, due)

    def kind_missing(self) -> None:
        """It is not installed now."""
        self._was_missing = True

    def stay(self, key: ObjectKey) -> None:
        """It is there (again)."""
        self._due.pop(key, None)

    def resolve(self, kind_goes: bool, asked: float, now: float) -> list[ObjectKey]:
        """Who goes of those that were due when discovery was asked; the others stay for a while."""
        due = self.due(asked)
        back, self.kind_goes = self.kind_goes and not kind_goes, kind_goes
        if kind_goes:
            self._settles_at, self._asks_at = None, now + KIND_SECONDS
            self._due |= dict.fromkeys(due, now + KIND_SECONDS)
        elif back:
            # Also those that are not due yet: their kind went, too.
            self._settles_at = now + REINSTALLED_SECONDS
            self._due = dict.fromkeys(self._due, now + REINSTALLED_SECONDS)
        else:
            self._settles_at = now if self._settles_at is None else self._settles_at
            for key in due:
                del self._due[key]
        return [] if kind_goes or back else due

    def _first_look(self) -> list[float]:
        if self.settled or not self._listed:
            return []
        return [self._asks_at if self._settles_at is None else self._settles_at]

    def _leave(self, key: ObjectKey, due: float) -> None:
        self._due[key] = max(due, self._due.get(key, due))
