"""Which file systems other machines write to: there a lease says nothing about who writes.

In: /proc/self/mountinfo. Out: a yes or no for a device number.
"""

import os
from pathlib import Path

_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "afs", "lustre", "ocfs2", "gfs2", "fuse")


def remote_devices(mountinfo: str) -> frozenset[int]:
    """The device numbers of all network file systems in the text of mountinfo (proc(5))."""
    found = set()
    for line in mountinfo.splitlines():
        mount, _, kind = line.partition(" - ")
        major, _, minor = mount.split(" ")[2].partition(":") if mount.count(" ") >= 2 else ("", "", "")
        if kind.split(" ")[0].partition(".")[0] in _REMOTE and major.isdecimal() and minor.isdecimal():
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


class Mounts:
    """Answers from the last reading of mountinfo; reads it anew for a device not asked for before."""

    def __init__(self) -> None:
        self._known: dict[int, bool] = {}

    def is_remote(self, device: int) -> bool:
        """Whether this device (st_dev) is a network file system. One that can't be told counts as local."""
        if device not in self._known:
            try:
                text = Path("/proc/self/mountinfo").read_text(errors="replace")
            except OSError:
                text = ""
            self._known[device] = device in remote_devices(text)
        return self._known[device]
