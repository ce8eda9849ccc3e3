"""The results of a machine: a line a case as it comes, so that a hang loses no more than what it hangs in.

In: cases and what went wrong with each. Out: lines of JSON in a file, for `read_results` on the other side.
"""

import contextlib
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.vm.cases import VmCase

RESULTS = "results"  # the name of the file


class Results:
    """The file that they go to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")

    def add(self, case: VmCase, wrong: Sequence[str]) -> None:
        """One case has come to its end; `wrong` is empty for one that is as it should be."""
        self._file.write(json.dumps({"case": str(case), "wrong": list(wrong)}) + "\n")
        self._file.flush()

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Run a part of the cases: one that breaks is told on the console, and the others go on."""
        start = time.monotonic()
        try:
            yield
        except Exception:  # noqa: BLE001 - the cases that it did not report are failures
            traceback.print_exc()
        print(f"vm: {name}: {time.monotonic() - start:.1f} s", flush=True)  # noqa: T201 - the console


def read_results(path: Path) -> dict[str, list[str]]:
    """Return what went wrong with each case that came to its end."""
    lines = path.read_text().splitlines() if path.exists() else []
    # The last line may be half written.
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    return {found["case"]: found["wrong"] for found in whole}
