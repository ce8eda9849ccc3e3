"""Small random clusters: few enough names, labels, ports and addresses that things meet.

In: nothing. Out: hypothesis strategies for the model's objects, and packets. Choices are weighted to what
selects and isolates: a cluster in which nothing meets proves nothing.
"""

from hypothesis import strategies as st

from daemon.model import (
    Address,
    Block,
    CommonRules,
    ContainerPort,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
    Span,
    Subject,
)
from daemon.model import Namespace as NamespaceObject
from daemon.model import NetworkStatus as Status
from daemon.policy.evaluate import ConnectionState, Packet

NODE = "here"
NAMESPACES = ("one", "two")
NAMES = ("p", "q")
UIDS = ("u1", "u2")
NETWORKS = ("one/net", "two/net", "one/other")
KEYS = ("app", "env")
VALUES = ("x", "y")
PORT_NAMES = ("web", "dns")
PROTOCOLS = (6, 17)
NUMBERS = (1, 2, 3)
BASES = {4: b"\x0a\0\0", 6: b"\xfd" + bytes(14)}
ADDRESSES: tuple[Address, ...] = tuple(base + bytes([n]) for base in BASES.values() for n in NUMBERS)


def tuples_of(items: st.SearchStrategy, most: int) -> st.SearchStrategy:
    return st.lists(items, max_size=most).map(tuple)


labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES))
keys = st.sampled_from(KEYS)
requirements = st.one_of(
    st.builds(Requirement, keys, st.sampled_from([Operator.EXISTS, Operator.DOES_NOT_EXIST])),
    st.builds(
        Requirement,
        keys,
        st.sampled_from([Operator.IN, Operator.NOT_IN]),
        st.sets(st.sampled_from(VALUES), min_size=1).map(lambda values: tuple(sorted(values))),
    ),
)
selectors = st.one_of(
    st.just(Selector()),
    st.just(Selector()),
    st.builds(Selector, st.sets(requirements, max_size=2).map(lambda found: tuple(sorted(found)))),
)
spaces = st.sampled_from(["one", "one", "one", "two"])
networks = st.sampled_from(["one/net", "one/net", *NETWORKS])
some_networks = st.one_of(
    st.just(("one/net",)),
    st.just(("one/net",)),
    st.sets(networks, min_size=1, max_size=2).map(lambda found: tuple(sorted(found))),
)
addresses = st.sets(st.sampled_from(ADDRESSES), min_size=1, max_size=2).map(
    lambda found: tuple(sorted(found))
)


def _spans(base: bytes, numbers: set[int]) -> tuple[Span, ...]:
    """Spans of exactly these host numbers: by counting, not by the arithmetic under test."""
    start = int.from_bytes(base + b"\0", "big")
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == start + number - 1:
            found[-1][1] += 1
        else:
            found.append([start + number, start + number])
    return tuple((first, last) for first, last in found)


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    family = draw(st.sampled_from([4, 6]))
    numbers = draw(st.sets(st.sampled_from(NUMBERS)))
    return Block(f"IPv{family} {sorted(numbers)}", family, _spans(BASES[family], numbers))


protocols = st.sampled_from(PROTOCOLS)
spans = st.tuples(st.integers(1, 6), st.integers(0, 2)).map(lambda pair: (pair[0], sum(pair)))
numbered = st.builds(Port, protocols, st.none() | spans)
named = st.builds(Port, protocols, st.none(), st.sampled_from(PORT_NAMES))
peers = st.one_of(blocks(), st.builds(PodPeer, st.none() | selectors, selectors))
some_peers = st.lists(peers, min_size=1, max_size=3).map(tuple)
some_ports = st.lists(numbered | named, min_size=1, max_size=3).map(tuple)
rules = st.builds(
    Rule,
    st.one_of(some_peers, some_peers, some_peers, st.none(), st.just(())),
    st.one_of(some_ports, st.none(), some_ports, st.none(), st.just(())),
)
directions = st.one_of(tuples_of(rules, 3), tuples_of(rules, 3), st.none())
policies = st.builds(
    Policy,
    spaces,
    st.sampled_from(["a", "b", "c"]),
    st.one_of(*[some_networks] * 7, st.just(())),
    st.one_of(*[selectors] * 7, st.none()),
    directions,
    directions,
)
common = st.builds(
    CommonRules,
    *[tuples_of(st.builds(Rule, st.none() | tuples_of(blocks(), 2), st.none() | tuples_of(numbered, 2)), 1)]
    * 2,
)
container_ports = tuples_of(
    st.builds(ContainerPort, st.sampled_from(PORT_NAMES), protocols, st.integers(1, 6)), 2
)
pods = st.builds(
    Pod,
    spaces,
    st.sampled_from(NAMES),
    st.sampled_from(UIDS),
    labels,
    container_ports,
    host_network=st.sampled_from([False] * 7 + [True]),
    finished=st.sampled_from([False] * 7 + [True]),
    statuses=tuples_of(st.builds(Status, networks, st.just("net1"), addresses), 2),
    local=st.sampled_from([True] * 4 + [False]),
    node=st.sampled_from(["", "", "", NODE]),
)
namespaces = st.builds(NamespaceObject, st.sampled_from(NAMESPACES), labels)
subjects = st.builds(Subject, spaces, labels, container_ports, some_networks)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    family = draw(st.sampled_from([4, 6]))
    ends = [base for base in ADDRESSES if len(base) == len(BASES[family]) + 1]
    protocol = draw(st.sampled_from([6, 6, 17, 17, 132, 1 if family == 4 else 58]))
    icmp = protocol in (1, 58)
    return Packet(
        peer=draw(st.sampled_from(ends)),
        own=draw(st.sampled_from(ends)),
        protocol=protocol,
        port=None if icmp else draw(st.integers(1, 8)),
        icmp_type=draw(st.sampled_from([2, 8, 128, 135, 137])) if icmp else None,
        state=draw(st.sampled_from([ConnectionState.NEW] * 6 + list(ConnectionState))),
        mid_stream=protocol == 6 and draw(st.sampled_from([False] * 5 + [True])),
    )
