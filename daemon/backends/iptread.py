"""What of ours is in the current netns' tables and sets, and a comparison with a program.

In: a netfilter socket, tables. Out: names, sets, entries, differences in words. It changes nothing.
"""

import errno
from collections.abc import Iterator
from itertools import islice, zip_longest

from daemon.backends import ipset
from daemon.backends.ipset import Entry as SetEntry
from daemon.backends.ipset import FoundSet
from daemon.backends.iptentry import Entry, comment_of, compile_line
from daemon.backends.iptrender import HOOKS, PREFIX, Line, content, hook_line, set_name
from daemon.backends.nfsocket import NetfilterSocket
from daemon.backends.xtables import Table
from daemon.errors import ForeignChangeError, TransactionError
from daemon.memo import memoize
from daemon.planner import Program, SetSpec
from daemon.slices import Pausing

MOST_COMMENTS = 1000
_ENTRIES_AT_ONCE = 5000


def read_sets(sock: NetfilterSocket) -> dict[str, FoundSet]:
    """Our sets by name, as their headers tell."""
    return ipset.found_sets(sock.dump(ipset.list_headers()), PREFIX)


def read_entries(sock: NetfilterSocket, name: str) -> frozenset[SetEntry | None]:
    """What a set holds; nothing where there is none."""
    try:
        return ipset.found_entries(sock.dump(ipset.list_entries(name)))
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        return frozenset()


def read_comments(table: Table, family: int, chain: str) -> tuple[str, ...]:
    """The comments of a chain's rules, in order; none where there is no such chain."""
    return tuple(comment_of(rule.match, family) for rule in table.rules(chain, MOST_COMMENTS))


def compile_lines(lines: tuple[Line, ...], family: int, sets: dict[str, FoundSet]) -> tuple[Entry, ...]:
    """The entries of a chain. sets: those that are there. ForeignChangeError: one of the lines' is not."""
    names = [name for line in lines for name in line.sets]
    try:
        return _entries(lines, family, tuple(sets[name].index for name in names))
    except KeyError as error:
        raise ForeignChangeError(f"set {error.args[0]} is gone: somebody else has destroyed it") from None


@memoize(8 << 20, lambda entries, lines, family, numbers: sum(2 * len(e.raw) for e in entries))
def _entries(lines: tuple[Line, ...], family: int, numbers: tuple[int, ...]) -> tuple[Entry, ...]:
    """Remembered: each commit compares the whole table with what it shall be, and most of it stays."""
    left = iter(numbers)
    return tuple(compile_line(line, family, tuple(islice(left, len(line.sets)))) for line in lines)


def rule_differences(table: Table, family: int, program: Program, sets: dict[str, FoundSet]) -> Iterator[str]:
    """What in one family's table is not as the program says; sets: those that are there."""
    wanted = content(program, family)
    there = {chain for chain in table.chains() if chain.startswith(PREFIX)}
    for chain in sorted(there - wanted.keys()):
        # An empty one is what is left where somebody else's rule jumps to it.
        if table.rules(chain, 1):
            yield f"chain {chain} (IPv{family}) is not ours"
    for hook in HOOKS:
        first = table.rules(hook, 1)
        jump = compile_line(hook_line(hook), family)
        if not first or not first[0].says(jump):
            yield f"our rule is not the first of {hook} (IPv{family})"
    for chain, lines in wanted.items():
        if chain not in there:
            yield f"chain {chain} (IPv{family}) is missing"
        elif not {name for line in lines for name in line.sets} - sets.keys():
            # Else the missing set is told of, and no rule can look it up.
            yield from _chain_differences(table, family, chain, compile_lines(lines, family, sets))


def _chain_differences(table: Table, family: int, chain: str, wanted: tuple[Entry, ...]) -> Iterator[str]:
    there = table.rules(chain)
    if len(there) != len(wanted):
        yield f"chain {chain} (IPv{family}) has {len(there)} rules instead of {len(wanted)}"
    for number, (actual, expected) in enumerate(zip_longest(there, wanted), 1):
        if actual is not None and expected is not None and not actual.says(expected):
            yield f"rule {number} of chain {chain} (IPv{family}) is another one"


def sets_alike(program: Program, sets: dict[str, FoundSet]) -> bool:
    """Whether each set that the program has is there, of its type and with as many elements."""
    return all(
        (header := sets.get(set_name(spec.name))) is not None
        and header.like(spec)
        and header.plain
        and header.size == ipset.size(spec.elements, spec.kind, spec.family)
        for spec in program.sets.values()
    )


def set_differences(sock: NetfilterSocket, program: Program, sets: dict[str, FoundSet]) -> Pausing[list[str]]:
    """What in our sets is not as the program says."""
    wanted = {set_name(spec.name): spec for spec in program.sets.values()}
    said = [f"set {name} is not ours" for name in sorted(sets.keys() - wanted.keys())]
    for name, spec in wanted.items():
        header = sets.get(name)
        if header is None:
            said.append(f"set {name} is missing")
        elif not header.like(spec) or not header.plain:
            said.append(f"set {name} is another one")
        elif header.size != (size := ipset.size(spec.elements, spec.kind, spec.family)):
            said.append(f"set {name} has {header.size} elements instead of {size}")
        else:
            missing, more = yield from _unlike_entries(sock, name, spec)
            if missing or more:
                said.append(f"set {name}: {missing} elements missing, {more} too many")
    return said


def _unlike_entries(sock: NetfilterSocket, name: str, spec: SetSpec) -> Pausing[tuple[int, int]]:
    """How many entries are missing, and how many too many: by their bytes, of which few need be decoded."""
    expected: set[bytes] = set()
    left = ipset.listed(spec.elements, spec.kind, spec.family)
    while some := list(islice(left, _ENTRIES_AT_ONCE)):
        expected.update(some)
        yield
    try:
        bodies = yield from sock.dumping(ipset.list_entries(name))
    except TransactionError as error:
        if error.errno != errno.ENOENT:
            raise
        bodies = []
    actual: set[bytes] = set()
    for body in bodies:
        actual.update(ipset.raw_entries(body))
        yield
    missing = yield from _decoded(expected - actual)
    more = yield from _decoded(actual - expected)
    return len(missing - more), len(more - missing)


def _decoded(some: set[bytes]) -> Pausing[set[SetEntry | None]]:
    """Few of a set that stands as it shall; all of one that is changed while it is read."""
    found: set[SetEntry | None] = set()
    for number, entry in enumerate(some, 1):
        found.add(ipset.decoded(entry))
        if number % _ENTRIES_AT_ONCE == 0:
            yield
    return found
