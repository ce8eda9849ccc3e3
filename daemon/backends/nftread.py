"""What of ours is in the current netns: names, counters, and a comparison with a program.

In: a netfilter socket. Out: names and numbers. It changes nothing.
"""

import errno
from collections.abc import Iterator

from daemon.backends import nftmessages as nft
from daemon.backends.nfnetlink import NLA_F_NESTED, SUBSYS_NFTABLES, Message, general, string
from daemon.backends.nfsocket import NetfilterSocket
from daemon.backends.nftexpr import TABLE_FAMILY
from daemon.backends.nftrender import Found, FoundSet, render
from daemon.backends.shape import shown
from daemon.errors import TransactionError
from daemon.netlink import NLA_TYPE_MASK, attr, attribute_list, attributes, raw_attributes
from daemon.planner import Program, make_plan

_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETELEMENT, _GETGEN, _GETOBJECT = 1, 4, 7, 10, 13, 16, 19
_NEWCHAIN, _NEWRULE, _NEWSET, _NEWELEMENT = 3, 6, 9, 12

_ANONYMOUS_FLAG = 1
_LOOKUP_SET_ID = 4

# -------------------------------------------------------------------------------------------------


def _get(kind: int, body: bytes, subject: str) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, 0, general(TABLE_FAMILY) + body, subject)


def read_generation(sock: NetfilterSocket) -> int:
    """The kernel's generation of this netns' rules, 32 bits."""
    answer = sock.request(Message(SUBSYS_NFTABLES << 8 | _GETGEN, 0, general(0), "read the generation"))
    return int.from_bytes(attributes(answer.body, 4)[1], "big")


def read(sock: NetfilterSocket) -> Found:
    """Names of what is in our table."""
    generation = read_generation(sock)
    if not has_table(sock):
        return Found(generation)
    ours = attr(1, string(nft.TABLE))
    chains = (attributes(body) for body in sock.dump(_get(_GETCHAIN, b"", "read chains")))
    sets = (attributes(body) for body in sock.dump(_get(_GETSET, ours, "read sets")))
    return Found(
        generation=generation,
        table=True,
        chains={_text(c[3]): _chain_comment(c.get(12, b"")) for c in chains if _text(c[1]) == nft.TABLE},
        sets={_text(s[2]): _found_set(s) for s in sets if not _number(s.get(3, b"")) & _ANONYMOUS_FLAG},
        counters=frozenset(read_counters(sock)),
    )


def has_table(sock: NetfilterSocket) -> bool:
    """Whether there is our table."""
    try:
        sock.request(_get(_GETTABLE, attr(1, string(nft.TABLE)), "read our table"))
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def read_counters(sock: NetfilterSocket) -> dict[str, tuple[int, int]]:
    """(packets, bytes) of each named counter of ours."""
    found = (
        attributes(body) for body in sock.dump(_get(_GETOBJECT, attr(1, string(nft.TABLE)), "read counters"))
    )
    return {_text(o[2]): _counted(o[4]) for o in found if _text(o[1]) == nft.TABLE}


def _counted(nested: bytes) -> tuple[int, int]:
    """NFTA_COUNTER_BYTES is 1, NFTA_COUNTER_PACKETS 2."""
    values = attributes(nested)
    return int.from_bytes(values.get(2, b""), "big"), int.from_bytes(values.get(1, b""), "big")


def _found_set(of: dict[int, bytes]) -> FoundSet:
    return FoundSet(_number(of[4]), _number(of[5]), _number(of.get(3, b"")))


def _chain_comment(userdata: bytes) -> str:
    """nft's type 0 of a chain's userdata; "" where there is none."""
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
    said = [
        *_name_differences(found, wanted),
        *_rule_differences(sock, wanted),
        *_element_differences(sock, wanted),
    ]
    return shown(said)


def _of(wanted: list[Message], kind: int) -> Iterator[dict[int, bytes]]:
    return (attributes(m.body, 4) for m in wanted if m.type == SUBSYS_NFTABLES << 8 | kind)


def _name_differences(found: Found, wanted: list[Message]) -> Iterator[str]:
    chains = {_text(c[3]): _chain_comment(c.get(12, b"")) for c in _of(wanted, _NEWCHAIN)}
    sets = {_text(s[2]): _found_set(s) for s in _of(wanted, _NEWSET) if not _number(s[3]) & _ANONYMOUS_FLAG}
    for what, there, shall in (("chain", found.chains, chains), ("set", found.sets, sets)):
        for name in sorted(there.keys() | shall.keys()):
            if name not in there:
                yield f"{what} {name} is missing"
            elif name not in shall:
                yield f"{what} {name} is not ours"
            elif there[name] != shall[name]:
                yield f"{what} {name} is another one"


def _rule_differences(sock: NetfilterSocket, wanted: list[Message]) -> Iterator[str]:
    there: dict[str, list[bytes]] = {}
    for body in sock.dump(_get(_GETRULE, attr(1, string(nft.TABLE)), "read rules")):
        rule = attributes(body)
        there.setdefault(_text(rule[2]), []).append(rule.get(4, b""))
    shall: dict[str, list[bytes]] = {}
    for rule in _of(wanted, _NEWRULE):
        shall.setdefault(_text(rule[2]), []).append(rule[4])
    for chain in sorted(there.keys() | shall.keys()):
        left, right = there.get(chain, []), shall.get(chain, [])
        if len(left) != len(right):
            yield f"chain {chain} has {len(left)} rules instead of {len(right)}"
        for number, (actual, expected) in enumerate(zip(left, right, strict=False), 1):
            if not _same_list(actual, expected):
                yield f"rule {number} of chain {chain} is another one"


def _same_list(actual: bytes, expected: bytes) -> bool:
    """Lists of expressions, each of which is as expected."""
    left, right = raw_attributes(actual), raw_attributes(expected)
    return len(left) == len(right) and all(_covers(a, e) for (_, a), (_, e) in zip(left, right, strict=True))


def _covers(actual: bytes, expected: bytes) -> bool:
    """Whether each attribute that was sent is in what is listed; the kernel lists more."""
    there = {kind & NLA_TYPE_MASK: value for kind, value in raw_attributes(actual)}
    for kind, value in raw_attributes(expected):
        listed = there.get(kind & NLA_TYPE_MASK)
        if listed is None:
            # An anonymous set's number is not listed: the set has a name of its own by then.
            if kind == _LOOKUP_SET_ID and string(nft.ANONYMOUS) in expected:
                continue
            return False
        if kind & NLA_F_NESTED:
            if not _covers(listed, value):
                return False
        elif listed != value and not (value == string(nft.ANONYMOUS) and listed.startswith(b"__set")):
            return False
    return True


def _element_differences(sock: NetfilterSocket, wanted: list[Message]) -> Iterator[str]:
    shall: dict[str, set[tuple[bytes, bytes]]] = {}
    for spec in _of(wanted, _NEWSET):
        if not _number(spec[3]) & _ANONYMOUS_FLAG:
            shall[_text(spec[2])] = set()
    for message in _of(wanted, _NEWELEMENT):
        name = _text(message[2])
        if name in shall:
            shall[name].update(_elements(message[3]))
    for name, expected in shall.items():
        try:
            bodies = sock.dump(
                _get(_GETELEMENT, attr(1, string(nft.TABLE)) + attr(2, string(name)), f"read {name}")
            )
        except TransactionError as error:
            if error.errno != errno.ENOENT:
                raise
            continue
        actual = {e for body in bodies for e in _elements(attributes(body).get(3, b""))}
        if actual != expected:
            yield f"set {name}: {len(expected - actual)} elements missing, {len(actual - expected)} too many"


def _elements(listed: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, flags) of each; flags empty where there are none."""
    for _, element in attribute_list(listed):
        of = attributes(element)
        yield attributes(of[1])[1], of.get(3, b"")
