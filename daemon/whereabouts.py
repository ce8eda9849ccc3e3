"""What became of each attachment's interface: renamed, away, back, or gone.

In: attachments, and the links of the current netns. Out: what is seen, kept in the registry. A link that is
gone ends nothing: only a DEL does, or the end of the netns. Only the dataplane thread calls this module.
"""

from typing import Any

import msgspec

from daemon import netns
from daemon.liveness import Around, Sighting, look_for
from daemon.log import get_logger
from daemon.netns import Link
from daemon.reconcile import Attachment, Sandbox
from daemon.registry import Registry, log_fields

log = get_logger(__name__)


class Found(msgspec.Struct, frozen=True):
    """link None: it is not there, or a guard's. goes_on: it is, or may come (back)."""

    link: Link | None
    goes_on: bool


class Whereabouts:
    """look() is for the netns that the calling thread is in."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def look(self, sandbox: Sandbox, attachment: Attachment, around: Around, *, strict: bool) -> Found:
        """Look where an attachment's interface is now, and have it governed there.

        around: the links there, which several attachments have in common. strict: its record may be damaged,
        so its link must be known by more than its number.
        """
        record = attachment.record
        if record.guard:
            # Its device may not exist yet: only after a DEL does its absence mean anything.
            return Found(None, not record.withdrawn or netns.link(record.ifname) is not None)
        taken = {a.record.ifindex for a in sandbox.attachments.values() if a is not attachment}
        sighting = look_for(
            record, taken, attachment.beside, around, missing=attachment.missing, strict=strict
        )
        attachment.unseen = sighting.link is None and sighting.unseen
        if sighting.link is not None:
            self._meet(attachment, sighting.link)
        elif not record.withdrawn:
            self._miss(attachment, sighting, around)
        elif sighting.stranger:
            self._registry.update(attachment, ifindex=0)
        return Found(sighting.link, sighting.link is not None or not record.withdrawn)

    def _meet(self, attachment: Attachment, link: Link) -> None:
        record = attachment.record
        name = link.ifname if link.ifname != record.ifname else ""
        if name != record.seen_name:
            log.warning("renamed", extra={**log_fields(record), "now": link.ifname})
        mac = link.mac if link.mac != record.mac else ""
        self._registry.meet(attachment, ifindex=link.ifindex, seen_name=name, seen_mac=mac)

    def _miss(self, attachment: Attachment, sighting: Sighting, around: Around) -> None:
        fields: dict[str, Any] = {"ifindex": 0} if sighting.stranger else {}
        alike, record = sighting.alike, attachment.record
        if alike is not None and alike.ifname != (record.seen_name or record.ifname):
            fields["seen_name"] = alike.ifname
            log.warning("interface-alike", extra={**log_fields(record), "link": alike.ifname})
        self._registry.miss(attachment, **fields)
        if not attachment.beside:
            attachment.beside = around.listing.indexes()
