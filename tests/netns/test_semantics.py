"""The truth tables by real packets: macvlan pods, both families, a real daemon on manifests.

Each case runs in four rounds: without its policies all probes pass (the positive control: each "no" is the
doing of the policies); then, where the policies govern s alone, with s enrolled and its peers known by their
network-status only; then with all pods enrolled, in IPv4 and in IPv6.

proves: A1, A2, A3, A4, A5, A6, A7, A9, B1, B2, B3, B4, C1, C2, C3, C4, C5, C6, C7, C8, C9, C12
proves: D1, D2, D3, D4, D5, E6
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.lab import Daemon, Lab
from tests.netns.crowd import Crowd, Placed, crowd, with_common
from tests.semantics import CASES, Case, Probe

BATCH = 24
ROUNDS = ("control", "remote", "ipv4", "ipv6")

Wrong = dict[str, list[str]]  # by case


class Tables:
    """Runs the batch of the case that is asked for, once."""

    def __init__(self, lab: Lab, backend: str) -> None:
        self._lab = lab
        self._backend = backend
        self._numbers = itertools.count()
        self._daemons: dict[str, Daemon] = {}
        self._wrong: dict[tuple[str, str], list[str] | None] = {}

    def wrong(self, case: Case, round_: str) -> list[str] | None:
        """What went wrong in a round; None: the case has no such round."""
        if (str(case), round_) not in self._wrong:
            self._run([one for one in _batch_of(case) if (str(one), round_) not in self._wrong])
        return self._wrong[str(case), round_]

    def _run(self, cases: list[Case]) -> None:
        common = cases[0].common
        key = json.dumps(common)
        if key not in self._daemons:
            self._daemons[key] = with_common(self._lab, common, self._backend)
        with crowd(self._lab, self._daemons[key], cases, self._numbers) as made:
            for round_, wrong in _rounds(made):
                for case in cases:
                    self._wrong[str(case), round_] = wrong.get(str(case))


def _batch_of(case: Case) -> list[Case]:
    alike = [one for one in CASES if one.common == case.common]
    start = alike.index(case) // BATCH * BATCH
    return alike[start : start + BATCH]


def _rounds(made: Crowd) -> Iterator[tuple[str, Wrong]]:
    apart = [placed for placed in made.placed if placed.only_s]
    made.apply(4, with_policies=False)
    made.enroll(lambda placed: [p for p in placed.enrolled if p.key == "s"] if placed in apart else [])
    yield "control", made.probe({placed: _all_open(placed) for placed in made.placed})
    made.apply(4)
    yield "remote", made.probe({placed: placed.case.tries(4) for placed in apart})
    made.enroll(lambda placed: [p for p in placed.enrolled if p.key != "s" or placed not in apart])
    yield "ipv4", made.probe({placed: placed.case.tries(4) for placed in made.placed})
    made.apply(6)
    yield "ipv6", made.probe({placed: placed.case.tries(6) for placed in made.placed})


def _all_open(placed: Placed) -> list[Probe]:
    return [replace(probe, want=True) for family in (4, 6) for probe in placed.case.tries(family)]


@pytest.fixture(scope="module")
def tables(backend: str) -> Iterator[Tables]:
    with Lab(()) as lab:
        yield Tables(lab, backend)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_table_says(tables: Tables, case: Case) -> None:
    wrong = {round_: tables.wrong(case, round_) for round_ in ROUNDS}
    assert {round_: lines for round_, lines in wrong.items() if lines} == {}


def test_rounds_are_not_empty(tables: Tables) -> None:
    """Of the rounds that a case may not have, many have it."""
    assert sum(tables.wrong(case, "remote") is not None for case in CASES) > len(CASES) // 3
