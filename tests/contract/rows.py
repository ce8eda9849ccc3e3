"""What a row of the table is: a program, the next one, and what packets meet then.

In: nothing. Out: Scenario, Wants.
"""

from dataclasses import dataclass

from daemon.planner import Program

PORTS = (53, 80, 443, 5005)
ALL_TCP, ALL_UDP = (" ".join(f"{protocol}{port}" for port in PORTS) for protocol in ("tcp", "udp"))
ALL = f"{ALL_TCP} {ALL_UDP} icmp"


@dataclass(frozen=True)
class Wants:
    """What passes in one family, of ALL: from the friend and the stranger to the subject, and out of it.

    out: from the subject to the friend.
    """

    friend: str = ""
    stranger: str = ""
    out: str = ALL


@dataclass(frozen=True)
class Scenario:
    """A program and the next. before None: an empty netns.

    reset: what is there is not known, so that the plan rewrites everything. wants: by family (4, 6); empty:
    nothing that packets could tell. bystander: an interface beside, which is not enrolled.
    """

    name: str
    before: Program | None
    after: Program
    wants: tuple[Wants, ...] = ()
    reset: bool = False
    bystander: str = ""

    def __str__(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")


def same(friend: str = "", stranger: str = "", out: str = ALL) -> tuple[Wants, Wants]:
    """The same in both families."""
    wants = Wants(friend, stranger, out)
    return wants, wants


CLOSED = same("", "", "")
OPEN = same(ALL, ALL)
