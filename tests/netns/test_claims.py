"""Which net-attach-def an interface is of, by whom that is said, and what a lie about it does to others.

proves: C5

A tenant's pod is on a LAN of its own, net2, with two addresses that others have on net1: that of `a`, which
has had its ADD there, and that of a stranger, which has had none. Each row is evidence that the pod is on
net1, and shows both harms: whether `a` is shut out, whether the stranger is let in as the tenant's pod. The
table in docs/security.md has these rows.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.lab import Lab, objects
from tests.netns.enroll import add, delete, must
from tests.netns.lifeworld import World

OWN, NET1 = "tenant/own", "default/net1"
PEERS = [
    {"podSelector": {"matchLabels": {"role": "a"}}},
    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"role": "evil"}}},
]
ADMITS = objects.policy(
    "admits", {"podSelector": {"matchLabels": {"role": "server"}}, "ingress": [{"from": PEERS}]}
)


class Row(msgspec.Struct, frozen=True):
    """cache: what Multus noted, one entry each. configured: netAttachDef. asked: the pod's annotation.

    told: what network-status says. believed: whether it counts as being on net1.
    """

    cache: Sequence[str] = ()
    configured: str | None = None
    asked: str = "own"
    told: str = OWN
    believed: bool = False


FORGED = f"{NET1}@net1"
ROWS = {
    "Multus noted another": Row([OWN]),
    "configuration, and Multus noted another": Row([OWN], configured=NET1),
    "configuration, and Multus noted two of one name": Row([NET1, OWN], configured=NET1),
    "Multus noted two of one name": Row([OWN, NET1]),
    "the pod asks for it, and Multus noted another": Row([OWN], asked=FORGED),
    "network-status, and Multus noted another": Row([OWN], told=NET1),
    "all of these, and Multus noted another": Row([OWN], NET1, FORGED, NET1),
    "the pod and network-status, and configuration says another": Row((), OWN, FORGED, NET1),
    # Nobody is asked who could know better, or it is so.
    "Multus noted it": Row([NET1], believed=True),
    "configuration alone": Row(configured=NET1, believed=True),
    "the pod asks for it by the interface's name, alone": Row(asked=FORGED, believed=True),
}


class Claims(World):
    """The World, a stranger on net1, and the tenant's pod with the addresses of both."""

    def __init__(self, lab: Lab, backend: str, cache: Path) -> None:
        super().__init__(lab, backend, [f"--multus-cache-dir={cache}"])
        self.cache = cache
        self.stranger = self.attachments["stranger"] = self.lab.attach(self.lab.pod("stranger"))
        taken = (*self.attachments["a"].addresses, *self.stranger.addresses)
        self.evil = self.lab.attach(self.lab.pod("evil", "tenant"), "net2", "net1", taken)
        self.daemon.apply("policy", ADMITS)
        for name in ("server", "a", "b"):
            must(add(self.daemon, self.attachments[name]))
        self.daemon.wait_synced()

    def claim(self, row: Row) -> None:
        """ADD of the tenant's pod, with this evidence."""
        entries = [{"Name": "default/cluster"}, *({"Name": n, "ifnameRequest": "net1"} for n in row.cache)]
        file = self.cache / self.evil.pod.container_id
        file.unlink(missing_ok=True)
        if row.cache:
            file.write_text(json.dumps(entries))
        self._write(row, [])
        must(add(self.daemon, self.evil, name="own", netAttachDef=row.configured))
        told = [address.partition("/")[0] for address in self.evil.addresses]
        self._write(row, [objects.status_entry(row.told, "net1", told)])

    def _write(self, row: Row, status: Sequence[objects.Object]) -> None:
        labels = {"role": "evil"}
        pod = objects.pod("evil", "tenant", labels=labels, networks=row.asked, status=status)
        plugin = {"netAttachDef": row.configured} if row.configured else {}
        own = objects.network("own", "tenant", objects.conflist("own", "net2", plugin=plugin))
        self.daemon.apply("evil", [own, pod])
        self.daemon.wait_synced()


@pytest.fixture(scope="module")
def claims(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Claims]:
    with Lab(("net1", "net2")) as lab:
        yield Claims(lab, backend, tmp_path_factory.mktemp("multus"))


@pytest.mark.parametrize("row", ROWS)
def test_a_claim_to_be_on_another_network(row: str, claims: Claims) -> None:
    claims.assert_open("a")
    claims.assert_blocked("stranger")
    claims.claim(ROWS[row])
    if ROWS[row].believed:
        claims.assert_blocked("a")
        claims.assert_open("stranger")
    else:
        claims.assert_open("a")
        claims.assert_blocked("stranger")
    claims.assert_blocked("b")
    must(delete(claims.daemon, claims.evil.pod, "net1"))
    claims.daemon.remove("evil")
    claims.daemon.wait_synced()
    claims.assert_open("a")
