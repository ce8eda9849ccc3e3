"""`python -m tests.bench`: measure, and print each figure with its budget.

In: flags. Out: tables on stdout, JSON into a file. Exit code 0 also when budgets are missed: the machine may
be at fault, and the table says by how much; 1 when something could not be measured.
"""

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.bench import cluster, customer, figures, node, plugin, tenant, traffic, turnover, verdicts
from tests.bench.figures import Figure

MEASURES: dict[str, Callable[[], list[Figure]]] = {
    "plugin": plugin.measure,
    "node": node.measure,
    "turnover": turnover.measure,
    "cluster": cluster.measure,
    "customer": customer.measure,
    "customer-iptables": partial(customer.measure, "iptables"),
    "customer-all-apps": customer.measure_all_apps,
    "tenant": tenant.measure,
    "traffic": traffic.measure,
    "traffic-iptables": partial(traffic.measure, "iptables"),
    "verdicts": verdicts.measure,
    "verdicts-iptables": partial(verdicts.measure, "iptables"),
}


def main() -> int:
    """Run the measures that were asked for, all by default."""
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 150)
    where = figures.machine()
    console.print(
        f"{where['cpu']}, {where['cores']} cores, kernel {where['kernel']}, Python {where['python']}, "
        f"load {where['load']}"
    )
    measured: dict[str, list[Figure]] = {}
    failed = 0
    for name in arguments.only or MEASURES:
        begun = time.monotonic()
        try:
            measured[name] = MEASURES[name]()
        except Exception:  # noqa: BLE001 - one measure that fails must not take the others' figures away
            traceback.print_exc()
            failed += 1
            continue
        console.print(figures.table(f"{name} ({time.monotonic() - begun:.0f} s)", measured[name]))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures.as_json(measured), indent=1) + "\n")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./build.sh bench", description="Measure against the budgets.")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="NAME", help=", ".join(MEASURES))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
