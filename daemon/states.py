"""The state of an attachment, and what is odd about it, in words. Pure.

In: an attachment. Out: texts for people.
"""

from daemon.reconcile import Attachment

MISSING = "interface missing"
"""The state of an attachment whose interface is gone without a DEL."""


def pod_of(attachment: Attachment) -> str:
    """Whose it is, "namespace/name"; "": nobody knows."""
    record = attachment.record
    return f"{record.pod_namespace}/{record.pod_name}" if record.pod_name else ""


def notes(attachment: Attachment) -> list[str]:
    """What is odd about it."""
    return [note for note in (*attachment.notes, *attachment.doubts, attachment.reach.note) if note]


def unenforceable(attachment: Attachment) -> list[str]:
    """Why its policies are not what holds."""
    return [attachment.reach.reason] if attachment.reach.past else []


def absences(attachment: Attachment) -> list[str]:
    """That its interface is not there, and what becomes of it."""
    if not attachment.missing:
        return []
    where = "is not in its namespace"
    if attachment.unseen:
        where = "is not among the links of its namespace that are looked at (if it is there, it is open)"
    return [
        f"{MISSING}: {attachment.record.ifname} {where}, and no DEL came; its rules wait for it, and its "
        "addresses count for nobody meanwhile"
    ]


def state_of(attachment: Attachment) -> str:
    """Its state, in one word or two."""
    record = attachment.record
    if record.withdrawn:
        return "deleted"
    if attachment.missing:
        return MISSING
    if record.adopted:
        return "adopted"
    return "guard" if record.guard else "unready" if record.unready else str(attachment.state)
