"""When rules change in the kernels: the generation of each namespace's, polled.

In: attachments. Out: their sockets, and when all have another generation than before.
"""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.backends.nftread import read_generation
from tests.lab import Attachment
from tests.lab.namespaces import inside

TIMEOUT = 30.0
_PAUSE = 0.0005
_REAPER = Reaper()


@contextmanager
def sockets_in(attachments: Sequence[Attachment]) -> Iterator[list[NetfilterSocket]]:
    """A socket in the namespace of each."""
    with ExitStack() as opened:
        yield [opened.enter_context(_socket(attachment)) for attachment in attachments]


def _socket(attachment: Attachment) -> NetfilterSocket:
    with inside(attachment.pod.netns):
        return NetfilterSocket(_REAPER)


def read_all(sockets: Sequence[NetfilterSocket]) -> list[int]:
    """The generation of each now."""
    return [read_generation(sock) for sock in sockets]


def until_all_changed(sockets: Sequence[NetfilterSocket], before: Sequence[int]) -> None:
    """Poll until each namespace's rules have another generation than before.

    In the order that the daemon does not know: what matters is when the last one changed.
    """
    deadline = time.monotonic() + TIMEOUT
    left = dict(enumerate(before))
    while left:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(left)} of {len(before)} namespaces did not change")
        for number, generation in list(left.items()):
            if read_generation(sockets[number]) == generation:
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
    line = ["ip", "netns", "exec", attachment.pod.netns.name, "nft", "list", "ruleset"]
    if address not in subprocess.run(line, capture_output=True, text=True, check=True).stdout:
        raise RuntimeError(f"{address} is not in force in {attachment.pod.name}, though all was synced")
