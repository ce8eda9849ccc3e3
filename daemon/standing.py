"""How one network namespace stands in the kernel, as far as is known: what was committed, and who meddled.

In: what commits and looks find. Out: what they go by the next time. No I/O, no clock.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from daemon.netns import NetnsIdentity
from daemon.program import Program
from daemon.wording import clean

REPAIRS = 4.0
"""Repairs in a row, for one namespace."""
REPAIR_SECONDS = 5.0
"""After which one more may follow."""
TOLD_SECONDS = 600.0
"""So long it is told that somebody changed something of ours, though it has been restored."""


class State(StrEnum):
    """How an attachment stands. RESTORED: taken over from a record, its rules in the kernel as they were.

    TAMPERED: its rules are changed by somebody else more often than they are restored. NOT_ENFORCED: packets
    of an isolated direction pass the rules by; what can be closed is.
    """

    APPLIED = "applied"
    PENDING = "pending"
    DENIED = "denied"
    NOT_ENFORCED = "not enforced"
    RESTORED = "restored"
    TAMPERED = "tampered"


@dataclass(slots=True)
class Tampering:
    """What others did to what is ours in one namespace, and when it is looked at next; seconds of a clock.

    what, at: the last one. endless: there are more of them than may be repaired. look_at: when it is looked
    at next; read_at: when all is read back, though nothing seems touched; 0: not planned yet.
    """

    times: int = 0
    what: str = ""
    at: float = float("-inf")
    endless: bool = False
    look_at: float = 0.0
    read_at: float = 0.0
    _tokens: float = REPAIRS
    _refilled: float = 0.0

    def note(self, difference: str, now: float) -> None:
        """One more change. Its words may hold names that a pod gave: they are cut, and hold no control."""
        self.times += 1
        self.what = clean(difference)
        self.at = now

    def told(self, now: float) -> str:
        """What to tell of it, in the same words each time; "": nothing (any more)."""
        if now - self.at >= TOLD_SECONDS and not self.endless:
            return ""
        since = "it is restored now and then" if self.endless else "it was restored"
        often = "changes all the time what" if self.endless else "changed what"
        return f"somebody {often} this daemon programmed in the network namespace ({self.what}); {since}"

    def wait(self, now: float) -> float:
        """Seconds until one more repair may be made; 0: now."""
        self._tokens = min(REPAIRS, self._tokens + (now - self._refilled) / REPAIR_SECONDS)
        self._refilled = now
        return max(0.0, 1.0 - self._tokens) * REPAIR_SECONDS

    def calm(self, now: float) -> bool:
        """It was found as it shall be. True: for long enough, `endless` ends with that."""
        self.wait(now)
        if not self.endless or self._tokens < REPAIRS / 2:
            return False
        self.endless = False
        return True

    def spend(self, now: float) -> None:
        """One repair is made; `endless` when it was the last for now."""
        self.wait(now)
        self._tokens = max(0.0, self._tokens - 1.0)
        self.endless = self.endless or self._tokens < 1.0


@dataclass(slots=True)
class Standing:
    """What is known of one network namespace's kernel.

    actual: what was applied last; None: not known. believed: the last that was known to be applied, for a
    comparison when a refused batch leaves doubt. generation: the mark of `actual` (base.Backend.apply); 0:
    somebody commits all the time, so `actual` was applied, but may not be there any more. searched: nothing
    of another backend is beside ours, or stays there on purpose; beside: what is, and why.
    """

    identity: NetnsIdentity
    actual: Program | None = None
    believed: Program | None = None
    generation: int = 0
    searched: bool = False
    beside: str = ""
    tampering: Tampering = field(default_factory=Tampering)

    def clash(self, ifname: str) -> str:
        """Why an interface is closed though all was programmed; "": it is not."""
        return "" if self.actual is None else self.actual.clashes.get(ifname, "")
