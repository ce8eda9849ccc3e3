"""What stands in the kernel of each attachment beside its rules: enough to go on without its record. Pure.

In: records. Out: lines for comments, and what such lines claim. Whoever is root in a netns can write such
lines there, so a claim is no more than a pod's word about itself.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, quote_plus

import msgspec

from daemon.attachments import RECORD_VERSION, Record, check
from daemon.netns import NetnsIdentity
from daemon.program import label

PIECE = 96
"""Characters of a line's text: with what stands before them they fit into any packet filter's comments."""

MOST_PIECES = 40
"""Of one attachment. One with so many addresses that it takes more is not written."""

MOST_LINES = 1000
"""Of one netns: more are not read."""

_LINE = re.compile(r"(\S{1,15}) (\d{1,2})/(\d{1,2}) (\S{1,96})")


_PLAIN = re.compile(r"[A-Za-z0-9_.\-~/:,]*")


class Written(NamedTuple):
    """The lines of a record."""

    record: Record
    lines: tuple[str, ...]


class Claim(msgspec.Struct, frozen=True):
    """What lines say of one attachment. by: the daemon that wrote them; fields: as text."""

    by: str
    fields: dict[str, str]

    @property
    def ifname(self) -> str:
        """The interface that it is about."""
        return self.fields.get("interface", "")

    def record(self, place: NetnsIdentity, boot_id: str) -> Record:
        """A record of it, as of one that is adopted in that netns. ValueError: it makes no sense."""
        get = self.fields.get
        namespace, _, name = get("pod", "").partition("/")
        record = Record(
            version=RECORD_VERSION,
            boot_id=boot_id,
            container_id=get("container", ""),
            ifname=self.ifname,
            netns=place.path,
            device=place.device,
            inode=place.inode,
            cookie=place.cookie,
            directory=place.directory,
            ifindex=int(get("index", "0")),
            mac=get("mac", ""),
            addresses=tuple(bytes.fromhex(text) for text in _items(get("addresses", ""))),
            pod_namespace=namespace,
            pod_name=name,
            pod_uid=get("uid", ""),
            labels={},
            ports=(),
            networks=tuple(_items(get("networks", ""))),
            evidence=get("evidence", ""),
            configured=get("configured", ""),
            config_name=get("config", ""),
            guard="guard" in self.fields,
            withdrawn=False,
            track="track" in self.fields,
            # Its labels are lost: nothing passes until the source has its pod.
            unready=name != "",
            permanent=get("permanent", ""),
            lower=get("lower", ""),
            seen_name=get("name", ""),
            adopted=True,
        )
        check(record)
        return record


def write(record: Record, by: str) -> tuple[str, ...]:
    """The lines about an attachment; none where it takes too many."""
    text = "&".join(f"{key}={_quoted(value)}" for key, value in _fields(record, by).items() if value)
    pieces = [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    if len(pieces) > MOST_PIECES:
        return ()
    whose = label(record.ifname)
    return tuple(f"{whose} {number}/{len(pieces)} {piece}" for number, piece in enumerate(pieces, 1))


class _Attached(Protocol):
    """An attachment, as far as this module knows one. written: of its record, or of an earlier one."""

    record: Record
    written: Written | None


def write_all(attachments: Mapping[str, _Attached], by: str) -> tuple[str, ...]:
    """The lines about all attachments of a netns, by name; each made once for a record."""
    lines: list[str] = []
    for _, attachment in sorted(attachments.items()):
        written = attachment.written
        if written is None or written.record is not attachment.record:
            written = attachment.written = Written(attachment.record, write(attachment.record, by))
        lines += written.lines
    return tuple(lines)


def _fields(record: Record, by: str) -> dict[str, str]:
    return {
        "by": by,
        "interface": record.ifname,
        "container": record.container_id,
        "pod": f"{record.pod_namespace}/{record.pod_name}" if record.pod_name else "",
        "uid": record.pod_uid,
        "networks": ",".join(record.networks),
        "addresses": ",".join(address.hex() for address in record.addresses),
        "mac": record.mac,
        "index": str(record.ifindex or ""),
        "permanent": record.permanent,
        "lower": record.lower,
        "name": record.seen_name,
        "evidence": record.evidence,
        "configured": record.configured,
        "config": record.config_name,
        "guard": "1" if record.guard else "",
        "track": "1" if record.track else "",
    }


def read(lines: Iterable[str]) -> list[Claim]:
    """The claims that are whole; what makes no sense is left out."""
    pieces: dict[str, dict[int, str]] = {}
    for line in lines:
        if found := _LINE.fullmatch(line):
            pieces.setdefault(f"{found[1]} {found[3]}", {})[int(found[2])] = found[4]
    claims = []
    for whose, parts in pieces.items():
        total = int(whose.rpartition(" ")[2])
        if sorted(parts) == list(range(1, total + 1)):
            text = "".join(parts[number] for number in sorted(parts))
            fields = dict(parse_qsl(text, errors="surrogateescape"))
            # Of a link's name alone any bytes are what a pod may have written rightly.
            if all(_is_text(value) for key, value in fields.items() if key != "name"):
                claims.append(Claim(fields.get("by", ""), fields))
    return claims


def _is_text(value: str) -> bool:
    return value.isascii() or value.encode(errors="ignore").decode() == value


def _quoted(value: str) -> str:
    # On the way of each ADD: urlencode() of all takes 50 µs.
    return value if _PLAIN.fullmatch(value) else quote_plus(value, errors="surrogateescape")


def _items(text: str) -> list[str]:
    return [item for item in text.split(",") if item]
