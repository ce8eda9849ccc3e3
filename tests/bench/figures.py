"""Figures and their budgets: how far each is met, as a table for people and as JSON for programs.

In: figures. Out: text and plain maps. It measures nothing.
"""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

Bound = Literal["at most", "at least"]


@dataclass(frozen=True)
class Figure:
    """One number. budget None: measured for the reader, nothing was promised."""

    name: str
    value: float
    unit: str
    budget: float | None = None
    bound: Bound = "at most"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the budget is met; None: there is none."""
        if self.budget is None:
            return None
        return self.value <= self.budget if self.bound == "at most" else self.value >= self.budget

    @property
    def verdict(self) -> str:
        """Say whether the budget is met, and if not by how much."""
        if self.met is None or self.budget is None:
            return ""
        if self.met:
            return "met"
        missed = abs(self.value / self.budget - 1)
        return f"missed by {missed:.0%}" if missed >= 0.01 else f"missed by {missed:.1%}"


def table(title: str, figures: Iterable[Figure]) -> Table:
    """Lay figures out as people read them."""
    made = Table(title=title, title_justify="left", expand=False)
    made.add_column("what")
    made.add_column("measured", justify="right")
    made.add_column("budget", justify="right")
    made.add_column("")
    made.add_column("how", style="dim")
    for figure in figures:
        colour = {True: "green", False: "red", None: ""}[figure.met]
        verdict = f"[{colour}]{figure.verdict}[/]" if colour else ""
        made.add_row(figure.name, _number(figure.value, figure.unit), _budget(figure), verdict, figure.note)
    return made


def as_json(groups: dict[str, list[Figure]]) -> dict[str, Any]:
    """Turn all that was measured, with the machine that it was measured on, into plain maps."""
    return {
        "machine": machine(),
        "figures": [
            {"group": group, **asdict(figure), "met": figure.met}
            for group, figures in groups.items()
            for figure in figures
        ],
    }


def machine() -> dict[str, Any]:
    """Say where this runs, and how busy it is."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _budget(figure: Figure) -> str:
    if figure.budget is None:
        return ""
    return f"{'≤' if figure.bound == 'at most' else '≥'} {_number(figure.budget, figure.unit)}"


def _number(value: float, unit: str) -> str:
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{digits}f}"
    return f"{text} {unit}" if unit else text
