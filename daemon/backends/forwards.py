"""Which tables of nft's netdev family forward or duplicate frames, whoever made them. It changes nothing.

In: a netfilter socket of a pod's netns, in which a privileged pod may have any number of such tables: no more
is read than MOST_BYTES, twice. Out: Forwards. Those chains see frames before, and after, all rules on IP.
"""

import errno
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

import msgspec

from daemon.backends.nfnetlink import SUBSYS_NFTABLES, Message, general
from daemon.backends.nfsocket import NetfilterSocket
from daemon.errors import DataplaneError, TransactionError
from daemon.linkkinds import Forward
from daemon.netlink import attribute_list, attributes

MOST_BYTES = 1 << 16
"""Some 500 chains (1 ms)."""

_NETDEV = 5
_GETCHAIN, _GETRULE, _GETGEN = 4, 7, 16
_NO_SUBSYSTEM = (errno.EINVAL, errno.EOPNOTSUPP)

_TABLE, _CHAIN, _CHAIN_NAME, _EXPRESSIONS, _HOOK, _USE = 1, 2, 3, 4, 4, 6
_HOOK_DEVICE, _HOOK_DEVICES, _DEVICE_NAME = 3, 4, 1
_NAME, _DATA = 1, 2
_TARGET_REGISTER = {"fwd": 1, "dup": 2}
_REGISTER, _VALUE, _RAW, _VERDICT = 1, 2, 1, 2


class _Chain(msgspec.Struct, frozen=True):
    """A chain and on which devices it hangs; None: not known. use: its rules, and those that jump to it."""

    table: str
    name: str
    devices: frozenset[str] | None
    use: int


def read(sock: NetfilterSocket) -> tuple[Forward, ...] | None:
    """Those of the current netns; None: not all could be read. A kernel without nf_tables has none."""
    try:
        # What has been received once makes the kernel's buffer for a dump large enough for any chain: it ends
        # a dump silently before what does not fit.
        sock.request(Message(SUBSYS_NFTABLES << 8 | _GETGEN, 0, general(0), "read the generation"))
        chains = list(map(_chain, _dump(sock, _GETCHAIN)))
        return tuple(_forwards(chains, _dump(sock, _GETRULE))) if chains else ()
    except TransactionError as error:
        return () if error.errno in _NO_SUBSYSTEM else None
    except (DataplaneError, struct.error, KeyError):
        return None


def _dump(sock: NetfilterSocket, kind: int) -> list[bytes]:
    return sock.dump(Message(SUBSYS_NFTABLES << 8 | kind, 0, general(_NETDEV), "read netdev"), MOST_BYTES)


def _chain(body: bytes) -> _Chain:
    found = attributes(body)
    hook = attributes(found.get(_HOOK, b""))
    names = attribute_list(hook.get(_HOOK_DEVICES, b""))
    if _HOOK_DEVICE in hook:
        names.append((_DEVICE_NAME, hook[_HOOK_DEVICE]))
    # Those that are given by what their names begin with may be any.
    known = all(kind == _DEVICE_NAME for kind, _ in names)
    devices = frozenset(_text(name) for _, name in names) if known else None
    use = int.from_bytes(found.get(_USE, b""), "big")
    return _Chain(_text(found[_TABLE]), _text(found[_CHAIN_NAME]), devices, use)


def _forwards(chains: list[_Chain], rules: Iterable[bytes]) -> Iterator[Forward]:
    """By table: a chain may be jumped to from any other."""
    targets: dict[str, set[int | None]] = {}
    used: Counter[tuple[str, str]] = Counter()
    for rule in map(attributes, rules):
        table = _text(rule[_TABLE])
        used[table, _text(rule[_CHAIN])] += 1
        expressions = [attributes(each) for _, each in attribute_list(rule.get(_EXPRESSIONS, b""))]
        used.update((table, chain) for chain in _jumps(expressions))
        targets.setdefault(table, set()).update(_targets(expressions))
    for chain in chains:
        # A rule that the kernel did not list, or a jump that was not seen: what it does is not known.
        if chain.use > used[chain.table, chain.name]:
            targets.setdefault(chain.table, set()).add(None)
    for table, found in targets.items():
        if found:
            devices = [chain.devices for chain in chains if chain.table == table]
            known = [each for each in devices if each is not None]
            hooked = frozenset().union(*known) if len(known) == len(devices) else None
            sent = frozenset(each for each in found if each is not None)
            yield Forward(table, hooked, None if None in found else sent)


def _targets(expressions: list[dict[int, bytes]]) -> Iterator[int | None]:
    """The indexes of the devices to which a rule gives frames; None: not known."""
    before: dict[int, bytes] = {}
    for each in expressions:
        name, parts = _text(each.get(_NAME, b"")), attributes(each.get(_DATA, b""))
        if name in _TARGET_REGISTER:
            yield _loaded(before, parts.get(_TARGET_REGISTER[name], b""))
        before = each


def _loaded(expression: dict[int, bytes], register: bytes) -> int | None:
    """The number that an expression puts into a register; None: it does not, or that is not known."""
    if _text(expression.get(_NAME, b"")) != "immediate":
        return None
    parts = attributes(expression.get(_DATA, b""))
    value = attributes(parts.get(_VALUE, b"")).get(_RAW, b"")
    if parts.get(_REGISTER) != register or len(value) != 4:
        return None
    return int.from_bytes(value, sys.byteorder)


def _jumps(expressions: list[dict[int, bytes]]) -> Iterator[str]:
    for each in expressions:
        if _text(each.get(_NAME, b"")) == "immediate":
            value = attributes(attributes(each.get(_DATA, b"")).get(_VALUE, b""))
            verdict = attributes(value.get(_VERDICT, b""))
            if _CHAIN in verdict:
                yield _text(verdict[_CHAIN])


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="surrogateescape")
