"""Which packets pass a pod's own input hook in each mode of ipvlan: why l3s is refused. No daemon takes part.

In: a lab. Out: a result for each mode and way in. A drop of all that comes in, made by hand, is what any
enforcement inside the pod comes down to.
"""

import subprocess

from tests.lab import Daemon, Lab, Target, is_blocked
from tests.lab.namespaces import inside
from tests.semantics import FAMILIES, Plan
from tests.vm.cases import HOOKS, VmCase
from tests.vm.guest.lans import BLOCKED_TIMEOUT, OPEN_TIMEOUT, OUTSIDE, Lan, cnitool_all
from tests.vm.guest.results import Results

PORT = 80
_DROP = "add table inet t; add chain inet t c { type filter hook input priority 0; policy drop; }"
_SOURCES = (OUTSIDE, "a")  # in the order of HOOKS' names


def run_hooks(lab: Lab, daemon: Daemon, results: Results) -> None:
    """All modes."""
    lans = {driver: Lan(lab, daemon, driver, pods=("s", "a"), ours=False) for driver in HOOKS}
    for lan in lans.values():
        lan.start_probers()
    cnitool_all("add", lans.values())
    for driver, names in HOOKS.items():
        lan = lans[driver]
        lan.pods["s"].prober.serve(tcp=[PORT])
        before = [_verdicts(lan, source, OPEN_TIMEOUT) for source in _SOURCES]
        with inside(lan.pods["s"].netns):
            subprocess.run(["nft", _DROP], check=True)
        for name, source, control in zip(names, _SOURCES, before, strict=True):
            after = _verdicts(lan, source, BLOCKED_TIMEOUT)
            passes = name.startswith("is passed by")
            good = all(one == "open" if passes else is_blocked(one) for one in after)
            open_before = all(one == "open" for one in control)
            wrong = [] if good and open_before else [f"{control} without it, {after} with it"]
            results.add(VmCase("none", driver, f"a drop by hand {name}"), wrong)


def _verdicts(lan: Lan, source: str, timeout: float) -> list[str]:
    (host,) = (pod.interfaces[0].host for pod in lan.inside if pod.key == "s")
    targets = [Target("tcp", Plan(family).address(host), PORT, timeout) for family in FAMILIES]
    return lan.pods[source].prober.probe(*targets)
