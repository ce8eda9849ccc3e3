"""ADDs that can't be answered yet, as data: what each waits for, and how far it has come.

An ADD waits for its netns (while an earlier run's rules there are not verified), its pod, the policies or
peers that the source still has to tell; then, where there is much to program, for that. Each step may end it
with an error; its deadline does in any case.
"""

from dataclasses import dataclass

from daemon.cni import AddRequest
from daemon.reconcile import Attachment
from daemon.server import Request
from daemon.sources.base import Found


@dataclass(frozen=True, slots=True)
class Begun:
    """An attachment that is recorded and being programmed. replaced: what had its place before.

    None: the same attachment did, and is being compared with the kernel.
    """

    attachment: Attachment
    replaced: list[Attachment] | None
    evidence: str


@dataclass(slots=True)
class Waiting:
    """An ADD that can't be answered yet.

    token: of its netns, None where it has none. patience: when to look at it again at the latest. asked: the
    source was, for its pod. found: what that came to. begun: it is being programmed.
    """

    add: AddRequest
    request: Request
    deadline: float
    token: int | None = None
    patience: float = 0.0
    asked: bool = False
    found: Found | None = None
    begun: Begun | None = None
