"""All attachments of this node: the one place that keeps store, sandboxes and records in step.

In: records of attachments that come, change and go. Out: what they make dirty, marked in the reconciler.
Only the dataplane thread calls this module.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from daemon.attachments import Record, RecordStore
from daemon.log import get_logger
from daemon.model import AttachmentKey, Subject
from daemon.netns import NetnsIdentity
from daemon.networks import Candidates
from daemon.reconcile import Attachment, Reconciler, Sandbox
from daemon.slices import Slice
from daemon.standing import State
from daemon.store import Store

log = get_logger(__name__)


class Registry:
    """attachments: by (containerID, ifname)."""

    def __init__(self, store: Store, records: RecordStore, reconciler: Reconciler) -> None:
        self._store = store
        self._records = records
        self._reconciler = reconciler
        self.attachments: dict[AttachmentKey, Attachment] = {}

    def sandbox(self, attachment: Attachment) -> Sandbox:
        """Where an attachment lives."""
        return self._reconciler.sandbox(identity_of(attachment.record))

    def mark(self, keys: Iterable[AttachmentKey]) -> None:
        """These attachments are no longer as desired."""
        present = (self.attachments[key] for key in keys if key in self.attachments)
        self._reconciler.mark(self.sandbox(attachment) for attachment in present)

    def preparing(self) -> Iterator[None]:
        """Work out what each attachment is allowed, before all are asked for it at once; in pieces."""
        pause = Slice(time.monotonic)
        for attachment in list(self.attachments.values()):
            while not self._prepare(attachment, pause):
                yield
                pause.renew()

    def _prepare(self, attachment: Attachment, pause: Slice) -> bool:
        gone = self.attachments.get(attachment.key) is not attachment
        if gone or attachment.record.guard or attachment.record.unready:
            return True
        return self._store.prepare(attachment.key, pause.over)

    def attach(self, attachment: Attachment) -> None:
        """Let it count: as a subject, and with its addresses as a peer. A guard is neither."""
        record = attachment.record
        self.attachments[record.key] = attachment
        sandbox = self.sandbox(attachment)
        sandbox.attachments[record.ifname] = attachment
        if not record.guard:
            pod = (record.pod_namespace, record.pod_name) if record.pod_name else None
            addresses = () if record.withdrawn else record.addresses
            subject, known, peer = subject_of(record), record.known, not record.adopted
            on = (known.peering, known.holding)
            self.mark(self._store.attach(record.key, pod, record.pod_uid, subject, addresses, *on, peer=peer))
            if attachment.missing:
                self.mark(self._store.withdraw(record.key))
        self._reconciler.mark([sandbox])

    def detach(self, attachment: Attachment) -> None:
        """Let it count no more; the kernel follows with its sandbox's next program."""
        key = attachment.key
        if self.attachments.get(key) is not attachment:
            return
        del self.attachments[key]
        sandbox = self.sandbox(attachment)
        if sandbox.attachments.get(key.ifname) is attachment:
            del sandbox.attachments[key.ifname]
            self._reconciler.mark([sandbox])
        if not attachment.record.guard:
            self.mark(self._store.detach(key))

    def replace(self, attachment: Attachment) -> list[Attachment] | None:
        """Put an attachment in the place of what has its key, or its interface in its netns.

        Its record is written first: an OSError means that nothing has changed. Returns what stood there;
        None: the same attachment did already, and nothing is to be done or undone.
        """
        same = self.attachments.get(attachment.key)
        sandbox = self.sandbox(attachment)
        left = None
        if same is not None and self.sandbox(same) is sandbox:
            # What was applied to its netns is still so, whatever this ADD is about to change.
            attachment.record = msgspec.structs.replace(
                attachment.record,
                digest=same.record.digest,
                generation=same.record.generation,
                serial=same.record.serial,
            )
            if attachment.record == same.record and same.state is State.APPLIED and not same.missing:
                return None
        elif same is not None:
            left = self._left_behind(same)
        self._save_both(left, attachment)
        here = sandbox.attachments.get(attachment.record.ifname)
        replaced = list({id(old): old for old in (here, same) if old is not None}.values())
        for old in replaced:
            self.detach(old)
            if old.key != attachment.key:
                self._delete(old.key)
        for new in (left, attachment):
            if new is not None:
                self.attach(new)
        for other in sandbox.attachments.values():
            if other is not attachment and other.record.ifindex == attachment.record.ifindex != 0:
                # Whoever was taken for it: an ADD says whose it is.
                self.miss(other, ifindex=0, seen_name="", seen_mac="")
        return replaced

    def _save_both(self, left: Attachment | None, new: Attachment) -> None:
        """What is left behind first: in whichever moment this process ends, there is a record of either."""
        if left is None:
            self._records.save(new.record)
            return
        self._records.save(left.record)
        try:
            self._records.save(new.record)
        except OSError:
            self._delete(left.key)
            raise

    def _left_behind(self, old: Attachment) -> Attachment:
        """Its key is used again in another netns: the old interface stays restricted until it goes."""
        key = self.free_key(old.key)
        record = msgspec.structs.replace(old.record, container_id=key.container_id, withdrawn=True)
        return dataclasses.replace(old, record=record)

    def free_key(self, taken: AttachmentKey) -> AttachmentKey:
        """A key that no attachment has, for one that can't have its own."""
        for number in itertools.count(1):
            # "~" is in no container's ID.
            key = AttachmentKey(f"{taken.container_id}~{number}", taken.ifname)
            if key not in self.attachments:
                return key
        raise AssertionError

    def adopt(self, record: Record, *, held: bool) -> Attachment:
        """Let what stands in a netns count, as a subject: its record was lost.

        held: its rules stay as they are for now. A key that an attachment has already is not given to it.
        """
        if record.key in self.attachments:
            record = msgspec.structs.replace(record, container_id=self.free_key(record.key).container_id)
        attachment = Attachment(record, State.RESTORED)
        self._reconciler.sandbox(identity_of(record)).held |= held
        self.attach(attachment)
        self._save(record)
        log.warning("adopted", extra=log_fields(record))
        return attachment

    def undo(self, failed: Attachment, replaced: Iterable[Attachment]) -> None:
        """Take back a replace() whose program could not be applied."""
        self.remove(failed)
        for old in replaced:
            left = self.sandbox(old).attachments.get(old.record.ifname)
            if left is not None and left is not old:
                self.remove(left)
            if old.key not in self.attachments:
                self.attach(old)
                self._save(old.record)
        sandbox = self.sandbox(failed)
        if not sandbox.attachments and sandbox.actual is None:
            self._reconciler.forget(sandbox)

    def remove(self, attachment: Attachment) -> None:
        """Forget it, record and all."""
        self.detach(attachment)
        self._delete(attachment.key)

    def converge(self, attachment: Attachment, **fields: Any) -> None:
        """More is known of an attachment than at its ADD: let it count as what it is."""
        self.detach(attachment)
        attachment.record = msgspec.structs.replace(attachment.record, **fields)
        self.attach(attachment)
        self._save(attachment.record)

    def withdraw(self, attachment: Attachment) -> None:
        """DEL came for this attachment.

        Its addresses leave the peer sets at once, its restrictions stay (the link may live on).
        """
        self.update(attachment, withdrawn=True)
        if not attachment.record.guard:
            self.mark(self._store.withdraw(attachment.key))

    def miss(self, attachment: Attachment, **fields: Any) -> None:
        """Its interface is not there, and no DEL came: it stays governed, and is no peer meanwhile.

        Its addresses may be another's by now.
        """
        if not attachment.missing:
            log.warning("interface-missing", extra=log_fields(attachment.record))
            attachment.missing = True
            if not attachment.record.guard:
                self.mark(self._store.withdraw(attachment.key))
            self.mark([attachment.key])
        self._redirect(attachment, fields)

    def meet(self, attachment: Attachment, **fields: Any) -> None:
        """Its interface is there, by this number and name."""
        if attachment.missing:
            log.warning("interface-back", extra=log_fields(attachment.record))
            attachment.missing, attachment.beside = False, frozenset()
            if not attachment.record.withdrawn:
                self.mark(self._store.rejoin(attachment.key))
            self.mark([attachment.key])
        self._redirect(attachment, fields)

    def _redirect(self, attachment: Attachment, fields: dict[str, Any]) -> None:
        before = attachment.record
        self.update(attachment, **fields)
        if (before.ifindex, before.seen_name) != (attachment.record.ifindex, attachment.record.seen_name):
            self.mark([attachment.key])

    def rename_networks(self, attachment: Attachment, found: Candidates) -> None:
        """More is known of which net-attach-def made this attachment."""
        self.update(attachment, **network_fields(found))
        known = attachment.record.known
        self.mark(
            self._store.update_networks(
                attachment.key, attachment.record.networks, known.peering, known.holding
            )
        )

    def drop_sandbox(self, sandbox: Sandbox) -> None:
        """The netns is gone, and with it the rules."""
        for attachment in list(sandbox.attachments.values()):
            log.info("netns-gone", extra=log_fields(attachment.record))
            self.remove(attachment)
        self._reconciler.forget(sandbox)

    def update(self, attachment: Attachment, **fields: Any) -> None:
        """Change fields of a record; written only where something differs."""
        changed = msgspec.structs.replace(attachment.record, **fields)
        if changed != attachment.record:
            attachment.record = changed
            self._save(changed)

    def regain_records(self) -> None:
        """Write all anew where somebody has taken the directory of records away."""
        try:
            if not self._records.regain():
                return
        except OSError as error:
            log.error("records-lost", extra={"error": str(error)})
            return
        log.error("records-lost", extra={"written-anew": len(self.attachments)})
        for attachment in self.attachments.values():
            self._save(attachment.record)

    def _save(self, record: Record) -> None:
        """Write a record that is only catching up: a full disk must not stop enforcement."""
        try:
            self._records.save(record)
        except OSError as error:
            log.error("record-not-written", extra={**log_fields(record), "error": str(error)})

    def _delete(self, key: AttachmentKey) -> None:
        try:
            self._records.delete(key)
        except OSError as error:
            log.error("record-not-deleted", extra={"key": str(key), "error": str(error)})

    def save_applied(self, sandbox: Sandbox, digest: str) -> None:
        """Bring a sandbox's records up to date with what was applied and with the pods' last labels (A11)."""
        for attachment in sandbox.attachments.values():
            record = attachment.record
            subject = subject_of(record) if record.guard else self._store.subject(record.key)
            labels, ports = dict(subject.labels), subject.ports
            self.update(attachment, labels=labels, ports=ports, digest=digest, generation=sandbox.generation)


def identity_of(record: Record) -> NetnsIdentity:
    """The network namespace that a record speaks of."""
    return NetnsIdentity(record.netns, record.device, record.inode, record.cookie, record.directory)


def network_fields(found: Candidates) -> dict[str, Any]:
    """What a record says of net-attach-defs."""
    return {
        "networks": found.governing,
        "evidence": found.evidence,
        "candidates": found.networks,
        "chosen": found.chosen,
        "claimed": found.claimed,
    }


def subject_of(record: Record) -> Subject:
    """The subject as the record last saw it."""
    return Subject(record.pod_namespace, record.labels, record.ports, record.networks)


def log_fields(record: Record) -> dict[str, str]:
    """What a log event says of an attachment."""
    return {
        "container": record.container_id,
        "interface": record.ifname,
        "pod": f"{record.pod_namespace}/{record.pod_name}" if record.pod_name else "",
        "networks": ",".join(record.networks),
        "netns": record.netns,
        "role": "guard" if record.guard else "unready" if record.unready else "attachment",
    }
