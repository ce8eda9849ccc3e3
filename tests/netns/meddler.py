"""Somebody with root in a pod's namespace who commits there without end: a program of its own.

In: what to do, on the command line; it works on the namespace that it is started in. Out: how often it has
done so, on stdout, once its stdin is closed.
"""

import contextlib
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from daemon.backends import nftmessages
from daemon.backends.nfnetlink import NLM_F_CREATE, SUBSYS_NFTABLES, Message, general, string
from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.backends.nftexpr import TABLE_FAMILY
from daemon.backends.nftread import read_generation
from daemon.errors import TransactionError
from daemon.netlink import attr
from tests.lab.namespaces import inside

_ROOT = Path(__file__).resolve().parents[2]
_OWN = [
    Message(SUBSYS_NFTABLES << 8 | kind, NLM_F_CREATE if kind == 0 else 0, body, "somebody's own table")
    for kind in (0, 2)
    for body in (general(TABLE_FAMILY) + attr(1, string("somebody")),)
]
FLUSH = [nftmessages.flush_rules("prerouting")]


class Meddler:
    """A context manager: it works until its end; `times` is known afterwards."""

    def __init__(self, netns: Path, what: str) -> None:
        self._netns = netns
        self._what = what
        self.times = 0

    def __enter__(self) -> "Meddler":
        line = [sys.executable, "-m", "tests.netns.meddler", self._what]
        with inside(self._netns):
            self._child = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=_ROOT
            )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.times = int(self._child.communicate(timeout=30)[0])


def _flush_after_others(sock: NetfilterSocket) -> Callable[[], int]:
    """Flush our first chain as soon as somebody else has committed, and before anybody commits once more."""
    known = read_generation(sock)

    def step() -> int:
        nonlocal known
        found = read_generation(sock)
        if found == known:
            return 0
        sock.transact(FLUSH, found)
        known = found + 1
        return 1

    return step


def _commit(messages: list[Message]) -> Callable[[NetfilterSocket], Callable[[], int]]:
    def prepare(sock: NetfilterSocket) -> Callable[[], int]:
        def step() -> int:
            sock.transact(messages)
            return 1

        return step

    return prepare


def _flush_iptables(_: NetfilterSocket) -> Callable[[], int]:
    def step() -> int:
        for command in ("iptables-legacy", "ip6tables-legacy"):
            # Without the lock, as others' libraries would.
            subprocess.run(
                [command, "-t", "mangle", "-F", "MNP-PREROUTING"], capture_output=True, check=False
            )
        return 1

    return step


WAYS = {
    "flush after others": _flush_after_others,
    "flush nftables": _commit(FLUSH),
    "flush iptables": _flush_iptables,
    "own table": _commit(_OWN),
}


def _open_stdin() -> Iterator[None]:
    while not select.select([sys.stdin], [], [], 0)[0]:
        yield


def main() -> None:
    """Work until stdin is closed."""
    times = 0
    with NetfilterSocket(Reaper()) as sock:
        step = WAYS[sys.argv[1]](sock)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        for _ in _open_stdin():
            with contextlib.suppress(TransactionError):
                times += step()
    sys.stdout.write(f"{times}\n")


if __name__ == "__main__":
    main()
