"""What a source may ask of whoever remembers the last valid versions of policies (A4).

In: nothing. Out: the Memory protocol, and one that remembers nothing.
"""

from typing import Protocol

from daemon.model import ObjectKey, Policy
from daemon.sources.lastvalid import Version


class Memory(Protocol):
    """Called from a source's threads; put() and remove() never block, recall() and given() read files."""

    def recall(self, key: ObjectKey, uid: str = "") -> Version | None:
        """The version of a run before, of a policy that this one has not been told of yet; None: none.

        uid: of the object at the API server that it has to be of; "": it has to come from a file.
        """

    def given(self, file: bytes) -> tuple[Version, ...]:
        """All such versions that one file gave; what a file that can't be read now may still hold."""

    def put(
        self, key: ObjectKey, policy: Policy | None, *, last: bool, uid: str = "", file: bytes = b""
    ) -> None:
        """A policy that there is, and its version that counts. None: there never was a valid one.

        last: that is not what its object says now.
        """

    def remove(self, key: ObjectKey) -> None:
        """A policy that there is no more."""


class _Forgetful:
    def recall(self, key: ObjectKey, uid: str = "") -> Version | None:
        return None

    def given(self, file: bytes) -> tuple[Version, ...]:
        return ()

    def put(
        self, key: ObjectKey, policy: Policy | None, *, last: bool, uid: str = "", file: bytes = b""
    ) -> None:
        pass

    def remove(self, key: ObjectKey) -> None:
        pass


FORGETFUL: Memory = _Forgetful()
"""For a source without a state directory."""
