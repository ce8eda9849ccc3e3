"""nf_tables' messages about our table: tables, chains, sets, elements, objects, rules. Pure.

In: names, specs and expressions. Out: `Message`s, each with what it is about in words, for errors and
golden tests. Comments are userdata in nft's own format, so that `nft list` shows them.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import cast

from daemon.backends.nfnetlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    SUBSYS_NFTABLES,
    Message,
    chunks,
    general,
    nest,
    string,
    u32,
)
from daemon.backends.nftexpr import TABLE_FAMILY
from daemon.memo import per_object
from daemon.model import Address, Span
from daemon.netlink import attr
from daemon.planner import Elements, SetKind
from daemon.policy.ruleset import Endpoint

TABLE = "multi-networkpolicy"

_NEWTABLE, _DELTABLE = 0, 2
_NEWCHAIN, _DELCHAIN = 3, 5
_NEWRULE, _DELRULE = 6, 8
_NEWSET, _DELSET = 9, 11
_NEWELEMENT, _DELELEMENT = 12, 14
_NEWOBJECT, _DELOBJECT = 18, 20

_ATTRIBUTE_HEADER = 4
_SET_ANONYMOUS = 0x1
_SET_CONSTANT = 0x2
_SET_INTERVAL = 0x4
_SET_CONCAT = 0x80

_ELEMENT_INTERVAL_END = 1
_COUNTER = 1
_ACCEPT = 1

# nft's own numbers for types: only nft reads them, to list a set as people write it.
_TYPE_ADDRESS = {4: 7, 6: 8}
_TYPE_PROTOCOL = 12
_TYPE_SERVICE = 13
_TYPE_ICMPV6 = 29
_TYPE_BITS = 6

ADDRESS_BYTES = {4: 4, 6: 16}
_PORT_BYTES = 2

ANONYMOUS = "__set%d"
"""The kernel replaces %d by a number."""

_HEADER = general(TABLE_FAMILY)
_IN_TABLE = _HEADER + attr(1, string(TABLE))


def _message(kind: int, body: bytes, subject: str, flags: int = 0) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, flags, body, subject)


def _comment(kind: int, comment: str) -> bytes:
    """nft's type-length-value for a comment; `comment` has MAX_COMMENT bytes at most."""
    value = string(comment)
    return bytes([kind, len(value)]) + value


# --- table, chains, counters -----------------------------------------------------------------------------


def new_table(comment: str) -> Message:
    """Make the table, or leave it as it is."""
    return _message(_NEWTABLE, _IN_TABLE + attr(6, _comment(0, comment)), "add table", NLM_F_CREATE)


def wake_table() -> Message:
    """Take away the table's flags; refused where somebody owns it."""
    return _message(_NEWTABLE, _IN_TABLE + attr(2, u32(0)), "wake table", NLM_F_CREATE)


def delete_table() -> Message:
    """Take the table and all in it away."""
    return _message(_DELTABLE, _IN_TABLE, "delete table")


def base_chain(name: str, hook: int, priority: int) -> Message:
    """Make a filter chain at a hook with policy accept, or leave it as it is."""
    at = nest(4, attr(1, u32(hook)), attr(2, u32(priority & 0xFFFFFFFF)))
    body = _IN_TABLE + attr(3, string(name)) + at + attr(5, u32(_ACCEPT)) + attr(7, string("filter"))
    return _message(_NEWCHAIN, body, f"add base chain {name}", NLM_F_CREATE)


def new_chain(name: str, comment: str) -> Message:
    """Make a chain, or leave it as it is."""
    body = _IN_TABLE + attr(3, string(name)) + attr(12, _comment(0, comment))
    return _message(_NEWCHAIN, body, f"add chain {name}", NLM_F_CREATE)


def delete_chain(name: str) -> Message:
    """Take away a chain that no rule refers to."""
    return _message(_DELCHAIN, _IN_TABLE + attr(3, string(name)), f"delete chain {name}")


def new_counter(name: str) -> Message:
    """Make a named counter at 0."""
    zero = nest(4, attr(1, bytes(8)), attr(2, bytes(8)))
    body = _IN_TABLE + attr(2, string(name)) + attr(3, u32(_COUNTER)) + zero
    return _message(_NEWOBJECT, body, f"add counter {name}", NLM_F_CREATE)


def delete_counter(name: str) -> Message:
    """Take away a counter that no rule refers to."""
    body = _IN_TABLE + attr(2, string(name)) + attr(3, u32(_COUNTER))
    return _message(_DELOBJECT, body, f"delete counter {name}")


# --- rules -----------------------------------------------------------------------------------------------


def flush_rules(chain: str | None) -> Message:
    """Take all rules out of a chain; None: of the whole table."""
    if chain is None:
        return _message(_DELRULE, _IN_TABLE, "flush all rules")
    return _message(_DELRULE, _IN_TABLE + attr(2, string(chain)), f"flush chain {chain}")


def new_rule(chain: str, expressions: bytes, comment: str, subject: str) -> Message:
    """Append a rule. comment "": none."""
    body = _IN_TABLE + attr(2, string(chain)) + nest(4, expressions)
    if comment:
        body += attr(7, _comment(0, comment))
    return _message(_NEWRULE, body, f"add rule to {chain}: {subject}", NLM_F_CREATE | NLM_F_APPEND)


# --- sets ------------------------------------------------------------------------------------------------


def set_key(kind: SetKind, family: int) -> tuple[int, int, int]:
    """(nft's key type, key bytes, flags) of a named set.

    What decides whether one found is of the right kind.
    """
    if kind is SetKind.ENDPOINTS:
        types = (_TYPE_ADDRESS[family] << _TYPE_BITS | _TYPE_PROTOCOL) << _TYPE_BITS | _TYPE_SERVICE
        return types, ADDRESS_BYTES[family] + 8, _SET_CONCAT
    if kind is SetKind.PORTS:
        return _TYPE_SERVICE, _PORT_BYTES, _SET_INTERVAL
    flags = _SET_INTERVAL if kind is SetKind.SPANS else 0
    return _TYPE_ADDRESS[family], ADDRESS_BYTES[family], flags


def new_set(name: str, kind: SetKind, family: int, comment: str, set_id: int) -> Message:
    """Make a named set; set_id: unique in the batch."""
    key_type, length, flags = set_key(kind, family)
    body = (
        _IN_TABLE
        + attr(2, string(name))
        + attr(3, u32(flags))
        + attr(4, u32(key_type))
        + attr(5, u32(length))
    )
    if kind is SetKind.ENDPOINTS:
        body += nest(9, _fields(ADDRESS_BYTES[family], 1, 2))
    body += attr(10, u32(set_id)) + attr(13, _comment(7, comment))
    return _message(_NEWSET, body, f"add set {name}", NLM_F_CREATE)


def _fields(*lengths: int) -> bytes:
    return nest(2, *(nest(1, attr(1, u32(length))) for length in lengths))


def delete_set(name: str) -> Message:
    """Take away a set that no rule refers to."""
    return _message(_DELSET, _IN_TABLE + attr(2, string(name)), f"delete set {name}")


def flush_set(name: str) -> Message:
    """Take all elements out of a set."""
    return _message(_DELELEMENT, _IN_TABLE + attr(2, string(name)), f"flush set {name}")


def anonymous_icmpv6_types(types: Iterable[bytes], set_id: int) -> list[Message]:
    """A constant set for one rule of the same batch."""
    filled = [_element(one) for one in types]
    flags = attr(3, u32(_SET_ANONYMOUS | _SET_CONSTANT))
    body = _IN_TABLE + attr(2, string(ANONYMOUS)) + flags + attr(4, u32(_TYPE_ICMPV6)) + attr(5, u32(1))
    # The number of elements lets the kernel choose the set's form.
    body += attr(10, u32(set_id)) + nest(9, attr(1, u32(len(filled))))
    to = _IN_TABLE + attr(2, string(ANONYMOUS)) + attr(4, u32(set_id))
    return [
        _message(_NEWSET, body, "add anonymous set", NLM_F_CREATE),
        _message(
            _NEWELEMENT, to + nest(3, b"".join(filled)), "add elements to an anonymous set", NLM_F_CREATE
        ),
    ]


# --- elements --------------------------------------------------------------------------------------------


@per_object
def elements(members: Elements, name: str, kind: SetKind, family: int, delete: bool) -> tuple[Message, ...]:
    """Add or delete elements of a named set. The same change in 250 netns is encoded once."""
    encoded = encode(kind, family, members)
    to = _IN_TABLE + attr(2, string(name))
    if delete:
        subject = f"delete elements from set {name}"
        return tuple(_message(_DELELEMENT, to + nest(3, piece), subject) for piece in chunks(encoded))
    subject = f"add elements to set {name}"
    return tuple(
        _message(_NEWELEMENT, to + nest(3, piece), subject, NLM_F_CREATE) for piece in chunks(encoded)
    )


def encode(kind: SetKind, family: int, members: Elements) -> list[bytes]:
    """Elements as they are sent; one of an interval set is two."""
    # Sorted, so that a batch is the same bytes in every process.
    if kind is SetKind.SPANS or kind is SetKind.PORTS:
        length = _PORT_BYTES if kind is SetKind.PORTS else ADDRESS_BYTES[family]
        return [_span_element(span, length) for span in sorted(cast("frozenset[Span]", members))]
    if kind is SetKind.HOSTS:
        prefix = _element(bytes(ADDRESS_BYTES[family]))[: -ADDRESS_BYTES[family]]
        return [prefix + address for address in sorted(cast("frozenset[Address]", members))]
    endpoints = sorted(cast("frozenset[Endpoint]", members))
    return [
        _element(_concatenated(a, bytes([protocol]), port.to_bytes(2, "big")))
        for a, protocol, port in endpoints
    ]


def _element(key: bytes) -> bytes:
    return nest(1, nest(1, attr(1, key)))


def _span_element(span: Span, length: int) -> bytes:
    """An interval is two elements.

    Where it starts, and the first key after it, unless it ends with the last key.
    """
    first, after = span[0], span[1] + 1
    head, padding, end_head, end_tail = _span_frame(length)
    start = head + first.to_bytes(length, "big") + padding
    if after >> 8 * length:
        return start
    return start + end_head + after.to_bytes(length, "big") + end_tail


@lru_cache
def _span_frame(length: int) -> tuple[bytes, bytes, bytes, bytes]:
    """What stands around the keys of an interval's two elements: made once, for there may be millions."""
    key = bytes(length)
    start = _element(key)
    end = nest(1, nest(1, attr(1, key)), attr(3, u32(_ELEMENT_INTERVAL_END)))
    at = 3 * _ATTRIBUTE_HEADER
    return start[:at], start[at + length :], end[:at], end[at + length :]


def _concatenated(*fields: bytes) -> bytes:
    """Each field starts at a register, so it is padded to 4 bytes."""
    return b"".join(field + b"\0" * (-len(field) % 4) for field in fields)
