"""What a backend is: the one interface between the reconciler and a packet filter.

Every method but `text` works on the network namespace that the calling thread is in (netns.entered puts it
there).
"""

from collections.abc import Collection
from typing import NamedTuple, Protocol

from daemon.linkkinds import Forward
from daemon.planner import Plan, Program
from daemon.program import Seal
from daemon.slices import Pausing


class Survey(NamedTuple):
    """What a comparison of the kernel with a program found.

    mark: of what stood there before the comparison began, so that whatever is changed from then on has
    another one. difference: for people; "": all is as it shall be.
    """

    mark: int
    difference: str


class Backend(Protocol):
    """A packet filter that can be programmed. Methods raise DataplaneError, TransactionError above all."""

    @property
    def name(self) -> str:
        """As `--backend` takes it."""

    @property
    def follows_renames(self) -> bool:
        """Whether rules go on governing an interface that is given another name."""

    def probe(self) -> None:
        """Try all that is needed in a scratch netns.

        BackendUnavailableError says what is missing and the remedy.
        """

    @property
    def exact(self) -> bool:
        """Whether `untouched` surely finds any change; else only `survey` does."""

    @property
    def survey_seconds(self) -> float:
        """After how long everything is read back though nothing seems touched."""

    @property
    def watch_share(self) -> float:
        """Of a core, what `untouched` may take when it is asked of every netns in turn (tamper.py)."""

    def apply(self, plan: Plan, since: int = 0) -> int:
        """Carry out a plan as a whole or not at all; return the mark of what it made.

        A mark is a number for a state of the netns. It is never one that was read after a commit, or whoever
        changes something right after that would be believed. since: the mark of what the plan starts from;
        0: no matter. Returned is 0 where somebody commits without end: done, but not known to stand.

        OvertakenError: the start is another one. TransactionError: refused, nothing was changed.
        ForeignChangeError, DataplaneError: the outcome is not known; plan anew with actual None.
        """

    def untouched(self, program: Program, mark: int) -> bool:
        """Whether what stands there is still `program`, of which a mark was had. Costs little.

        False: perhaps not; survey tells. True: nobody has touched it (see `exact`).
        """

    def surveying(self, program: Program) -> Pausing[Survey]:
        """Read everything of ours back and compare it with `program`.

        Begun in the netns; it may be gone on with from anywhere, and holds the netns until it is closed.
        """

    def generation(self) -> int:
        """A number that rises with every commit, whoever's; 0 where the packet filter has none.

        Without one, `apply` itself makes sure that its commit is what stands there afterwards.
        """

    def present(self) -> bool:
        """Whether anything of ours is there. Makes nothing, costs little, and needs no probe before.

        DataplaneError: can't be told.
        """

    def gates(self) -> frozenset[str]:
        """The names of the chains that attachments have (`chain_name`), whoever's they are."""

    def imprints(self) -> tuple[str, ...]:
        """The lines that a program's `imprints` has, as they stand there; whoever is root there wrote them.

        For where `present()` says that there is something. DataplaneError: can't be read, or too many.
        """

    def differences(self, program: Program) -> str:
        """What of ours is not as `program` says, for people; "": all is. Changes nothing."""

    def counters(self) -> dict[str, tuple[int, int]]:
        """(packets, bytes) dropped since each chain was made, by chain name such as "ingress-net1"."""

    def text(self, program: Program) -> str:
        """A program in the packet filter's own language, for people."""

    def seal(self, seals: Collection[Seal]) -> str:
        """Drop every frame on these devices, and on no others any more; "", or what could not be closed.

        Not on all kernels: DataplaneError: nothing was changed.
        """

    def sealed(self, seals: Collection[Seal]) -> bool:
        """Whether these are sealed. DataplaneError: can't be told."""

    def forwards(self) -> tuple[Forward, ...] | None:
        """The nft tables that pass frames on before, or after, all rules on IP; None: can't be told."""

    def remove(self) -> None:
        """Take away all that is ours. Opens what was governed.

        For tests and for changing the backend only.
        """
