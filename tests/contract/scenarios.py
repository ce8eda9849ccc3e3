"""The table: each kind of program and of change, from one program to the next, and what packets then meet.

In: nothing. Out: SCENARIOS. Each runs on every backend; `counting` says which part of a plan none has.

proves: A5, A6, B2, B4, C1, C4, C6, C9, D1, D2, D3, D4, D5
"""

import msgspec

from daemon.planner import DENIED, EMPTY, UNTOUCHED, Program, RuleSpec, SetSpec
from daemon.policy.ruleset import Ports
from daemon.program import Carrier
from tests.contract.part_scenarios import IN_PARTS
from tests.contract.rows import ALL, ALL_TCP, ALL_UDP, CLOSED, OPEN, Scenario, Wants, same
from tests.contract.words import (
    FRIEND,
    GRE,
    ICMP,
    ICMPV6,
    NOBODY,
    SCTP,
    STRANGER,
    TCP,
    UDP,
    both,
    ends,
    gate,
    guard,
    isolated,
    numbered,
    of,
    permit,
    program,
    spans,
    tcp,
    udp,
)

A = both("a", FRIEND)
B = spans("b", 4, (0, FRIEND)), spans("b", 6, (0, FRIEND))
C = both("c", STRANGER)
E = ends("e", 4, (FRIEND, TCP, 80)), ends("e", 6, (FRIEND, UDP, 53))
WEB = tcp(80)


def ingress(*rules: tuple[RuleSpec, ...], sets: tuple[SetSpec, ...] = A) -> Program:
    """A program of one attachment that is isolated on ingress."""
    return program(gate(isolated(*rules), UNTOUCHED), sets=sets)


def egress(*rules: tuple[RuleSpec, ...], sets: tuple[SetSpec, ...] = A) -> Program:
    """A program of one attachment that is isolated on egress."""
    return program(gate(UNTOUCHED, isolated(*rules)), sets=sets)


def from_friend(ports: Ports | None) -> Program:
    """What the friend may, on ingress."""
    return ingress(permit(A, ports))


UNGOVERNED = program(gate(None, None))
NOBODY_IN = program(gate(isolated(), UNTOUCHED))
ANYONE_IN = program(gate(isolated(permit()), UNTOUCHED))
WEB_OF_FRIEND = from_friend(WEB)
DENIED_BOTH = program(gate(DENIED, DENIED))
GUARDED = program(guard())

# --- shapes: what a chain can be ------------------------------------------------------------------------

SHAPES = [
    Scenario("nothing at all", None, EMPTY, OPEN),
    Scenario("tracked only", None, UNGOVERNED, OPEN),
    Scenario("tracking begins", EMPTY, program(), OPEN),
    Scenario("tracking ends", program(), EMPTY, OPEN),
    Scenario("guard by name", None, GUARDED, CLOSED),
    Scenario("denied by index", None, DENIED_BOTH, CLOSED),
    Scenario("nobody comes in", None, NOBODY_IN, same()),
    Scenario("nobody goes out", None, program(gate(UNTOUCHED, isolated())), same(ALL, ALL, "")),
    Scenario("anyone comes in", None, ANYONE_IN, OPEN),
    Scenario("both ways", None, program(gate(isolated(permit()), isolated(permit()))), OPEN),
    Scenario("one way alone has a chain", None, program(gate(isolated(permit(A)), None), sets=A), same(ALL)),
    Scenario(
        "the other way alone has a chain",
        None,
        program(gate(None, isolated(permit(A, WEB))), sets=A),
        same(ALL, ALL, "tcp80"),
    ),
    Scenario(
        "several rules", None, ingress(permit(A, WEB), permit((), udp(53))), same("tcp80 udp53", "udp53")
    ),
    Scenario(
        "comments of all kinds",
        None,
        ingress(
            permit(A, WEB, ""),
            permit(A, udp(53), "n" * 127),
            permit(A, tcp(443), "shop/ärger ingress[0], o'k"),
        ),
        same("tcp80 udp53 tcp443"),
    ),
]

# --- ports ----------------------------------------------------------------------------------------------

MANY_PORTS = tcp(80, *range(2000, 2040))
MANY_RANGES = (*tcp(53, (79, 81), (5000, 5010)), *tcp(*((n, n + 5) for n in range(20_000, 20_300, 20))))
EVERY_KIND = (*of(UDP), *of(SCTP, 53), *tcp(80, 443, (5000, 6000)), *of(GRE))

RULES = [
    Scenario("a peer on all ports", None, from_friend(None), same(ALL)),
    Scenario("a port", None, WEB_OF_FRIEND, same("tcp80")),
    Scenario("a port of anyone", None, ingress(permit((), udp(53)), sets=()), same("udp53", "udp53")),
    Scenario("a few ports", None, from_friend(tcp(53, 80, 443)), same("tcp53 tcp80 tcp443")),
    Scenario("more ports than one match holds", None, from_friend(MANY_PORTS), same("tcp80")),
    Scenario("a range", None, from_friend(udp((53, 80))), same("udp53 udp80")),
    Scenario("a range short of both ends", None, from_friend(tcp((54, 442))), same("tcp80")),
    Scenario("ranges and ports", None, from_friend(tcp(80, (440, 450), (5000, 5004))), same("tcp80 tcp443")),
    Scenario("more ranges than one match holds", None, from_friend(MANY_RANGES), same("tcp53 tcp80 tcp5005")),
    Scenario(
        "the first and the last port", None, from_friend((*tcp(1, 65535), *udp((1, 65535)))), same(ALL_UDP)
    ),
    Scenario("a whole protocol", None, from_friend(of(TCP)), same(ALL_TCP)),
    Scenario("whole protocols", None, from_friend((*of(TCP), *of(UDP))), same(f"{ALL_TCP} {ALL_UDP}")),
    Scenario("a whole protocol and a port", None, from_friend((*of(UDP), *WEB)), same(f"{ALL_UDP} tcp80")),
    Scenario(
        "ports of several protocols", None, from_friend((*WEB, *udp(53, 5005))), same("tcp80 udp53 udp5005")
    ),
    Scenario(
        "ranges of several protocols",
        None,
        from_friend((*tcp((1, 100)), *udp((5000, 5010)))),
        same("tcp53 tcp80 udp5005"),
    ),
    Scenario("ports of SCTP", None, from_friend(of(SCTP, 80, (5000, 5010))), same()),
    Scenario("all of SCTP", None, from_friend(of(SCTP)), same()),
    Scenario("protocols without ports", None, from_friend((*of(GRE), *of(112))), same()),
    Scenario("ICMP and ICMPv6", None, from_friend((*of(ICMP), *of(ICMPV6))), same("icmp")),
    Scenario(
        "every kind of port at once", None, from_friend(EVERY_KIND), same(f"{ALL_UDP} tcp80 tcp443 tcp5005")
    ),
]

# --- peers ----------------------------------------------------------------------------------------------

EVERYONE4, EVERYONE6 = numbered("all", 4, (0, 2**32 - 1)), numbered("all", 6, (0, 2**128 - 1))
ODD = spans("odd", 4, (1, FRIEND), (5, 11)), spans("odd", 6, (1, FRIEND), (5, 11))
MANY_SPANS = tuple(
    spans("many", family, (0, FRIEND), *((n, n + 2) for n in range(NOBODY, NOBODY + 3000, 10)))
    for family in (4, 6)
)
ALL_BUT_ONE = tuple(
    numbered("but", family, (0, last - 2**31), (last - 2**31 + 2, last))
    for family, last in ((4, 2**32 - 1), (6, 2**128 - 1))
)
MANY = both("many", FRIEND, *range(NOBODY, NOBODY + 3000))
MANY_ENDS = tuple(
    ends("many", family, (FRIEND, TCP, 80), *((NOBODY + n, TCP, 80 + n) for n in range(1000)))
    for family in (4, 6)
)
EMPTY_ENDS = ends("none", 4), ends("none", 6)
EMPTY_SPANS = numbered("none", 4), numbered("none", 6)

PEERS = [
    Scenario("nobody", None, ingress(permit(both("none"), WEB), sets=both("none")), same()),
    Scenario("nobody on any port", None, ingress(permit(both("none")), sets=both("none")), same()),
    Scenario("no endpoints", None, egress(permit(EMPTY_ENDS), sets=EMPTY_ENDS), same(ALL, ALL, "")),
    Scenario("no spans", None, ingress(permit(EMPTY_SPANS), sets=EMPTY_SPANS), same()),
    Scenario("IPv4 hosts alone", None, ingress(permit(A[:1], WEB), sets=A[:1]), (Wants("tcp80"), Wants())),
    Scenario("IPv6 hosts alone", None, ingress(permit(A[1:], WEB), sets=A[1:]), (Wants(), Wants("tcp80"))),
    Scenario("IPv4 spans alone", None, ingress(permit(B[:1]), sets=B[:1]), (Wants(ALL), Wants())),
    Scenario("IPv6 spans alone", None, ingress(permit(B[1:]), sets=B[1:]), (Wants(), Wants(ALL))),
    Scenario("every IPv4 address", None, ingress(permit((EVERYONE4,)), sets=(EVERYONE4,)),
             (Wants(ALL, ALL), Wants())),
    Scenario("every IPv6 address", None, ingress(permit((EVERYONE6,)), sets=(EVERYONE6,)),
             (Wants(), Wants(ALL, ALL))),
    Scenario("all addresses but one", None, ingress(permit(ALL_BUT_ONE), sets=ALL_BUT_ONE), OPEN),
    Scenario("spans that are no CIDR", None, ingress(permit(ODD, WEB), sets=ODD), same("tcp80")),
    Scenario("many hosts", None, ingress(permit(MANY), sets=MANY), same(ALL)),
    Scenario("many spans", None, ingress(permit(MANY_SPANS), sets=MANY_SPANS), same(ALL)),
    Scenario("many endpoints", None, egress(permit(MANY_ENDS), sets=MANY_ENDS), same(ALL, ALL, "tcp80")),
    Scenario("endpoints that receive", None, egress(permit(E), sets=E),
             (Wants(ALL, ALL, "tcp80"), Wants(ALL, ALL, "udp53"))),
    Scenario("hosts that receive", None, egress(permit(A, WEB)), same(ALL, ALL, "tcp80")),
    Scenario("spans that receive", None, egress(permit(B, udp(53)), sets=B), same(ALL, ALL, "udp53")),
    Scenario("one set in several rules and both ways", None,
             program(
                 gate(isolated(permit(A, WEB), permit(A, udp(53))), isolated(permit(A, tcp(443)))), sets=A
             ),
             same("tcp80 udp53", "", "tcp443")),
]  # fmt: skip

# --- interfaces -----------------------------------------------------------------------------------------


def named(ifname: str, bystander: str = "") -> Scenario:
    """Governed is the interface of this name, and no other."""
    chains = isolated(permit(A, WEB)), isolated()
    return Scenario(
        f"an interface called {ifname}",
        None,
        program(gate(*chains, ifname), sets=A),
        same("tcp80", "", ""),
        bystander=bystander,
    )


def guarded(ifname: str, bystander: str = "") -> Scenario:
    """The same of a guard."""
    return Scenario(f"a guard of {ifname}", None, program(guard(ifname)), CLOSED, bystander=bystander)


INTERFACES = [
    named("eth0.100"),
    named("net+1"),
    named("!x", "x"),
    named("net+", "net2"),
    named("abcdefghijklmno", "abcdefghijklmn"),
    named('q"$', "q"),
    guarded("eth0.100"),
    guarded("!x", "x"),
    guarded("net+", "net2"),
    guarded("abcdefghijklmno", "abcdefghijklmn"),
]

# Their indexes are of no device here; real ones are in tests/netns.
OVER = Carrier(4097, "over0")
BOND = Carrier(4098, "bond0")


def carried(*carriers: Carrier) -> Program:
    """What the friend may, by way of these devices too."""
    return program(gate(isolated(permit(A, WEB)), UNTOUCHED, carriers=carriers), sets=A)


CARRIERS = [
    Scenario("a device on it", None, carried(OVER), same("tcp80")),
    Scenario("several devices", None, carried(OVER, BOND), same("tcp80")),
    Scenario("a device comes", WEB_OF_FRIEND, carried(BOND), same("tcp80")),
    Scenario("a device goes", carried(OVER, BOND), carried(OVER), same("tcp80")),
    Scenario(
        "a device of two interfaces",
        None,
        program(
            gate(isolated(permit(A, WEB)), UNTOUCHED, carriers=(OVER,)),
            gate(isolated(), isolated(), "net2", 8, carriers=(OVER,)),
            sets=A,
        ),
        same("tcp80"),
    ),
]


def called(*names: str) -> Program:
    """What the friend may, by these names too, as of an interface that is away."""
    return program(gate(isolated(permit(A, WEB)), UNTOUCHED, names=names), sets=A)


NAMES = [
    Scenario("a name beside the number", None, called("net1"), same("tcp80")),
    Scenario("several names", None, called("net1", "pod37cd"), same("tcp80")),
    Scenario("a name comes", WEB_OF_FRIEND, called("net1"), same("tcp80")),
    Scenario("a name goes", called("net1", "pod37cd"), WEB_OF_FRIEND, same("tcp80")),
]


def told(*lines: str) -> Program:
    """What the friend may, and lines about that."""
    return program(gate(isolated(permit(A, WEB)), UNTOUCHED), sets=A, imprints=lines)


IMPRINTS = [
    Scenario("lines about it", None, told("one", "and another"), same("tcp80")),
    Scenario("lines come", WEB_OF_FRIEND, told("one"), same("tcp80")),
    Scenario("lines change", told("one", "and another"), told("one"), same("tcp80")),
    Scenario("lines go", told("one"), WEB_OF_FRIEND, same("tcp80")),
]

# --- changes --------------------------------------------------------------------------------------------

NET2 = gate(isolated(permit(C)), isolated(), "net2", 8)
TWO = program(gate(isolated(permit(A, WEB)), UNTOUCHED), NET2, sets=(*A, *C))
GROWN = both("a", FRIEND, STRANGER)
OTHER = both("a", STRANGER)
EMPTIED = both("a")
ROOMY = tuple(msgspec.structs.replace(spec, room=5000) for spec in A)
MORE_SPANS = spans("b", 4, (0, STRANGER), (9, 12)), spans("b", 6, (0, STRANGER), (9, 12))
MORE_ENDS = ends("e", 4, (FRIEND, TCP, 443)), ends("e", 6, (FRIEND, UDP, 53), (FRIEND, TCP, 443))


def members(sets: tuple[SetSpec, ...]) -> Program:
    """The friend's set with other members."""
    return ingress(permit(A, WEB), sets=sets)


CHANGES = [
    Scenario("the first members of many", None, members(ROOMY), same("tcp80")),
    Scenario("nothing changes", WEB_OF_FRIEND, WEB_OF_FRIEND, same("tcp80")),
    Scenario("a guard becomes final", GUARDED, WEB_OF_FRIEND, same("tcp80")),
    Scenario("a guard becomes open", GUARDED, UNGOVERNED, OPEN),
    Scenario("a final one becomes a guard", WEB_OF_FRIEND, GUARDED, CLOSED),
    Scenario("an unready one becomes final", DENIED_BOTH, WEB_OF_FRIEND, same("tcp80")),
    Scenario("the first policy", UNGOVERNED, WEB_OF_FRIEND, same("tcp80")),
    Scenario("the last policy goes", WEB_OF_FRIEND, UNGOVERNED, OPEN),
    Scenario("the attachment goes", WEB_OF_FRIEND, program(), OPEN),
    Scenario("all goes", WEB_OF_FRIEND, EMPTY, OPEN),
    Scenario("a rule comes", WEB_OF_FRIEND, ingress(permit(A, WEB), permit((), udp(53))),
             same("tcp80 udp53", "udp53")),
    Scenario("a rule goes", ingress(permit(A, WEB), permit((), udp(53))), WEB_OF_FRIEND, same("tcp80")),
    Scenario("one direction opens", program(gate(isolated(permit(A)), isolated()), sets=A),
             program(gate(None, isolated())), same(ALL, ALL, "")),
    Scenario("another owner", WEB_OF_FRIEND,
             program(gate(isolated(permit(A, WEB)), UNTOUCHED, owner="decade net1"), sets=A), same("tcp80")),
    Scenario("another index", WEB_OF_FRIEND,
             program(gate(isolated(permit(A, WEB)), UNTOUCHED, ifindex=9), sets=A)),
    Scenario("members change, and attachments stand in another order", TWO,
             program(*reversed(TWO.gates.values()), sets=(*OTHER, *C)), same("", "tcp80")),
    Scenario("a second attachment", WEB_OF_FRIEND, TWO, same("tcp80")),
    Scenario("the second attachment goes", TWO, WEB_OF_FRIEND, same("tcp80")),
    Scenario("all attachments go", TWO, program(), OPEN),
    Scenario("a number passes on", WEB_OF_FRIEND,
             program(*WEB_OF_FRIEND.gates.values(), gate(DENIED, DENIED, "net2", 7), sets=A)),
    Scenario("a member comes", WEB_OF_FRIEND, members(GROWN), same("tcp80", "tcp80")),
    Scenario("a member goes", members(GROWN), WEB_OF_FRIEND, same("tcp80")),
    Scenario("a member for another", members(OTHER), WEB_OF_FRIEND, same("tcp80")),
    Scenario("the last member goes", WEB_OF_FRIEND, members(EMPTIED), same()),
    Scenario("the first member comes", members(EMPTIED), WEB_OF_FRIEND, same("tcp80")),
    Scenario("members of one family", WEB_OF_FRIEND, members((GROWN[0], A[1])),
             (Wants("tcp80", "tcp80"), Wants("tcp80"))),
    Scenario("spans change", ingress(permit(B), sets=B), ingress(permit(B), sets=MORE_SPANS), same(ALL, ALL)),
    Scenario("spans shrink", ingress(permit(B), sets=MORE_SPANS), ingress(permit(B), sets=B), same(ALL)),
    Scenario("endpoints change", egress(permit(E), sets=E), egress(permit(E), sets=MORE_ENDS),
             (Wants(ALL, ALL, "tcp443"), Wants(ALL, ALL, "udp53 tcp443"))),
    Scenario("rules and members at once", WEB_OF_FRIEND, ingress(permit(A, udp(53)), sets=GROWN),
             same("udp53", "udp53")),
    Scenario("rules, members and new spans at once", WEB_OF_FRIEND,
             ingress(permit(A, udp(53)), permit(B, tcp(443)), sets=(*OTHER, *B)), same("tcp443", "udp53")),
    Scenario("other sets", ingress(permit(A, WEB)), ingress(permit(B, WEB), sets=B), same("tcp80")),
    Scenario("a set goes", ingress(permit(A[:1], WEB), permit(C, udp(53)), sets=(*A[:1], *C)),
             ingress(permit(C, udp(53)), sets=C), same("", "udp53")),
    Scenario("anew over nothing", None, WEB_OF_FRIEND, same("tcp80"), reset=True),
    Scenario("anew over the same", WEB_OF_FRIEND, WEB_OF_FRIEND, same("tcp80"), reset=True),
    Scenario("anew over something else", TWO, ingress(permit(B), sets=B), same(ALL), reset=True),
    Scenario("anew over a guard", GUARDED, WEB_OF_FRIEND, same("tcp80"), reset=True),
    Scenario("anew to a guard", TWO, GUARDED, CLOSED, reset=True),
    Scenario("anew to nothing", TWO, EMPTY, OPEN, reset=True),
]  # fmt: skip

SCENARIOS = (*SHAPES, *RULES, *PEERS, *INTERFACES, *CARRIERS, *NAMES, *IMPRINTS, *CHANGES, *IN_PARTS)
