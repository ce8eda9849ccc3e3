"""ipvlan in mode l3s: what comes in passes none of the pod's hooks, so no ADD may succeed there.

In: a lab and a daemon. Out: a result for each way to ask, and for DEL.
"""

from pathlib import Path

from tests.lab import CnitoolRun, Daemon, Lab
from tests.lab.namespaces import inside
from tests.netns.crowd import Crowd
from tests.semantics import Case
from tests.semantics.case import pod, policy
from tests.vm.cases import REFUSALS, REFUSED, VmCase
from tests.vm.guest.lans import Lan, at_once
from tests.vm.guest.results import Results

DENIED = Case(
    "everything denied",
    "B4",
    (pod("s", 10),),
    lambda _: [policy("p", {"podSelector": {}, "ingress": []})],
    "",
)
_WORDS = ("ipvlan", "l3s", "l2")  # the device, its mode, and the remedy


def run_refusals(lab: Lab, daemon: Daemon, backend: str, results: Results) -> None:
    """One pod asks before there is a policy, two when there is: by the usual chain, and with the guard."""
    lan = Lan(lab, daemon, REFUSED, pods=("a", "s", "c"))
    chains = {"a": lan.conflist("a"), "s": lan.conflist("s"), "c": lan.conflist("c", guard=True)}

    def run(command: str, *keys: str) -> list[CnitoolRun]:
        return at_once(lambda key: lan.cnitool(command, key, chains[key]), keys)

    Crowd(daemon, [lan.place(lan.everyone)]).apply(4)
    added = run("add", "a")
    Crowd(daemon, [lan.place(DENIED)]).apply(4)
    added += run("add", "s", "c")
    for name, one in zip(REFUSALS, added, strict=False):
        results.add(VmCase(backend, REFUSED, f"refused {name}"), _not_refused(one))
    left = [str(one) for one in run("del", *chains) if one.code != 0]
    left += [f"{key} has net1" for key in chains if "net1" in _links(lan.pods[key].netns)]
    results.add(VmCase(backend, REFUSED, REFUSALS[-1]), left)


def _not_refused(run: CnitoolRun) -> list[str]:
    missing = [word for word in _WORDS if word not in run.stderr]
    return [] if run.code != 0 and not missing else [f"{missing} missing in {run}"]


def _links(netns: Path) -> list[str]:
    with inside(netns):
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]
