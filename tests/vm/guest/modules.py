"""Kernel modules that are there, or not: as on a kernel that was built without them.

In: modules' names. Out: what modprobe does in this machine, and what is loaded.
"""

import subprocess
from collections.abc import Collection
from functools import partial
from pathlib import Path

from tests.lab.polling import poll

NFTABLES = ("nf_tables",)
IPTABLES = ("ip_tables", "ip6_tables")
IPSET = ("ip_set",)
_RULES = Path("/etc/modprobe.d/vm.conf")
_UNLOAD_SECONDS = 60.0  # tables go with their namespaces, which the kernel ends in its own time


def take_away(names: Collection[str]) -> None:
    """Let no one load these from now on, and unload them with all that needs them; others are there again."""
    _RULES.write_text("".join(f"install {name} /bin/false\n" for name in names))
    for name in names:
        poll(partial(_unloaded, name), bool, _UNLOAD_SECONDS)


def _unloaded(name: str) -> bool:
    folder = Path("/sys/module", name)
    if not folder.exists():
        return True
    for holder in _listing(folder / "holders"):
        _unloaded(holder)
    subprocess.run(["rmmod", name], capture_output=True, check=False)
    return not folder.exists()


def _listing(folder: Path) -> Collection[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else ()
