"""What is done where rules can't reach an interface's packets: closed below IP, as far as the kernel can.

In: records, and how rules reach their interfaces' packets (linkkinds.py). Out: devices closed and opened in a
netns, and what could not be. Only the dataplane thread calls this module.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from daemon import linkkinds, links, netns
from daemon.attachments import Record
from daemon.backends.base import Backend
from daemon.errors import DataplaneError
from daemon.linkkinds import Links, Reach
from daemon.log import get_logger
from daemon.model import Direction
from daemon.netns import NetnsIdentity
from daemon.policy.ruleset import Match
from daemon.program import Seal
from daemon.store import Store

log = get_logger(__name__)


@dataclass(slots=True)
class Closing:
    """What is closed below IP in one netns; None: not known. failed: what should be and can't, and why."""

    sealed: frozenset[Seal] | None = None
    failed: str = ""


class Reaching:
    """Which packets no rule meets, and what is done about them."""

    def __init__(self, store: Store, backend: Backend) -> None:
        self._store = store
        self._backend = backend

    def look(self, records: Iterable[Record]) -> dict[str, Reach]:
        """How rules reach each of a netns' interfaces that has come, by name; in the current netns."""
        present = {record.ifname: record.ifindex for record in records if record.ifindex and not record.guard}
        found = self.read(present.values()) if present else linkkinds.NONE
        return {name: self.reach(found, index, present.values()) for name, index in present.items()}

    def read(self, indexes: Iterable[int]) -> Links:
        """What reach() goes by, in the current netns; indexes: of the links it is about. NetnsError."""
        found = links.read(indexes)
        try:
            return msgspec.structs.replace(found, forwards=self._backend.forwards())
        except DataplaneError:
            return msgspec.structs.replace(found, forwards=None)

    def reach(self, found: Links, ifindex: int, enrolled: Iterable[int]) -> Reach:
        """How rules reach one interface's packets. enrolled: the indexes of all that have policies there."""
        own = frozenset(enrolled) - {ifindex}
        return linkkinds.reach(found, ifindex, own)

    def missed(self, record: Record, reach: Reach) -> list[Direction]:
        """The directions in which packets shall be judged that no rule meets (A14)."""
        if not reach.past:
            return []
        return [direction for direction in self._restricted(record) if direction in reach.past]

    def _restricted(self, record: Record) -> list[Direction]:
        if record.guard or record.unready:
            return list(Direction)
        ruleset = self._store.ruleset(record.key)
        return [direction for direction in Direction if _restricts(ruleset.matches(direction))]

    def seals(self, attachments: Iterable[tuple[Record, Reach]]) -> frozenset[Seal]:
        """What has to be closed below IP in a netns that holds these: answers too, where that is all."""
        return frozenset(
            Seal(ifname, direction)
            for record, reach in attachments
            if (missed := self.missed(record, reach))
            for direction in (missed if reach.closable else Direction)
            for ifname in reach.seals
        )

    def close(self, closing: Closing, seals: frozenset[Seal], place: NetnsIdentity) -> None:
        """Close these and open all others; what can't be closed is told, and is no failure of the rules."""
        if seals == closing.sealed:
            return
        try:
            self._seal(closing, seals, place)
        except DataplaneError as error:
            closing.sealed, told = None, str(error) if seals else ""
            if told not in ("", closing.failed):
                log.error("not-closed", extra={"netns": place.path, "reason": told})
            closing.failed = told

    def close_more(self, closing: Closing, seals: frozenset[Seal], place: NetnsIdentity) -> None:
        """The same before rules change: what is closed stays so until close(), unless its device is gone."""
        already = closing.sealed or frozenset()
        if seals <= already:
            return
        try:
            self._seal(closing, seals | already, place)
        except DataplaneError:
            self.close(closing, seals, place)

    def _seal(self, closing: Closing, seals: frozenset[Seal], place: NetnsIdentity) -> None:
        with netns.entered(place.path, place):
            closing.failed = self._backend.seal(seals)
        closing.sealed = seals

    def confirm(self, closing: Closing, place: NetnsIdentity) -> bool:
        """Whether what was closed still is, in the current netns; if not, it is to be closed again."""
        if closing.sealed and not self._backend.sealed(closing.sealed):
            log.warning("opened-by-others", extra={"netns": place.path})
            closing.sealed = None
        return closing.sealed is not None


def _restricts(matches: tuple[Match, ...] | None) -> bool:
    """Whether anything does not pass: an empty rule allows all (B4)."""
    return matches is not None and not any(match.peer is None and match.ports is None for match in matches)
