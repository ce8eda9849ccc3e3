"""ipset's messages about our sets: made, filled, listed, swapped, destroyed; and what a listing says. Pure.

In: SetSpecs and names. Out: Messages, and FoundSets of what the kernel lists. An entry is what one element of
a set is to ipset: an address, a prefix, or address, protocol and port; spans are cut into prefixes here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias, cast

import msgspec

from daemon.backends.nfnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    SUBSYS_IPSET,
    Message,
    chunks,
    general,
    nest,
    string,
    u32,
)
from daemon.errors import DataplaneError
from daemon.intervals import prefix_count, union
from daemon.memo import per_object
from daemon.model import ALL_PORTS, Address, Span
from daemon.netlink import attr, attribute_list, attributes
from daemon.planner import Elements, SetKind, SetSpec
from daemon.policy.ruleset import Endpoint

Entry: TypeAlias = tuple[Address, int, int]
"""Address, then: 0 and 0 of a host; prefix length and 0 of a prefix; protocol and port of an endpoint.

Of a range of ports: b"", the first and the last one.
"""

MAX_NAME = 31

_CREATE, _DESTROY, _SWAP, _LIST, _ADD, _DELETE = 2, 3, 6, 7, 9, 10

# Of a message, of a set's header, of an entry.
_PROTOCOL, _SETNAME, _TYPENAME, _REVISION, _FAMILY, _FLAGS, _DATA, _ADT, _LINE, _INDEX = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 11,
)  # fmt: skip
_SETNAME2 = _TYPENAME
_INITVAL, _HASHSIZE, _MAXELEM, _BUCKETSIZE, _ELEMENTS, _REFERENCES, _MEMSIZE = 17, 18, 19, 21, 24, 25, 26
_IP, _CIDR, _PORT, _PORT_TO, _PROTO = 1, 3, 4, 5, 7
_NETWORK_ORDER = 0x4000

_LIST_HEADERS = 4
_NAME_WITHIN = 48
"""Bytes of a listed set by which its name has come."""

_PROTOCOL_VERSION = b"\x07"
_HEADER = general(2) + attr(_PROTOCOL, _PROTOCOL_VERSION)

# The first revisions that have what we use; later kernels take them too.
_TYPES = {
    SetKind.HOSTS: ("hash:ip", 0),
    SetKind.SPANS: ("hash:net", 0),
    SetKind.ENDPOINTS: ("hash:ip,port", 1),
    SetKind.PORTS: ("bitmap:port", 0),
}
_FAMILY_NUMBERS = {0: 0, 4: 2, 6: 10}
_BITS = {4: 32, 6: 128}

_LEAST_HASHSIZE = 64
_MOST_ELEMENTS = 1 << 24
"""A set grows up to this; what it holds is bounded by what the policies say."""

_PLAIN = frozenset(
    {_INITVAL, _HASHSIZE, _MAXELEM, _BUCKETSIZE, _ELEMENTS, _REFERENCES, _MEMSIZE, _PORT, _PORT_TO}
)
"""What a header tells of any set; more (a time-out, a mask) changes what the set means."""


class FoundSet(msgspec.Struct, frozen=True):
    """A set as the kernel has it. header: what else it tells, read when it is asked for: sets are many."""

    index: int
    type: str
    family: int
    header: bytes

    @property
    def plain(self) -> bool:
        """Without options that we never set (timeouts and the like)."""
        return attributes(self.header).keys() <= _PLAIN

    @property
    def size(self) -> int:
        """How many elements it holds."""
        return _number(attributes(self.header).get(_ELEMENTS, b""))

    def like(self, spec: SetSpec) -> bool:
        """Whether it can hold what the spec says, and can be swapped with one that we make."""
        return (self.type, self.family) == (_TYPES[spec.kind][0], _FAMILY_NUMBERS[spec.family])


def type_name(kind: SetKind) -> str:
    """ipset's word for a kind of set: "hash:ip"."""
    return _TYPES[kind][0]


def create(name: str, spec: SetSpec) -> Message:
    """Make an empty set under a name, sized for what it shall hold. Refused when there is one."""
    kind, revision = _TYPES[spec.kind]
    body = (
        attr(_TYPENAME, string(kind))
        + attr(_REVISION, bytes([revision]))
        + attr(_FAMILY, bytes([_FAMILY_NUMBERS[spec.family]]))
        + nest(_DATA, _room(spec))
    )
    return _message(_CREATE, name, body, "create", NLM_F_CREATE | NLM_F_EXCL)


def _room(spec: SetSpec) -> bytes:
    if spec.kind is SetKind.PORTS:
        return _port_range((b"", *ALL_PORTS))
    size = attr(_HASHSIZE | _NETWORK_ORDER, u32(max(_LEAST_HASHSIZE, spec.room, len(spec.elements))))
    return size + attr(_MAXELEM | _NETWORK_ORDER, u32(_MOST_ELEMENTS))


def destroy(name: str) -> Message:
    """Take a set away that no rule refers to."""
    return _message(_DESTROY, name, b"", "destroy")


def swap(name: str, other: str) -> Message:
    """Exchange what two sets of one type hold, at once for all packets; rules keep to the names."""
    return _message(_SWAP, name, attr(_SETNAME2, string(other)), "swap")


def add(name: str, elements: Elements, kind: SetKind, family: int) -> tuple[Message, ...]:
    """Add elements of which the set has none."""
    return _whole(elements, _ADD, name, kind, family)


def remove(name: str, elements: Elements, kind: SetKind, family: int) -> tuple[Message, ...]:
    """Take out elements of which the set has all."""
    return _whole(elements, _DELETE, name, kind, family)


def add_entries(name: str, some: frozenset[Entry]) -> tuple[Message, ...]:
    """Add entries of which the set has none."""
    return _changed(some, _ADD, name)


def list_headers() -> Message:
    """Ask for the headers of all sets."""
    body = _HEADER + attr(_FLAGS | _NETWORK_ORDER, u32(_LIST_HEADERS))
    return Message(SUBSYS_IPSET << 8 | _LIST, 0, body, "list sets")


def list_entries(name: str) -> Message:
    """Ask for a set with all that it holds; refused (ENOENT) where there is none."""
    return _message(_LIST, name, b"", "list")


def _message(command: int, name: str, body: bytes, verb: str, flags: int = 0) -> Message:
    return Message(
        SUBSYS_IPSET << 8 | command,
        flags,
        _HEADER + attr(_SETNAME, string(name)) + body,
        f"{verb} set {name}",
    )


# --- entries ---------------------------------------------------------------------------------------------


def entries(elements: Elements, kind: SetKind, family: int) -> frozenset[Entry]:
    """A set's elements as ipset has them."""
    if kind is SetKind.ENDPOINTS:
        return cast("frozenset[Endpoint]", elements)
    return _entries(elements, kind, family)


@per_object
def _entries(elements: Elements, kind: SetKind, family: int) -> frozenset[Entry]:
    """Remembered: each netns that holds a shared set is compared with it."""
    if kind is SetKind.HOSTS:
        return frozenset((address, 0, 0) for address in cast("frozenset[Address]", elements))
    spans = cast("frozenset[Span]", elements)
    if kind is SetKind.PORTS:
        return frozenset((b"", first, last) for first, last in union(spans))
    return frozenset(_prefixes(spans, _BITS[family]))


@per_object
def size(elements: Elements, kind: SetKind, family: int) -> int:
    """How many elements the kernel counts: of ports each one, of spans the prefixes."""
    if kind is SetKind.PORTS:
        return sum(last - first + 1 for first, last in union(cast("frozenset[Span]", elements)))
    if kind is SetKind.SPANS:
        return sum(prefix_count(span, _BITS[family]) for span in cast("frozenset[Span]", elements))
    return len(elements)


def _prefixes(spans: Iterable[Span], bits: int) -> Iterator[Entry]:
    """The fewest prefixes that make up spans; hash:net knows no /0, so that is two /1."""
    for first, last in spans:
        while first <= last:
            # As large as the start's alignment and the end allow.
            size = min(first & -first or 1 << bits, 1 << (last - first + 1).bit_length() - 1, 1 << bits - 1)
            yield first.to_bytes(bits // 8, "big"), bits - size.bit_length() + 1, 0
            first += size


@per_object
def _whole(elements: Elements, command: int, name: str, kind: SetKind, family: int) -> tuple[Message, ...]:
    """Remembered: the same change in 250 netns is encoded once."""
    return _changed(entries(elements, kind, family), command, name)


def _changed(some: frozenset[Entry], command: int, name: str) -> tuple[Message, ...]:
    """Messages that hold as many entries as fit, numbered, so that ipset can say which one it refuses.

    With EXCL it refuses what is there already, or is not: then our model of the set is wrong.
    """
    verb = "add to" if command == _ADD else "remove from"
    encode = _encoder(next(iter(some), None))
    numbered = (encode(entry, line) for line, entry in enumerate(sorted(some), 1))
    return tuple(
        _message(command, name, attr(_LINE | _NETWORK_ORDER, bytes(4)) + nest(_ADT, piece), verb, NLM_F_EXCL)
        for piece in chunks(numbered)
    )


def _encoder(kind: Entry | None) -> Callable[[Entry, int], bytes]:
    if kind is not None and not kind[0]:
        return _ports
    if kind is None or not any(kind[1:]):
        return _host
    return _endpoint if kind[2] else _prefix


def _address(packed: Address) -> bytes:
    kind = 1 if len(packed) == 4 else 2
    return nest(_IP, attr(kind | _NETWORK_ORDER, packed))


def _line(number: int) -> bytes:
    return attr(_LINE | _NETWORK_ORDER, u32(number))


def _host(entry: Entry, line: int) -> bytes:
    return nest(_DATA, _address(entry[0]), _line(line))


def _prefix(entry: Entry, line: int) -> bytes:
    return nest(_DATA, _address(entry[0]), attr(_CIDR, bytes([entry[1]])), _line(line))


def _endpoint(entry: Entry, line: int) -> bytes:
    address, protocol, port = entry
    port_bytes = attr(_PORT | _NETWORK_ORDER, port.to_bytes(2, "big"))
    return nest(_DATA, _address(address), attr(_PROTO, bytes([protocol])), port_bytes, _line(line))


def _ports(entry: Entry, line: int) -> bytes:
    return nest(_DATA, _port_range(entry), _line(line))


def _port_range(entry: Entry) -> bytes:
    _, first, last = entry
    to = attr(_PORT_TO | _NETWORK_ORDER, last.to_bytes(2, "big"))
    return attr(_PORT | _NETWORK_ORDER, first.to_bytes(2, "big")) + to


# --- listings --------------------------------------------------------------------------------------------


def found_sets(bodies: Iterable[bytes], prefix: str) -> dict[str, FoundSet]:
    """The sets with a prefix that a listing of headers tells of. DataplaneError: not what we need to know."""
    found = {}
    start = prefix.encode()
    for body in bodies:
        # A pod can have tens of thousands of others: only ours are worth decoding.
        if start not in body[:_NAME_WITHIN]:
            continue
        of = attributes(body)
        if _TYPENAME not in of or not of[_SETNAME].startswith(start):
            continue
        if _INDEX not in of:
            raise DataplaneError("this kernel does not tell the numbers of ipsets: 4.20 and later do")
        found[_text(of[_SETNAME])] = FoundSet(
            index=_number(of[_INDEX]),
            type=_text(of[_TYPENAME]),
            family=_number(of[_FAMILY]),
            header=of.get(_DATA, b""),
        )
    return found


def listed(elements: Elements, kind: SetKind, family: int) -> Iterator[bytes]:
    """Elements as a listing has them (`raw_entries`), worked out as they are asked for."""
    if kind is SetKind.PORTS:
        for first, last in union(cast("frozenset[Span]", elements)):
            yield from (_listed_port(port) for port in range(first, last + 1))
        return
    some: Iterable[Entry]
    if kind is SetKind.SPANS:
        some = _prefixes(cast("frozenset[Span]", elements), _BITS[family])
    else:
        some = entries(elements, kind, family)
    for address, second, third in some:
        found = _listed_address(address)
        if kind is SetKind.SPANS:
            found += attr(_CIDR, bytes([second]))
        elif kind is SetKind.ENDPOINTS:
            found += _listed_port(third) + attr(_PROTO, bytes([second]))
        yield found


def _listed_address(packed: Address) -> bytes:
    return nest(_IP, attr(1 if len(packed) == 4 else 2, packed))


def _listed_port(port: int) -> bytes:
    return attr(_PORT | _NETWORK_ORDER, port.to_bytes(2, "big"))


def raw_entries(body: bytes) -> list[bytes]:
    """The entries in a part of a set's listing, as bytes."""
    return [entry for _, entry in attribute_list(attributes(body).get(_ADT, b""))]


def decoded(entry: bytes) -> Entry | None:
    """What an entry of a listing says, however it is put; None: it is none of ours (a `nomatch`, say)."""
    return _found_entry(attributes(entry))


def found_entries(bodies: Iterable[bytes]) -> frozenset[Entry | None]:
    """What a set holds, by its listing; None among it: an entry that is none of ours (a `nomatch`, say)."""
    found = {decoded(entry) for body in bodies for entry in raw_entries(body)}
    # Ports are listed one by one.
    ports = {entry for entry in found if entry is not None and not entry[0]}
    spans = union((first, last) for _, first, last in ports)
    return frozenset((found - ports) | {(b"", first, last) for first, last in spans})


def _found_entry(of: dict[int, bytes]) -> Entry | None:
    if of.keys() in ({_PORT}, {_PORT, _PORT_TO}):
        first = _number(of[_PORT])
        return b"", first, _number(of.get(_PORT_TO, of[_PORT]))
    if of.keys() - {_IP, _CIDR, _PORT, _PROTO} or _IP not in of:
        return None
    ((_, address),) = attribute_list(of[_IP])
    if _PORT in of:
        return address, _number(of.get(_PROTO, b"")), _number(of[_PORT])
    return address, _number(of.get(_CIDR, b"")), 0


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
