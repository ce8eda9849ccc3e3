"""When what is programmed changes in the kernels, polled.

In: attachments. Out: their sockets, and when all read otherwise than before: by nftables' generation, or by
the headers of all ipsets, which tell how many elements each has.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from daemon.backends import ipset
from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.backends.nftread import read_generation
from tests.lab import Attachment
from tests.lab.namespaces import inside

TIMEOUT = 30.0
_PAUSE = 0.0005
_REAPER = Reaper()


def read_headers(sock: NetfilterSocket) -> object:
    """The headers of all ipsets."""
    return sock.dump(ipset.list_headers())


READERS: dict[str, Callable[[NetfilterSocket], object]] = {
    "nftables": read_generation,
    "iptables": read_headers,
}


@contextmanager
def sockets_in(attachments: Sequence[Attachment]) -> Iterator[list[NetfilterSocket]]:
    """A socket in the namespace of each."""
    with ExitStack() as opened:
        yield [opened.enter_context(_socket(attachment)) for attachment in attachments]


def _socket(attachment: Attachment) -> NetfilterSocket:
    with inside(attachment.pod.netns):
        return NetfilterSocket(_REAPER)


def read_all(sockets: Sequence[NetfilterSocket], backend: str = "nftables") -> list[object]:
    """What each reads now."""
    return [READERS[backend](sock) for sock in sockets]


def until_all_changed(
    sockets: Sequence[NetfilterSocket], before: Sequence[object], backend: str = "nftables"
) -> None:
    """Poll until each namespace reads otherwise than before.

    In the order that the daemon does not know: what matters is when the last one changed.
    """
    deadline = time.monotonic() + TIMEOUT
    left = dict(enumerate(before))
    while left:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(left)} of {len(before)} namespaces did not change")
        for number, generation in list(left.items()):
            if READERS[backend](sockets[number]) == generation:
                break
            del left[number]
        else:
            return
        time.sleep(_PAUSE)


def until_none_changes(sockets: Sequence[NetfilterSocket], quiet: float) -> float:
    """Poll until no namespace's rules have changed for `quiet` seconds: seconds to the last change."""
    begun = last = time.monotonic()
    seen = read_all(sockets)
    while time.monotonic() - last < quiet:
        time.sleep(quiet / 50)
        now = read_all(sockets)
        if now != seen:
            seen, last = now, time.monotonic()
        if last - begun > TIMEOUT:
            raise RuntimeError(f"the rules go on changing after {TIMEOUT:g} s")
    return last - begun


def assert_listed(address: str, attachment: Attachment) -> None:
    """An address is in the rules of an attachment: what was timed was real."""
    if address not in listed(attachment):
        raise RuntimeError(f"{address} is not in force in {attachment.pod.name}, though all was synced")


def listed(attachment: Attachment) -> str:
    """All rules and sets of an attachment's namespace, of whichever backend."""
    enter = ["ip", "netns", "exec", attachment.pod.netns.name]
    lists = (["nft", "list", "ruleset"], ["ipset", "list"])
    runs = (subprocess.run([*enter, *line], capture_output=True, text=True, check=True) for line in lists)
    return "\n".join(run.stdout for run in runs)
