"""Which packets pass the hook of a pod's rules in each mode of ipvlan: why l3s is refused. Without a daemon.

In: a lab. Out: a result for each mode and way in. A drop of all that comes in, made by hand, is what any
enforcement inside the pod comes down to.
"""

import subprocess

from tests.lab import Daemon, Lab, is_blocked
from tests.lab.namespaces import inside
from tests.vm.cases import HOOKS, VmCase
from tests.vm.guest.lans import BLOCKED_TIMEOUT, OPEN_TIMEOUT, OUTSIDE, Lan, cnitool_all
from tests.vm.guest.results import Results

PORT = 80
_DROP = "add table inet t; add chain inet t c { type filter hook prerouting priority -150; policy drop; }"
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
        before = [lan.probe_subject(source, PORT, OPEN_TIMEOUT) for source in _SOURCES]
        with inside(lan.pods["s"].netns):
            subprocess.run(["nft", _DROP], check=True)
        for name, source, control in zip(names, _SOURCES, before, strict=True):
            after = lan.probe_subject(source, PORT, BLOCKED_TIMEOUT)
            passes = name.startswith("is passed by")
            good = all(one == "open" if passes else is_blocked(one) for one in after)
            open_before = all(one == "open" for one in control)
            wrong = [] if good and open_before else [f"{control} without it, {after} with it"]
            results.add(VmCase("none", driver, f"a drop by hand {name}"), wrong)
