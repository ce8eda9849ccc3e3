"""The truth tables again, with an API server as the source: same packets, same verdicts.

Where the policies govern s alone, all other pods are on another node, known by their metadata; else all are
on this one. The policies' kind has a schema that takes anything, as a cluster may have it, so that malformed
policies exist. Without its policies all probes of a case pass: the positive control.

proves: A1, A2, A3, A4, A5, A6, A7, A9, B1, B2, B3, B4, C1, C2, C3, C4, C5, C6, C7, C8, C9, C12
proves: D1, D2, D3, D4, D5, E6
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.kube.crds import LAX_POLICY_CRD, NET_ATTACH_DEF_CRD
from tests.lab import Lab
from tests.lab.apiserver import CONF, ApiServer
from tests.lab.kubedaemon import KubeDaemon
from tests.netns.crowd import Crowd, Placed, crowd
from tests.semantics import CASES, Case, Pod, Probe

BATCH = 24
ROUNDS = ("control", "ipv4", "ipv6")

Wrong = dict[str, list[str]]  # by case


class Tables:
    """Runs the batch of the case that is asked for, once."""

    def __init__(self, lab: Lab, server: ApiServer) -> None:
        self._lab = lab
        self._server = server
        self._numbers = itertools.count()
        self._daemons: dict[str, KubeDaemon] = {}
        self._wrong: dict[tuple[str, str], list[str]] = {}
        self.remote = 0

    def wrong(self, case: Case, round_: str) -> list[str]:
        """What went wrong in a round."""
        if (str(case), round_) not in self._wrong:
            self._run([one for one in _batch_of(case) if (str(one), round_) not in self._wrong])
        return self._wrong[str(case), round_]

    def _run(self, cases: list[Case]) -> None:
        daemon = self._daemon(cases[0].common)
        with crowd(self._lab, daemon, cases, self._numbers) as made:
            for placed in made.placed:
                here = _local(placed)
                gone = [pod for pod in placed.case.pods if pod not in here]
                daemon.elsewhere |= {(placed.prefix + pod.namespace, pod.name) for pod in gone}
                self.remote += len(gone)
            for round_, wrong in _rounds(made):
                for case in cases:
                    self._wrong[str(case), round_] = wrong[str(case)]

    def _daemon(self, common: Mapping[str, Any]) -> KubeDaemon:
        key = json.dumps(common)
        if key not in self._daemons:
            path = self._lab.folder / f"config-{len(self._daemons)}.yaml"
            path.write_text(json.dumps({"commonRules": dict(common)} if common else {}))
            made = KubeDaemon(self._lab.daemon_folder(), self._server, options=[f"--config={path}"])
            self._daemons[key] = self._lab.adopt(made)
            made.start()
        return self._daemons[key]


def _batch_of(case: Case) -> list[Case]:
    alike = [one for one in CASES if one.common == case.common]
    start = alike.index(case) // BATCH * BATCH
    return alike[start : start + BATCH]


def _local(placed: Placed) -> list[Pod]:
    return [pod for pod in placed.case.pods if not placed.only_s or pod.key == "s"]


def _rounds(made: Crowd) -> Iterator[tuple[str, Wrong]]:
    made.apply(4, with_policies=False)
    made.enroll(lambda placed: [pod for pod in placed.enrolled if pod in _local(placed)])
    yield "control", made.probe({placed: _all_open(placed) for placed in made.placed})
    made.apply(4)
    yield "ipv4", made.probe({placed: placed.case.tries(4) for placed in made.placed})
    made.apply(6)
    yield "ipv6", made.probe({placed: placed.case.tries(6) for placed in made.placed})


def _all_open(placed: Placed) -> list[Probe]:
    return [replace(probe, want=True) for family in (4, 6) for probe in placed.case.tries(family)]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    folder: Path = tmp_path_factory.mktemp("lax")
    with ApiServer(folder) as server, Lab(()) as lab:
        for crd in (NET_ATTACH_DEF_CRD, LAX_POLICY_CRD):
            server.admin.apply(crd)
            server.admin.wait_established(crd["metadata"]["name"])
        server.install(rbac=CONF / "rbac.yaml")
        yield Tables(lab, server)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_table_says(tables: Tables, case: Case) -> None:
    wrong = {round_: tables.wrong(case, round_) for round_ in ROUNDS}
    assert {round_: lines for round_, lines in wrong.items() if lines} == {}


def test_many_pods_were_on_another_node(tables: Tables) -> None:
    for case in CASES:
        tables.wrong(case, "ipv4")
    assert tables.remote > len(CASES)
