"""Which policies govern something on this node, and which of them began or ceased to (A4).

In: the policies of each attachment, whenever that is compiled. Out: what has changed since it was last asked:
nobody looks at all attachments. Pure.
"""

from collections.abc import Iterable

import msgspec

from daemon.model import AttachmentKey
from daemon.policy.budget import PolicyRef


class _Count(msgspec.Struct):
    """How many attachments a policy governs. told: whether that was more than none when it was last asked."""

    ref: PolicyRef
    number: int = 0
    told: bool = False


class Governed:
    """put() as attachments come, change and go; take() what is new. Not shared between threads."""

    def __init__(self) -> None:
        self._counts: dict[PolicyRef, _Count] = {}
        self._of: dict[AttachmentKey, tuple[_Count, ...]] = {}
        self._touched: dict[PolicyRef, _Count] = {}

    def put(self, key: AttachmentKey, refs: Iterable[PolicyRef]) -> None:
        """The policies that govern an attachment now; none: or it is gone."""
        before = self._of.pop(key, ())
        after = tuple(self._counts.setdefault(ref, _Count(ref)) for ref in refs)
        if after:
            self._of[key] = after
        for count in after:
            count.number += 1
        for count in before:
            count.number -= 1
        for count in (*before, *after):
            if (count.number > 0) != count.told:
                self._touched[count.ref] = count
                continue
            self._touched.pop(count.ref, None)
            if count.number == 0:
                self._counts.pop(count.ref, None)

    def take(self) -> dict[PolicyRef, bool]:
        """The policies of which it is otherwise than it was at the last call: whether they govern now."""
        changes = {}
        for ref, count in self._touched.items():
            count.told = changes[ref] = count.number > 0
            if not count.number:
                self._counts.pop(ref, None)
        self._touched.clear()
        return changes
