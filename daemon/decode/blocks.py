"""CIDRs to ranges of integers, and `cidr` minus `except`.

In: text. Out: Block. Speed matters: a customer's policies hold 218,250 of them, most of them plain IPv4.
"""

from collections.abc import Sequence
from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

from daemon.decode.fields import Problems, Raw, expect_object, kind_of, report_unknown, shown
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


def parse_cidr(text: str) -> tuple[int, Span]:
    """(family, inclusive range) of a CIDR; host bits may be set (C6). ValueError when it is none (C8)."""
    address, _, prefix = text.partition("/")
    try:
        if ":" in address:
            mask = _HOST_MASK_6[prefix]
            last = int.from_bytes(inet_pton(AF_INET6, address), "big") | mask
            return 6, (last - mask, last)
        mask = _HOST_MASK_4[prefix]
        last = int.from_bytes(inet_pton(AF_INET, address), "big") | mask
    except (KeyError, OSError, ValueError):
        raise ValueError(f"{shown(text)} is no CIDR such as 10.0.0.0/8 or 2001:db8::/32") from None
    return 4, (last - mask, last)


def plain_block(raw: Any) -> Block | None:
    """An `ipBlock` of one good CIDR and nothing else, by far the most common; None: look closer."""
    if type(raw) is not dict or len(raw) != 1:
        return None
    text = raw.get("cidr")
    if type(text) is not str:
        return None
    try:
        family, span = parse_cidr(text)
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
    report_unknown(raw, _BLOCK_FIELDS, field, problems)
    text, family, outer = _read_cidr(raw.get("cidr"), f"{field}.cidr")
    excepts = raw.get("except")
    if excepts is None or excepts == []:
        return Block(text, family, (outer,))
    holes = _read_excepts(excepts, f"{field}.except")
    _report_odd_excepts(holes, family, outer, f"{field}.except", problems)
    spans = minus([outer], [hole for _, hole_family, hole in holes if hole_family == family])
    return Block(f"{text} except {', '.join(hole for hole, _, _ in holes)}", family, spans)


def _read_cidr(value: object, field: str) -> tuple[str, int, Span]:
    if not isinstance(value, str):
        raise DecodeError(field, f"expected a CIDR, not {kind_of(value)}")
    try:
        return (value, *parse_cidr(value))
    except ValueError as error:
        raise DecodeError(field, str(error)) from None


def _read_excepts(value: Any, field: str) -> list[tuple[str, int, Span]]:
    if not isinstance(value, list):
        raise DecodeError(field, f"expected a list of CIDRs, not {kind_of(value)}")
    if len(value) > MAX_EXCEPT:
        raise DecodeError(field, f"{len(value)} blocks; at most {MAX_EXCEPT} are read")
    return [_read_cidr(item, f"{field}[{index}]") for index, item in enumerate(value)]


def _report_odd_excepts(
    holes: Sequence[tuple[str, int, Span]], family: int, outer: Span, field: str, problems: Problems
) -> None:
    for index, (text, hole_family, (first, last)) in enumerate(holes):
        if hole_family != family or last < outer[0] or first > outer[1]:
            problems.add(f"{field}[{index}]", f"{text} lies outside the block and takes nothing from it")
        elif first <= outer[0] and last >= outer[1]:
            problems.add(f"{field}[{index}]", f"{text} covers the whole block, which matches nothing")
