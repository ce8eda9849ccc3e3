"""Arithmetic with the ports of permissions: united, met, and cut into classes. Pure.

In: Ports of permissions; None: everything. Out: Ports, sorted and merged by protocol.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from daemon.intervals import common, union
from daemon.model import Span
from daemon.policy.bounds import Meter
from daemon.policy.ruleset import SET_PROTOCOLS, PortMatch, Ports
from daemon.slices import Pausing

Numbers: TypeAlias = int
"""A set of small numbers: bit n says that n is in it."""

Classes: TypeAlias = dict[tuple[Numbers, Numbers], list[PortMatch] | None]
"""Which permissions of one side meet which of the other, and on what ports (None: on everything)."""


def merged(spans: Mapping[int, Sequence[Span] | None]) -> Ports:
    """Ports by protocol; None: the whole protocol (D2)."""
    found: list[PortMatch] = []
    for protocol in sorted(spans):
        known = spans[protocol]
        found += [(protocol, None)] if known is None else [(protocol, span) for span in union(known)]
    return tuple(found)


def united(many: Sequence[Ports | None]) -> Ports | None:
    """All that is in any of them."""
    if None in many:
        return None
    return many[0] if len(many) == 1 else joined(port for ports in many for port in ports or ())


def joined(ports: Iterable[PortMatch]) -> Ports:
    """Ports in any order, overlapping or not, as Ports."""
    spans: dict[int, list[Span] | None] = {}
    for protocol, span in ports:
        if span is None:
            spans[protocol] = None
        elif (known := spans.setdefault(protocol, [])) is not None:
            known.append(span)
    return merged(spans)


def common_ports(one: Ports | None, two: Ports | None) -> Ports | None:
    """Ports in both; (): there are none. A span of a whole protocol is that span (D2, D5)."""
    if one is None or one == two:
        return two
    if two is None:
        return one
    found: list[PortMatch] = []
    for protocol in sorted({protocol for protocol, _ in one} & {protocol for protocol, _ in two}):
        mine, others = _of_protocol(one, protocol), _of_protocol(two, protocol)
        if mine is None or others is None:
            spans = others if mine is None else mine
            found += [(protocol, None)] if spans is None else [(protocol, span) for span in spans]
        else:
            found += [(protocol, span) for span in common(mine, others)]
    return tuple(found)


def _of_protocol(ports: Ports, protocol: int) -> tuple[Span, ...] | None:
    """The spans of one protocol, None: it as a whole."""
    spans = [span for known, span in ports if known == protocol]
    return None if None in spans else tuple(span for span in spans if span is not None)


def rules_of(ports: Ports | None) -> int:
    """How many rules they make of one set of peers: as budget.cost counts them (F1)."""
    if ports is None:
        return 1
    alone = sum(protocol not in SET_PROTOCOLS for protocol, _ in ports)
    return alone + len({protocol for protocol, _ in ports if protocol in SET_PROTOCOLS})


# --- classes ---------------------------------------------------------------------------------------------


def classes(one: Sequence[Ports | None], two: Sequence[Ports | None], meter: Meter) -> Pausing[Classes]:
    """Every port on which both sides permit something, by who of each side does: one sweep over all ports.

    What meets on everything, or on a whole protocol, is not named again for single ports of it.
    """
    found: Classes = {}
    width = 1 + (len(one) + len(two)) // 64

    def meet(mine: Numbers, others: Numbers, port: PortMatch | None) -> bool:
        if mine and others:
            if port is None:
                found[mine, others] = None
            elif (known := found.setdefault((mine, others), [])) is not None:
                known.append(port)
        return meter.look(width)

    everything = _numbers(ports is None for ports in one), _numbers(ports is None for ports in two)
    meet(*everything, None)
    for protocol in sorted({protocol for ports in (*one, *two) for protocol, _ in ports or ()}):
        anywhere = (protocol, None)
        whole = [_numbers(anywhere in (ports or ()) for ports in side) for side in (one, two)]
        meet(whole[0], everything[1] | whole[1], anywhere)
        meet(everything[0], whole[1], anywhere)
        base = everything[0] | whole[0], everything[1] | whole[1]
        open_now, since = [0, 0], 0
        turns = yield from _turns((one, two), protocol, meter)
        for port, changes in sorted(turns.items()):
            if since < port:
                span = (protocol, (since, port - 1))
                meet(open_now[0], base[1] | open_now[1], span)
                if meet(base[0], open_now[1], span):
                    yield
            for side, number in changes:
                open_now[side] ^= 1 << number
            since = port
    return found


def _numbers(wanted: Iterable[bool]) -> Numbers:
    return sum(1 << number for number, each in enumerate(wanted) if each)


def _turns(
    sides: tuple[Sequence[Ports | None], Sequence[Ports | None]], protocol: int, meter: Meter
) -> Pausing[dict[int, list[tuple[int, int]]]]:
    """By port: who begins or ceases to permit there, as (side, number)."""
    found: dict[int, list[tuple[int, int]]] = {}
    for side, many in enumerate(sides):
        for number, ports in enumerate(many):
            if meter.look(1 + len(ports or ())):
                yield
            for known, span in ports or ():
                if known == protocol and span is not None:
                    found.setdefault(span[0], []).append((side, number))
                    found.setdefault(span[1] + 1, []).append((side, number))
    return found


def members_of(numbers: Numbers) -> list[int]:
    """The numbers in such a set."""
    found = []
    while numbers:
        lowest = numbers & -numbers
        found.append(lowest.bit_length() - 1)
        numbers ^= lowest
    return found
