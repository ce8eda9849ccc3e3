"""What keeps attachments true between their ADD and their end: news of the source, restart, sweeping.

In: changes of the source, records found at the start, the passing of time. Out: attachments updated,
verified, or dropped with their netns. Only the dataplane thread calls this module.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from daemon import netns
from daemon.adoption import Adoption
from daemon.attachments import Record, RecordStore
from daemon.doubts import agrees, config_doubts, status_notes
from daemon.errors import NetnsError, NetnsGoneError
from daemon.holding import holding
from daemon.liveness import Around
from daemon.log import get_logger
from daemon.model import AttachmentKey, Change, NetAttachDef, Network, Pod
from daemon.networks import (
    NO_NETWORK,
    Candidates,
    find_networks,
    read_multus_cache,
    reconsider,
    told_addresses,
    told_networks,
    weigh,
)
from daemon.reconcile import Attachment, Reconciler, Sandbox
from daemon.registry import Registry, identity_of, log_fields, network_fields
from daemon.slices import in_slices
from daemon.sources.base import Update
from daemon.standing import State
from daemon.store import Store
from daemon.vanished import HIDDEN, gone_at_start, other_path
from daemon.whereabouts import Whereabouts

log = get_logger(__name__)

ENDING = "its namespace is being deleted: the rules of the run before stay as they are"
PODS_AT_ONCE = 2
"""Of an update, then it may pause: a tenant may write policies that make each pod cost 15 ms."""
IDENTITY_TURNS = 4
"""In so many sweeps each netns is identified once; in all of them it is looked for."""


class Upkeep:
    """ready: the source has been read as a whole at least once.

    Before, nothing is verified, deleted or opened. behind: what is known is out of date, so nothing relaxes;
    "": it is not. peers_listed: other nodes' pods are known, if any policy refers to pods. policies_lag: why
    there may be newer policies than are known; "": there are none.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        reconciler: Reconciler,
        adoption: Adoption,
        multus_cache: Path,
    ) -> None:
        self.adoption = adoption
        self._store = store
        self._registry = registry
        self._reconciler = reconciler
        self._multus_cache = multus_cache
        self._whereabouts = Whereabouts(registry)
        self._turn = 0
        self._trusting = False
        self.ready = False
        self.not_ready_because = "the source has not been read yet"
        self.behind = ""
        self.peers_listed = True
        self.policies_lag = ""
        self.refused: tuple[str, ...] = ()

    # --- the source --------------------------------------------------------------------------------------

    def take(self, update: Update) -> Iterator[None]:
        """Take the source's news in: changes, and how far what is known can be trusted. In pieces."""
        if update.behind and not self.behind:
            log.warning("behind", extra={"reason": update.behind, "meanwhile": "nothing relaxes"})
            yield from holding(self._store, self._registry.attachments)
        yield from self._take_changes(update.changes)
        if self.behind and not update.behind:
            log.info("current")
            self._registry.mark(self._store.release())
        self.behind, self.refused, self.policies_lag = update.behind, update.refused, update.policies_lag
        listed, self.peers_listed = update.peers_listed and not self.peers_listed, update.peers_listed
        if not update.complete and not self.ready:
            self.not_ready_because = update.because or self.not_ready_because
            return
        # Before policies could be created again that went with their kind, rules of an earlier run stay.
        if not update.recreating:
            if not self._trusting:
                yield from self._registry.preparing()
            self._verify_held(again=self._trusting)
            self._trusting = True
        if not self.ready:
            self._become_ready()
        elif listed:
            self._converge_unready()

    def _take_changes(self, changes: Sequence[Change]) -> Iterator[None]:
        """All but pods at once, then the pods: none is known before the policies that came with it."""
        pods = [change for change in changes if change.key.kind == "Pod"]
        self._on_changes([change for change in changes if change.key.kind != "Pod"])
        yield from in_slices(pods, PODS_AT_ONCE, self._on_changes, time.monotonic)

    def _on_changes(self, changes: Sequence[Change]) -> None:
        """What they make dirty is marked, networks are compared with network-status."""
        self._registry.mark(self._store.apply(changes))
        pods = {change.object.ref for change in changes if isinstance(change.object, Pod)}
        everyone = any(isinstance(change.object, NetAttachDef) for change in changes)
        for attachment in list(self._registry.attachments.values()):
            record = attachment.record
            if record.pod_name and (everyone or (record.pod_namespace, record.pod_name) in pods):
                self._confirm(attachment)

    def find_networks(
        self, key: AttachmentKey, configured: Network | None, config_name: str, pod: Pod
    ) -> Candidates:
        """Weigh all evidence for an attachment. configured: the `netAttachDef` of its configuration."""
        cached = read_multus_cache(self._multus_cache, key.container_id, key.ifname)
        definitions = self._store.net_attach_defs().values()
        return find_networks(configured, cached, config_name, key.ifname, pod, definitions)

    def find_without_pod(self, key: AttachmentKey, configured: Network) -> Candidates:
        """The same for a container without pod identity, which takes addresses all the same."""
        cached = read_multus_cache(self._multus_cache, key.container_id, key.ifname)
        return weigh(configured, cached) or NO_NETWORK

    def _become_ready(self) -> None:
        """The source has been read as a whole: unready attachments converge."""
        self.ready = True
        self.not_ready_because = ""
        self._converge_unready()
        for attachment in self._registry.attachments.values():
            self.doubt(attachment)
        log.info("ready", extra={"attachments": len(self._registry.attachments)})

    def _converge_unready(self) -> None:
        for attachment in list(self._registry.attachments.values()):
            if attachment.record.unready or attachment.record.adopted:
                self._confirm(attachment)

    def _confirm(self, attachment: Attachment) -> None:
        """Compare with network-status, and look again for a network that was only guessed."""
        record = attachment.record
        pod = self._store.pod(record.pod_namespace, record.pod_name)
        if pod is None or record.guard or not pod.is_meant_by(record.pod_uid):
            return
        if record.unready:
            self._converge(attachment, pod)
            record = attachment.record
        if record.adopted:
            if self._is_confirmed(attachment, pod):
                log.info("confirmed", extra=log_fields(record))
                self._registry.converge(attachment, adopted=False)
            return
        told, definitions = told_networks(pod, record.ifname), self._store.net_attach_defs().values()
        as_added = record.addresses != () and told_addresses(pod, record.ifname) == {*record.addresses}
        found = reconsider(record.known, record.config_name, told, as_added, definitions)
        if found != record.known:
            if found.governing != record.networks:
                now = ",".join(found.governing)
                log.warning("networks-differ", extra={**log_fields(record), "now": now})
            self._registry.rename_networks(attachment, found)
        notes = status_notes(attachment.record, pod)
        if notes != attachment.notes:
            attachment.notes = notes
            for note in notes:
                log.warning("network-status-differs", extra={**log_fields(record), "note": note})
        self.doubt(attachment)

    def doubt(self, attachment: Attachment) -> None:
        """Compare its configuration with its pod and with the net-attach-defs, once all are known."""
        if not self.ready:
            return
        record = attachment.record
        pod = self._store.pod(record.pod_namespace, record.pod_name)
        if pod is not None and not pod.is_meant_by(record.pod_uid):
            pod = None
        doubts = config_doubts(record, pod, self._store.net_attach_defs())
        new, attachment.doubts = [text for text in doubts if text not in attachment.doubts], doubts
        for text in new:
            log.warning("net-attach-def-differs", extra={**log_fields(record), "note": text})

    def _is_confirmed(self, attachment: Attachment, pod: Pod) -> bool:
        """Whether the source says of a pod here what an adopted attachment claims, and no other does."""
        record = attachment.record
        others = (a.record for a in self._registry.attachments.values() if a is not attachment)
        taken = any(
            (other.pod_namespace, other.pod_name, other.ifname)
            == (record.pod_namespace, record.pod_name, record.ifname)
            and (not other.adopted or agrees(other, pod))
            for other in others
        )
        return pod.local and agrees(record, pod) and not taken

    def _converge(self, attachment: Attachment, pod: Pod) -> None:
        """An ADD that was answered by denying everything gets its real rules: its pod is known now."""
        record = attachment.record
        found = self.find_networks(record.key, record.configured or None, record.config_name, pod)
        fields = network_fields(found)
        if record.adopted:
            # What an adopted one was restricted by, it is.
            fields["networks"] = tuple(sorted({*found.governing, *record.networks}))
        self._registry.converge(
            attachment,
            unready=False,
            pod_uid=pod.uid or record.pod_uid,
            labels=dict(pod.labels),
            ports=pod.ports,
            **fields,
        )

    def unverified(self) -> list[Sandbox]:
        """What was restored and is still to be verified; not what is left alone, which says why."""
        return [s for s in self._reconciler.sandboxes.values() if s.held and not s.error]

    def _verify_held(self, *, again: bool) -> None:
        """Verify what was restored, but not where a namespace ends: its policies go before its pods (A13).

        The run before knew them, this one does not, so those rules stay until the netns is gone. again: only
        for what was left for that reason.
        """
        for sandbox in list(self._reconciler.sandboxes.values()):
            if not sandbox.held or (again and sandbox.error != ENDING):
                continue
            places = {attachment.record.pod_namespace for attachment in sandbox.attachments.values()}
            ends = any(self._store.is_ending(place) for place in places)
            sandbox.error = ENDING if ends else ""
            if not ends:
                self._verify_restored(sandbox)

    def _verify_restored(self, sandbox: Sandbox) -> None:
        """Believe or rewrite what an earlier daemon programmed; in between nothing opens."""
        newest = next(reversed(sandbox.attachments.values())).record
        changed = True
        try:
            sandbox.held = False
            with netns.entered(sandbox.identity.path, sandbox.identity):
                self._look_around(sandbox)
            changed = not self._reconciler.take_over(sandbox, newest.digest, newest.generation)
            with netns.entered(sandbox.identity.path, sandbox.identity):
                if changed:
                    self._welcome(self.adoption.adopt_beside(sandbox))
                around = Around()
                for attachment in sandbox.attachments.values():
                    # What the kernel holds as the record says was right at its end.
                    self._look(sandbox, attachment, around, strict=changed)
        except NetnsGoneError:
            sandbox.held = False
            self.on_gone(sandbox)
            return
        except Exception as error:  # noqa: BLE001 (then all is written anew)
            sandbox.held = False
            log.warning("take-over-failed", extra={"netns": newest.netns, "error": str(error)})
        log.info("taken-over", extra={"netns": newest.netns, "rewritten": changed})
        if changed:
            self._reconciler.mark([sandbox])

    # --- start, sweeping ---------------------------------------------------------------------------------

    def restore(self, records: RecordStore) -> None:
        """Take the records' attachments over; their rules stay as they are until the source has been read."""
        loaded = records.load()
        for name, reason in loaded.notes:
            log.warning("record-not-used", extra={"file": name, "reason": reason})
        newest: dict[tuple[int, str], Record] = {}
        for record in sorted(loaded.records, key=lambda record: (record.serial, not record.withdrawn)):
            reason = gone_at_start(record)
            # A kill between two writes leaves the records of both, the old and the new, of one interface.
            older = newest.pop((identity_of(record).token, record.ifname), None)
            for useless in (record, older) if reason else (older,):
                if useless is not None:
                    records.delete(useless.key)
                    log.info("record-dropped", extra={**log_fields(useless), "reason": reason or "replaced"})
            if not reason:
                newest[identity_of(record).token, record.ifname] = record
        for record in newest.values():
            self._reconciler.sandbox(identity_of(record)).held = True
            self._registry.attach(Attachment(record, State.RESTORED))
        self.adoption.begin(loaded.records)

    def search(self) -> None:
        """Look for what no record tells of, for a while."""
        if self.adoption.searching:
            adopted = self.adoption.step()
            if adopted and self._trusting:
                self._verify_held(again=False)
            self._welcome(adopted)

    def _welcome(self, adopted: list[Attachment]) -> None:
        """Before the source was read, `_become_ready` does that."""
        for attachment in adopted:
            if self.ready:
                self._confirm(attachment)

    def sweep(self, *, links: bool) -> None:
        """Notice namespaces that are gone; with `links` interfaces too.

        Withdrawn ones are looked at always.
        """
        if links:
            self._registry.regain_records()
        self._registry.mark(self._store.settle())
        self._turn = (self._turn + 1) % IDENTITY_TURNS
        for number, sandbox in enumerate(list(self._reconciler.sandboxes.values())):
            try:
                self._sweep_one(sandbox, number % IDENTITY_TURNS == self._turn, links)
            except Exception as error:  # noqa: BLE001 (what one pod holds must not end the daemon for all)
                self._reconciler.survive(sandbox, error)

    def _sweep_one(self, sandbox: Sandbox, its_turn: bool, links: bool) -> None:
        # A new netns often gets the numbers of the old one at its path: each is identified in its turn.
        if netns.gone(sandbox.identity, thorough=links or its_turn):
            self.on_gone(sandbox)
            return
        if HIDDEN in sandbox.error and not netns.hidden(sandbox.identity):
            sandbox.retry_at = 0.0
        withdrawn = any(a.record.withdrawn for a in sandbox.attachments.values())
        missing = its_turn and not sandbox.crowded and any(a.missing for a in sandbox.attachments.values())
        if (links or withdrawn or missing) and not sandbox.held:
            self._reap(sandbox)

    def on_gone(self, sandbox: Sandbox) -> None:
        """A sandbox's path leads nowhere: go on by another one, else the netns is gone and all in it."""
        other = other_path(sandbox)
        if other is None and netns.hidden(sandbox.identity):
            self._reconciler.fail(sandbox, NetnsError(sandbox.identity.path, HIDDEN))
            return
        if other is None:
            self._registry.drop_sandbox(sandbox)
            return
        log.info("netns-moved", extra={"netns": sandbox.identity.path, "now": other.path})
        sandbox.identity = other
        sandbox.retry_at = 0.0
        self._reconciler.mark([sandbox])

    def _look(
        self, sandbox: Sandbox, attachment: Attachment, around: Around, *, strict: bool = False
    ) -> bool:
        """Whether it goes on."""
        return self._whereabouts.look(sandbox, attachment, around, strict=strict).goes_on

    def _look_around(self, sandbox: Sandbox) -> None:
        """How rules reach the packets of a sandbox's interfaces now, in the current netns."""
        reaching = self._reconciler.reaching
        found = reaching.look([attachment.record for attachment in sandbox.attachments.values()])
        for ifname, reach in found.items():
            attachment = sandbox.attachments[ifname]
            if reach == attachment.reach:
                continue
            if reach.reason != attachment.reach.reason:
                reason = reach.reason or "governed again"
                log.warning("reach", extra={**log_fields(attachment.record), "reason": reason})
            attachment.reach = reach
            self._reconciler.mark([sandbox])
        if not reaching.confirm(sandbox.closing, sandbox.identity):
            self._reconciler.mark([sandbox])

    def _reap(self, sandbox: Sandbox) -> None:
        """Let go of interfaces that are no more; their chains go with the sandbox's next program."""
        try:
            with netns.entered(sandbox.identity.path, sandbox.identity):
                around = Around()
                gone = [a for a in sandbox.attachments.values() if not self._look(sandbox, a, around)]
                sandbox.crowded = around.crowded
                self._look_around(sandbox)
        except NetnsGoneError:
            self.on_gone(sandbox)
            return
        except Exception as error:  # noqa: BLE001 (what one pod holds must not end the daemon for all)
            log.warning("sweep-failed", extra={"netns": sandbox.identity.path, "error": str(error)})
            return
        for attachment in gone:
            log.info("link-gone", extra=log_fields(attachment.record))
            self._registry.remove(attachment)
