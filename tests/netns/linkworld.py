"""A governed interface of each kind that one kernel has, and what others do with it afterwards.

In: a lab, a daemon. Out: a pod with a veth on the LAN, a client there, and a guest behind the pod, as a
virtual machine's would be. What happens to links is done by hand, as plugins, runtimes and privileged pods do
it.
"""

import itertools
import subprocess
from collections.abc import Callable
from typing import Any

from pyroute2 import IPRoute

from tests.lab import Attachment, Daemon, Lab, Pod, Target, objects, xdp
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.netns.enroll import check

PORT = 5555
DENY: dict[str, Any] = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
OPEN: dict[str, Any] = {**DENY, "ingress": [{}], "egress": [{}]}
GUEST = ("10.1.200.1", "fd00:1::c8")
# A link that is closed carries no ARP either: who dials while the kernel gives up asking is told at once.
UNRESOLVED = "error:EHOSTUNREACH"
NEAR, FAR = "vm0", "guest0"  # the ends of the guest's cable, in the pod and in the guest


class LinkWorld:
    """`governed` is eth0 of the pod: the far end of the veth of a network."""

    def __init__(self, lab: Lab, daemon: Daemon, network: str = "net1") -> None:
        self.lab = lab
        self.daemon = daemon
        self._network = network
        self.governed = lab.outside(network)
        self.pod = self.governed.pod
        self.client = lab.attach(lab.pod(f"client-{network}"), network)
        for pod in (self.pod, self.client.pod):
            pod.prober.serve(PORT)
        self.daemon.apply(network, objects.network(network))
        asked = f"default/{network}"
        pods = [objects.pod(p.name, p.namespace, networks=asked) for p in (self.pod, self.client.pod)]
        self.daemon.apply(f"{network}-pods", pods)
        self.daemon.wait_synced()
        self._source_ports = itertools.count(20_000)  # never twice, for connection tracking remembers

    def enforce(self, spec: dict[str, Any]) -> None:
        """A policy for the pod's interface."""
        chosen = f"default/{self._network}"
        made = objects.policy(self._network, spec, networks=chosen, namespace=self.pod.namespace)
        self.daemon.apply(f"{self._network}-policy", made)
        self.daemon.wait_synced()

    def guest(self) -> Pod:
        """A namespace with a cable from the pod, whose end there is up and has no address."""
        guest = self.lab.pod("guest", "virtual")
        with guest.netns.open("rb") as target, inside(self.pod.netns), IPRoute() as links:
            links.link("add", ifname=NEAR, kind="veth", peer={"ifname": FAR, "net_ns_fd": target.fileno()})
        self.run("ip link set vm0 up")
        with inside(guest.netns):
            shell(f"ip link set {FAR} up; " + "; ".join(_give(FAR, address) for address in GUEST))
        guest.prober.serve(PORT)
        return guest

    def run(self, script: str) -> None:
        """Shell commands in the pod's namespace; they must succeed."""
        with inside(self.pod.netns):
            shell(script)

    def attach_xdp(self) -> None:
        """A program that lets everything pass, on the governed interface."""
        with inside(self.pod.netns):
            xdp.attach(self.governed.ifname)

    def move_addresses(self, source: str, target: str) -> None:
        """Everything that the pod has on one interface is on another one then."""
        steps = [f"ip addr flush dev {source} scope global", f"ip link set {target} up"]
        self.run("; ".join(steps + [_give(target, address) for address in self._addresses(self.governed)]))
        self.forget_neighbours()

    def forget_neighbours(self) -> None:
        """An address has gone to another MAC."""
        self.run_at_client("ip neigh flush all")

    def run_at_client(self, script: str) -> None:
        """Shell commands in the client's namespace; they must succeed."""
        with inside(self.client.pod.netns):
            shell(script)

    def wrong(self, want: bool, of: Pod | None = None) -> list[str]:
        """What does not go as wanted, between the client and the pod (or the guest), both ways."""
        mine = self._addresses(self.governed) if of is None else list(GUEST)
        return self.between(mine, self._addresses(self.client), want, of or self.pod)

    def between(self, mine: list[str], theirs: list[str], want: bool, of: Pod) -> list[str]:
        """The same for addresses of the pod (or the guest) and of the client."""
        found = self.client.pod.prober.mismatches(dict.fromkeys(self.targets(mine), want))
        found += of.prober.mismatches(dict.fromkeys(self.targets(theirs), want))
        return found if want else [text for text in found if not text.endswith(UNRESOLVED)]

    def state(self) -> dict[str, Any]:
        """What mnpctl says of the interface."""
        wanted = f"{self.pod.namespace}/{self.pod.name}"
        found = {item["interface"]: dict(item) for item in self.daemon.ctl("attachments", wanted)}
        return found[self.governed.ifname]

    def swept(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until the daemon has seen a change by itself."""
        return poll(self.state, done, 15.0)

    def assert_not_enforced(self, *words: str) -> None:
        """The daemon sees it, says it in every place, and CHECK fails with the reason."""
        found = self.swept(lambda now: now["state"] == "not enforced")
        reply = check(self.daemon, self.governed)
        assert reply["ok"] is False
        told = (found["error"], reply["msg"], " ".join(self.daemon.ctl("status")["problems"]))
        assert [word for word in words for text in told if word not in text] == []

    def targets(self, addresses: list[str]) -> list[Target]:
        """What is probed at an address."""
        return [
            Target(protocol, address, PORT, source_port=next(self._source_ports))
            for address in addresses
            for protocol in ("tcp", "udp", "icmp")
        ]

    @staticmethod
    def _addresses(attachment: Attachment) -> list[str]:
        return [attachment.ipv4, attachment.ipv6]


def shell(script: str) -> None:
    """Run it in the current namespace; it must succeed."""
    run = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{script}: {run.stderr}"


def _give(ifname: str, address: str) -> str:
    length = "64 nodad" if ":" in address else "16"
    return f"ip addr add {address}/{length} dev {ifname}"
