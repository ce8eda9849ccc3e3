"""The iptables backend: our chains in the legacy mangle tables of the current netns, and our ipsets.

In: Plans. Out: sets and rules in the kernel, what of ours is there, counters. It enters no namespace itself,
keeps no socket, and touches no chain or set but its own, besides one rule that stands first in each hook.

No transaction spans sets and the tables of both families. So a plan is carried out in an order in which every
moment is at least as strict as what was and what will be (E5): sets that nothing refers to yet are filled;
elements leave; rules change, one commit a family, by which each packet meets either the old ones or the new;
elements come; sets that nothing refers to any more go.
"""

import contextlib
import errno
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from hashlib import blake2b

from daemon import netns
from daemon.backends import forwards, ipset, iptrender, iptsets, ipttext, sealing
from daemon.backends.base import Survey
from daemon.backends.ipset import FoundSet
from daemon.backends.iptclib import one_thread
from daemon.backends.iptedit import clear_table, edit_table
from daemon.backends.iptread import (
    read_comments,
    read_sets,
    rule_differences,
    set_differences,
    sets_alike,
)
from daemon.backends.iptrender import FAMILIES, FORMER_HOOKS, HOOKS, PREFIX, Edits, set_name
from daemon.backends.nfsocket import Connect, NetfilterSocket, Reaper, connect
from daemon.backends.shape import REHEARSAL, shown
from daemon.backends.xtables import ScratchTables, Table, Tables, require_tables
from daemon.backends.xtclosed import close_table
from daemon.backends.xtsockopt import FORMER_TABLE, TABLE, holds_chain, in_use, outline
from daemon.errors import (
    BackendUnavailableError,
    DataplaneError,
    ForeignChangeError,
    OversizeError,
    OvertakenError,
    TransactionError,
)
from daemon.linkkinds import Forward
from daemon.log import get_logger
from daemon.model import Direction
from daemon.planner import Plan, Program, make_plan
from daemon.program import Seal, closed
from daemon.slices import Pausing, ended

log = get_logger(__name__)

MOST_LINES = 16_000
"""Of all attachments in a netns: 10 MiB, which can be read back with what others have there."""

_COMMIT_TRIES = 5
_HOOKS = {TABLE: tuple(HOOKS), FORMER_TABLE: tuple(FORMER_HOOKS)}
"""Where a jump of ours stands, by table; older versions wrote the other one."""
_IPSET_UNLIKE = (4103, errno.ENOENT)
"""An element, or a set, that is there and should not be, or the other way round."""
_REMEDY = (
    "it needs CAP_NET_ADMIN and a kernel with legacy tables and ipset (`modprobe -a ip_set_hash_ip "
    "ip_set_hash_net ip_set_hash_ipport ip_set_bitmap_port xt_set xt_conntrack xt_multiport xt_addrtype "
    "xt_comment`), or --backend nftables"
)


class IptablesBackend:
    """Backend over legacy iptables and ipset (see base.Backend)."""

    name = "iptables"
    follows_renames = False
    exact = False
    survey_seconds = 10.0
    watch_share = 0.01

    def __init__(self, reaper: Reaper, connect: Connect = connect, tables: Tables | None = None) -> None:
        self._reaper = reaper
        self._connect = connect
        self._tables = Tables() if tables is None else tables

    def probe(self) -> None:
        """Commit a program with all that we use in a scratch netns."""
        try:
            netns.in_scratch(self._rehearse)
        except BackendUnavailableError:
            raise
        except DataplaneError as error:
            raise BackendUnavailableError(f"iptables does not work here: {error}: {_REMEDY}") from error

    def _rehearse(self) -> None:
        with one_thread():
            require_tables()
        IptablesBackend(self._reaper, self._connect, ScratchTables()).apply(make_plan(REHEARSAL, None))

    def apply(self, plan: Plan, since: int = 0) -> int:
        """Sets and one commit a family, in the order of E5. A mark is a digest of both outlines."""
        _require_room(plan.program)
        with self._working() as sock:
            return self._reset(sock, plan) if plan.reset else self._change(sock, plan, since)

    def untouched(self, program: Program, mark: int) -> bool:
        """Whether both tables have the outline of the mark, and sets the sizes that they should have.

        A rule in the place of another one of its size is not seen, nor an element in the place of another.
        """
        if not mark or _mark(map(outline, FAMILIES)) != mark:
            return False
        with NetfilterSocket(self._reaper, self._connect) as sock:
            return sets_alike(program, read_sets(sock))

    def surveying(self, program: Program) -> Pausing[Survey]:
        """The tables' outlines, then what differs."""
        mark = _mark(map(outline, FAMILIES))
        return Survey(mark, (yield from self._comparing(program)))

    def generation(self) -> int:
        """0: legacy tables have none."""
        return 0

    def present(self) -> bool:
        """Whether there are chains of ours; by the kernel's own interface, so also without any library."""
        ours = (in_use(family) and holds_chain(family, HOOKS["PREROUTING"]) for family in FAMILIES)
        return any(ours) or any(map(_holds_former, FAMILIES))

    def gates(self) -> frozenset[str]:
        """The chains of attachments, of either family."""
        return frozenset(name for chain in self._our_chains() if (name := iptrender.gate_of(chain)))

    def imprints(self) -> tuple[str, ...]:
        """The comments in the imprints' chain."""
        with one_thread(), self._tables.opened(FAMILIES[0]) as table:
            return read_comments(table, FAMILIES[0], iptrender.IMPRINTS)

    def differences(self, program: Program) -> str:
        """The first few things of ours that are not as `program` says; others' chains do not count."""
        return ended(self._comparing(program))

    def _comparing(self, program: Program) -> Pausing[str]:
        with NetfilterSocket(self._reaper, self._connect) as sock:
            sets = read_sets(sock)
            said: list[str] = []
            # The tables first, and at once: they can be read from within the netns alone.
            with one_thread():
                for family in FAMILIES:
                    with self._tables.opened(family) as table:
                        said += rule_differences(table, family, program, sets)
            yield
            said = [*(yield from set_differences(sock, program, sets)), *said]
        return shown(said)

    def counters(self) -> dict[str, tuple[int, int]]:
        """(packets, bytes) dropped, by chain; both families together."""
        counted: dict[str, tuple[int, int]] = {}
        with one_thread():
            for family in FAMILIES:
                with self._tables.opened(family) as table:
                    for chain in table.chains():
                        name = iptrender.counted_by(chain)
                        if name is None:
                            continue
                        for rule in table.rules(chain):
                            packets, size = counted.get(name, (0, 0))
                            counted[name] = packets + rule.counters[0], size + rule.counters[1]
        return counted

    def text(self, program: Program) -> str:
        """As `iptables-save` and `ipset save` would show it."""
        return ipttext.text(program)

    def seal(self, seals: Collection[Seal]) -> str:
        """By nf_tables, where the kernel has it: legacy tables know no devices below IP."""
        with NetfilterSocket(self._reaper, self._connect) as sock:
            return sealing.seal(sock, seals)

    def sealed(self, seals: Collection[Seal]) -> bool:
        """By what chains are there."""
        with NetfilterSocket(self._reaper, self._connect) as sock:
            return sealing.sealed(sock, seals)

    def forwards(self) -> tuple[Forward, ...] | None:
        """As base.Backend says."""
        with NetfilterSocket(self._reaper, self._connect) as sock:
            return forwards.read(sock)

    def remove(self) -> None:
        """Take our rules away, then our sets."""
        with self._working() as sock:
            with self._tables.locked():
                for family in FAMILIES:
                    for name in _HOOKS:
                        self._clear(family, name)
            iptsets.destroy(sock, sorted(read_sets(sock)))

    @contextlib.contextmanager
    def _working(self) -> Iterator[NetfilterSocket]:
        with one_thread(), NetfilterSocket(self._reaper, self._connect) as sock:
            yield sock

    def _our_chains(self) -> frozenset[str]:
        with one_thread():
            found: set[str] = set()
            for family in FAMILIES:
                for name in _HOOKS:
                    if _of_interest(family, name):
                        with self._tables.opened(family, name) as table:
                            found |= {chain for chain in table.chains() if chain.startswith(PREFIX)}
        return frozenset(found)

    # --- a plan whose start is known ---------------------------------------------------------------------

    def _change(self, sock: NetfilterSocket, plan: Plan, since: int) -> int:
        """The mark afterwards: that from before where no rule changes."""
        edits = {family: iptrender.edits(plan, family) for family in FAMILIES}
        rules_change = any(edit.written or edit.gone for edit in edits.values())
        if rules_change and since and _mark(map(outline, FAMILIES)) != since:
            # What is written over would never be told of.
            raise OvertakenError(errno.EAGAIN, 0)
        # Refused here, a set stays that nothing refers to, until the next plan that resets.
        sock.perform(
            [message for spec in plan.new_sets for message in iptsets.made(set_name(spec.name), spec)]
        )
        with _begun():
            removal = [message for change in plan.set_changes for message in iptsets.removal(change)]
            addition = [message for change in plan.set_changes for message in iptsets.addition(change)]
            if rules_change:
                sock.perform(removal)
                since = self._write(plan.program, read_sets(sock), edits)
                sock.perform(addition)
            else:
                # At once: an address that goes from one set to another is in neither for a moment.
                sock.perform(removal + addition)
            iptsets.destroy(sock, [set_name(name) for name in plan.stale_sets])
        return since

    # --- a plan that makes all anew, whatever is there ---------------------------------------------------

    def _reset(self, sock: NetfilterSocket, plan: Plan) -> int:
        """Sets hold what is both wanted and there while the rules that are there count, then all wanted."""
        wanted = {set_name(spec.name): spec for spec in plan.new_sets}
        found = read_sets(sock)
        with _begun():
            # What a run that was killed would have put in the place of others.
            iptsets.destroy(sock, [name for name in found if name.endswith(iptsets.NEW)])
            found = {name: header for name, header in found.items() if not name.endswith(iptsets.NEW)}
            if unlike := [
                name for name, spec in wanted.items() if name in found and not found[name].like(spec)
            ]:
                # Somebody has put other sets in the place of ours: no rule may look them up any more.
                self._write_all(closed(plan.program, None), found)
                iptsets.destroy(sock, unlike)
                found = read_sets(sock)
            missing = {
                name: iptsets.prepare(sock, name, spec, found.get(name)) for name, spec in wanted.items()
            }
            mark = self._write_all(plan.program, read_sets(sock))
            sock.perform([m for name, some in missing.items() for m in ipset.add_entries(name, some)])
            iptsets.destroy(sock, sorted(found.keys() - wanted.keys()))
        return mark

    def _write_all(self, program: Program, sets: dict[str, FoundSet]) -> int:
        """Make our chains as the program has them; those that are so already keep their counters."""
        chains = {family: iptrender.content(program, family) for family in FAMILIES}
        edits = {family: Edits(chains[family], ()) for family in FAMILIES}
        mark = self._write(program, sets, edits, whole=True)
        if any(map(_holds_former, FAMILIES)):
            with self._tables.locked():
                for family in FAMILIES:
                    self._clear(family, FORMER_TABLE)
        return mark

    # --- rules -------------------------------------------------------------------------------------------

    def _write(
        self, program: Program, sets: dict[str, FoundSet], edits: dict[int, Edits], whole: bool = False
    ) -> int:
        """Commit each family's edits and read back; whole: they are all that there shall be of ours.

        Returns the mark: of what was there before it was read back, so of nothing that was changed since.
        """
        outlines: list[bytes] = []
        failed: DataplaneError | None = None
        with self._tables.locked():
            for family, edit in edits.items():
                change = partial(edit_table, family=family, edit=edit, sets=sets, whole=whole)
                try:
                    outlines.append(self._write_family(program, sets, family, change, whole))
                except DataplaneError as error:
                    # A change is of both families: what one of them refuses does not keep it from the other.
                    failed = error
        if failed is not None:
            raise failed
        return _mark(outlines)

    def _write_family(
        self,
        program: Program,
        sets: dict[str, FoundSet],
        family: int,
        change: Callable[[Table], None],
        whole: bool,
    ) -> bytes:
        try:
            self._commit(family, change)
        except OversizeError as error:
            if not whole:
                raise
            log.warning(
                "table-replaced", extra={"reason": str(error), "with": "what drops all that is isolated"}
            )
            close_table(family, program.gates.values())
            self._commit(family, partial(_reopen, change=change))
        mark = outline(family)
        with self._tables.opened(family) as table:
            said = list(rule_differences(table, family, program, sets))
        if said:
            raise ForeignChangeError(f"what was written is not what stands there: {shown(said)}")
        return mark

    def _clear(self, family: int, name: str) -> None:
        """Take all that is ours out of a table, if there is one."""
        if _of_interest(family, name):
            self._commit(family, partial(clear_table, family=family, hooks=_HOOKS[name]), name)

    def _commit(self, family: int, change: Callable[[Table], None], name: str = TABLE) -> None:
        """One commit; anew where somebody else's came between."""
        for attempt in range(_COMMIT_TRIES):
            with self._tables.opened(family, name) as table:
                change(table)
                try:
                    table.commit()
                except TransactionError as error:
                    if error.errno != errno.EAGAIN or attempt == _COMMIT_TRIES - 1:
                        raise
                else:
                    return


def _reopen(table: Table, change: Callable[[Table], None]) -> None:
    """Change a table that close_table has put there: what drops all goes in the same commit."""
    for hook in HOOKS:
        table.flush(hook)
    change(table)


def _require_room(program: Program) -> None:
    """TransactionError: ours alone would be more than is read back (nothing is begun then)."""
    chains = [gate.chain(direction) for gate in program.gates.values() for direction in Direction]
    lines = sum(len(list(program.rules_of(chain))) for chain in chains)
    if lines > MOST_LINES:
        raise TransactionError(
            errno.E2BIG, f"{lines} rules for one netns; {MOST_LINES} are the most", "the tables' rules"
        )


def _of_interest(family: int, table: str) -> bool:
    """Whether to look into a table of the current netns; never makes one."""
    return in_use(family) if table == TABLE else _holds_former(family)


def _holds_former(family: int) -> bool:
    """Whether an older version's chains are there. One that can't be read says no: it is others' affair."""
    try:
        return in_use(family, FORMER_TABLE) and holds_chain(family, FORMER_HOOKS["INPUT"], FORMER_TABLE)
    except DataplaneError:
        return False


def _mark(outlines: Iterable[bytes]) -> int:
    """One number of both families' outlines, never 0."""
    return int.from_bytes(blake2b(b"".join(outlines), digest_size=7).digest(), "big") + 1


@contextlib.contextmanager
def _begun() -> Iterator[None]:
    """From here on a refusal does not mean that nothing was changed."""
    try:
        yield
    except TransactionError as error:
        foreign = error.errno in _IPSET_UNLIKE
        raise (ForeignChangeError if foreign else DataplaneError)(f"done in part only: {error}") from error
