"""Run every case on the kernel that this runs on; `python -m tests.vm.guest FOLDER` writes FOLDER/results.

Modules are taken away first and given back later, so that one boot has all the kernels that there may be. So
the iptables backend does its work where nf_tables never was, and the nftables backend where ip_tables is not.
"""

import sys
from pathlib import Path

from tests.lab import Daemon, Lab
from tests.vm.cases import GOVERNED
from tests.vm.guest import choice, modules
from tests.vm.guest.hooks import run_hooks
from tests.vm.guest.kinds import run_kinds
from tests.vm.guest.lans import Lan
from tests.vm.guest.legacy import run_legacy
from tests.vm.guest.refusals import run_refusals
from tests.vm.guest.results import RESULTS, Results
from tests.vm.guest.traffic import run_traffic


def main() -> None:
    """All sections, one after the other."""
    results = Results(Path(sys.argv[1], RESULTS))
    with results.section("with neither"), Lab(()) as lab:
        modules.take_away([*modules.NFTABLES, *modules.IPTABLES])
        choice.report_neither(choice.start(lab), "with neither", results)
    with results.section("without nf_tables"), Lab(()) as lab:
        modules.take_away(modules.NFTABLES)
        daemon = choice.start(lab)
        _run_node(lab, daemon, "without nf_tables", "iptables", results)
        with results.section("iptables: legacy rules"):
            run_legacy(lab, daemon, "iptables", results)
        choice.report_refusal(lab, "without nf_tables", results)
    with results.section("without ip_tables"), Lab(()) as lab:
        modules.take_away(modules.IPTABLES)
        daemon = choice.start(lab)
        _run_node(lab, daemon, "without ip_tables", "nftables", results)
        choice.report_refusal(lab, "without ip_tables", results)
    with results.section("without ip_set"), Lab(()) as lab:
        modules.take_away(modules.IPSET)
        choice.report_refusal(lab, "without ip_set", results)
    with results.section("with everything"), Lab(()) as lab:
        modules.take_away([])
        daemon = choice.start(lab)
        with results.section("hooks"):
            run_hooks(lab, daemon, results)
        choice.report_choice(daemon, "with everything", results)
        with results.section("nftables: legacy rules"):
            run_legacy(lab, daemon, "nftables", results)


def _run_node(lab: Lab, daemon: Daemon, name: str, backend: str, results: Results) -> None:
    with results.section(f"{backend}: pods"):
        # While the daemon starts.
        lans = [Lan(lab, daemon, driver) for driver in GOVERNED]
        for lan in lans:
            lan.start_probers()
    with results.section(f"{backend}: choice"):
        choice.report_choice(daemon, name, results)
    with results.section(f"{backend}: rows"):
        run_traffic(lans, daemon, backend, results)
    with results.section(f"{backend}: refusals"):
        run_refusals(lab, daemon, backend, results)
    with results.section(f"{backend}: links"):
        run_kinds(lab, daemon, backend, results)


if __name__ == "__main__":
    main()
