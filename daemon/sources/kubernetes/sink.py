"""What a reflector tells and to whom, and what follows from it for the source.

In: nothing. Out: types.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from daemon.sources.base import Update
from daemon.sources.kubernetes.watched import Collection, Seen
from daemon.sources.memory import FORGETFUL, Memory


class Standing(msgspec.Struct, frozen=True):
    """How a collection stands.

    live: its watch is open. owes_list: what is known of it must be listed again. refused: the server answers,
    and says no: a kind or a right is missing. reason: in words, "" when live. absent: it is the kind.
    """

    live: bool = False
    owes_list: bool = True
    refused: bool = False
    reason: str = "not listed yet"
    absent: bool = False


LIVE = Standing(live=True, owes_list=False, refused=False, reason="")


class Sink(Protocol):
    """Who is told, from the reflector's thread."""

    def listed(self, collection: Collection, seen: Iterable[Seen]) -> None:
        """All that there is; what is not among it is gone. The collection is LIVE by it."""

    def changed(self, collection: Collection, changes: Iterable[tuple[bool, Seen]]) -> None:
        """(whether it was deleted, object), in order."""

    def stands(self, collection: Collection, standing: Standing) -> None:
        """Another standing than before."""

    def history_changed(self) -> None:
        """The server's history is not the one that we know: everything must be listed again."""


class Callbacks(msgspec.Struct, frozen=True):
    """What the state asks of its owner, in whichever thread.

    publish: an update. needs_peers: other nodes' pods are needed, or no longer: look at ClusterState's.
    answered: a server that could not be reached answers. history_changed: everything must be listed again.
    memory: who knows policies' last valid versions of a run before.
    """

    publish: Callable[[Update], None]
    needs_peers: Callable[[], None]
    answered: Callable[[], None]
    history_changed: Callable[[], None]
    memory: Memory = FORGETFUL
