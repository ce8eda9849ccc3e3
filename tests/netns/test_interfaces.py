"""One pod, many interfaces: each is governed by its own policies, and one that is not enrolled by none.

proves: A5, A9, E7
"""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute

from tests.lab import Lab, Target, objects
from tests.lab.kernelview import VIEWS
from tests.lab.namespaces import inside
from tests.netns.enroll import add, delete, must

PORT = 5555
DENY: dict[str, Any] = {
    "podSelector": {"matchLabels": {"app": "server"}},
    "policyTypes": ["Ingress", "Egress"],
}
VETH = ("10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2")


class Many:
    """A server on net1, net2 and a veth that somebody made by hand; a client on all three."""

    def __init__(self, lab: Lab, backend: str) -> None:
        self._view = VIEWS[backend]
        self.daemon = lab.daemon(backend=backend)
        self.server, self.client = lab.pod("server"), lab.pod("client")
        self.ends = {
            name: (lab.attach(self.server, name, name), lab.attach(self.client, name, name))
            for name in ("net1", "net2")
        }
        self._veth()
        for pod in (self.server, self.client):
            pod.prober.serve(PORT)
        self.daemon.apply("networks", [objects.network("net1"), objects.network("net2")])
        self.daemon.apply(
            "pods",
            [objects.pod(n, labels={"app": n}, networks="net1,net2") for n in ("server", "client")],
        )
        self.daemon.wait_synced()
        self._source_ports = itertools.count(20_000)  # never twice, for connection tracking remembers

    def _veth(self) -> None:
        with self.client.netns.open("rb") as target, inside(self.server.netns), IPRoute() as links:
            links.link(
                "add", ifname="veth0", kind="veth", peer={"ifname": "veth0", "net_ns_fd": target.fileno()}
            )
        for pod, addresses in ((self.server, VETH[::2]), (self.client, VETH[1::2])):
            with inside(pod.netns), IPRoute() as links:
                index = links.link_lookup(ifname="veth0")[0]
                for address in addresses:
                    links.addr("add", index=index, address=f"{address}/{64 if ':' in address else 24}")
                links.link("set", index=index, state="up")

    def enforce(self, networks: str) -> None:
        self.daemon.apply("policy", objects.policy("deny", DENY, networks=networks))
        self.daemon.wait_synced()

    def wrong(self, **want: bool) -> list[str]:
        """What does not go as wanted, in both directions, by interface."""
        found = []
        for ifname, open_ in want.items():
            theirs, ours = self._addresses(ifname)
            found += self.client.prober.mismatches(dict.fromkeys(self._targets(theirs), open_))
            found += self.server.prober.mismatches(dict.fromkeys(self._targets(ours), open_))
        return found

    def _addresses(self, ifname: str) -> tuple[list[str], list[str]]:
        if ifname == "veth0":
            return [VETH[0], VETH[2]], [VETH[1], VETH[3]]
        server, client = self.ends[ifname]
        return [server.ipv4, server.ipv6], [client.ipv4, client.ipv6]

    def _targets(self, addresses: list[str]) -> list[Target]:
        return [
            Target(protocol, address, PORT, source_port=next(self._source_ports))
            for address in addresses
            for protocol in ("tcp", "udp", "icmp")
        ]

    def ruleset(self) -> str:
        """What of ours is in the server's kernel."""
        return self._view.listing(self.server.netns)


@pytest.fixture
def many(backend: str) -> Iterator[Many]:
    with Lab(("net1", "net2")) as lab:
        made = Many(lab, backend)
        assert made.wrong(net1=True, net2=True, veth0=True) == []
        yield made


def test_only_what_is_enrolled_is_touched(many: Many) -> None:
    """E7: the policy is for both networks, and the other interfaces were made by nobody of ours."""
    must(add(many.daemon, many.ends["net1"][0]))
    many.enforce("net1, net2")
    assert many.wrong(net1=False, net2=True, veth0=True) == []
    own = [many.ends["net1"][0].ipv4, many.ends["net1"][0].ipv6, "127.0.0.1", "::1"]
    assert many.server.prober.mismatches({Target("tcp", address, PORT): True for address in own}) == []
    listed = many.ruleset()
    assert "net1" in listed
    assert "net2" not in listed
    assert "veth0" not in listed


def test_each_interface_has_its_own_policies(many: Many) -> None:
    """A5."""
    for name in ("net1", "net2"):
        must(add(many.daemon, many.ends[name][0]))
    many.enforce("net1")
    assert many.wrong(net1=False, net2=True, veth0=True) == []
    many.enforce("net2")
    assert many.wrong(net1=True, net2=False, veth0=True) == []
    many.enforce("net1,net2")
    assert many.wrong(net1=False, net2=False, veth0=True) == []


def test_enrolled_later_and_gone_earlier(many: Many) -> None:
    """What comes and goes beside an interface changes nothing on it."""
    must(add(many.daemon, many.ends["net1"][0]))
    many.enforce("net1, net2")
    must(add(many.daemon, many.ends["net2"][0]))
    assert many.wrong(net1=False, net2=False, veth0=True) == []
    must(delete(many.daemon, many.server, "net2"))
    with inside(many.server.netns), IPRoute() as links:
        links.link("del", index=many.ends["net2"][0].ifindex)
    many.daemon.wait_synced()
    assert many.wrong(net1=False, veth0=True) == []


def test_one_network_attached_twice(many: Many) -> None:
    """A9: as two interfaces of one net-attach-def; what differs is which were enrolled."""
    first, second = (many.ends[name][0] for name in ("net1", "net2"))
    must(add(many.daemon, first, "default/net1"))
    many.enforce("net1")
    assert many.wrong(net1=False, net2=True, veth0=True) == []
    must(add(many.daemon, second, "default/net1"))
    assert many.wrong(net1=False, net2=False, veth0=True) == []
