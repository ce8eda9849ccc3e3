"""What the benchmark says about a figure and its budget."""

import pytest

from tests.bench.figures import Bound, Figure, as_json
from tests.bench.timing import interleaved, percentile, ratio


@pytest.mark.parametrize(
    ("value", "budget", "bound", "met", "verdict"),
    [
        (1.0, 2.0, "at most", True, "met"),
        (2.0, 2.0, "at most", True, "met"),
        (2.5, 2.0, "at most", False, "missed by 25%"),
        (98.0, 97.0, "at least", True, "met"),
        (96.9, 97.0, "at least", False, "missed by 0.1%"),
        (48.5, 97.0, "at least", False, "missed by 50%"),
        (1.0, None, "at most", None, ""),
    ],
)
def test_a_budget_is_met_or_missed_by_so_much(
    value: float, budget: float | None, bound: Bound, met: bool | None, verdict: str
) -> None:
    figure = Figure("what", value, "ms", budget, bound)
    assert (figure.met, figure.verdict) == (met, verdict)


def test_json_tells_the_machine_and_every_figure() -> None:
    written = as_json({"plugin": [Figure("a", 3.0, "x", 2.0)], "node": [Figure("b", 1.0, "s")]})
    assert [(f["group"], f["name"], f["met"]) for f in written["figures"]] == [
        ("plugin", "a", False),
        ("node", "b", None),
    ]
    assert {"cpu", "cores", "kernel", "python", "load"} == set(written["machine"])


def test_rounds_are_interleaved_and_ratios_are_taken_within_a_round() -> None:
    ran: list[str] = []

    def job(name: str, *values: float) -> float:
        ran.append(name)
        return values[ran.count(name) - 1]

    jobs = {"ours": lambda: job("ours", 2, 20, 200), "theirs": lambda: job("theirs", 1, 10, 50)}
    samples = interleaved(3, jobs)
    assert [set(ran[i : i + 2]) for i in (0, 2, 4)] == [{"ours", "theirs"}] * 3
    assert ratio(samples["ours"], samples["theirs"]) == 2


@pytest.mark.parametrize(("part", "want"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentile(part: float, want: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], part) == want
