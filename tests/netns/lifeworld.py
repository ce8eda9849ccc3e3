"""A server and two clients on one network, with a daemon that knows them: what the lifecycle tests stand on.

In: a lab. Out: a World, and waits with a deadline.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cni_plugin import wire
from tests.lab import Attachment, Daemon, Lab, Pod, Target, objects
from tests.lab.kernelview import NFTABLES, VIEWS
from tests.netns.enroll import add, must

PORT = 5555
DENY_ALL = objects.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress"]}, networks="net1")
ONLY_A = objects.policy(
    "only-a",
    {
        "podSelector": {"matchLabels": {"role": "server"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "a"}}}]}],
    },
    networks="net1",
)


class Trio:
    """The interfaces of a server and of its clients by name; the server echoes on PORT."""

    attachments: dict[str, Attachment]
    view = NFTABLES

    @property
    def server(self) -> Attachment:
        return self.attachments["server"]

    @property
    def _targets(self) -> list[Target]:
        return [Target("tcp", self.server.ipv4, PORT), Target("tcp", self.server.ipv6, PORT)]

    def verdicts(self, *names: str) -> list[str]:
        """Of clients that should not be answered: there is no long wait for any."""
        return [v for name in names for v in self.attachments[name].pod.prober.probe(*self._targets)]

    def assert_open(self, *names: str) -> None:
        self._assert_probes(names, True)

    def assert_blocked(self, *names: str) -> None:
        self._assert_probes(names, False)

    def _assert_probes(self, names: Iterable[str], open_: bool) -> None:
        want = dict.fromkeys(self._targets, open_)
        found = {name: self.attachments[name].pod.prober.mismatches(want) for name in names}
        wrong = {name: lines for name, lines in found.items() if lines}
        assert not wrong, str(wrong)

    def ruleset(self, pod: Pod) -> str:
        """What of ours is in the pod's kernel."""
        return self.view.listing(pod.netns)


class World(Trio):
    """A server and two clients on net1, with a daemon that knows them."""

    def __init__(self, lab: Lab, backend: str, options: Sequence[str] = ()) -> None:
        self.lab = lab
        self.view = VIEWS[backend]
        self.daemon = lab.daemon(backend=backend, options=options)
        self.attachments = {name: lab.attach(lab.pod(name)) for name in ("server", "a", "b")}
        self.daemon.apply("pods", [self.object(name) for name in self.attachments])
        self.daemon.apply("network", objects.network("net1"))
        self.daemon.wait_synced()
        self.server.pod.prober.serve(PORT)

    def object(self, name: str, **changes: Any) -> objects.Object:
        return objects.pod(name, **{"labels": {"role": name}, **changes})

    def enroll_all(self) -> None:
        for attachment in self.attachments.values():
            must(add(self.daemon, attachment))

    def tamper(self, script: str) -> None:
        """Run commands of somebody else in the server's namespace."""
        self.view.run(self.server.pod.netns, script, self.daemon.xtables_lock)

    @property
    def status(self) -> dict[str, Any]:
        """As `mnpctl status` has it, without the start of that."""
        answer: dict[str, Any] = self.daemon.rpc({"v": 1, "op": wire.OP_STATUS_REPORT})["result"]
        return answer

    @property
    def found(self) -> int:
        """How many changes of its rules by others the daemon has counted."""
        return int(self.status["tampered"])

    def states(self) -> dict[str, str]:
        return {item["pod"].split("/")[1]: item["state"] for item in self.daemon.ctl("attachments")}


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.01)


def records(daemon: Daemon) -> list[Path]:
    return sorted((daemon.state / "attachments").glob("*.json"))
