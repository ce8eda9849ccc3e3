"""What of ours is in the current netns: names, flags, comments, counters.

In: a netfilter socket. Out: names and numbers. It changes nothing.
"""

import errno

from daemon.backends import nftmessages as nft
from daemon.backends.nfnetlink import SUBSYS_NFTABLES, Message, general, string
from daemon.backends.nfsocket import NetfilterSocket
from daemon.backends.nftexpr import TABLE_FAMILY
from daemon.backends.nftrender import Found, FoundSet, Hook
from daemon.errors import TransactionError
from daemon.netlink import attr, attributes

_GETTABLE, _GETCHAIN, _GETRULE, _GETSET, _GETGEN, _GETOBJECT = 1, 4, 7, 10, 16, 19

ANONYMOUS_FLAG = 1
MOST_COMMENT_BYTES = 1 << 20

_MOST_BYTES = 1 << 20
"""Of a listing of names, 7,000 chains of whomever. For each piece the kernel begins anew at the first one, so
40,000 take a second, and that would hold up all other pods."""


def get(kind: int, body: bytes, subject: str) -> Message:
    """A question about tables of our family."""
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
    listed = (attributes(body) for body in sock.dump(get(_GETCHAIN, b"", "read chains"), _MOST_BYTES))
    chains = [c for c in listed if text(c[1]) == nft.TABLE]
    return Found(
        generation=generation,
        table=True,
        flags=flags,
        chains={text(c[3]): comment_of(c.get(12, b"")) for c in chains},
        hooks={text(c[3]): hook for c in chains if (hook := hook_of(c))},
        sets={name: found for name, found in read_sets(sock).items() if not found.flags & ANONYMOUS_FLAG},
        counters=frozenset(read_counters(sock)),
    )


def has_table(sock: NetfilterSocket) -> bool:
    """Whether there is our table."""
    return read_flags(sock) is not None


def read_flags(sock: NetfilterSocket) -> int | None:
    """The flags of our table: whether it sleeps, and whether somebody owns it; None: there is none."""
    try:
        answer = sock.request(get(_GETTABLE, attr(1, string(nft.TABLE)), "read our table"))
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return None
    return number(attributes(answer.body, 4).get(2, b""))


def read_sets(sock: NetfilterSocket) -> dict[str, FoundSet]:
    """All sets of our table, those that stand for a list in a rule among them."""
    bodies = sock.dump(get(_GETSET, attr(1, string(nft.TABLE)), "read sets"), _MOST_BYTES)
    return {text(s[2]): found_set(s) for s in map(attributes, bodies)}


def read_comments(sock: NetfilterSocket, chain: str) -> tuple[str, ...]:
    """The comments of a chain's rules, in order; none where there is no such chain.

    DataplaneError: more than MOST_COMMENT_BYTES, so they are not ours.
    """
    where = attr(1, string(nft.TABLE)) + attr(2, string(chain))
    rules = sock.dump(get(_GETRULE, where, f"read chain {chain}"), MOST_COMMENT_BYTES)
    # A kernel that filters by no chain gives all rules of the table.
    found = (attributes(body) for body in rules)
    return tuple(comment_of(rule.get(7, b"")) for rule in found if text(rule[2]) == chain)


def read_counters(sock: NetfilterSocket) -> dict[str, tuple[int, int]]:
    """(packets, bytes) of each named counter of ours."""
    found = (
        attributes(body)
        for body in sock.dump(get(_GETOBJECT, attr(1, string(nft.TABLE)), "read counters"), _MOST_BYTES)
    )
    return {text(o[2]): _counted(o[4]) for o in found if text(o[1]) == nft.TABLE}


def _counted(nested: bytes) -> tuple[int, int]:
    """NFTA_COUNTER_BYTES is 1, NFTA_COUNTER_PACKETS 2."""
    values = attributes(nested)
    return int.from_bytes(values.get(2, b""), "big"), int.from_bytes(values.get(1, b""), "big")


def found_set(of: dict[int, bytes]) -> FoundSet:
    """A set by its attributes."""
    return FoundSet(number(of[4]), number(of[5]), number(of.get(3, b"")))


def hook_of(of: dict[int, bytes]) -> Hook | None:
    """Where a base chain stands; None: it is none."""
    if 4 not in of:
        return None
    at = attributes(of[4])
    priority = int.from_bytes(at.get(2, b""), "big", signed=True)
    return Hook(number(at.get(1, b"")), priority, number(of.get(5, b"")), text(of.get(7, b"")))


def comment_of(userdata: bytes) -> str:
    """nft's type 0 of a chain's or a rule's userdata; "" where there is none."""
    if len(userdata) < 2 or userdata[0] != 0:
        return ""
    return text(userdata[2 : 2 + userdata[1]])


def text(raw: bytes) -> str:
    """A name."""
    return raw.rstrip(b"\0").decode(errors="replace")


def number(raw: bytes) -> int:
    """A number in network order; 0 where there is none."""
    return int.from_bytes(raw, "big")
