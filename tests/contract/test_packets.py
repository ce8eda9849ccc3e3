"""What packets meet in each scenario: real ones on the kernel's backends, traced ones on the fake.

The control: the same probes, all open, in the same pods with nothing programmed.

proves: A5, B2, B4, C1, C4, C6, C9, D1, D2, D3, D4, D5, E3
"""

from collections.abc import Iterator

import pytest

from daemon.backends.fake import FakeBackend
from daemon.model import Direction
from daemon.planner import make_plan
from daemon.policy.evaluate import Packet
from tests.contract.backends import REAL, Seams
from tests.contract.rows import ALL, Scenario
from tests.contract.scenarios import SCENARIOS
from tests.contract.site import LANS, Site
from tests.contract.tracer import passes
from tests.contract.words import FAMILIES, FRIEND, ICMP, ICMPV6, STRANGER, TCP, UDP, address
from tests.lab import Lab

PROBED = [scenario for scenario in SCENARIOS if scenario.wants]
SUBJECT = 10
BATCH = 25


class Rounds:
    """Scenarios in batches; all rounds of a batch are done at the first question for one of it.

    The kernel has one table of neighbours for all namespaces, and it is small: hence batches.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._wrong: dict[tuple[str, str], list[str]] = {}

    def wrong(self, scenario: Scenario, round_: str) -> list[str]:
        """What went wrong in a scenario, by a backend or in the control."""
        if (scenario.name, round_) not in self._wrong:
            start = PROBED.index(scenario) // BATCH * BATCH
            self._run(PROBED[start : start + BATCH])
        return self._wrong[scenario.name, round_]

    def _run(self, scenarios: list[Scenario]) -> None:
        placed = [self._site.place(scenario) for scenario in scenarios]
        self._keep("control", self._site.probe(placed, control=True))
        for subject in REAL:
            made = subject.make(Seams())
            for one in placed:
                self._site.program(one, made)
            self._site.forget_neighbours()
            self._keep(subject.name, self._site.probe(placed))
            for one in placed:
                self._site.clear(one, made)
        for one in placed:
            self._site.end(one)
        self._site.forget_neighbours()

    def _keep(self, round_: str, wrong: dict[str, list[str]]) -> None:
        self._wrong |= {(name, round_): lines for name, lines in wrong.items()}


@pytest.fixture(scope="module")
def rounds() -> Iterator[Rounds]:
    with Lab(LANS) as lab:
        yield Rounds(Site(lab))


@pytest.mark.parametrize("round_", ["control", *(subject.name for subject in REAL)])
@pytest.mark.parametrize("scenario", PROBED, ids=str)
def test_real_packets(rounds: Rounds, scenario: Scenario, round_: str) -> None:
    assert rounds.wrong(scenario, round_) == []


@pytest.mark.parametrize("scenario", PROBED, ids=str)
def test_traced_packets(scenario: Scenario) -> None:
    fake = FakeBackend()
    if scenario.before is not None:
        fake.apply(make_plan(scenario.before, None))
    fake.apply(make_plan(scenario.after, None if scenario.reset else scenario.before))
    names = [*(scenario.before.gates if scenario.before else ()), *scenario.after.gates, "net1"]
    table, link = fake.tables[""], (names[0], 7)
    for family, want in zip(FAMILIES, scenario.wants, strict=True):
        for host, direction, open_ in (
            (FRIEND, Direction.INGRESS, want.friend),
            (STRANGER, Direction.INGRESS, want.stranger),
            (FRIEND, Direction.EGRESS, want.out),
        ):
            sent = {name: packet(name, family, host) for name in ALL.split()}
            passed = [name for name in sent if passes(table, link, direction, sent[name])]
            assert passed == [name for name in sent if name in open_.split()], (family, host, direction)
            if scenario.bystander:
                assert all(passes(table, (scenario.bystander, 8), direction, one) for one in sent.values())


def packet(name: str, family: int, host: int) -> Packet:
    peer, own = address(family, host), address(family, SUBJECT)
    if name == "icmp":
        return (
            Packet(peer, own, ICMP, icmp_type=8) if family == 4 else Packet(peer, own, ICMPV6, icmp_type=128)
        )
    protocol = TCP if name.startswith("tcp") else UDP
    return Packet(peer, own, protocol, int(name[3:]))


def test_scenarios_say_yes_and_no() -> None:
    """A table that only ever says one thing would be passed by a constant."""
    counts = [len(part.split()) for s in PROBED for w in s.wants for part in (w.friend, w.stranger, w.out)]
    assert sum(counts) > 500
    assert len(counts) * len(ALL.split()) - sum(counts) > 500
