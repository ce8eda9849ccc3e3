"""Paths that lead to no network namespace any more: whether it has ended, or is only not to be seen.

In: records and sandboxes. Out: another path, reasons in words. It changes nothing.
"""

from pathlib import Path

from daemon import netns
from daemon.attachments import Record
from daemon.netns import NetnsIdentity
from daemon.reconcile import Sandbox
from daemon.registry import identity_of

HIDDEN = (
    "can't be seen: its directory is another one than before. Something is mounted over it, or it is not "
    "mounted in the daemon's pod; its rules stay"
)


def other_path(sandbox: Sandbox) -> NetnsIdentity | None:
    """Another path of a sandbox's ADDs that leads to the same namespace."""
    for attachment in sandbox.attachments.values():
        other = identity_of(attachment.record)
        if other.path != sandbox.identity.path and not netns.gone(other, thorough=True):
            return other
    return None


def gone_at_start(record: Record) -> str:
    """Why a record's namespace is no more; "": it is there, or can't be looked at."""
    if not Path(record.netns).parent.is_dir():
        # More likely a mount that this daemon was not given than the end of every pod.
        return ""
    return "no such netns at its path" if netns.gone(identity_of(record), thorough=True) else ""
