"""The table's rows of long chains, whose rules stand in parts.

In: nothing. Out: IN_PARTS.
"""

from daemon.model import Direction
from daemon.planner import UNTOUCHED, Program, RuleSpec
from tests.contract.rows import ALL, CLOSED, Scenario, same
from tests.contract.words import FRIEND, STRANGER, both, gate, in_parts, isolated, permit, program, tcp, udp

A, C = both("a", FRIEND), both("c", STRANGER)
WEB, NAMES, SECURE = permit(A, tcp(80)), permit(A, udp(53)), permit(A, tcp(443))
OTHER = permit(C, tcp(5005))


def ingress(*pieces: tuple[RuleSpec, ...], owner: str = "c0ffee net1") -> Program:
    """Pieces of what may come in."""
    chain, parts = in_parts(Direction.INGRESS, *pieces, owner=owner)
    return program(gate(chain, UNTOUCHED, owner=owner), sets=(*A, *C), parts=parts)


def _both_ways() -> Program:
    into, first = in_parts(Direction.INGRESS, WEB, (*NAMES, *SECURE))
    out, second = in_parts(Direction.EGRESS, (), NAMES, WEB)
    return program(gate(into, out), sets=A, parts=(*first, *second))


def _two() -> Program:
    """The same rules on two interfaces: each has parts of its own, which count what they refuse there."""
    first, some = in_parts(Direction.INGRESS, WEB, NAMES)
    second, more = in_parts(Direction.INGRESS, WEB, NAMES, ifname="net2")
    gates = gate(first, UNTOUCHED), gate(second, UNTOUCHED, "net2", 8)
    return program(*gates, sets=A, parts=(*some, *more))


SHORT = program(gate(isolated(WEB), UNTOUCHED), sets=A)
SHUT = program(gate(isolated(), UNTOUCHED), sets=(*A, *C))
LONG = ingress(WEB, NAMES, SECURE)
LAID_OUT = program(*SHUT.gates.values(), sets=(*A, *C), parts=tuple(LONG.parts.values()))
"""The parts are there, but nothing goes to them."""

IN_PARTS = [
    Scenario("a chain in parts", None, LONG, same("tcp80 udp53 tcp443")),
    Scenario("nothing in the chain itself", None, ingress((), NAMES, OTHER), same("udp53", "tcp5005")),
    Scenario("a chain in two pieces", SHORT, ingress(WEB, NAMES), same("tcp80 udp53")),
    Scenario("its one part goes", ingress(WEB, NAMES), SHORT, same("tcp80")),
    Scenario("parts both ways", None, _both_ways(), same("tcp80 udp53 tcp443", "", "tcp80 udp53")),
    Scenario("parts on two interfaces", SHORT, _two(), same("tcp80 udp53")),
    Scenario("parts go with one of two interfaces", _two(), SHORT, same("tcp80")),
    Scenario("parts that nothing goes to", SHUT, LAID_OUT, same()),
    Scenario("a chain goes on in parts", LAID_OUT, LONG, same("tcp80 udp53 tcp443")),
    Scenario("a chain and its parts at once", SHUT, LONG, same("tcp80 udp53 tcp443")),
    Scenario("the last part is another one", LONG, ingress(WEB, NAMES, OTHER),
             same("tcp80 udp53", "tcp5005")),
    Scenario("the chain alone is another one", LONG, ingress(OTHER, NAMES, SECURE),
             same("udp53 tcp443", "tcp5005")),
    Scenario("a chain goes on in none of its parts", LONG, LAID_OUT, same()),
    Scenario("parts that nothing goes to go", LAID_OUT, SHUT, same()),
    Scenario("a chain becomes short", LONG, SHORT, same("tcp80")),
    Scenario("a chain with parts goes", LONG, program(gate(None, None)), same(ALL, ALL)),
    Scenario("an attachment with parts goes", LONG, program(), same(ALL, ALL)),
    Scenario("a chain with parts has another owner", LONG, ingress(WEB, NAMES, SECURE, owner="decade net1"),
             same("tcp80 udp53 tcp443")),
    Scenario("parts anew over parts", LONG, ingress(WEB, OTHER, SECURE), same("tcp80 tcp443", "tcp5005"),
             reset=True),
    Scenario("parts anew over the same", LONG, LONG, same("tcp80 udp53 tcp443"), reset=True),
    Scenario("anew to no parts", LONG, program(gate(isolated(), isolated())), CLOSED, reset=True),
]  # fmt: skip
