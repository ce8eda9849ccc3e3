"""The backends under test, and all that the suite must know of each: how it is made, read and tampered with.

In: the seams that a test puts between a backend and the kernel. Out: backends, and what of theirs and of
others is in the current netns. A further backend is one more entry of BACKENDS.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from daemon import netns
from daemon.backends.base import Backend
from daemon.backends.fake import FakeBackend
from daemon.backends.iptables import IptablesBackend
from daemon.backends.nfsocket import Connect, Reaper, connect
from daemon.backends.nftables import NftablesBackend
from daemon.backends.xtables import Tables
from daemon.planner import Program, make_plan
from tests.contract import readers
from tests.contract.readers import State

_REAPER = Reaper()


@dataclass(frozen=True)
class Seams:
    """What a test may replace between a backend and the kernel."""

    connect: Connect = connect
    tables: Tables = field(default_factory=Tables)


@dataclass(frozen=True)
class Subject:
    """One backend. real: it programs the kernel, so that real packets meet it.

    read: what of ours is in the current netns, by other programs' eyes. tamper: commands that change it, each
    of which `differences` must find ("{chain}": the first interface's ingress chain).
    """

    name: str
    real: bool
    make: Callable[[Seams], Backend]
    read: Callable[[Backend], State]
    tamper: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.name

    def from_scratch(self, program: Program) -> State:
        """What an empty netns holds after the program was applied there."""

        def programmed() -> State:
            backend = self.make(Seams())
            backend.apply(make_plan(program, None))
            return self.read(backend)

        return netns.in_scratch(programmed)


def _read_fake(backend: Backend) -> State:
    return readers.read_fake(cast("FakeBackend", backend))


class _FakeHere(FakeBackend):
    """A fake that is in whatever netns the calling thread is in, as the real ones are."""

    @property
    def netns(self) -> str:
        return str(os.stat("/proc/thread-self/ns/net").st_ino)

    @netns.setter
    def netns(self, _: str) -> None:
        pass


_NFT = "inet multi-networkpolicy"
_NUMBER = (
    f"number=$(nft --handle list chain {_NFT} ingress-net1 | grep '%s' | head -n1 | sed 's/.*handle //')"
)

FAKE = Subject("fake", False, lambda _: _FakeHere(), _read_fake)

NFTABLES = Subject(
    "nftables",
    True,
    lambda seams: NftablesBackend(_REAPER, seams.connect),
    lambda _: readers.read_nftables(),
    (
        "nft add rule inet multi-networkpolicy prerouting accept",
        "nft insert rule inet multi-networkpolicy ingress-net1 return",
        "nft flush chain inet multi-networkpolicy ingress-net1",
        "nft flush chain inet multi-networkpolicy prerouting",
        "nft add element inet multi-networkpolicy pods4-a { 192.0.2.1 }",
        "nft flush set inet multi-networkpolicy blocks6-b",
        "nft add chain inet multi-networkpolicy more",
        "nft flush chain inet multi-networkpolicy tracking",
        "nft delete table inet multi-networkpolicy",
        "nft add table inet multi-networkpolicy '{ flags dormant; }'",
        # The same rules, where no packet comes by.
        f"""rule=$(nft list chain {_NFT} prerouting | grep jump)
        printf '%s\n' "flush chain {_NFT} prerouting" \
            "delete chain {_NFT} prerouting" "add chain {_NFT} prerouting" \
            "add rule {_NFT} prerouting $rule" | nft -f -""",
        # The same chain at a hook of its own.
        f"""rules=$(nft list chain {_NFT} tracking | grep 'ct state')
        printf '%s\n' "flush chain {_NFT} tracking" "delete chain {_NFT} tracking" \
            "add chain {_NFT} tracking {{ type filter hook prerouting priority 0; }}" \
            "add rule {_NFT} tracking $rules" | nft -f -""",
        # Who is in the set, and who is not.
        f"""{_NUMBER % "@pods4-a tcp"}
        nft replace rule {_NFT} ingress-net1 handle $number \
            ip saddr != @pods4-a tcp dport 80 counter return""",
        f"""{_NUMBER % "icmpv6"}
        nft replace rule {_NFT} ingress-net1 handle $number icmpv6 type '{{ 1, 3, 128, 129 }}' return""",
        "nft add element inet multi-networkpolicy pods4-a '{ * }'",
    ),
)

IPTABLES = Subject(
    "iptables",
    True,
    lambda seams: IptablesBackend(_REAPER, seams.connect, seams.tables),
    lambda _: readers.read_iptables(),
    (
        "iptables-legacy -t mangle -A MNP-PREROUTING -j ACCEPT",
        "ip6tables-legacy -t mangle -I MNP-ingress-net1 -j RETURN",
        "iptables-legacy -t mangle -F MNP-ingress-net1",
        "ip6tables-legacy -t mangle -F MNP-PREROUTING",
        "iptables-legacy -t mangle -D PREROUTING 1",
        "iptables-legacy -t mangle -I PREROUTING -j ACCEPT",
        "iptables-legacy -t mangle -F MNP-drop-in-net1",
        "iptables-legacy -t mangle -N MNP-more && iptables-legacy -t mangle -A MNP-more -j ACCEPT",
        "ip6tables-legacy -t mangle -F MNP-tracking",
        "ipset add MNP-pods4-a 192.0.2.1",
        "ipset flush MNP-blocks6-b",
        "ipset create MNP-more hash:ip",
        "iptables-legacy -t mangle -F",
    ),
)

BACKENDS = (FAKE, NFTABLES, IPTABLES)
REAL = tuple(subject for subject in BACKENDS if subject.real)
