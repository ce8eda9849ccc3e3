"""The tracer of the fake's table has verdicts that somebody wrote down by hand."""

import pytest

from daemon.backends.fake import FakeTable, table_of
from daemon.model import Direction
from daemon.planner import DENIED, UNTOUCHED, Program
from daemon.policy.evaluate import ConnectionState, Packet
from tests.contract.tracer import passes
from tests.contract.words import (
    FRIEND,
    GRE,
    ICMP,
    ICMPV6,
    STRANGER,
    TCP,
    UDP,
    address,
    both,
    ends,
    gate,
    guard,
    isolated,
    of,
    permit,
    program,
    spans,
    tcp,
)

IN, OUT = Direction
LINK = ("net1", 7)
A = both("a", FRIEND)
B = (spans("b", 4, (0, FRIEND)),)
E = (ends("e", 4, (FRIEND, TCP, 80)),)
EST = ConnectionState.ESTABLISHED

WEB = program(gate(isolated(permit(A, tcp(80, (90, 99)))), UNTOUCHED), sets=A)
SPANS = program(gate(isolated(permit(B)), UNTOUCHED), sets=B)
ENDS = program(gate(isolated(permit(E)), isolated(permit(E))), sets=E)
WHOLE = program(gate(isolated(permit((), of(GRE))), isolated()))


def packet(
    host: int = FRIEND, family: int = 4, protocol: int = TCP, port: int | None = 80, **more: object
) -> Packet:
    own = address(family, more.pop("own", 9))  # type: ignore[arg-type]
    return Packet(address(family, host), own, protocol, port, **more)  # type: ignore[arg-type]


CASES: list[tuple[str, Program, Direction, Packet, bool]] = [
    ("the port", WEB, IN, packet(), True),
    ("the port, IPv6", WEB, IN, packet(family=6), True),
    ("in the range", WEB, IN, packet(port=99), True),
    ("past the range", WEB, IN, packet(port=100), False),
    ("another protocol", WEB, IN, packet(protocol=UDP), False),
    ("another host", WEB, IN, packet(STRANGER), False),
    ("a reply", WEB, IN, packet(STRANGER, state=EST), True),
    ("mid-stream", WEB, IN, packet(mid_stream=True), False),
    ("mid-stream of an open direction", WEB, OUT, packet(mid_stream=True), False),
    ("the open direction", WEB, OUT, packet(STRANGER), True),
    ("its own address", WEB, IN, packet(9), False),
    ("its own other address", WEB, IN, packet(pod_addresses=frozenset({address(4, FRIEND)})), False),
    ("to itself", ENDS, OUT, packet(9, port=1), True),
    ("discovery", WEB, IN, packet(STRANGER, 6, ICMPV6, None, icmp_type=135), True),
    ("a redirect", WEB, IN, packet(STRANGER, 6, ICMPV6, None, icmp_type=137), False),
    ("a ping", WEB, IN, packet(FRIEND, 4, ICMP, None, icmp_type=8), False),
    ("in the span", SPANS, IN, packet(1, protocol=UDP), True),
    ("past the span", SPANS, IN, packet(STRANGER), False),
    ("a span of the other family", SPANS, IN, packet(family=6), False),
    ("an endpoint", ENDS, OUT, packet(), True),
    ("an endpoint's other port", ENDS, OUT, packet(port=81), False),
    ("an endpoint's other protocol", ENDS, OUT, packet(protocol=UDP), False),
    ("the receiver is no endpoint", ENDS, IN, packet(), False),
    ("the receiver is an endpoint", ENDS, IN, packet(STRANGER, own=FRIEND), True),
    ("a whole protocol", WHOLE, IN, packet(protocol=GRE, port=None), True),
    ("nobody", WHOLE, OUT, packet(), False),
    ("a guard", program(guard()), IN, packet(state=EST), False),
    ("another's guard", program(guard("net2")), IN, packet(), True),
    ("another's index", program(gate(DENIED, DENIED, "net2", 8)), IN, packet(), True),
    ("nothing", program(), IN, packet(), True),
]


@pytest.mark.parametrize(
    ("made", "direction", "sent", "want"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_verdict(made: Program, direction: Direction, sent: Packet, want: bool) -> None:
    assert passes(table_of(made), LINK, direction, sent) is want


def test_an_empty_table_stops_nothing() -> None:
    assert passes(FakeTable(), LINK, IN, packet())
