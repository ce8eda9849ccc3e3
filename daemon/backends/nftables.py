"""The nftables backend: reads and commits our table in the current netns, by nfnetlink alone.

In: Plans. Out: batches in the kernel, what of ours is there, counters. It enters no namespace itself, keeps
no socket, and touches no table but its own.
"""

import errno
from collections.abc import Collection

from daemon import netns
from daemon.backends import forwards, nftmessages, nftread, nfttext, sealing
from daemon.backends.base import Survey
from daemon.backends.nfsocket import Connect, NetfilterSocket, Reaper, connect
from daemon.backends.nftcompare import differences
from daemon.backends.nftread import read, read_counters, read_generation
from daemon.backends.nftrender import DROP_PREFIX, HOOKS, IMPRINTS, TRACKING, Found, former_hooks, render
from daemon.backends.shape import FORMER_DISPATCHES, REHEARSAL
from daemon.errors import (
    BackendUnavailableError,
    DataplaneError,
    OversizeError,
    OvertakenError,
    TransactionError,
)
from daemon.linkkinds import Forward
from daemon.planner import Plan, Program, in_commits, make_plan
from daemon.program import PART_PREFIX, Seal
from daemon.slices import Pausing, ended

_RESET_TRIES = 5
_NO_SUBSYSTEM = (errno.EINVAL, errno.EOPNOTSUPP)
"""What nfnetlink answers for a subsystem whose module is not there."""


class NftablesBackend:
    """Backend over nf_tables (see base.Backend)."""

    name = "nftables"
    follows_renames = True
    exact = True
    survey_seconds = 3600.0  # 4 billion commits bring a generation back: more than an hour's
    watch_share = 0.1

    def __init__(self, reaper: Reaper, connect: Connect = connect) -> None:
        self._reaper = reaper
        self._connect = connect

    def probe(self) -> None:
        """Commit a program with all that we use in a scratch netns."""
        try:
            netns.in_scratch(self._rehearse)
        except DataplaneError as error:
            raise BackendUnavailableError(
                f"nftables does not work here: {error}. It needs CAP_NET_ADMIN and a kernel from 5.6 on with "
                "nf_tables (inet family, ct, fib): `modprobe -a nf_tables nft_ct nft_fib_inet`, or --backend "
                "iptables"
            ) from error

    def _rehearse(self) -> None:
        self.apply(make_plan(REHEARSAL, None))

    def apply(self, plan: Plan, since: int = 0) -> int:
        """One batch (more where rules and members change together), each under the generation before it."""
        with self._open() as sock:
            if plan.reset:
                return self._reset(sock, plan)
            return self._change(sock, plan, since) if not plan.empty else since

    def _change(self, sock: NetfilterSocket, plan: Plan, since: int) -> int:
        for done, step in enumerate(in_commits(plan)):
            try:
                sock.transact(render(step), since or None)
            except TransactionError as error:
                if error.errno == errno.ERESTART:
                    raise OvertakenError(error.errno, done) from error
                raise
            since = since and next_generation(since)
        return since

    def _reset(self, sock: NetfilterSocket, plan: Plan) -> int:
        for _ in range(_RESET_TRIES):
            try:
                found = read(sock)
            except OversizeError as error:
                # Somebody has filled this netns, to be read by nobody. The table can go without being read.
                self._rebuild(sock, plan, Found(0, table=True), None, error)
                return 0
            try:
                # The generation makes sure that what was read is what the batch meets.
                mark = self._rewrite(sock, plan, found, found.generation)
            except TransactionError as error:
                if error.errno != errno.ERESTART:
                    raise
            else:
                if not former_hooks(found):
                    return mark
                # Once more: with our hooks in force, those of the older version go.
        # Somebody commits without end. What is ours is written all the same, but what it stands on by now
        # is not known: no number of it is believed.
        self._rewrite(sock, plan, read(sock), None)
        return 0

    def _rewrite(self, sock: NetfilterSocket, plan: Plan, found: Found, generation: int | None) -> int:
        try:
            sock.transact(render(plan, found), generation)
        except TransactionError as error:
            if error.errno == errno.ERESTART:
                raise
            self._rebuild(sock, plan, found, generation, error)
        return next_generation(found.generation)

    def _rebuild(
        self, sock: NetfilterSocket, plan: Plan, found: Found, generation: int | None, refused: Exception
    ) -> None:
        """The last resort, when others left something under our names that can't be ours: the table anew.

        Still one batch, but a packet under way may pass. Raises `refused` when that was not the reason.
        """
        if not found.table:
            raise refused
        try:
            sock.transact([nftmessages.delete_table(), *render(plan)], generation)
        except TransactionError as error:
            if error.errno == errno.ERESTART:
                raise
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

    def untouched(self, program: Program, mark: int) -> bool:
        """Whether nobody has committed since the mark, which is a generation."""
        return bool(mark) and self.generation() == mark

    def surveying(self, program: Program) -> Pausing[Survey]:
        """The generation, then what differs: whoever commits meanwhile or later makes another generation."""
        with self._open() as sock:
            generation = read_generation(sock)
            return Survey(generation, (yield from differences(sock, program)))

    def differences(self, program: Program) -> str:
        """The first few things of ours that are not as `program` says; foreign tables do not count."""
        with self._open() as sock:
            return ended(differences(sock, program))

    def gates(self) -> frozenset[str]:
        """Chains of attachments: all but base chains, parts, the one for tracking and the imprints'."""
        others = HOOKS.keys() | FORMER_DISPATCHES.keys() | {TRACKING, IMPRINTS}
        return frozenset(name for name in self.read().chains if not name.startswith(PART_PREFIX)) - others

    def imprints(self) -> tuple[str, ...]:
        """The comments in the imprints' chain."""
        with self._open() as sock:
            return nftread.read_comments(sock, IMPRINTS)

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

    def seal(self, seals: Collection[Seal]) -> str:
        """By a table of the netdev family."""
        with self._open() as sock:
            return sealing.seal(sock, seals)

    def sealed(self, seals: Collection[Seal]) -> bool:
        """By what chains are there."""
        with self._open() as sock:
            return sealing.sealed(sock, seals)

    def forwards(self) -> tuple[Forward, ...] | None:
        """As base.Backend says."""
        with self._open() as sock:
            return forwards.read(sock)

    def remove(self) -> None:
        """Delete our table."""
        with self._open() as sock:
            if read(sock).table:
                sock.transact([nftmessages.delete_table()])


def next_generation(generation: int) -> int:
    """The generation that one commit makes of this one: 32 bits, and never 0."""
    return generation + 1 & 0xFFFFFFFF or 1
