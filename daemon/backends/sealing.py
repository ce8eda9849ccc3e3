"""A drop of every frame on devices whose packets meet no rule on IP: a netdev table, whatever the backend.

In: a netfilter socket, Seals. Out: a chain for each in the kernel; what is there. It works below IP, for a
bridge's ports too, and has no connection tracking: it can close a device, and judge nothing.
"""

import errno
from collections.abc import Collection, Iterator

from daemon.backends.nfnetlink import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    SUBSYS_NFTABLES,
    Message,
    general,
    nest,
    string,
    u32,
)
from daemon.backends.nfsocket import NetfilterSocket
from daemon.backends.nftcompare import same_expressions
from daemon.backends.nftexpr import COUNTER, DROP
from daemon.backends.shape import OURS_COMMENT
from daemon.errors import DataplaneError, OversizeError, TransactionError
from daemon.model import Direction
from daemon.netlink import attr, attributes
from daemon.program import Seal, chain_name

TABLE = "multi-networkpolicy"

_NETDEV = 5
_HOOKS = {Direction.INGRESS: 0, Direction.EGRESS: 1}
_FIRST = -500
"""Before others' chains there: these may forward or duplicate what they see."""

_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _GETRULE = 0, 1, 2, 3, 4, 6, 7
_MOST_BYTES = 1 << 16
"""Of the rules of one chain: ours has one."""
_HEADER = general(_NETDEV)
_IN_TABLE = _HEADER + attr(1, string(TABLE))
_USERDATA_COMMENT = 0
_NO_TABLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT)
"""What is answered where there is no such table, and where the kernel has no nf_tables at all."""


def seal(sock: NetfilterSocket, seals: Collection[Seal]) -> str:
    """Make what is sealed in the current netns these, and nothing else; "", or what could not be closed.

    DataplaneError: nothing was changed.
    """
    if not seals:
        _open(sock)
        return ""
    try:
        sock.transact(list(_whole(seals)))
    except TransactionError as error:
        # Before kernel 5.16 there is no hook for what goes out.
        incoming = [one for one in seals if one.direction is Direction.INGRESS]
        if not incoming or len(incoming) == len(seals):
            raise DataplaneError(f"closing {_listed(seals)}: {error}") from error
        sock.transact(list(_whole(incoming)))
        return f"what goes out by {_listed(set(seals) - set(incoming))} can't be closed: {error}"
    return ""


def sealed(sock: NetfilterSocket, seals: Collection[Seal]) -> bool:
    """Whether each is as it was made.

    They are asked for one by one: a listing has all chains of the namespace, and a pod may have made 60,000.
    """
    return not seals or (_awake(sock) and all(_stands(sock, one) and _drops(sock, one) for one in seals))


def _awake(sock: NetfilterSocket) -> bool:
    table = _found(sock, _GETTABLE, _IN_TABLE, "read the seals' table")
    return table is not None and not any(table.get(2, b""))


def _stands(sock: NetfilterSocket, one: Seal) -> bool:
    """Whether the chain hangs where it should, and drops what its rules leave."""
    chain = _found(sock, _GETCHAIN, _IN_TABLE + attr(3, string(seal_name(one))), f"read {seal_name(one)}")
    if chain is None or 4 not in chain:
        return False
    return attributes(chain[4]).items() >= attributes(_hook(one)).items() and not any(chain.get(5, b"\1"))


def _drops(sock: NetfilterSocket, one: Seal) -> bool:
    """Whether no rule of the chain is another one than ours; without it the chain's policy drops."""
    name = seal_name(one)
    request = _get(_GETRULE, _IN_TABLE + attr(2, string(name)), f"read the rules of {name}")
    try:
        rules = [attributes(body) for body in sock.dump(request, _MOST_BYTES)]
    except OversizeError:
        return False
    # A kernel that filters by no chain gives all rules of the table.
    return all(same_expressions(rule.get(4, b""), COUNTER + DROP) for rule in rules if _text(rule[2]) == name)


def _found(sock: NetfilterSocket, kind: int, body: bytes, subject: str) -> dict[int, bytes] | None:
    """The attributes of one thing; None: there is no such thing, or no nf_tables at all."""
    try:
        return attributes(sock.request(_get(kind, body, subject)).body, 4)
    except TransactionError as error:
        if error.errno in _NO_TABLES:
            return None
        raise


def _get(kind: int, body: bytes, subject: str) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, 0, body, subject)


def seal_name(one: Seal) -> str:
    """Its chain: "ingress-net1"."""
    return chain_name(one.direction, one.ifname)


def _open(sock: NetfilterSocket) -> None:
    if _present(sock):
        sock.transact([_message(_DELTABLE, _IN_TABLE, "delete the seals")])


def _present(sock: NetfilterSocket) -> bool:
    return _found(sock, _GETTABLE, _IN_TABLE, "read the seals' table") is not None


def _whole(seals: Collection[Seal]) -> Iterator[Message]:
    """The table anew, in one batch: what was there goes, whatever it was."""
    comment = string(OURS_COMMENT)
    made = _IN_TABLE + attr(6, bytes([_USERDATA_COMMENT, len(comment)]) + comment)
    yield _message(_NEWTABLE, made, "add the seals' table", NLM_F_CREATE)
    yield _message(_DELTABLE, _IN_TABLE, "delete the seals")
    yield _message(_NEWTABLE, made, "add the seals' table", NLM_F_CREATE)
    for one in sorted(seals):
        yield from _chain(one)


def _chain(one: Seal) -> Iterator[Message]:
    name = string(seal_name(one))
    body = _IN_TABLE + attr(3, name) + nest(4, _hook(one)) + attr(5, u32(0)) + attr(7, string("filter"))
    yield _message(_NEWCHAIN, body, f"close {seal_name(one)}", NLM_F_CREATE)
    rule = _IN_TABLE + attr(2, name) + nest(4, COUNTER + DROP)
    yield _message(_NEWRULE, rule, f"drop in {seal_name(one)}", NLM_F_CREATE | NLM_F_APPEND)


def _hook(one: Seal) -> bytes:
    return attr(1, u32(_HOOKS[one.direction])) + attr(2, u32(_FIRST)) + attr(3, string(one.ifname))


def _message(kind: int, body: bytes, subject: str, flags: int = 0) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, flags, body, subject)


def _listed(seals: Collection[Seal]) -> str:
    return ", ".join(sorted({one.ifname for one in seals}))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
