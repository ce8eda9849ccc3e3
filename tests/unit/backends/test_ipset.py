"""ipset's messages byte for byte, spans as prefixes, and listings read back."""

import itertools
import random
import struct
from ipaddress import IPv4Address, IPv6Address, ip_network, summarize_address_range
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends import ipset
from daemon.backends.ipset import Entry, FoundSet
from daemon.backends.nfnetlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    chunks,
    error_text,
    nest,
)
from daemon.model import Span
from daemon.netlink import attr, attribute_list, attributes
from daemon.planner import Elements, SetKind, SetSpec

TCP = 6
V4, V6 = bytes([10, 1, 0, 1]), bytes([0xFD, *range(15)])
ENDS = {4: 2**32 - 1, 6: 2**128 - 1}
NET_ORDER = 0x4000


def spec(kind: SetKind, family: int, *elements: object) -> SetSpec:
    return SetSpec("s", kind, family, frozenset(elements), "")  # type: ignore[arg-type]


# --- spans ----------------------------------------------------------------------------------------------


def networks(spans: frozenset[Span], family: int) -> set[str]:
    """What hash:net would hold, in ipaddress' words."""
    found = ipset.entries(spans, SetKind.SPANS, family)
    return {str(ip_network((address, length))) for address, length, _ in found}


def spans_of(family: int) -> st.SearchStrategy[Span]:
    last = ENDS[family]
    ends = st.one_of(
        st.integers(0, last),
        st.sampled_from([0, 1, last - 1, last]),
        # Near powers of two, where alignment decides.
        st.builds(
            lambda bit, off: min(max((1 << bit) + off, 0), last),
            st.integers(0, last.bit_length() - 1),
            st.integers(-2, 2),
        ),
    )
    return st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))


@pytest.mark.parametrize("family", [4, 6])
@given(draw=st.data())
def test_spans_are_the_prefixes_that_ipaddress_finds(family: int, draw: st.DataObject) -> None:
    first, last = span = draw.draw(spans_of(family))
    make = IPv4Address if family == 4 else IPv6Address
    expected = {str(net) for net in summarize_address_range(make(first), make(last))}
    if span == (0, ENDS[family]):
        expected = {"0.0.0.0/1", "128.0.0.0/1"} if family == 4 else {"::/1", "8000::/1"}
    assert networks(frozenset({span}), family) == expected


@pytest.mark.parametrize(
    ("family", "spans", "expected"),
    [
        (4, {(0, ENDS[4])}, {"0.0.0.0/1", "128.0.0.0/1"}),
        (6, {(0, ENDS[6])}, {"::/1", "8000::/1"}),
        (4, {(5, 5)}, {"0.0.0.5/32"}),
        (4, {(ENDS[4], ENDS[4])}, {"255.255.255.255/32"}),
        (4, {(0, 0)}, {"0.0.0.0/32"}),
        (4, {(1, 6)}, {"0.0.0.1/32", "0.0.0.2/31", "0.0.0.4/31", "0.0.0.6/32"}),
        (4, {(0, 1), (256, 511)}, {"0.0.0.0/31", "0.0.1.0/24"}),
        (6, {(1, 2)}, {"::1/128", "::2/128"}),
        (4, set(), set()),
    ],
)
def test_some_spans(family: int, spans: set[Span], expected: set[str]) -> None:
    assert networks(frozenset(spans), family) == expected


# --- messages -------------------------------------------------------------------------------------------


def spelled(message: Message) -> str:
    return f"{message.type:#06x} {message.flags:#06x} {message.subject}: {message.body.hex(' ', 4)}"


(ADDED,) = ipset.add("MNP-s", frozenset({V4}), SetKind.HOSTS, 4)
(REMOVED,) = ipset.remove("MNP-s", frozenset({(0, ENDS[4])}), SetKind.SPANS, 4)
(ENDPOINT,) = ipset.add("MNP-s", frozenset({(V6, TCP, 8080)}), SetKind.ENDPOINTS, 6)

# Type, flags; nfgenmsg, protocol 7, the set's name; then what the command takes. Each was taken by a kernel.
GOLDEN = [
    (
        ipset.create("MNP-s", spec(SetKind.ENDPOINTS, 6)),
        "0x0602 0x0600 create set MNP-s: "
        "02000000 05000100 07000000 0a000200 4d4e502d 73000000 11000300 68617368 3a69702c 706f7274 00000000 "
        "05000400 01000000 05000500 0a000000 14000780 08001240 00000040 08001340 01000000",
    ),
    (
        ADDED,
        "0x0609 0x0200 add to set MNP-s: "
        "02000000 05000100 07000000 0a000200 4d4e502d 73000000 08000940 00000000 1c000880 18000780 0c000180 "
        "08000140 0a010001 08000940 00000001",
    ),
    (
        REMOVED,
        "0x060a 0x0200 remove from set MNP-s: "
        "02000000 05000100 07000000 0a000200 4d4e502d 73000000 08000940 00000000 44000880 20000780 0c000180 "
        "08000140 00000000 05000300 01000000 08000940 00000001 20000780 0c000180 08000140 80000000 05000300 "
        "01000000 08000940 00000002",
    ),
    (
        ENDPOINT,
        "0x0609 0x0200 add to set MNP-s: "
        "02000000 05000100 07000000 0a000200 4d4e502d 73000000 08000940 00000000 38000880 34000780 18000180 "
        "14000240 fd000102 03040506 0708090a 0b0c0d0e 05000700 06000000 06000440 1f900000 08000940 00000001",
    ),
    (
        ipset.swap("MNP-s-new", "MNP-s"),
        "0x0606 0x0000 swap set MNP-s-new: "
        "02000000 05000100 07000000 0e000200 4d4e502d 732d6e65 77000000 0a000300 4d4e502d 73000000",
    ),
    (
        ipset.destroy("MNP-s"),
        "0x0603 0x0000 destroy set MNP-s: 02000000 05000100 07000000 0a000200 4d4e502d 73000000",
    ),
    (ipset.list_headers(), "0x0607 0x0000 list sets: 02000000 05000100 07000000 08000640 00000004"),
    (
        ipset.list_entries("MNP-s"),
        "0x0607 0x0000 list set MNP-s: 02000000 05000100 07000000 0a000200 4d4e502d 73000000",
    ),
]


@pytest.mark.parametrize(("message", "expected"), GOLDEN, ids=lambda v: getattr(v, "subject", ""))
def test_golden(message: Message, expected: str) -> None:
    assert spelled(message) == expected


@pytest.mark.parametrize(("held", "hashsize"), [(0, 64), (64, 64), (65, 65), (5000, 5000)])
def test_a_set_is_made_for_what_it_shall_hold(held: int, hashsize: int) -> None:
    """Else the kernel doubles it while it is filled."""
    hosts = frozenset(number.to_bytes(4, "big") for number in range(held))
    message = ipset.create("MNP-s", SetSpec("s", SetKind.HOSTS, 4, hosts, ""))
    sizes = attributes(attributes(message.body, 4)[7])
    assert struct.unpack(">I", sizes[18]) == (hashsize,)
    assert message.flags == NLM_F_CREATE | NLM_F_EXCL


def entries_in(messages: tuple[Message, ...]) -> list[bytes]:
    return [entry for m in messages for _, entry in attribute_list(attributes(m.body, 4)[8])]


def test_entries_are_numbered_from_one_on_over_all_messages() -> None:
    """The number is what a refusal names; ipset tells it in the message that it sends back."""
    hosts = frozenset(number.to_bytes(4, "big") for number in range(1, 5001))
    messages = ipset.add("MNP-s", hosts, SetKind.HOSTS, 4)
    assert len(messages) > 1
    assert all(len(message.body) < 1 << 16 for message in messages)
    found = [attributes(entry) for entry in entries_in(messages)]
    assert [struct.unpack(">I", of[9])[0] for of in found] == list(range(1, 5001))
    assert [attributes(of[1])[1] for of in found] == sorted(hosts)


def test_nothing_to_add_is_no_message() -> None:
    assert ipset.add("MNP-s", frozenset(), SetKind.HOSTS, 4) == ()
    assert ipset.add_entries("MNP-s", frozenset()) == ()


@pytest.mark.parametrize(
    ("number", "words"),
    [(4100, "in use"), (4103, "there already"), (4352, "full"), (2, "No such file"), (4999, "4999")],
)
def test_errors_of_ipset_in_words(number: int, words: str) -> None:
    assert words in error_text(number)


# --- listings -------------------------------------------------------------------------------------------

ports = st.integers(1, 65535)


def elements_of(kind: SetKind, family: int) -> st.SearchStrategy[Any]:
    length = 4 if family == 4 else 16
    addresses = st.binary(min_size=length, max_size=length)
    if kind is SetKind.SPANS:
        return spans_of(family)
    if kind is SetKind.PORTS:
        # As they come out of a listing: not adjacent.
        return st.integers(0, 6000).map(lambda number: (10 * number, 10 * number + number % 9))
    return addresses if kind is SetKind.HOSTS else st.tuples(addresses, st.sampled_from([6, 17, 132]), ports)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", list(SetKind))
@given(draw=st.data())
def test_what_is_added_reads_back(kind: SetKind, family: int, draw: st.DataObject) -> None:
    """A listing has the entries in the form in which they were added, but for the line numbers."""
    elements: Elements = draw.draw(st.frozensets(elements_of(kind, family), max_size=20))
    sent = entries_in(ipset.add("MNP-s", elements, kind, family))
    listed = [nest(7, _without_line(entry)) for entry in sent]
    bodies = [nest(8, piece) for piece in chunks(iter(listed))]
    assert ipset.found_entries(bodies) == ipset.entries(elements, kind, family)


def _without_line(entry: bytes) -> bytes:
    kept = entry[: -len(attr(9 | NET_ORDER, bytes(4)))]
    assert 9 not in attributes(kept)
    return kept


def listed_entry(*extra: bytes) -> bytes:
    return nest(8, nest(7, nest(1, attr(1 | NET_ORDER, V4)), *extra))


def test_entries_of_others_are_none_of_ours() -> None:
    """A nomatch, a time-out: an entry that means something else than its address."""
    plain: Entry = (V4, 0, 0)
    assert ipset.found_entries([listed_entry()]) == {plain}
    assert ipset.found_entries([listed_entry(attr(8 | NET_ORDER, bytes(4)))]) == {None}
    assert ipset.found_entries([listed_entry(attr(6 | NET_ORDER, bytes(4)))]) == {None}
    assert ipset.found_entries([nest(8, nest(7, attr(3, b"\x20")))]) == {None}


def header(name: str, kind: str, family: int, *options: int) -> bytes:
    sizes = b"".join(attr(option | NET_ORDER, bytes(4)) for option in (18, 19, 25, 26, *options))
    return (
        attr(1, b"\x07")
        + attr(2, name.encode() + b"\0")
        + attr(3, kind.encode() + b"\0")
        + attr(4, b"\x05")
        + attr(5, bytes([family]))
        + nest(7, sizes)
        + attr(11 | NET_ORDER, b"\x01\x02")
    )


def test_headers_read_back() -> None:
    bodies = [header("MNP-a", "hash:ip", 2), header("MNP-b", "hash:net", 10, 6), header("c", "hash:ip", 2)]
    found = ipset.found_sets([*bodies, attr(1, b"\x07")], "MNP-")
    assert {name: (one.index, one.type, one.family, one.plain, one.size) for name, one in found.items()} == {
        "MNP-a": (258, "hash:ip", 2, True, 0),
        "MNP-b": (258, "hash:net", 10, False, 0),
    }


@pytest.mark.parametrize("kind", list(SetKind))
@pytest.mark.parametrize("family", [4, 6])
def test_a_set_is_like_those_of_its_kind_and_family_alone(kind: SetKind, family: int) -> None:
    own = FoundSet(1, ipset.type_name(kind), {4: 2, 6: 10}[family], header=b"")
    likes = [(k, f) for k in SetKind for f in (4, 6) if own.like(spec(k, f))]
    assert likes == [(kind, family)]


@pytest.mark.parametrize("family", [4, 6])
def test_how_many_entries_a_set_has_is_known_without_making_them(family: int) -> None:
    dice, last = random.Random(family), 2 ** (32 if family == 4 else 128) - 1
    edges = [
        0,
        1,
        127,
        128,
        last // 2,
        last // 2 + 1,
        last - 1,
        last,
        *(dice.randint(0, last) for _ in range(200)),
    ]
    for first, second in itertools.product(edges, repeat=2):
        spans = frozenset({(min(first, second), max(first, second))})
        made = ipset.entries(spans, SetKind.SPANS, family)
        assert ipset.size(spans, SetKind.SPANS, family) == len(made), spans
