"""What is changed in a legacy table before it is committed: our chains, and our jump in each hook.

In: an open table, edits, the sets that are there. Out: the table, changed and not committed yet.
"""

import contextlib

from daemon.backends.ipset import FoundSet
from daemon.backends.iptentry import Entry, compile_line
from daemon.backends.iptread import compile_lines
from daemon.backends.iptrender import HOOKS, PREFIX, Edits, hook_line
from daemon.backends.xtables import FoundRule, Table
from daemon.errors import TransactionError

_RULES_SEARCHED = 1000
"""Of a hook, for jumps of ours: only the first rule matters, others there are somebody's play."""


def edit_table(table: Table, family: int, edit: Edits, sets: dict[str, FoundSet], whole: bool) -> None:
    """Carry out edits, and make our jump the first rule of each hook; whole: they are all that is ours."""
    ours = {chain for chain in table.chains() if chain.startswith(PREFIX)}
    wanted = {chain: compile_lines(lines, family, sets) for chain, lines in edit.written.items()}
    if whole:
        wanted = {
            chain: entries for chain, entries in wanted.items() if not _same(table, chain, entries, ours)
        }
    gone = ours - edit.written.keys() if whole else ours.intersection(edit.gone)
    for chain in wanted.keys() - ours:
        table.create(chain)
    for chain in [*(wanted.keys() & ours), *gone]:
        table.flush(chain)
    for chain, entries in wanted.items():
        for entry in entries:
            table.append(chain, entry)
    for hook in HOOKS:
        _stand_first(table, hook, compile_line(hook_line(hook), family))
    for chain in gone:
        # One that somebody else's rule jumps to stays, empty.
        with contextlib.suppress(TransactionError):
            table.delete(chain)


def _same(table: Table, chain: str, entries: tuple[Entry, ...], ours: set[str]) -> bool:
    there = table.rules(chain) if chain in ours else None
    return (
        there is not None
        and len(there) == len(entries)
        and all(rule.says(entry) for rule, entry in zip(there, entries, strict=True))
    )


def _stand_first(table: Table, hook: str, jump: Entry) -> None:
    first = table.rules(hook, _RULES_SEARCHED)
    if first and first[0].says(jump):
        return
    _remove_all(table, hook, jump, first)
    table.insert(hook, jump)


def _remove_all(table: Table, hook: str, jump: Entry, rules: list[FoundRule]) -> None:
    """Take our jump out of a hook as often as it is among these of its rules."""
    for rule in rules:
        if rule.says(jump):
            table.remove(hook, jump)


def clear_table(table: Table, family: int, hooks: tuple[str, ...]) -> None:
    """Take all that is ours out of a table, and our jump out of these hooks."""
    for hook in hooks:
        jump = compile_line(hook_line(hook), family)
        _remove_all(table, hook, jump, table.rules(hook, _RULES_SEARCHED))
    ours = [chain for chain in table.chains() if chain.startswith(PREFIX)]
    for chain in ours:
        table.flush(chain)
    for chain in ours:
        with contextlib.suppress(TransactionError):
            table.delete(chain)
