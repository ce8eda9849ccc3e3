"""Both backends on every driver, and what `--backend auto` chooses, on stock distribution kernels.

Each kernel is booted once, in a virtual machine that runs all cases (`guest.__main__`): a line a case.

proves: A6, A14, B1, B2, B3, B4, C1, C2, C3, C6, D1, D2, D3, D4, D5
"""

import compileall
import os
import sys
from pathlib import Path

import pytest

from tests.lab.lab import REPOSITORY
from tests.vm.cases import CASES, VmCase
from tests.vm.guest.results import RESULTS, read_results
from tests.vm.initramfs import OUT
from tests.vm.kernels import VERSIONS, find_kernel
from tests.vm.machine import Ending, run_machine

DEADLINE = 1200.0  # seconds; a machine that other tests leave alone needs a quarter of it
LINES = REPOSITORY / "build"


class Report:
    """What one machine reported."""

    def __init__(self, version: str, ending: Ending, results: dict[str, list[str]]) -> None:
        self._ending = ending
        self._results = results
        lines = [f"{version} {case} {self.verdict(case)}\n" for case in CASES]
        LINES.mkdir(exist_ok=True)
        (LINES / f"vm-{version}.txt").write_text("".join(lines))

    def verdict(self, case: VmCase) -> str:
        """In a word."""
        wrong = self._results.get(str(case))
        return "did not report" if wrong is None else "failed" if wrong else "ok"

    def check(self, case: VmCase) -> None:
        """Fail where the case did."""
        wrong = self._results.get(str(case))
        if wrong is None:
            pytest.fail(f"did not report; the console's end:\n{self._ending.tail}", pytrace=False)
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)


@pytest.fixture(scope="module", params=VERSIONS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Report:
    version: str = request.param
    out = tmp_path_factory.mktemp("vm")
    # What is not compiled here would be compiled there, twenty times as slowly.
    for package in ("cni_plugin", "daemon", "tests"):
        compileall.compile_dir(REPOSITORY / package, quiet=1)
    kept = {key: os.environ[key] for key in ("HOME", "XDG_CACHE_HOME") if key in os.environ}
    settings = [f"{key}={value}" for key, value in kept.items()]
    command = ["env", *settings, sys.executable, "-m", "tests.vm.guest", OUT]
    ending = run_machine(find_kernel(version), REPOSITORY, command, out, DEADLINE)
    return Report(version, ending, read_results(Path(out, RESULTS)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_on_this_kernel(report: Report, case: VmCase) -> None:
    report.check(case)
