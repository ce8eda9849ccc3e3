"""Network namespaces by name, as `ip netns` keeps them, but without a process for each step.

In: names. Out: mounts in /run/netns. The calling thread changes its namespace only within `inside`.
"""

import contextlib
import ctypes
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/run/netns")
PREFIX = "mnpt-"

_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2

# A lab's namespaces are `mnpt-<pid>-<lab number>.<name>`; the dot tells them from those that people make by
# hand.
_OF_A_LAB = re.compile(rf"{PREFIX}(\d+)-\d+\.")

# Errors that say "nothing there" at once, no waiting for duplicate address detection, pings without root's
# raw sockets, and no chatter of the kernel's own on the wire.
_SYSCTLS = {
    "ipv4/icmp_ratelimit": "0",
    "ipv4/ping_group_range": "0 2147483647",
    "ipv6/conf/all/accept_dad": "0",
    "ipv6/conf/default/accept_dad": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/router_solicitations": "0",
    "ipv6/icmp/ratelimit": "0",
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(outcome: int, what: str) -> None:
    if outcome != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def create_namespace(name: str, **sysctls: str) -> Path:
    """Make an empty namespace, mounted at the path returned.

    `sysctls` are below /proc/sys/net; a `/` is written `__`.
    """
    path = ROOT / name
    ROOT.mkdir(exist_ok=True)
    path.open("x").close()
    failures: list[BaseException] = []

    def make() -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare a network namespace")
            for key, value in (_SYSCTLS | {k.replace("__", "/"): v for k, v in sysctls.items()}).items():
                Path("/proc/sys/net", key).write_text(value)
            own = b"/proc/thread-self/ns/net"
            _check(
                _libc.mount(own, os.fsencode(path), b"none", _MS_BIND, None), f"mount a namespace on {path}"
            )
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failures.append(error)

    # A thread has a namespace of its own, and the one made here goes on living in the mount after the
    # thread ended.
    maker = threading.Thread(target=make)
    maker.start()
    maker.join()
    if failures:
        path.unlink()
        raise failures[0]
    return path


def remove_namespace(path: Path) -> None:
    """Unmount and delete; twice is fine. The kernel ends it when the last process has left it."""
    _libc.umount2(os.fsencode(path), _MNT_DETACH)
    path.unlink(missing_ok=True)


def remove_leftovers() -> list[Path]:
    """Remove the namespaces of labs whose process was killed before it could; returns their paths."""
    labs = [match for name in names() if (match := _OF_A_LAB.match(name))]
    orphans = [ROOT / match.string for match in labs if not Path("/proc", match[1]).exists()]
    for path in orphans:
        remove_namespace(path)
    return orphans


def names() -> list[str]:
    """Return the names of all namespaces mounted on this machine."""
    return sorted(os.listdir(ROOT)) if ROOT.exists() else []


@contextlib.contextmanager
def inside(path: Path) -> Iterator[None]:
    """Move the calling thread into a namespace: sockets and processes that it starts belong there."""
    with open("/proc/thread-self/ns/net", "rb") as home, path.open("rb") as target:
        _check(_libc.setns(target.fileno(), _CLONE_NEWNET), f"enter {path}")
        try:
            yield
        finally:
            _check(_libc.setns(home.fileno(), _CLONE_NEWNET), "leave a namespace")
