"""Comments: what they say of sets, and that a thousand networks or values cost them no more than a few."""

import tracemalloc
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.desired import make_program
from daemon.model import Operator, Requirement, Selector
from daemon.policy.ruleset import EndpointSet, Match, Members, PeerRef, PodSet, PodUnion, Ruleset
from daemon.program import GateRequest
from daemon.wording import MAX_COMMENT, bounded, clean, describe_peer, describe_selector

pytestmark = pytest.mark.unit

TCP = 6
MANY = tuple(f"default/n{number:04d}-{'x' * 240}" for number in range(1000))
MOST_BYTES = 16_000

words = st.text(st.characters(codec="utf-8"), max_size=150)


def having(key: str, *values: str) -> Selector:
    return Selector((Requirement(key, Operator.IN, values),))


def pods(networks: tuple[str, ...], *values: str) -> PodSet:
    return PodSet(networks, "default", None, having("role", *values))


@given(st.lists(words, min_size=1, max_size=20), st.lists(words, min_size=2, max_size=20))
def test_what_is_cut_early_says_the_same(networks: list[str], values: list[str]) -> None:
    selector = f"role in ({', '.join(values)})"
    whole = clean(f"{selector} in namespace default on {', '.join(networks)}")
    assert describe_peer(pods(tuple(networks), *values)) == whole
    assert len(whole.encode()) <= MAX_COMMENT
    assert clean(describe_selector(having("role", *values))) == clean(selector)


@given(st.lists(words, min_size=1, max_size=20))
def test_what_does_not_fit_is_counted(parts: list[str]) -> None:
    said = bounded(parts)
    assert len(said.encode()) <= MAX_COMMENT
    if len((whole := ", ".join(parts)).encode()) <= MAX_COMMENT and len(parts) <= 8:
        assert said == clean(whole)


LARGE: list[PeerRef] = [
    pods(MANY, "client"),
    pods(("default/net1",), *MANY),
    PodSet(MANY, "", having("team", *MANY), having("role", *MANY)),
    PodUnion(MANY, tuple(pods(MANY, f"r{number}") for number in range(100))),
    EndpointSet(MANY, None, tuple((TCP, name) for name in MANY)),
    EndpointSet(MANY, pods(MANY, "client"), ((TCP, "web"),)),
]


@pytest.mark.parametrize("peer", LARGE, ids=range(len(LARGE)))
def test_a_comment_costs_what_a_comment_holds(peer: PeerRef) -> None:
    tracemalloc.start()
    try:
        assert len(describe_peer(peer)) == MAX_COMMENT
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long what was encoded for digests is."""
    lengths: list[int] = []
    encode: Callable[[object], bytes] = msgspec.json.encode

    def counted(value: object) -> bytes:
        found = encode(value)
        lengths.append(len(found))
        return found

    monkeypatch.setattr(msgspec.json, "encode", counted)
    return lengths


def test_names_of_sets_cost_the_networks_once(encoded: list[int]) -> None:
    """Of a policy for a thousand networks with 400 selectors, however these stand in rules."""
    networks = tuple(f"{name}y" for name in MANY)
    alone = [pods(networks, f"a{number}") for number in range(100)]
    union = PodUnion(networks, tuple(pods(networks, f"b{number}") for number in range(100)))
    ports = [EndpointSet(networks, pods(networks, f"c{n}"), ((TCP, "web"),)) for n in range(100)]
    peers: list[PeerRef] = [*alone, union, *ports]
    ruleset = Ruleset(tuple(Match(peer, None, ("p",)) for peer in peers), None)
    made = make_program([GateRequest("net1", 7, "c1 net1", ruleset)], lambda _: Members(), True)
    assert len(made.sets) == 2 * len(peers)
    assert sum(map(len, networks)) < sum(encoded) < 2 * sum(map(len, networks))
