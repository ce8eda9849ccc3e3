"""CIDRs to ranges of integers, and `cidr` minus `except`.

In: text. Out: Block. Speed matters: a customer's policies hold 218,250 of them, most of them plain IPv4.
"""

import re
from collections.abc import Sequence
from socket import AF_INET, AF_INET6, inet_ntop, inet_pton
from typing import Any

from daemon.decode.fields import Problems, Raw, expect_known, expect_object, kind_of, shown
from daemon.errors import DecodeError
from daemon.intervals import minus
from daemon.model import Block, Span

MAX_EXCEPT = 4096

_BLOCK_FIELDS = frozenset({"cidr", "except"})
# Prefix length as written to host mask; one look-up both checks and converts. Go's ParseCIDR takes "08" too.
_HOST_MASK = {
    bits: {f"{n:0{width}d}": (1 << (bits - n)) - 1 for n in range(bits + 1) for width in (1, 2, 3)}
    for bits in (32, 128)
}
_HOST_MASK_4 = _HOST_MASK[32]
_HOST_MASK_6 = _HOST_MASK[128]
_LEADING_ZERO = re.compile(r"(?:^|\.)0[0-9xX]")
# ::ffff:0:0/96 holds IPv4 addresses as IPv6 sockets show them.
_MAPPED = 0xFFFF
_MAPPED_SIZE = 1 << 32


def parse_cidr(text: str) -> tuple[int, Span]:
    """(family, inclusive range) of a CIDR, or of an address alone; host bits may be set (C6).

    Raises ValueError, which says why, when it is none, or IPv4-mapped (C8).
    """
    return _parse_block(_with_prefix(text), text)


def _with_prefix(text: str) -> str:
    if "/" in text:
        return text
    return f"{text}/128" if ":" in text else f"{text}/32"


def _parse_block(text: str, written: str) -> tuple[int, Span]:
    """The same of what has a prefix. written: what the message shows."""
    address, _, prefix = text.partition("/")
    try:
        if ":" in address:
            mask = _HOST_MASK_6[prefix]
            last = int.from_bytes(inet_pton(AF_INET6, address), "big") | mask
        else:
            mask = _HOST_MASK_4[prefix]
            last = int.from_bytes(inet_pton(AF_INET, address), "big") | mask
            return 4, (last - mask, last)
    except (KeyError, OSError, ValueError):
        raise ValueError(_fault(written)) from None
    # Only a block that lies in there as a whole: others have more than that.
    if mask < _MAPPED_SIZE and last >> 32 == _MAPPED:
        raise ValueError(_mapped(written, last, mask))
    return 6, (last - mask, last)


def _mapped(text: str, last: int, mask: int) -> str:
    first = inet_ntop(AF_INET, (last - mask & 0xFFFFFFFF).to_bytes(4, "big"))
    return f"{text} is IPv4-mapped, and no packet is: write {first}/{32 - mask.bit_length()}"


def _fault(text: str) -> str:
    """Why a text is no CIDR."""
    address, slash, prefix = text.partition("/")
    bits = 128 if ":" in address else 32
    why = ""
    if text != text.strip():
        why = ": there is white space round it"
    elif "%" in address:
        why = ": leave out the zone after %"
    elif bits == 32 and _LEADING_ZERO.search(address):
        why = ": it has numbers with leading zeros, which are octal for some programs, or in hex"
    elif "." in prefix:
        why = ": in place of the mask write the prefix's length, as in /8"
    elif slash and not prefix:
        why = ": the prefix's length is missing"
    elif prefix.isascii() and prefix.isdecimal() and prefix not in _HOST_MASK[bits]:
        why = f": the prefix's length is at most {bits}"
    return f"{shown(text)} is no CIDR such as 10.0.0.0/8 or 2001:db8::/32{why}"


def plain_block(raw: Any) -> Block | None:
    """An `ipBlock` of one good CIDR with its prefix, by far the most common; None: look closer."""
    if type(raw) is not dict or len(raw) != 1:
        return None
    text = raw.get("cidr")
    if type(text) is not str:
        return None
    try:
        family, span = _parse_block(text, text)
    except ValueError:
        return None
    return Block(text, family, (span,))


def decode_block(raw: object, field: str, problems: Problems) -> Block | None:
    """An `ipBlock`; None: malformed, matches nothing (C8)."""
    try:
        return _decode_whole_block(expect_object(raw, field), field, problems)
    except DecodeError as error:
        problems.add(error.field, f"{error.message}: matches nothing")
        return None


def _decode_whole_block(raw: Raw, field: str, problems: Problems) -> Block:
    expect_known(raw, _BLOCK_FIELDS, field, problems)
    text, family, outer = _read_cidr(raw.get("cidr"), f"{field}.cidr", problems)
    excepts = raw.get("except")
    if excepts is None or excepts == []:
        return Block(text, family, (outer,))
    holes = _read_excepts(excepts, f"{field}.except", problems)
    spans = minus([outer], [hole for _, hole_family, hole in holes if hole_family == family])
    _report_odd_excepts(holes, family, outer, f"{field}.except", problems)
    if not spans and not any(_covers(hole, outer) for _, hole_family, hole in holes if hole_family == family):
        problems.add(f"{field}.except", "together they cover the whole block, which matches nothing")
    return Block(f"{text} except {', '.join(hole for hole, _, _ in holes)}", family, spans)


def _read_cidr(value: object, field: str, problems: Problems) -> tuple[str, int, Span]:
    if not isinstance(value, str):
        raise DecodeError(field, f"expected a CIDR, not {kind_of(value)}")
    try:
        family, span = parse_cidr(value)
    except ValueError as error:
        raise DecodeError(field, str(error)) from None
    if "/" in value:
        return value, family, span
    text = _with_prefix(value)
    problems.hint(field, f"{value} is one address, and read as {text}")
    return text, family, span


def _read_excepts(value: Any, field: str, problems: Problems) -> list[tuple[str, int, Span]]:
    if not isinstance(value, list):
        raise DecodeError(field, f"expected a list of CIDRs, not {kind_of(value)}")
    if len(value) > MAX_EXCEPT:
        raise DecodeError(field, f"{len(value)} blocks; at most {MAX_EXCEPT} are read")
    return [_read_cidr(item, f"{field}[{index}]", problems) for index, item in enumerate(value)]


def _report_odd_excepts(
    holes: Sequence[tuple[str, int, Span]], family: int, outer: Span, field: str, problems: Problems
) -> None:
    for index, (text, hole_family, hole) in enumerate(holes):
        if hole_family != family or hole[1] < outer[0] or hole[0] > outer[1]:
            problems.add(f"{field}[{index}]", f"{text} lies outside the block and takes nothing from it")
        elif _covers(hole, outer):
            problems.add(f"{field}[{index}]", f"{text} covers the whole block, which matches nothing")


def _covers(hole: Span, outer: Span) -> bool:
    return hole[0] <= outer[0] and hole[1] >= outer[1]
