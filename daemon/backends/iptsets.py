"""Our ipsets in the current netns: made, cut down to what they may hold, filled, taken away.

In: a netfilter socket, set specs, names. Out: sets in the kernel. Which rules look them up, and when, is the
caller's to know.
"""

import errno

from daemon.backends import ipset
from daemon.backends.ipset import FoundSet
from daemon.backends.iptread import read_entries
from daemon.backends.iptrender import set_name
from daemon.backends.nfnetlink import Message
from daemon.backends.nfsocket import NetfilterSocket
from daemon.errors import TransactionError
from daemon.planner import SetChange, SetSpec

NEW = "-new"
"""Behind the name of a set that is to replace another one."""

_IN_USE = (4100, errno.EBUSY)
_MOST_STALE = 100_000
"""Elements that a set may hold beyond twice what it shall, to be worth reading."""


def prepare(
    sock: NetfilterSocket, name: str, spec: SetSpec, found: FoundSet | None
) -> frozenset[ipset.Entry]:
    """Make a set hold what it holds by rights; returns what it lacks still."""
    if found is None:
        sock.perform(made(name, spec))
        return frozenset()
    entries = ipset.entries(spec.elements, spec.kind, spec.family)
    # Of one with far more than was ever ours nothing is believed, nor read.
    few = found.size <= _MOST_STALE + 2 * ipset.size(spec.elements, spec.kind, spec.family)
    there = read_entries(sock, name) if few else frozenset()
    if found.plain and there == entries:
        return frozenset()
    kept = frozenset(entry for entry in entries if entry in there)
    new = name + NEW
    sock.perform([ipset.create(new, spec), *ipset.add_entries(new, kept)])
    sock.perform([ipset.swap(new, name)])
    destroy(sock, [new])
    return entries - kept


def destroy(sock: NetfilterSocket, names: list[str]) -> None:
    """Take sets away. One that a rule of somebody else looks up stays, and is taken over if wanted again."""
    for name in names:
        try:
            sock.perform([ipset.destroy(name)])
        except TransactionError as error:
            if error.errno not in _IN_USE:
                raise


def made(name: str, spec: SetSpec) -> list[Message]:
    """Make a set with all that it shall hold."""
    return [ipset.create(name, spec), *ipset.add(name, spec.elements, spec.kind, spec.family)]


def removal(change: SetChange) -> tuple[Message, ...]:
    """Take out what a set shall not hold any more."""
    spec = change.spec
    return ipset.remove(set_name(spec.name), change.removed, spec.kind, spec.family)


def addition(change: SetChange) -> tuple[Message, ...]:
    """Add what a set shall hold as well."""
    spec = change.spec
    return ipset.add(set_name(spec.name), change.added, spec.kind, spec.family)
