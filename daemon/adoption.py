"""Attachments whose record was lost or damaged: adopted from what stands in the kernel, and told of.

In: paths of network namespaces, and the imprints in them. Out: attachments in the registry. Only the
dataplane thread calls this module, a slice at a time.

Whoever is root in a namespace can write an imprint there. So what it claims is good for restrictions in that
very namespace, and for nothing else: an adopted attachment has no key that another has, its addresses make it
nobody's peer and shut nobody out, until the source says the same of that pod. What has chains of ours and no
imprint is denied: nobody knows which policies it shall obey.
"""

import glob
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence

from daemon import imprint, netns
from daemon.attachments import RECORD_VERSION, Record, RecordStore
from daemon.backends.base import Backend
from daemon.errors import DataplaneError, NetnsError
from daemon.liveness import Around, look_for
from daemon.log import get_logger
from daemon.model import AttachmentKey, Direction
from daemon.netns import NetnsIdentity
from daemon.reconcile import Attachment, Reconciler, Sandbox
from daemon.registry import Registry

log = get_logger(__name__)

AUTO = "auto"
USUAL_PATHS = ("/run/netns/*", "/var/run/netns/*", "/run/docker/netns/*")
"""Where containerd, CRI-O, `ip netns` and Docker keep theirs."""
MOST_PATHS = 20_000
SLICE_SECONDS = 0.02
"""So long others may wait for a slice of the search."""

_CHAIN = re.compile(f"(?:{'|'.join(Direction)})-(.+)")
_OF_ANOTHER = (
    "rules of a multi-networkpolicyd with another --state-dir, so they are left as they are: if there is "
    "none of that kind, restart the pod; if there is, let --netns-paths name each one's own namespaces"
)
_UNKNOWN = AttachmentKey("unknown", "")


class Adoption:
    """backends: all that may have programmed anything.

    patterns: of the paths that are searched; "auto" among them stands for the usual ones.
    """

    def __init__(
        self,
        registry: Registry,
        reconciler: Reconciler,
        records: RecordStore,
        backends: Sequence[Backend],
        patterns: Sequence[str],
    ) -> None:
        self._backends = backends
        self._registry = registry
        self._reconciler = reconciler
        self._records = records
        self._patterns = patterns
        self._paths: Iterator[str] = iter(())
        self._left: dict[int, tuple[NetnsIdentity, str]] = {}
        self.searching = False

    # --- searching ---------------------------------------------------------------------------------------

    def begin(self, known: Iterable[Record]) -> None:
        """Search from now on, a step() at a time. known: records, which tell of further directories."""
        patterns = dict.fromkeys(pattern for pattern in self._patterns if pattern != AUTO)
        if AUTO in self._patterns:
            patterns |= dict.fromkeys(USUAL_PATHS)
            patterns |= dict.fromkeys(f"{glob.escape(os.path.dirname(each.netns))}/*" for each in known)
        found = (path for pattern in patterns for path in glob.iglob(pattern))
        self._paths = itertools.islice(found, MOST_PATHS)
        self.searching = True

    def step(self) -> list[Attachment]:
        """Search for a while; what was adopted. Its rules stay as they are for now."""
        adopted: list[Attachment] = []
        until = time.monotonic() + SLICE_SECONDS
        while self.searching and time.monotonic() < until:
            path = next(self._paths, None)
            if path is None:
                self.searching = False
            else:
                adopted += self._search(path)
        return adopted

    def _search(self, path: str) -> list[Attachment]:
        try:
            with netns.entered(path, None) as identity:
                # Several paths may lead to one: /var/run is a link to /run as a rule.
                if identity.token in self._reconciler.sandboxes or identity.token in self._left:
                    return []
                found = self._read(identity, ())
        except NetnsError:
            # No network namespace, or none any more, or the host's.
            return []
        except Exception as error:  # noqa: BLE001 (what one pod holds must not end the daemon for all)
            log.error("search-failed", extra={"netns": path, "error": repr(error)})
            return []
        return [self._registry.adopt(record, held=True) for record in found]

    def adopt_beside(self, sandbox: Sandbox) -> list[Attachment]:
        """What is in the current netns beside a sandbox's attachments, though no record tells of it."""
        found = self._read(sandbox.identity, sandbox.attachments)
        return [self._registry.adopt(record, held=False) for record in found]

    # --- one namespace -----------------------------------------------------------------------------------

    def _read(self, place: NetnsIdentity, known: Iterable[str]) -> list[Record]:
        lines: list[str] = []
        gates: set[str] = set()
        try:
            for backend in self._backends:
                if backend.present():
                    lines += backend.imprints()
                    gates |= backend.gates()
        except DataplaneError as error:
            return self._leave(place, f"rules of an earlier run can't be read ({error}): restart its pod")
        claims, seen, around = imprint.read(lines), set(known), Around()
        if any(claim.by != self._reconciler.signature and claim.ifname not in seen for claim in claims):
            return self._leave(place, _OF_ANOTHER)
        records = [
            record
            for claim in claims
            if claim.ifname not in seen and (record := self._claimed(claim, place, around)) is not None
        ]
        seen.update(record.ifname for record in records)
        strange = {name[1] for gate in gates if (name := _CHAIN.fullmatch(gate)) is not None} - seen
        return records + [self._unknown(ifname, place) for ifname in sorted(strange) if netns.link(ifname)]

    def _leave(self, place: NetnsIdentity, reason: str) -> list[Record]:
        log.error("left-alone", extra={"netns": place.path, "reason": reason})
        self._left[place.token] = (place, reason)
        return []

    def _claimed(self, claim: imprint.Claim, place: NetnsIdentity, around: Around) -> Record | None:
        """None: it makes no sense, or what it is about is not there."""
        try:
            record = claim.record(place, self._records.boot_id)
        except ValueError as error:
            log.warning("imprint-not-used", extra={"netns": place.path, "error": str(error)})
            return None
        there = look_for(record, (), frozenset(), around, missing=False, strict=True).link
        return record if record.guard or there is not None else None

    def _unknown(self, ifname: str, place: NetnsIdentity) -> Record:
        """Chains of ours for an interface, and nothing that says whose it is: it is denied both ways."""
        link = netns.link(ifname)
        return Record(
            version=RECORD_VERSION,
            boot_id=self._records.boot_id,
            container_id=self._registry.free_key(AttachmentKey(_UNKNOWN.container_id, ifname)).container_id,
            ifname=ifname,
            netns=place.path,
            device=place.device,
            inode=place.inode,
            cookie=place.cookie,
            directory=place.directory,
            ifindex=0 if link is None else link.ifindex,
            mac="" if link is None else link.mac,
            addresses=(),
            pod_namespace="",
            pod_name="",
            pod_uid="",
            labels={},
            ports=(),
            networks=(),
            evidence="none",
            configured="",
            config_name="",
            guard=False,
            withdrawn=False,
            track=True,
            unready=True,
            adopted=True,
        )

    # --- telling -----------------------------------------------------------------------------------------

    def set_aside(self) -> list[str]:
        """What is not as it should be since records were lost, and the remedy; a line each."""
        return [
            *self._files(),
            *(lost(each) for each in self._registry.attachments.values() if each.record.adopted),
            *(
                f"{place.path}: {reason}"
                for place, reason in self._left.values()
                if not netns.gone(place, thorough=True)
            ),
        ]

    def _files(self) -> list[str]:
        try:
            found = self._records.set_aside()
        except OSError as error:
            return [f"records that were set aside can't be listed: {error}"]
        return [
            f"record {path} can't be used, and what it is about was not found: restart the pods of this node "
            "that `mnpctl attachments` does not list, and delete the file"
            for path in found
        ]


def lost(attachment: Attachment) -> str:
    """What became of an attachment whose record was lost, and the remedy."""
    record = attachment.record
    pod = f"{record.pod_namespace}/{record.pod_name}" if record.pod_name else "a pod that is not known"
    what = "denied both ways" if record.unready else "governed, but no peer of others"
    until = "its pod is known to the source" if record.unready else "network-status confirms it"
    hope = f", until {until}" if record.pod_name else ""
    return (
        f"{record.ifname} of {pod} in {record.netns}: its record was lost, and it was adopted from what "
        f"stands in the kernel: {what}{hope}. Restart the pod to be sure"
    )
