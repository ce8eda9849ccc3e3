"""The nftables backend: reads and commits our table in the current netns, by nfnetlink alone.

In: Plans. Out: batches in the kernel, what of ours is there, counters. It enters no namespace itself, keeps
no socket, and touches no table but its own.
"""

import errno
import struct

from daemon import netns
from daemon.backends import nftmessages as nft
from daemon.backends import nfttext
from daemon.backends.nfnetlink import (
    SUBSYS_NFTABLES,
    Message,
    NetfilterSocket,
    Reaper,
    attr,
    attributes,
    general,
    string,
)
from daemon.backends.nftexpr import TABLE_FAMILY
from daemon.backends.nftrender import DROP_PREFIX, Found, FoundSet, render
from daemon.errors import BackendUnavailableError, DataplaneError, TransactionError
from daemon.planner import Plan, Program, make_plan

_GETTABLE, _GETCHAIN, _GETSET, _GETGEN, _GETOBJECT = 1, 4, 10, 16, 19

_RESET_TRIES = 5
_ANONYMOUS_FLAG = 1
_COUNTED = struct.Struct(">QQ")


class NftablesBackend:
    """Backend over nf_tables (see base.Backend)."""

    name = "nftables"

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def probe(self) -> None:
        """Commit a program with all that we use in a scratch netns."""
        try:
            netns.in_scratch(self._rehearse)
        except DataplaneError as error:
            raise BackendUnavailableError(
                f"nftables does not work here: {error}. It needs CAP_NET_ADMIN and a kernel with nf_tables "
                "(inet family, ct, fib): `modprobe -a nf_tables nft_ct nft_fib_inet`, or choose --backend iptables"
            ) from error

    def _rehearse(self) -> None:
        self.apply(make_plan(nfttext.REHEARSAL, None))

    def apply(self, plan: Plan) -> int:
        """One batch; returns the generation that it made."""
        with NetfilterSocket(self._reaper) as sock:
            if plan.reset:
                self._reset(sock, plan)
            else:
                sock.transact(render(plan))
            return _generation(sock)

    def _reset(self, sock: NetfilterSocket, plan: Plan) -> None:
        for attempt in range(_RESET_TRIES):
            found = _read(sock)
            try:
                # The generation makes sure that what was read is what the batch meets.
                sock.transact(render(plan, found), found.generation)
            except TransactionError as error:
                if error.errno != errno.ERESTART or attempt == _RESET_TRIES - 1:
                    raise
            else:
                return

    def generation(self) -> int:
        """The kernel's generation of this netns' rules; every commit of anybody raises it by one."""
        with NetfilterSocket(self._reaper) as sock:
            return _generation(sock)

    def read(self) -> Found:
        """Names of what is in our table."""
        with NetfilterSocket(self._reaper) as sock:
            return _read(sock)

    def counters(self) -> dict[str, tuple[int, int]]:
        """(packets, bytes) dropped, by chain."""
        with NetfilterSocket(self._reaper) as sock:
            return {
                name.removeprefix(DROP_PREFIX): counted
                for name, counted in _counters(sock).items()
                if name.startswith(DROP_PREFIX)
            }

    def text(self, program: Program) -> str:
        """As `nft list table` would show it."""
        return nfttext.text(program)

    def remove(self) -> None:
        """Delete our table."""
        with NetfilterSocket(self._reaper) as sock:
            if _read(sock).table:
                sock.transact([nft.delete_table()])


# --- reading
# -------------------------------------------------------------------------------------------------


def _get(kind: int, body: bytes, subject: str) -> Message:
    return Message(SUBSYS_NFTABLES << 8 | kind, 0, general(TABLE_FAMILY) + body, subject)


def _generation(sock: NetfilterSocket) -> int:
    answer = sock.request(Message(SUBSYS_NFTABLES << 8 | _GETGEN, 0, general(0), "read the generation"))
    return int.from_bytes(attributes(answer.body, 4)[1], "big")


def _read(sock: NetfilterSocket) -> Found:
    generation = _generation(sock)
    ours = attr(1, string(nft.TABLE))
    try:
        sock.request(_get(_GETTABLE, ours, "read our table"))
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return Found(generation)
    chains = (attributes(body) for body in sock.dump(_get(_GETCHAIN, b"", "read chains")))
    sets = (attributes(body) for body in sock.dump(_get(_GETSET, ours, "read sets")))
    return Found(
        generation=generation,
        table=True,
        chains={_text(c[3]): _chain_comment(c.get(12, b"")) for c in chains if _text(c[1]) == nft.TABLE},
        sets={_text(s[2]): _found_set(s) for s in sets if not _number(s.get(3, b"")) & _ANONYMOUS_FLAG},
        counters=frozenset(_counters(sock)),
    )


def _counters(sock: NetfilterSocket) -> dict[str, tuple[int, int]]:
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
