"""What a backend is: the one interface between the reconciler and a packet filter.

Every method but `text` works on the network namespace that the calling thread is in (netns.entered puts it
there).
"""

from typing import Protocol

from daemon.planner import Plan, Program


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

    def apply(self, plan: Plan) -> int:
        """Carry out a plan as a whole or not at all; return the kernel's generation afterwards (0: none).

        TransactionError: refused, nothing was changed. DataplaneError: the outcome is not known; plan anew
        with actual None.
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

    def differences(self, program: Program) -> str:
        """What of ours is not as `program` says, for people; "": all is. Changes nothing."""

    def counters(self) -> dict[str, tuple[int, int]]:
        """(packets, bytes) dropped since each chain was made, by chain name such as "ingress-net1"."""

    def text(self, program: Program) -> str:
        """A program in the packet filter's own language, for people."""

    def remove(self) -> None:
        """Take away all that is ours. Opens what was governed.

        For tests and for changing the backend only.
        """
