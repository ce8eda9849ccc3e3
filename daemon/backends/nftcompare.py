"""What of ours in the current netns is not as a program says.

In: a netfilter socket, a program. Out: differences in words. It changes nothing, and pauses (slices.py): the
kernel lists a large set piece by piece, each of which takes it up to 10 ms, and a tenant may have many.
"""

import errno
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple, TypeAlias, cast

import msgspec

from daemon.backends import nftmessages as nft
from daemon.backends.nfnetlink import NLA_F_NESTED, SUBSYS_NFTABLES, Message, string, u32
from daemon.backends.nfsocket import NetfilterSocket
from daemon.backends.nftread import (
    ANONYMOUS_FLAG,
    comment_of,
    found_set,
    get,
    hook_of,
    number,
    read,
    read_sets,
    text,
)
from daemon.backends.nftrender import Found, render
from daemon.backends.shape import shown
from daemon.errors import OversizeError, TransactionError
from daemon.netlink import NLA_TYPE_MASK, attr, attribute_list, attributes, raw_attributes
from daemon.planner import Elements, Program, SetSpec, make_plan
from daemon.slices import Pausing

_GETRULE, _GETELEMENT = 7, 13
_NEWCHAIN, _NEWRULE, _NEWSET, _NEWELEMENT = 3, 6, 9, 12
_LOOKUP_SET, _LOOKUP_SET_ID = 1, 4
_DORMANT_FLAG = 1
_SPARE_BYTES = 1 << 16
"""Of a listing of ours, beyond what it needs: a few more are told by number."""
_MOST_ELEMENT_BYTES = 200
"""That one element of ours takes in a listing."""
_ELEMENTS_AT_ONCE, _RULES_AT_ONCE = 5000, 100

_Element: TypeAlias = tuple[bytes, bytes, bytes]
_LENGTH = struct.Struct("=H")


def differences(sock: NetfilterSocket, program: Program) -> Pausing[str]:
    """The first few things of ours that are not as `program` says, for people; "": all is as it shall be.

    The program is rendered from scratch and each rule and element of it looked for in what the kernel
    lists. Values that the kernel adds to what it was given (handles, counts) do not matter.
    """
    found = read(sock)
    if not found.table:
        return f"table {nft.TABLE} is missing"
    empty = {name: msgspec.structs.replace(spec, elements=frozenset()) for name, spec in program.sets.items()}
    wanted = render(make_plan(msgspec.structs.replace(program, sets=empty), None))
    yield
    lists: list[_List] = []
    said = [*_flag_differences(found.flags), *_name_differences(found, wanted)]
    said += yield from _rule_differences(sock, wanted, lists)
    for spec in program.sets.values():
        said += yield from _element_differences(sock, spec)
    said += yield from _list_differences(sock, wanted, lists)
    return shown(said)


class _List(NamedTuple):
    """A set without a name of its own, in a rule. listed: the kernel's name for it; set_id: ours."""

    chain: str
    listed: str
    set_id: int


def _flag_differences(flags: int) -> Iterator[str]:
    if flags & _DORMANT_FLAG:
        yield f"table {nft.TABLE} is dormant"
    elif flags:
        # Such a table goes when its owner closes a socket, and no generation tells.
        yield f"table {nft.TABLE} belongs to somebody"


def _of(wanted: list[Message], kind: int) -> Iterator[dict[int, bytes]]:
    return (attributes(m.body, 4) for m in wanted if m.type == SUBSYS_NFTABLES << 8 | kind)


def _name_differences(found: Found, wanted: list[Message]) -> Iterator[str]:
    chains = {text(c[3]): (comment_of(c.get(12, b"")), hook_of(c)) for c in _of(wanted, _NEWCHAIN)}
    sets = {text(s[2]): found_set(s) for s in _of(wanted, _NEWSET) if not number(s[3]) & ANONYMOUS_FLAG}
    there = {name: (comment, found.hooks.get(name)) for name, comment in found.chains.items()}
    yield from _unlike("chain", there, chains)
    yield from _unlike("set", found.sets, sets)


def _unlike(what: str, there: Mapping[str, object], shall: Mapping[str, object]) -> Iterator[str]:
    for name in sorted(there.keys() | shall.keys()):
        if name not in there:
            yield f"{what} {name} is missing"
        elif name not in shall:
            yield f"{what} {name} is not ours"
        elif there[name] != shall[name]:
            yield f"{what} {name} is another one"


def _rule_differences(sock: NetfilterSocket, wanted: list[Message], lists: list[_List]) -> Pausing[list[str]]:
    """What differs in rules; those lists that they look up, and should, are added to `lists`."""
    there: dict[str, list[bytes]] = {}
    most = _SPARE_BYTES + 4 * sum(len(m.body) for m in wanted)
    try:
        bodies = yield from sock.dumping(get(_GETRULE, attr(1, string(nft.TABLE)), "read rules"), most)
    except OversizeError:
        return [f"table {nft.TABLE} has far more rules than ours"]
    said: list[str] = []
    for rule in map(attributes, bodies):
        there.setdefault(text(rule[2]), []).append(rule.get(4, b""))
    shall: dict[str, list[bytes]] = {}
    for rule in _of(wanted, _NEWRULE):
        shall.setdefault(text(rule[2]), []).append(rule[4])
    for chain in sorted(there.keys() | shall.keys()):
        left, right = there.get(chain, []), shall.get(chain, [])
        if len(left) != len(right):
            said.append(f"chain {chain} has {len(left)} rules instead of {len(right)}")
        for place, (actual, expected) in enumerate(zip(left, right, strict=False), 1):
            if same_expressions(actual, expected):
                lists += _lists(chain, actual, expected)
            else:
                said.append(f"rule {place} of chain {chain} is another one")
            if place % _RULES_AT_ONCE == 0:
                yield
    return said


def _lists(chain: str, actual: bytes, expected: bytes) -> Iterator[_List]:
    """The sets without a name that a rule looks up."""
    for (_, there), (_, shall) in zip(attribute_list(actual), attribute_list(expected), strict=True):
        if string(nft.ANONYMOUS) in shall:
            listed, sent = (attributes(attributes(of)[2]) for of in (there, shall))
            yield _List(chain, text(listed[_LOOKUP_SET]), number(sent[_LOOKUP_SET_ID]))


def same_expressions(actual: bytes, expected: bytes) -> bool:
    """Lists of expressions, each of which is as expected."""
    left, right = raw_attributes(actual), raw_attributes(expected)
    return len(left) == len(right) and all(_covers(a, e) for (_, a), (_, e) in zip(left, right, strict=True))


def _covers(actual: bytes, expected: bytes) -> bool:
    """Whether each attribute that was sent is in what is listed, and what the kernel adds is nothing: 0."""
    there = {kind & NLA_TYPE_MASK: value for kind, value in raw_attributes(actual)}
    for kind, value in raw_attributes(expected):
        listed = there.pop(kind & NLA_TYPE_MASK, None)
        if listed is None:
            # An anonymous set's number is not listed: the set has a name of its own by then.
            if kind == _LOOKUP_SET_ID and string(nft.ANONYMOUS) in expected:
                continue
            return False
        if kind & NLA_F_NESTED:
            # A counter that was sent without values.
            if value and not _covers(listed, value):
                return False
        elif listed != value and not (value == string(nft.ANONYMOUS) and listed.startswith(b"__set")):
            return False
    # As `!=` in the place of `==`: a look-up's flags, which are not sent where there are none.
    return not any(any(value) for value in there.values())


# --- elements --------------------------------------------------------------------------------------------


def _element_differences(sock: NetfilterSocket, spec: SetSpec) -> Pausing[list[str]]:
    try:
        actual = yield from _read_elements(sock, spec.name, 2 * len(spec.elements))
    except OversizeError:
        return [f"set {spec.name} has far more elements than {len(spec.elements)}"]
    expected = yield from _expected(spec)
    missing, more = yield from _unlike_elements(actual, expected)
    return [f"set {spec.name}: {missing} elements missing, {more} too many"] if missing or more else []


def _expected(spec: SetSpec) -> Pausing[set[bytes]]:
    """What a set shall hold, as the kernel lists it."""
    found: set[bytes] = set()
    left = iter(spec.elements)
    while some := cast("Elements", frozenset(islice(left, _ELEMENTS_AT_ONCE))):
        found.update(_as_listed(b"".join(nft.encode(spec.kind, spec.family, some))))
        yield
    return found


def _read_elements(sock: NetfilterSocket, name: str, most: int) -> Pausing[set[bytes]]:
    """What a set holds; nothing where there is none."""
    at = attr(1, string(nft.TABLE)) + attr(2, string(name))
    request = get(_GETELEMENT, at, f"read {name}")
    try:
        bodies = yield from sock.dumping(request, _SPARE_BYTES + most * _MOST_ELEMENT_BYTES)
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return set()
    found: set[bytes] = set()
    for body in bodies:
        found.update(_elements(attributes(body).get(3, b"")))
        yield
    return found


def _elements(listed: bytes) -> Iterator[bytes]:
    """Each element of a list as bytes: to decode 50,000 of them takes a second, to compare them 30 ms."""
    at = 0
    while at + 4 <= len(listed):
        (length,) = _LENGTH.unpack_from(listed, at)
        yield listed[at + 4 : at + length]
        at += max(4, length + 3 & ~3)


def _as_listed(sent: bytes) -> Iterator[bytes]:
    """Elements that are sent as the kernel lists them: it marks no attribute as nested."""
    return (one[:3] + b"\0" + one[4:] for one in _elements(sent))


def _unlike_elements(actual: set[bytes], expected: set[bytes]) -> Pausing[tuple[int, int]]:
    """How many are missing, and how many too many. What differs as bytes may say the same all the same."""
    missing = yield from _decoded(expected - actual)
    more = yield from _decoded(actual - expected)
    return len(missing - more), len(more - missing)


def _decoded(elements: set[bytes]) -> Pausing[set[_Element]]:
    """(key, last key, flags); the latter empty where there are none, the key for one that is any."""
    found: set[_Element] = set()
    for count, of in enumerate(map(attributes, elements), 1):
        key, last = (attributes(of.get(kind, b"")).get(1, b"") for kind in (1, 10))
        found.add((key, last, of.get(3, b"")))
        if count % _ELEMENTS_AT_ONCE == 0:
            yield
    return found


def _list_differences(sock: NetfilterSocket, wanted: list[Message], lists: list[_List]) -> Pausing[list[str]]:
    if not lists:
        return []
    there, said = read_sets(sock), []
    sent = {m[4]: set(_as_listed(m[3])) for m in _of(wanted, _NEWELEMENT) if 4 in m}
    kinds = {s[10]: found_set(s) for s in _of(wanted, _NEWSET)}
    for found in lists:
        key = u32(found.set_id)
        try:
            actual = yield from _read_elements(sock, found.listed, len(sent[key]))
        except OversizeError:
            actual = set()
        unlike = yield from _unlike_elements(actual, sent[key])
        if any(unlike) or there.get(found.listed) != kinds[key]:
            said.append(f"a list in a rule of chain {found.chain} is another one")
    return said
