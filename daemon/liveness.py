"""Which link in a netns is an attachment's, whatever became of its name, its MAC and its number.

In: records, and the links of the current netns. Out: a link and how sure that is. It changes nothing.

The same number in the same netns is the same link. One that was moved away and back may have another: then it
is known by the address that its hardware has, or by its MAC. Its name is nobody's own, and what it stands on
it has in common with others: by these it is only taken for one that must be restricted.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Container, Iterable

import msgspec

from daemon import netns
from daemon.attachments import Record
from daemon.netlink import attr
from daemon.netns import Link, Listing

_SHARING_MAC = ("ipvlan", "ipvtap")
"""All links of these kinds on one link have its MAC; macvlans on one have different ones."""
_CROWD = 64
_IFLA_LINK = 5


class Around:
    """The links of the netns that the calling thread is in, read once, when somebody asks for them."""

    @functools.cached_property
    def listing(self) -> Listing:
        """NetnsError: they can't be read."""
        return netns.links()

    @property
    def crowded(self) -> bool:
        """Whether they were read and are so many that it should not be done often."""
        return "listing" in self.__dict__ and len(self.listing.bodies) > _CROWD


class Sighting(msgspec.Struct, frozen=True):
    """link None: it is not there. alike: one that may be it, and is restricted as if it was.

    stranger: the record says a number that another link has. unseen: there are links that were not looked at.
    """

    link: Link | None = None
    alike: Link | None = None
    stranger: bool = False
    unseen: bool = False


def further_names(record: Record, *, missing: bool, by_number: bool) -> tuple[str, ...]:
    """By which names an interface is governed beside its number (by_number), or else the name of its ADD."""
    seen = (record.seen_name,) if record.seen_name else ()
    if not by_number:
        return seen
    # While it is away, whatever comes back under its name is governed from its first packet on.
    return (record.ifname, *seen) if missing else ()


def look_for(
    record: Record,
    taken: Container[int],
    beside: frozenset[int],
    around: Around,
    *,
    missing: bool,
    strict: bool,
) -> Sighting:
    """Look for a record's link in the current netns, `around`. NetnsError: its links can't be read.

    taken: the numbers of other attachments' links. missing: it was not there when last looked for, and
    beside, the numbers of links, were. strict: the record may be damaged. Where either is so its number alone
    does not make a link the one that is looked for.
    """
    at_index = None
    if record.ifindex and record.ifindex not in taken:
        at_index = netns.link_by_index(record.ifindex)
        if at_index is not None and (not (strict or missing) or _is_like(record, at_index, strict)):
            return Sighting(at_index)
    if record.withdrawn and not strict:
        # What comes under its name or MAC is the next one's.
        return Sighting()
    names, macs = (record.ifname, record.seen_name), (record.mac, record.seen_mac, record.permanent)
    found = around.listing.having(marks(names, macs, record.lower))
    if not around.listing.whole:
        found += _by_name(record)
    new = [link for link in found if link.ifindex not in taken and link.ifindex not in beside]
    link = next((link for link in new if _is_surely(record, link, unique=bool(beside))), None)
    if link is None and at_index is not None and _is_like(record, at_index, strict=False):
        return Sighting(at_index)
    # Before it is known what stood beside it: others stand on the same link by rights.
    alike = [link for link in new if _stands_alike(record, link)] if beside else []
    stranger = strict and at_index is not None
    return Sighting(link, alike[0] if alike and link is None else None, stranger, not around.listing.whole)


def marks(names: Iterable[str], macs: Iterable[str], lower: str) -> list[bytes]:
    """What the kernel tells of a link that has one of the names or MACs, or that `lower`; not of nonsense."""
    found: list[bytes] = []
    for name in filter(None, names):
        with contextlib.suppress(ValueError):
            found.append(os.fsencode(name) + b"\0")
    for mac in filter(None, macs):
        with contextlib.suppress(ValueError):
            found.append(bytes.fromhex(mac.replace(":", "")))
    if lower:
        with contextlib.suppress(ValueError, OverflowError):
            number = int(lower.partition(" on ")[2].partition(" ")[0])
            found.append(attr(_IFLA_LINK, number.to_bytes(4, sys.byteorder)))
    return [mark for mark in found if mark]


def _by_name(record: Record) -> list[Link]:
    """The links that have one of its names: they are found among however many."""
    names = [name for name in (record.ifname, record.seen_name) if name]
    return [link for link in map(netns.link, names) if link is not None]


def _is_surely(record: Record, link: Link, *, unique: bool) -> bool:
    """Unique: nothing that stood beside it can be meant."""
    if record.permanent and link.permanent:
        return record.permanent == link.permanent
    alone = _stands_alike(record, link) and not record.lower.startswith(_SHARING_MAC)
    return _has_mac(record, link) and (unique or alone or _is_named(record, link))


def _is_like(record: Record, link: Link, strict: bool) -> bool:
    """Whether anything of the link at a record's number is as the record says; strict: of what is its own."""
    same = record.permanent != "" and record.permanent == link.permanent
    own = same or _is_named(record, link) or _has_mac(record, link)
    return own or (not strict and _stands_alike(record, link))


def _is_named(record: Record, link: Link) -> bool:
    return link.ifname in (record.ifname, record.seen_name)


def _has_mac(record: Record, link: Link) -> bool:
    return link.mac != "" and link.mac in (record.mac, record.seen_mac)


def _stands_alike(record: Record, link: Link) -> bool:
    return record.lower != "" and link.lower == record.lower
