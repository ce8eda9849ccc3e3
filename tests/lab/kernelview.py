"""What of ours is in a pod's kernel, and how others meddle with it: by the packet filters' own commands.

In: a backend's name, a pod's namespace. Out: listings as text, and commands of somebody who is root there. It
shares no code with the daemon.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.namespaces import inside

_NFT_TABLE = "inet multi-networkpolicy"
_IPTABLES = ("iptables-legacy", "ip6tables-legacy")
_COUNTS = re.compile(r" \[\d+:\d+\]$", re.MULTILINE)
_DATED = re.compile(r"^#.*\n", re.MULTILINE)

# A set of IPv4 peers that a rule looks up; shells put its name in.
_PEERS_SET = "$(ipset list -name | grep -m1 ^MNP-pods4-)"
_PEERS_SET_NFT = (
    f"$(nft list sets {_NFT_TABLE.split()[0]} | sed -n 's/.*set \\(pods4-[^ ]*\\) .*/\\1/p' | head -n1)"
)


@dataclass(frozen=True)
class KernelView:
    """One packet filter, seen without the daemon.

    tracks: what a listing has where connection tracking is kept on. emptied: takes all rules away, ours too.
    tampered: commands that each change what of ours governs net1 coming in, by a set of peers among others.
    strange: the same, that add something under our names, and what of it a repair takes away. foreign:
    commands about somebody else's own things, that must not matter.
    """

    name: str
    tracks: str
    emptied: str
    tampered: tuple[str, ...]
    strange: tuple[tuple[str, str], ...]
    foreign: tuple[str, ...]

    def listing(self, netns: Path) -> str:
        """All that is ours, without counts; "": nothing is."""
        with inside(netns):
            return _nftables() if self.name == "nftables" else _iptables()

    def numbered(self, netns: Path) -> str:
        """The listing with what the kernel numbers anew when something is written once more."""
        if self.name == "iptables":
            # Sets have a seed each; tables have nothing like it.
            return self.listing(netns)
        with inside(netns):
            return _output("nft", "--debug=netlink", "list", "ruleset")

    def run(self, netns: Path, script: str, lock: Path) -> None:
        """Run shell commands as somebody in the namespace; they must succeed.

        lock: the file that iptables locks, the daemon's own.
        """
        with inside(netns):
            env = os.environ | {"XTABLES_LOCKFILE": str(lock)}
            subprocess.run(["sh", "-ec", script], env=env, check=True, capture_output=True)


NFTABLES = KernelView(
    "nftables",
    "ct state",
    "nft flush ruleset",
    (
        f"nft delete table {_NFT_TABLE}",
        f"nft flush chain {_NFT_TABLE} ingress-net1",
        f"nft flush chain {_NFT_TABLE} prerouting",
        f"nft flush chain {_NFT_TABLE} postrouting",
        f"nft insert rule {_NFT_TABLE} ingress-net1 accept",
        f"nft add element {_NFT_TABLE} {_PEERS_SET_NFT} '{{ 10.1.99.99 }}'",
    ),
    (
        (f"nft add chain {_NFT_TABLE} intruder", "intruder"),
        (f"nft add rule {_NFT_TABLE} ingress-net1 tcp dport 4711 accept", "4711"),
        (
            f"nft add chain {_NFT_TABLE} more '{{ type filter hook input priority 10; policy accept; }}'",
            "chain more",
        ),
    ),
    ("nft add table inet somebody", "iptables-legacy -w -A INPUT -p udp --dport 4711 -j ACCEPT"),
)
IPTABLES = KernelView(
    "iptables",
    "conntrack",
    "; ".join(f"{command} -w -t mangle -F; {command} -w -t mangle -X" for command in _IPTABLES),
    (
        "iptables-legacy -w -t mangle -F; iptables-legacy -w -t mangle -X",
        "iptables-legacy -w -t mangle -F MNP-ingress-net1",
        "ip6tables-legacy -w -t mangle -F MNP-PREROUTING",
        "iptables-legacy -w -t mangle -F MNP-POSTROUTING",
        "iptables-legacy -w -t mangle -I MNP-ingress-net1 -j RETURN",
        "iptables-legacy -w -t mangle -I PREROUTING -j ACCEPT",
        "ip6tables-legacy -w -t mangle -D PREROUTING 1",
        "iptables-legacy -w -t mangle -F MNP-drop-in-net1",
        f"ipset add {_PEERS_SET} 10.1.99.99",
        "ipset flush",
    ),
    (
        (
            "iptables-legacy -w -t mangle -N MNP-intruder; "
            "iptables-legacy -w -t mangle -A MNP-intruder -j ACCEPT",
            "intruder",
        ),
        ("ip6tables-legacy -w -t mangle -A MNP-ingress-net1 -p tcp --dport 4711 -j ACCEPT", "4711"),
        ("ipset create MNP-more hash:ip; ipset add MNP-more 10.1.99.99", "more"),
    ),
    (
        "iptables-legacy -w -A INPUT -p udp --dport 4711 -j ACCEPT",
        "ip6tables-legacy -w -N somebody; ip6tables-legacy -w -A FORWARD -j somebody",
        "iptables-legacy -w -t mangle -A PREROUTING -p udp --dport 4711 -j MARK --set-mark 1",
        "ipset create somebody hash:ip",
        "nft add table inet somebody",
    ),
)
VIEWS = {view.name: view for view in (NFTABLES, IPTABLES)}


def _nftables() -> str:
    # All at once, for the daemon may just take its table away.
    tables = re.split(r"^(?=table )", _output("nft", "--stateless", "list", "ruleset"), flags=re.MULTILINE)
    return "".join(text for text in tables if text.startswith(f"table {_NFT_TABLE} "))


def _iptables() -> str:
    """Those lines of iptables-save and ipset-save that name something of ours, in their order."""
    saved = [_output(f"{command}-save") for command in _IPTABLES]
    text = _COUNTS.sub("", _DATED.sub("", "".join(saved))) + _output("ipset", "save", "-sorted")
    return "\n".join(line for line in text.splitlines() if "MNP-" in line)


def _output(*line: str) -> str:
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout
