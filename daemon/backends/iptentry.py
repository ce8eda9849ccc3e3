"""Lines as the kernel takes them: struct ipt_entry and ip6t_entry.

In: Lines, and the sets of the current netns. Out: Entries, which compare with what the kernel holds. It
compiles by python-iptables (within `one_thread`) and changes no table.
"""

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from daemon.backends.iptclib import extensions_needed, load
from daemon.backends.iptrender import Line, MatchSpec
from daemon.memo import memoize

_LINE_BYTES = 1000
"""A Line with its matches."""
_IFNAME_BYTES = 16

_MATCH = struct.Struct("=H29sB")
"""What a match starts with: its whole size, its name, its revision; the same of a target."""
_SHORT = struct.Struct("=H")
_SET_MATCH, _PORTS_MATCH, _COMMENT_MATCH = b"set", b"multiport", b"comment"

_PORT_SLOTS = 15
_PORTS = struct.Struct(f"=BB{_PORT_SLOTS}H{_PORT_SLOTS}BB")
"""struct xt_multiport_v1: flags, count, ports, which of them begin a range, whether inverted."""
_DESTINATION = 1
_COMMENT_BYTES = 256

_MOST_SHAPES = 4096
"""Of 2 KB each. Interfaces' names and chains are part of a shape; what policies say is not."""


class Entry(msgspec.Struct, frozen=True):
    """One rule for the kernel. raw: a whole struct; match, target: what says that a rule is this one."""

    raw: bytes
    match: bytes
    target: str


class _Layout(msgspec.Struct, frozen=True):
    """Where things stand in the struct of a family."""

    head: int
    target_offset: int
    elements: int


class _Template(msgspec.Struct, frozen=True):
    """A compiled Line, of which others differ in names, ports and words only.

    sets_at: where the numbers of the sets that it looks up stand, in their order. ports_at, comment_at: where
    a multiport match and a comment have theirs; 0: there is none.
    """

    raw: bytes
    sets_at: tuple[int, ...]
    ports_at: int
    comment_at: int


def compile_line(line: Line, family: int, numbers: tuple[int, ...] = ()) -> Entry:
    """A Line for the current netns. numbers: those of the sets that it looks up, there.

    What python-iptables makes of a Line is kept, for it takes 0.5 to 1 ms, and serves all lines of that
    shape: the numbers of sets, ports and comments are put into their places.
    """
    template = _template(line, family)
    raw = bytearray(template.raw)
    for at, number in zip(template.sets_at, numbers, strict=True):
        _SHORT.pack_into(raw, at, number)
    if template.ports_at:
        _PORTS.pack_into(raw, template.ports_at, *_ports_of(line))
    if template.comment_at:
        text = line.comment.encode()[: _COMMENT_BYTES - 1]
        raw[template.comment_at : template.comment_at + _COMMENT_BYTES] = text.ljust(_COMMENT_BYTES, b"\0")
    return _entry(bytes(raw), family, line.target)


def match_of(raw: bytes, family: int) -> bytes:
    """All that a packet must be for a rule: without counters, and without what stands behind short names."""
    parts = [raw[: _layout(family).head]]
    for at, size, name, revision in _matches(raw, family):
        parts += (_MATCH.pack(size, name, revision), raw[at : at + size - _MATCH.size])
    return b"".join(parts)


def comment_of(match: bytes, family: int) -> str:
    """The comment in what `match_of` gave; "": there is none."""
    at = _layout(family).head
    while at + _MATCH.size <= len(match):
        size, name, _ = _MATCH.unpack_from(match, at)
        if name.partition(b"\0")[0] == _COMMENT_MATCH:
            text = match[at + _MATCH.size : at + size]
            return text.partition(b"\0")[0].decode(errors="replace")
        at += max(size, _MATCH.size)
    return ""


def _entry(raw: bytes, family: int, target: str) -> Entry:
    return Entry(raw, match_of(raw, family), target)


_templates: dict[tuple[Line, int], _Template] = {}


@cache
def _layout(family: int) -> _Layout:
    iptc = load()
    kind = iptc.ip4tc.ipt_entry if family == 4 else iptc.ip6tc.ip6t_entry
    return _Layout(kind.nfcache.offset, kind.target_offset.offset, kind.elems.offset)


def _template(line: Line, family: int) -> _Template:
    """The compiled form of the first line of this shape."""
    shape = (_shape(line), family)
    found = _templates.get(shape)
    if found is None:
        with extensions_needed():
            raw = _compiled(line, family)
        if len(_templates) >= _MOST_SHAPES:
            _templates.clear()
        found = _templates[shape] = _template_of(raw, family)
    return found


def _template_of(raw: bytes, family: int) -> _Template:
    places = [(name, at) for at, _, name, _ in _matches(raw, family)]
    where = dict(places)
    sets_at = tuple(at for name, at in places if name == _SET_MATCH)
    return _Template(raw, sets_at, where.get(_PORTS_MATCH, 0), where.get(_COMMENT_MATCH, 0))


@memoize(8 << 20, lambda shape, line: 2 * _LINE_BYTES)
def _shape(line: Line) -> Line:
    """A line without what is put into its template. Remembered: 250 pods have the same lines."""
    matches = tuple(_match_shape(match) for match in line.matches)
    comment = "x" if line.comment else ""
    return msgspec.structs.replace(line, matches=matches, sets=("",) * len(line.sets), comment=comment)


def _match_shape(match: MatchSpec) -> MatchSpec:
    if match.name == "set":
        return MatchSpec("set", tuple((option, ("", *values[1:])) for option, values in match.options))
    return MatchSpec("multiport", ()) if match.name == "multiport" else match


def _ports_of(line: Line) -> tuple[int, ...]:
    """What struct xt_multiport_v1 holds for one port or range: to the destination, not inverted."""
    (text,) = next(match.options[0][1] for match in line.matches if match.name == "multiport")
    first, _, last = text.partition(":")
    ports = [int(first), int(last)] if last else [int(first)]
    padding = [0] * (_PORT_SLOTS - len(ports))
    is_range = [1, *[0] * (_PORT_SLOTS - 1)] if last else [0] * _PORT_SLOTS
    return (_DESTINATION, len(ports), *ports, *padding, *is_range, 0)


def _compiled(line: Line, family: int) -> bytes:
    iptc = load()
    rule = (iptc.Rule if family == 4 else iptc.Rule6)()
    _set_interfaces(rule.get_ip(), line)
    if line.protocol is not None:
        rule.protocol = str(line.protocol)
    for spec in line.matches:
        match = rule.create_match(spec.name)
        for option, values in spec.options:
            match.set_parameter(option, list(values))
    if line.comment:
        rule.create_match("comment").set_parameter("comment", line.comment)
    # Named as a verdict first: for another name python-iptables would open all tables to look for a chain.
    target = rule.create_target("RETURN")
    target.standard_target = line.target
    return bytes(rule.rule)


def _set_interfaces(ip: Any, line: Line) -> None:
    """By the bytes, for in python-iptables' own words `!x` and `x+` mean other interfaces."""
    for side, ifname in (("iniface", line.in_interface), ("outiface", line.out_interface)):
        name = ifname.encode(errors="surrogateescape")
        if name:
            setattr(ip, side, name)
            # With the final NUL: exactly this name.
            setattr(ip, f"{side}_mask", b"\xff" * min(len(name) + 1, _IFNAME_BYTES))


def _matches(raw: bytes, family: int) -> Iterator[tuple[int, int, bytes, int]]:
    """Of each match of a rule: where what it compares starts, its whole size, its name, its revision."""
    layout = _layout(family)
    (end,) = _SHORT.unpack_from(raw, layout.target_offset)
    at = layout.elements
    while at < end:
        size, name, revision = _MATCH.unpack_from(raw, at)
        yield at + _MATCH.size, size, name.partition(b"\0")[0], revision
        at += max(size, _MATCH.size)
