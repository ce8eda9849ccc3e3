"""The nftables backend: reads and commits our table in the current netns, by nfnetlink alone.

In: Plans. Out: batches in the kernel, what of ours is there, counters. It enters no namespace itself, keeps
no socket, and touches no table but its own.
"""

import errno

from daemon import netns
from daemon.backends import nftmessages, nftread, nfttext
from daemon.backends.nfsocket import Connect, NetfilterSocket, Reaper, connect
from daemon.backends.nftread import read, read_counters, read_generation
from daemon.backends.nftrender import DROP_PREFIX, HOOKS, TRACKING, Found, former_hooks, render
from daemon.backends.shape import FORMER_DISPATCHES, REHEARSAL
from daemon.errors import BackendUnavailableError, DataplaneError, TransactionError
from daemon.planner import Plan, Program, in_commits, make_plan

_RESET_TRIES = 5
_NO_SUBSYSTEM = (errno.EINVAL, errno.EOPNOTSUPP)
"""What nfnetlink answers for a subsystem whose module is not there."""


class NftablesBackend:
    """Backend over nf_tables (see base.Backend)."""

    name = "nftables"
    follows_renames = True

    def __init__(self, reaper: Reaper, connect: Connect = connect) -> None:
        self._reaper = reaper
        self._connect = connect

    def probe(self) -> None:
        """Commit a program with all that we use in a scratch netns."""
        try:
            netns.in_scratch(self._rehearse)
        except DataplaneError as error:
            raise BackendUnavailableError(
                f"nftables does not work here: {error}. It needs CAP_NET_ADMIN and a kernel with nf_tables "
                "(inet family, ct, fib): `modprobe -a nf_tables nft_ct nft_fib_inet`, or --backend iptables"
            ) from error

    def _rehearse(self) -> None:
        self.apply(make_plan(REHEARSAL, None))

    def apply(self, plan: Plan) -> int:
        """One batch (two where rules and members change together); returns the generation afterwards."""
        with self._open() as sock:
            if plan.reset:
                self._reset(sock, plan)
            else:
                for step in in_commits(plan):
                    sock.transact(render(step))
            return read_generation(sock)

    def _reset(self, sock: NetfilterSocket, plan: Plan) -> None:
        for attempt in range(_RESET_TRIES):
            found = read(sock)
            try:
                # The generation makes sure that what was read is what the batch meets.
                sock.transact(render(plan, found), found.generation)
            except TransactionError as error:
                if error.errno != errno.ERESTART:
                    return self._rebuild(sock, plan, found, error)
                if attempt == _RESET_TRIES - 1:
                    raise
            else:
                if former_hooks(found):
                    # Once more: with our hooks in force, those of the older version go.
                    continue
                return None
        return None

    def _rebuild(self, sock: NetfilterSocket, plan: Plan, found: Found, refused: Exception) -> None:
        """The last resort, when others left something under our names that can't be ours: the table anew.

        Still one batch, but a packet under way may pass. Raises `refused` when that was not the reason.
        """
        if not found.table:
            raise refused
        try:
            sock.transact([nftmessages.delete_table(), *render(plan)], found.generation)
        except TransactionError:
            raise refused from None

    def _open(self) -> NetfilterSocket:
        return NetfilterSocket(self._reaper, self._connect)

    def present(self) -> bool:
        """Whether there is our table; a kernel without nf_tables has none."""
        with self._open() as sock:
            try:
                return nftread.has_table(sock)
            except TransactionError as error:
                if error.errno in _NO_SUBSYSTEM:
                    return False
                raise

    def generation(self) -> int:
        """The kernel's generation of this netns' rules; every commit of anybody raises it by one."""
        with self._open() as sock:
            return read_generation(sock)

    def differences(self, program: Program) -> str:
        """The first few things of ours that are not as `program` says; foreign tables do not count."""
        with self._open() as sock:
            return nftread.differences(sock, program)

    def gates(self) -> frozenset[str]:
        """Chains of attachments: all but the base chains and the one for tracking."""
        return frozenset(self.read().chains) - HOOKS.keys() - FORMER_DISPATCHES.keys() - {TRACKING}

    def read(self) -> Found:
        """Names of what is in our table."""
        with self._open() as sock:
            return read(sock)

    def counters(self) -> dict[str, tuple[int, int]]:
        """(packets, bytes) dropped, by chain."""
        with self._open() as sock:
            return {
                name.removeprefix(DROP_PREFIX): counted
                for name, counted in read_counters(sock).items()
                if name.startswith(DROP_PREFIX)
            }

    def text(self, program: Program) -> str:
        """As `nft list table` would show it."""
        return nfttext.text(program)

    def remove(self) -> None:
        """Delete our table."""
        with self._open() as sock:
            if read(sock).table:
                sock.transact([nftmessages.delete_table()])
