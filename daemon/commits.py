"""The one way into a namespace's kernel: commits on top of what is known, comparisons, never a belief.

In: programs, and how a namespace stands. Out: the same in the kernel, and what others have changed there.
Only the dataplane thread calls this module.

What counts as ours is a mark that our own commit made (nftables: the generation that it was planned for and
one more, which the kernel checks), or one that was read before everything was compared. Who changes something
in between, or right after our commit, makes another one, and so is found by the next look, edit, CHECK, ADD
or start.
"""

from collections.abc import Callable, Set

from daemon import netns, planner
from daemon.backends.base import Backend
from daemon.errors import DataplaneError, ForeignChangeError, OvertakenError
from daemon.log import get_logger
from daemon.program import Program
from daemon.rivals import Rivals
from daemon.slices import Pausing, ended
from daemon.standing import Standing

log = get_logger(__name__)

_TRIES = 3
"""Comparisons for one commit; then all is written anew, whatever is there."""


class Commits:
    """`clock`: monotonic seconds. applied_total: programs committed. tampered_total: changes found."""

    def __init__(self, backend: Backend, rivals: Rivals, clock: Callable[[], float]) -> None:
        self._backend = backend
        self._rivals = rivals
        self._clock = clock
        self.applied_total = 0
        self.tampered_total = 0

    def commit(self, standing: Standing, desired: Program, own: Set[str]) -> None:
        """Make a namespace as desired. own: the names of its attachments' chains.

        DataplaneError: it is not; `actual` None then. NetnsError.
        """
        try:
            self._advance(standing, desired, own)
        except DataplaneError as error:
            if standing.actual is None:
                raise
            if isinstance(error, ForeignChangeError):
                self._found(standing, str(error))
            # The model may be wrong because somebody else changed what is ours: once more, from scratch.
            log.warning("rewriting", extra={"netns": standing.identity.path, "error": str(error)})
            standing.actual = None
            self._program(standing, desired, own)
        standing.actual = standing.believed = desired

    def rewrite(self, standing: Standing, program: Program, own: Set[str]) -> None:
        """Write all of it, whatever is there."""
        standing.actual = None
        self._program(standing, program, own)
        standing.actual = standing.believed = program

    def take_over(self, standing: Standing, desired: Program, generation: int, own: Set[str]) -> bool:
        """Believe that the kernel holds what is desired, which an earlier daemon gave this mark.

        False: something differs; `actual` stays unknown.
        """
        with netns.entered(standing.identity.path, standing.identity):
            alike = self._backend.untouched(desired, generation)
            if not (alike and self._backend.exact):
                found = ended(self._backend.surveying(desired))
                if found.difference:
                    # Nobody touched it since: then it is this version that would write it otherwise. Or
                    # another backend did.
                    if generation and not alike and not self._rivals.told():
                        self._found(standing, found.difference)
                    return False
                generation = found.mark
            self.evict_rivals(standing, own)
        standing.actual, standing.generation = desired, generation
        return True

    def confirm(self, standing: Standing) -> bool:
        """Make sure that the kernel holds `actual`. False: it does not, and `actual` is not known now."""
        with netns.entered(standing.identity.path, standing.identity):
            return self._exactly(standing) or ended(self._comparing(standing))

    def untouched(self, standing: Standing) -> bool:
        """Whether nobody seems to have touched anything since the last commit or comparison; cheap."""
        if standing.actual is None:
            return False
        with netns.entered(standing.identity.path, standing.identity):
            return self._backend.untouched(standing.actual, standing.generation)

    def compare(self, standing: Standing) -> bool:
        """As confirm, but by reading all in any case."""
        return ended(self.comparing(standing))

    def comparing(self, standing: Standing) -> Pausing[bool]:
        """`compare` that pauses. What is programmed meanwhile makes it worthless: True then."""
        work = self._comparing(standing)
        try:
            while True:
                with netns.entered(standing.identity.path, standing.identity):
                    try:
                        next(work)
                    except StopIteration as end:
                        return bool(end.value)
                yield
        finally:
            work.close()

    def verify(self, standing: Standing) -> str:
        """What in the kernel differs from `actual`, which is known; "": nothing. Changes nothing at all."""
        with netns.entered(standing.identity.path, standing.identity):
            found = []
            if standing.actual is not None and not self._exactly(standing):
                found = [ended(self._backend.surveying(standing.actual)).difference]
            return "; ".join(text for text in [*found, *self._rivals.told()] if text)

    def evict_rivals(self, standing: Standing, own: Set[str]) -> None:
        """What another backend has programmed in the current netns goes, now that ours is in force."""
        found = self._rivals.evict(own, standing.identity.path)
        if found.beside not in ("", standing.beside):
            log.error("rival-left", extra={"netns": standing.identity.path, "reason": found.beside})
        standing.searched, standing.beside = found.done, found.beside

    # --- inside ------------------------------------------------------------------------------------------

    def _advance(self, standing: Standing, desired: Program, own: Set[str]) -> None:
        """From what is known; where somebody else came first, from what a comparison finds."""
        for _ in range(_TRIES):
            if standing.actual is not None and not standing.generation:
                self.compare(standing)
            try:
                self._program(standing, desired, own)
            except OvertakenError as error:
                log.debug("overtaken", extra={"netns": standing.identity.path, "done": error.done})
                if error.done:
                    # In part: neither the old program nor the new one is there to compare with.
                    standing.actual = None
                else:
                    self.compare(standing)
            else:
                return
        standing.actual = None
        self._program(standing, desired, own)

    def _program(self, standing: Standing, desired: Program, own: Set[str]) -> None:
        plan = planner.make_plan(desired, standing.actual)
        with netns.entered(standing.identity.path, standing.identity):
            standing.generation = self._backend.apply(plan, standing.generation)
            if plan.reset or not standing.searched:
                self.evict_rivals(standing, own)
        self.applied_total += 1

    def _exactly(self, standing: Standing) -> bool:
        """Whether the mark alone says that nothing was touched."""
        actual, mark = standing.actual, standing.generation
        return actual is not None and self._backend.exact and self._backend.untouched(actual, mark)

    def _comparing(self, standing: Standing) -> Pausing[bool]:
        actual, generation = standing.actual, standing.generation
        if actual is None:
            return False
        try:
            mark, difference = yield from self._backend.surveying(actual)
        except DataplaneError as error:
            if standing.actual is not actual:
                return True
            # Changed during each try to read it, or more than is read: then it is written anew.
            log.warning("not-compared", extra={"netns": standing.identity.path, "error": str(error)})
            standing.actual = None
            return False
        if standing.actual is not actual or standing.generation != generation:
            return True
        if difference:
            self._found(standing, difference)
            standing.actual = None
            return False
        standing.generation = mark
        return True

    def _found(self, standing: Standing, difference: str) -> None:
        """Somebody else has changed what is ours."""
        self.tampered_total += 1
        standing.tampering.note(difference, self._clock())
        said = {"netns": standing.identity.path, "what": standing.tampering.what}
        log.warning("tampered", extra={**said, "times": standing.tampering.times})
