"""What every source gives, and what may be asked of it.

In: nothing. Out: the Update type and the Source protocol.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from daemon.model import Change, ObjectKey, Pod, Problem

HINT = "PolicyHint"
"""The reason of a finding that may well be meant so: nobody is to be warned."""


class Found(msgspec.Struct, frozen=True):
    """What a look_up() came to. pod None: `message` says why an ADD can't go on."""

    namespace: str
    name: str
    pod: Pod | None
    message: str = ""


class Finding(msgspec.Struct, frozen=True, order=True):
    """Something that the author of an object should know. reason: one word in CamelCase."""

    reason: str
    message: str


class Update(msgspec.Struct, frozen=True):
    """What a source found since its last update, handed over from the source's own thread.

    problems: all that is wrong with the source now (not with objects: those carry their own), by place, such
    as `web.yaml` or `web.yaml#2`; it replaces the last update's.
    complete: everything that there was at the start has been handed over; until then because says why not.
    behind: what is known of some of it is out of date, and in which way: nothing may relax; "": it is not.
    peers_listed: false while policies refer to pods of other nodes and those have not been listed yet.
    policies_lag: why policies may be newer than what is known of them, although the source answers otherwise.
    recreating: policies may be missing since their kind was, or is being, removed: what an earlier run has
    programmed is not to be replaced yet.
    refused: what the source lacks until an operator grants or installs it, a line each.
    found: answers to look_up().
    tokens: of each request_sync() that this update answers; with it, all that the source held at that call
    has been handed over.
    """

    changes: tuple[Change, ...] = ()
    problems: Mapping[str, tuple[Problem, ...]] = {}
    complete: bool = False
    because: str = ""
    behind: str = ""
    peers_listed: bool = True
    policies_lag: str = ""
    recreating: bool = False
    refused: tuple[str, ...] = ()
    found: tuple[Found, ...] = ()
    tokens: tuple[int, ...] = ()


class Source(Protocol):
    """Threads that read cluster objects and publish updates. All methods return at once but stop()."""

    @property
    def look_up_seconds(self) -> float:
        """How long an ADD waits after look_up() for a pod that is not known."""

    def start(self) -> None:
        """Begin to read."""

    def stop(self, timeout: float) -> bool:
        """End the threads; False when one still works after `timeout` seconds."""

    def request_sync(self, token: int, deadline: float) -> None:
        """Read anew; an update with the token follows. Nobody waits after `deadline` (monotonic seconds)."""

    def look_up(self, namespace: str, name: str, uid: str) -> None:
        """Look for one pod that an ADD needs, by the runtime's UID for it ("": whichever has that name).

        It comes as a change, or in an update's `found`, which also says why not.
        """

    @property
    def wants_findings(self) -> bool:
        """Whether there is anybody to tell() them to; to gather them costs something."""

    def tell(self, findings: Mapping[ObjectKey, tuple[Finding, ...]]) -> None:
        """All that is reported about objects now, for their authors."""

    def cost(self) -> Mapping[str, Any]:
        """What reading costs others, for `mnpctl status`; empty where there are none."""
