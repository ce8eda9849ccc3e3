"""Large sets on the real kernel: compared as bytes and in pieces, and still down to the last element."""

import random
from collections.abc import Callable, Iterator
from typing import cast

import msgspec
import pytest

from daemon import netns
from daemon.backends import ipset, nftcompare
from daemon.backends.base import Backend
from daemon.model import Address, Span
from daemon.planner import Program, SetKind, SetSpec, make_plan
from daemon.policy.ruleset import Endpoint
from daemon.program import Elements
from daemon.slices import Pausing
from tests.lab import Lab

DICE = random.Random(7)
BYTES = {4: 4, 6: 16}


def addresses(family: int) -> frozenset[Address]:
    return frozenset(DICE.randbytes(BYTES[family]) for _ in range(300))


def endpoints(family: int) -> frozenset[Endpoint]:
    return frozenset((address, 6, DICE.randint(1, 65535)) for address in addresses(family))


def spans(family: int, count: int = 300) -> frozenset[Span]:
    """Disjoint, not adjacent, few of them a prefix; the first and the last address among them."""
    last = 2 ** (8 * BYTES[family]) - 1
    step = (last - 100) // count
    return frozenset(
        {(0, 0), (last - 9, last), *((n * step, n * step + DICE.randint(1, 300)) for n in range(1, count))}
    )


def ports() -> frozenset[Span]:
    return frozenset((n, n + DICE.randint(0, 3)) for n in range(0, 65530, 10)) | {(65535, 65535)}


MAKERS: dict[SetKind, Callable[[int], Elements]] = {
    SetKind.HOSTS: addresses,
    SetKind.ENDPOINTS: endpoints,
    SetKind.SPANS: spans,
    SetKind.PORTS: lambda _: ports(),
}
SETS = [
    SetSpec(f"{kind}{family}-x", kind, 0 if kind is SetKind.PORTS else family, make(family), "x")
    for kind, make in MAKERS.items()
    for family in (4, 6)
    if kind is not SetKind.PORTS or family == 4
]


def program(*sets: SetSpec) -> Program:
    return Program({}, {spec.name: spec for spec in sets}, track=True)


@pytest.fixture
def inside(lab: Lab) -> Iterator[None]:
    with netns.entered(str(lab.pod("alone").netns), None):
        yield


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What of the kernel's listing was decoded, since it was not as expected by its bytes."""
    found: list[bytes] = []
    real, real_entry = nftcompare._decoded, ipset.decoded

    def decode(some: set[bytes]) -> Pausing[set[tuple[bytes, bytes, bytes]]]:
        found.extend(some)
        return real(some)

    def decode_entry(one: bytes) -> ipset.Entry | None:
        found.append(one)
        return real_entry(one)

    monkeypatch.setattr(nftcompare, "_decoded", decode)
    monkeypatch.setattr(ipset, "decoded", decode_entry)
    return found


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.name)
def test_bytes_tell(packet_filter: Backend, spec: SetSpec, decoded: list[bytes]) -> None:
    """This kernel lists elements as we expect, so none need be decoded; and one that is another is found."""
    packet_filter.apply(make_plan(program(spec), None))
    assert packet_filter.differences(program(spec)) == ""
    assert decoded == []
    _, *rest = spec.elements
    other = msgspec.structs.replace(spec, elements=frozenset(rest))
    packet_filter.apply(make_plan(program(other), program(spec)))
    assert spec.name in packet_filter.differences(program(spec))


@pytest.mark.usefixtures("inside")
def test_what_is_listed_otherwise_is_decoded(
    packet_filter: Backend, monkeypatch: pytest.MonkeyPatch, decoded: list[bytes]
) -> None:
    """Another kernel may put the same in other bytes."""
    monkeypatch.setattr(nftcompare, "_as_listed", lambda sent: nftcompare._elements(sent))
    real = ipset.listed
    changed = lambda *args: (one[:3] + b"\x40" + one[4:] for one in real(*args))  # noqa: E731
    monkeypatch.setattr(ipset, "listed", changed)
    packet_filter.apply(make_plan(program(*SETS[:6]), None))
    assert packet_filter.differences(program(*SETS[:6])) == ""
    assert decoded


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize(("count", "pauses"), [(100, 3), (20_000, 20)])
def test_a_comparison_pauses(packet_filter: Backend, count: int, pauses: int) -> None:
    blocks = SetSpec("blocks4-x", SetKind.SPANS, 4, spans(4, count), "x")
    packet_filter.apply(make_plan(program(blocks), None))
    work = packet_filter.surveying(program(blocks))
    assert sum(1 for _ in work) >= pauses


@pytest.mark.usefixtures("inside")
def test_one_of_many_elements_is_missed(packet_filter: Backend) -> None:
    blocks = SetSpec("blocks4-x", SetKind.SPANS, 4, spans(4, 20_000), "x")
    packet_filter.apply(make_plan(program(blocks), None))
    assert packet_filter.differences(program(blocks)) == ""
    one = max(cast("frozenset[Span]", blocks.elements))
    longer = blocks.elements - {one} | {(one[0] - 30, one[1])}
    smaller = msgspec.structs.replace(blocks, elements=longer)
    packet_filter.apply(make_plan(program(smaller), program(blocks)))
    assert "blocks4-x" in packet_filter.differences(program(blocks))
