"""The backends that are not in use: what an earlier run, or an accident, left of theirs in a netns.

In: the names of the chains that are known here. Out: what was found, and what became of it. Every method
works on the netns that the calling thread is in. It never takes away rules of an interface that is not known,
and fails for no reason of its own: what can't be read is reported, and is no failure of the backend in use.
"""

from collections.abc import Sequence, Set

import msgspec

from daemon.backends.base import Backend
from daemon.errors import DataplaneError
from daemon.log import get_logger

log = get_logger(__name__)


class Search(msgspec.Struct, frozen=True):
    """done: nothing of a rival is left but what stays on purpose. beside: what is left, and why; "": nothing.

    Two packet filters are ANDed: what is left makes a netns stricter, never laxer.
    """

    done: bool
    beside: str


class Rivals:
    """Those of all backends that the daemon does not use."""

    def __init__(self, backends: Sequence[Backend] = ()) -> None:
        self._backends = backends

    def told(self) -> list[str]:
        """What is there, in words; changes nothing."""
        words = []
        for rival in self._backends:
            try:
                if rival.present():
                    words.append(f"rules of the {rival.name} backend too")
            except DataplaneError as error:
                words.append(f"rules of the {rival.name} backend, if any, can't be read: {error}")
        return words

    def evict(self, own: Set[str], netns: str) -> Search:
        """Take away what is there, once the rules of the backend in use are in force.

        own: the names of the chains of the attachments that are known. netns: for the log.
        """
        done, beside = True, []
        for rival in self._backends:
            try:
                if not rival.present():
                    continue
                if strange := rival.gates() - own:
                    whose = ", ".join(sorted(strange))
                    beside.append(f"rules of the {rival.name} backend stay: they govern more ({whose})")
                    continue
                rival.remove()
                log.warning("rival-removed", extra={"netns": netns, "backend": rival.name})
            except DataplaneError as error:
                done = False
                beside.append(f"rules of the {rival.name} backend may stand beside ours: {error}")
        return Search(done, "; ".join(beside))
