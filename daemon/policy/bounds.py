"""How much may be worked out for one namespace, counted as it goes on. Pure.

In: what was looked at and what came of it. Out: when to pause, and TooMuchError when to stop.
"""

from collections.abc import Mapping

import msgspec

from daemon.policy.ruleset import BlockSet

_PAUSE = 4000
"""Looks at a span or an address; some 2 ms."""


class TooMuchError(Exception):
    """There is no room for it, or it would take too long."""


class Room(msgspec.Struct, frozen=True):
    """What may come of a piece of work: rules, and elements of blocks that are none of `known`.

    known: blocks by themselves, so that equal ones are one object. looks: pairs, spans and addresses that may
    be looked at for it, each some 0.3 µs.
    """

    rules: int
    elements: int
    looks: int
    known: Mapping[BlockSet, BlockSet] = msgspec.field(default_factory=dict)


class Meter:
    """Counts against a Room. looked: so far."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.looked = 0
        self._paused_at = 0
        self._rules = 0
        self._elements = 0

    def look(self, things: int) -> bool:
        """So many more are looked at; whether it is time to pause. TooMuchError."""
        self.looked += things
        if self.looked > self.room.looks:
            raise TooMuchError
        if self.looked - self._paused_at < _PAUSE:
            return False
        self._paused_at = self.looked
        return True

    def take(self, rules: int, elements: int) -> None:
        """So many more came of it. TooMuchError."""
        self._rules += rules
        self._elements += elements
        if self._rules > self.room.rules or self._elements > self.room.elements:
            raise TooMuchError
