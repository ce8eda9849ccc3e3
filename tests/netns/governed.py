"""Programs in a pod's kernel by one backend, without a daemon.

In: attachments of the lab, rulesets. Out: rules in force, and what they dropped.
"""

from pathlib import Path

from daemon import netns
from daemon.backends.base import Backend
from daemon.backends.iptables import IptablesBackend
from daemon.backends.nfsocket import Reaper
from daemon.backends.nftables import NftablesBackend
from daemon.backends.xtables import Tables
from daemon.desired import make_program
from daemon.planner import GateRequest, Program, make_plan
from daemon.policy.ruleset import Members, Ruleset
from tests.lab import Attachment
from tests.lab.polling import poll


def make_backend(name: str, lock: Path) -> Backend:
    """A backend by its name, with a lock file of its own where it takes one."""
    if name == "nftables":
        return NftablesBackend(Reaper())
    return IptablesBackend(Reaper(), tables=Tables(str(lock)))


class Governed:
    """Attachments of one pod and what is programmed for them: each ruleset becomes a plan."""

    def __init__(self, backend: Backend, *attachments: Attachment) -> None:
        self.backend = backend
        self.path = str(attachments[0].pod.netns)
        self.attachments = attachments
        self.actual: Program | None = None

    def program(self, *rulesets: Ruleset | None, held: Members | None = None) -> None:
        members = held or Members()
        requests = [
            GateRequest(a.ifname, a.ifindex, f"c0ffee {a.ifname}", ruleset)
            for a, ruleset in zip(self.attachments, rulesets, strict=True)
        ]
        self.apply(make_program(requests, lambda _: members, True))

    def apply(self, desired: Program) -> None:
        with netns.entered(self.path, None):
            self.backend.apply(make_plan(desired, self.actual))
        self.actual = desired

    def dropped(self, chain: str = "ingress-net1") -> int:
        with netns.entered(self.path, None):
            return self.backend.counters()[chain][0]

    def drops(self, at_least: int) -> int:
        """How many packets were dropped coming in, once there are so many."""
        return poll(self.dropped, lambda number: number >= at_least)
