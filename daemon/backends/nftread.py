"""What of ours is in the current netns: names, counters, and a comparison with a program.

In: a netfilter socket. Out: names and numbers. It changes nothing.
"""

import errno
from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from daemon.backends import nftmessages as nft
from daemon.backends.nfnetlink import NLA_F_NESTED, SUBSYS_NFTABLES, Message, general, string, u32
from daemon.backends.nfsocket import NetfilterSocket
from daemon.backends.nftexpr import TABLE_FAMILY
from daemon.backends.nftrender import Found, FoundSet, Hook, render
from daemon.backends.shape import shown
from daemon.errors import OversizeError, TransactionError
from daemon.netlink import NLA_TYPE_MASK, attr, attribute_list, attributes, raw_attributes
from daemon.planner import Program, make_plan

_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETELEMENT, _GETGEN, _GETOBJECT = 1, 4, 7, 10, 13, 16, 19
_NEWCHAIN, _NEWRULE, _NEWSET, _NEWELEMENT = 3, 6, 9, 12

_ANONYMOUS_FLAG = 1
_LOOKUP_SET, _LOOKUP_SET_ID = 1, 4

MOST_COMMENT_BYTES = 1 << 20

_DORMANT_FLAG = 1
_MOST_BYTES = 1 << 20
"""Of a listing of names, 7,000 chains of whomever. For each piece the kernel begins anew at the first one, so
40,000 take a second, and that would hold up all other pods."""
_SPARE_BYTES = 1 << 16
"""Of a listing of ours, beyond what it needs: a few more are told by number."""

_MOST_ELEMENT_BYTES = 200
"""That one element of ours takes in a listing."""

_Element: TypeAlias = tuple[bytes, bytes, bytes]


def _get(kind: int, body: bytes, subject: str) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, 0, general(TABLE_FAMILY) + body, subject)


def read_generation(sock: NetfilterSocket) -> int:
    """The kernel's generation of this netns' rules, 32 bits."""
    answer = sock.request(Message(SUBSYS_NFTABLES << 8 | _GETGEN, 0, general(0), "read the generation"))
    return int.from_bytes(attributes(answer.body, 4)[1], "big")


def read(sock: NetfilterSocket) -> Found:
    """Names of what is in our table."""
    generation = read_generation(sock)
    flags = read_flags(sock)
    if flags is None:
        return Found(generation)
    listed = (attributes(body) for body in sock.dump(_get(_GETCHAIN, b"", "read chains"), _MOST_BYTES))
    chains = [c for c in listed if _text(c[1]) == nft.TABLE]
    return Found(
        generation=generation,
        table=True,
        flags=flags,
        chains={_text(c[3]): _comment(c.get(12, b"")) for c in chains},
        hooks={_text(c[3]): hook for c in chains if (hook := _hook(c))},
        sets={name: found for name, found in _read_sets(sock).items() if not found.flags & _ANONYMOUS_FLAG},
        counters=frozenset(read_counters(sock)),
    )


def has_table(sock: NetfilterSocket) -> bool:
    """Whether there is our table."""
    return read_flags(sock) is not None


def read_flags(sock: NetfilterSocket) -> int | None:
    """The flags of our table: whether it sleeps, and whether somebody owns it; None: there is none."""
    try:
        answer = sock.request(_get(_GETTABLE, attr(1, string(nft.TABLE)), "read our table"))
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    return _number(attributes(answer.body, 4).get(2, b""))


def _read_sets(sock: NetfilterSocket) -> dict[str, FoundSet]:
    """All sets of our table, those that stand for a list in a rule among them."""
    bodies = sock.dump(_get(_GETSET, attr(1, string(nft.TABLE)), "read sets"), _MOST_BYTES)
    return {_text(s[2]): _found_set(s) for s in map(attributes, bodies)}


def read_comments(sock: NetfilterSocket, chain: str) -> tuple[str, ...]:
    """The comments of a chain's rules, in order; none where there is no such chain.

    DataplaneError: more than MOST_COMMENT_BYTES, so they are not ours.
    """
    where = attr(1, string(nft.TABLE)) + attr(2, string(chain))
    rules = sock.dump(_get(_GETRULE, where, f"read chain {chain}"), MOST_COMMENT_BYTES)
    # A kernel that filters by no chain gives all rules of the table.
    found = (attributes(body) for body in rules)
    return tuple(_comment(rule.get(7, b"")) for rule in found if _text(rule[2]) == chain)


def read_counters(sock: NetfilterSocket) -> dict[str, tuple[int, int]]:
    """(packets, bytes) of each named counter of ours."""
    found = (
        attributes(body)
        for body in sock.dump(_get(_GETOBJECT, attr(1, string(nft.TABLE)), "read counters"), _MOST_BYTES)
    )
    return {_text(o[2]): _counted(o[4]) for o in found if _text(o[1]) == nft.TABLE}


def _counted(nested: bytes) -> tuple[int, int]:
    """NFTA_COUNTER_BYTES is 1, NFTA_COUNTER_PACKETS 2."""
    values = attributes(nested)
    return int.from_bytes(values.get(2, b""), "big"), int.from_bytes(values.get(1, b""), "big")


def _found_set(of: dict[int, bytes]) -> FoundSet:
    return FoundSet(_number(of[4]), _number(of[5]), _number(of.get(3, b"")))


def _hook(of: dict[int, bytes]) -> Hook | None:
    """Where a base chain stands; None: it is none."""
    if 4 not in of:
        return None
    at = attributes(of[4])
    number, priority = _number(at.get(1, b"")), int.from_bytes(at.get(2, b""), "big", signed=True)
    return Hook(number, priority, _number(of.get(5, b"")), _text(of.get(7, b"")))


def _comment(userdata: bytes) -> str:
    """nft's type 0 of a chain's or a rule's userdata; "" where there is none."""
    if len(userdata) < 2 or userdata[0] != 0:
        return ""
    return _text(userdata[2 : 2 + userdata[1]])


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


# --- comparing
# -----------------------------------------------------------------------------------------------


def differences(sock: NetfilterSocket, program: Program) -> str:
    """The first few things of ours that are not as `program` says, for people; "": all is as it shall be.

    The program is rendered from scratch and each rule and element of it looked for in what the kernel
    lists. Values that the kernel adds to what it was given (handles, counts) do not matter.
    """
    found = read(sock)
    if not found.table:
        return f"table {nft.TABLE} is missing"
    wanted = render(make_plan(program, None))
    lists: list[_List] = []
    said = [
        *_flag_differences(found.flags),
        *_name_differences(found, wanted),
        *_rule_differences(sock, wanted, lists),
        *_element_differences(sock, wanted),
        *_list_differences(sock, wanted, lists),
    ]
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
    chains = {_text(c[3]): (_comment(c.get(12, b"")), _hook(c)) for c in _of(wanted, _NEWCHAIN)}
    sets = {_text(s[2]): _found_set(s) for s in _of(wanted, _NEWSET) if not _number(s[3]) & _ANONYMOUS_FLAG}
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


def _rule_differences(sock: NetfilterSocket, wanted: list[Message], lists: list[_List]) -> Iterator[str]:
    """What differs in rules; those lists that they look up, and should, are added to `lists`."""
    there: dict[str, list[bytes]] = {}
    most = _SPARE_BYTES + 4 * sum(len(m.body) for m in wanted)
    try:
        bodies = sock.dump(_get(_GETRULE, attr(1, string(nft.TABLE)), "read rules"), most)
    except OversizeError:
        yield f"table {nft.TABLE} has far more rules than ours"
        return
    for rule in map(attributes, bodies):
        there.setdefault(_text(rule[2]), []).append(rule.get(4, b""))
    shall: dict[str, list[bytes]] = {}
    for rule in _of(wanted, _NEWRULE):
        shall.setdefault(_text(rule[2]), []).append(rule[4])
    for chain in sorted(there.keys() | shall.keys()):
        left, right = there.get(chain, []), shall.get(chain, [])
        if len(left) != len(right):
            yield f"chain {chain} has {len(left)} rules instead of {len(right)}"
        for number, (actual, expected) in enumerate(zip(left, right, strict=False), 1):
            if _same_list(actual, expected):
                lists += _lists(chain, actual, expected)
            else:
                yield f"rule {number} of chain {chain} is another one"


def _lists(chain: str, actual: bytes, expected: bytes) -> Iterator[_List]:
    """The sets without a name that a rule looks up."""
    for (_, there), (_, shall) in zip(attribute_list(actual), attribute_list(expected), strict=True):
        if string(nft.ANONYMOUS) in shall:
            listed, sent = (attributes(attributes(of)[2]) for of in (there, shall))
            yield _List(chain, _text(listed[_LOOKUP_SET]), _number(sent[_LOOKUP_SET_ID]))


def _same_list(actual: bytes, expected: bytes) -> bool:
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


def _sent_elements(wanted: list[Message], attribute: int) -> dict[bytes, set[_Element]]:
    """What sets shall hold, by their names or by their numbers."""
    sent: dict[bytes, set[_Element]] = {}
    for message in _of(wanted, _NEWELEMENT):
        if attribute in message:
            sent.setdefault(message[attribute], set()).update(_elements(message[3]))
    return sent


def _read_elements(sock: NetfilterSocket, name: str, most: int) -> set[_Element]:
    """What a set holds; nothing where there is none."""
    at = attr(1, string(nft.TABLE)) + attr(2, string(name))
    try:
        bodies = sock.dump(_get(_GETELEMENT, at, f"read {name}"), _SPARE_BYTES + most * _MOST_ELEMENT_BYTES)
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return set()
    return {e for body in bodies for e in _elements(attributes(body).get(3, b""))}


def _element_differences(sock: NetfilterSocket, wanted: list[Message]) -> Iterator[str]:
    sent = _sent_elements(wanted, 2)
    for spec in _of(wanted, _NEWSET):
        if _number(spec[3]) & _ANONYMOUS_FLAG:
            continue
        name, expected = _text(spec[2]), sent.get(spec[2], set())
        try:
            actual = _read_elements(sock, name, len(expected))
        except OversizeError:
            yield f"set {name} has far more elements than {len(expected)}"
            return
        if actual != expected:
            yield f"set {name}: {len(expected - actual)} elements missing, {len(actual - expected)} too many"


def _list_differences(sock: NetfilterSocket, wanted: list[Message], lists: list[_List]) -> Iterator[str]:
    if not lists:
        return
    sent, there = _sent_elements(wanted, 4), _read_sets(sock)
    kinds = {s[10]: _found_set(s) for s in _of(wanted, _NEWSET)}
    for found in lists:
        key = u32(found.set_id)
        try:
            actual = _read_elements(sock, found.listed, len(sent[key]))
        except OversizeError:
            actual = set()
        if actual != sent[key] or there.get(found.listed) != kinds[key]:
            yield f"a list in a rule of chain {found.chain} is another one"


def _elements(listed: bytes) -> Iterator[_Element]:
    """(key, last key, flags) of each; the latter empty where there are none, the key for one that is any."""
    for _, element in attribute_list(listed):
        of = attributes(element)
        yield attributes(of.get(1, b"")).get(1, b""), attributes(of.get(10, b"")).get(1, b""), of.get(3, b"")
