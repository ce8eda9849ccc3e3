"""What `mnpctl` shows: answers built from the store, the registry and the reconciler, as plain maps.

In: requests of mnpctl. Out: replies; nothing is changed. Only the dataplane thread calls this module.
"""

import ipaddress
import os
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

from cni_plugin import wire
from daemon.adoption import lost
from daemon.asked import find_one, is_of, optional_text
from daemon.backends.choice import Choice
from daemon.errors import DataplaneError, NetnsError
from daemon.listing import FoundIn, Room, count_faults, lines_of_objects
from daemon.model import Direction, Network, ObjectKey, Policy, Problem
from daemon.policy.references import POLICY_FOR
from daemon.program import chain_name, restrict
from daemon.reconcile import Attachment, Reconciler
from daemon.registry import Registry
from daemon.server import Request
from daemon.slices import Pausing, ended
from daemon.sources.base import HINT, Finding
from daemon.spelling import fits
from daemon.states import absences, notes, pod_of, state_of, unenforceable
from daemon.store import Store
from daemon.upkeep import Upkeep
from daemon.wording import clean

REASONS = {
    "MultiNetworkPolicy": "PolicyProblem",
    "Pod": "AnnotationProblem",
    "NetworkAttachmentDefinition": "ConfigProblem",
    "Namespace": "NamespaceProblem",
}


SETTLE_SECONDS = 1.0
"""So long an answer in pieces waits for what is still to be found out about objects."""
NOTES_SECONDS = 0.01
"""The same for an answer in one piece."""
TOO_MUCH = (
    "{}: what was allowed when the source fell behind and is allowed now comes to more than there is room "
    "for (namespaceRules, namespaceElements): until the source is current, only what both "
    "have unchanged is permitted"
)
UNSEEN = (
    "net-attach-def {} has no spec.config: its config is a file on the nodes, so whether it chains "
    "multi-networkpolicy is not known here; once it does, `mnpctl attachments` lists its interfaces"
)


class Report:
    """operations: by name, for the dataplane's table. source_problems: file or object to its problems."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        reconciler: Reconciler,
        upkeep: Upkeep,
        choice: Choice,
        source: str,
    ) -> None:
        self._store = store
        self._registry = registry
        self._reconciler = reconciler
        self._upkeep = upkeep
        self._backend = choice.backend
        self._because = choice.because
        self._source = source
        self._started = time.monotonic()
        self.faults = store.faults
        self.waiting_adds: Callable[[], int] = lambda: 0
        self.source_cost: Callable[[], Mapping[str, Any]] = dict
        self.kept_notes: Callable[[], list[str]] = list
        self.source_problems: dict[str, tuple[Problem, ...]] = {}
        self.operations: dict[str, Callable[[Request], None]] = {
            wire.OP_RENDER: self._answer(self.render),
        }
        # As much of these is to be said as there are objects and attachments, so it is said in pieces.
        self.pausing: dict[str, Callable[[dict[str, Any]], Pausing[Any]]] = {
            wire.OP_STATUS_REPORT: self.status,
            wire.OP_ATTACHMENTS: self.attachments,
            wire.OP_POLICIES: self.policies,
        }

    def _answer(self, make: Callable[[dict[str, Any]], Any]) -> Callable[[Request], None]:
        def operation(request: Request) -> None:
            request.reply({"ok": True, "result": make(request.body)})

        return operation

    # --- operations --------------------------------------------------------------------------------------

    def status(self, body: dict[str, Any]) -> Pausing[dict[str, Any]]:
        """The daemon as a whole, and what is wrong."""
        yield from self._settle()
        return {**self.figures(), "problems": self.problems()}

    def figures(self) -> dict[str, Any]:
        """The daemon as a whole, by numbers, as far as is known without a look at all objects."""
        attachments = self._registry.attachments.values()
        states: dict[str, int] = {}
        for attachment in attachments:
            states[state_of(attachment)] = states.get(state_of(attachment), 0) + 1
        aside = self._upkeep.adoption.set_aside()
        return {
            "version": version("multi-networkpolicy"),
            "wireVersions": list(wire.SERVED_VERSIONS),
            "pid": os.getpid(),
            "uptimeSeconds": round(time.monotonic() - self._started, 1),
            "ready": self._upkeep.ready,
            "notReadyBecause": self._upkeep.not_ready_because,
            "readyz": self._unready(aside),
            "behind": self._upkeep.behind,
            "refused": list(self._upkeep.refused),
            "source": self._source,
            "sourceCost": dict(self.source_cost()),
            "backend": self._backend.name,
            "backendBecause": self._because,
            "attachments": states,
            "waitingAdds": self.waiting_adds(),
            "pending": sorted(s.identity.path for s in self._reconciler.pending()),
            "policies": self.faults.policies,
            "applied": self._reconciler.applied_total,
            "failed": self._reconciler.failed_total,
            "tampered": self._reconciler.tampered_total,
            "problemCount": len(self._of_source()) + self.faults.faults.total() + len(self._of_pods()),
            "setAside": aside,
        }

    def _unready(self, aside: list[str]) -> list[str]:
        """Why /readyz answers 503, a line each; []: it answers 200."""
        if not self._upkeep.ready:
            return [self._upkeep.not_ready_because]
        return [*self._upkeep.refused, *aside]

    def attachments(self, body: dict[str, Any]) -> Pausing[list[dict[str, Any]]]:
        """All attachments, or those of `pod` ("namespace/name", or "name" in any namespace)."""
        wanted = optional_text(body, "pod")
        described, room = [], Room()
        for attachment in [a for a in self._registry.attachments.values() if is_of(a, wanted)]:
            if self._is_there(attachment):
                described.append(self._describe(attachment, room))
            yield
        return sorted(described, key=lambda item: (item["pod"], item["interface"], item["containerID"]))

    def policies(self, body: dict[str, Any]) -> Pausing[list[dict[str, Any]]]:
        """All policies with what they govern here, and the problems that SEMANTICS calls reported.

        Or those that `policy` means ("namespace/name", or "name" in any namespace).
        """
        wanted = optional_text(body, "policy")
        governed = yield from self._governed()
        yield from self._settle()
        shown, unseen, room = [], self._unseen(), Room()
        found = self._found()
        for policy in self._store.policies():
            if fits(wanted, policy.namespace, policy.name):
                told = found.get(policy.namespace, {}).get(policy.key, ())
                hints = [
                    *(problem for problem in told if problem.hint),
                    *(unseen[network] for network in policy.networks if network in unseen),
                ]
                shown.append(
                    {
                        "namespace": policy.namespace,
                        "name": policy.name,
                        "policyFor": room.cut(policy.networks),
                        "policyTypes": _types(policy),
                        "governs": room.cut(governed.get((policy.namespace, policy.name), ())),
                        "problems": _shown(room.cut_problems(p for p in told if not p.hint)),
                        "hints": _shown(room.cut_problems(hints)),
                    }
                )
            yield
        return shown

    def render(self, body: dict[str, Any]) -> dict[str, Any]:
        """What is programmed for one attachment: `pod` and, where it has several, `interface`."""
        attachment = find_one(self._registry.attachments.values(), body)
        sandbox = self._registry.sandbox(attachment)
        if sandbox.actual is None:
            text = "# not known: taken over from an earlier run and not verified yet\n"
        else:
            text = self._backend.text(restrict(sandbox.actual, attachment.record.ifname))
        try:
            counters = self._reconciler.counters(sandbox)
        except (DataplaneError, NetnsError):
            counters = {}
        own = {chain_name(direction, attachment.record.ifname) for direction in Direction}
        counters = {name: counted for name, counted in counters.items() if name in own}
        return {**self._describe(attachment, Room()), "text": text, "drops": _drops(counters)}

    # --- parts -------------------------------------------------------------------------------------------

    def _settle(self, seconds: float = SETTLE_SECONDS) -> Pausing[None]:
        """Find out what is wrong with objects, but not without end: somebody may change them all the time."""
        until = time.monotonic() + seconds
        for _ in self.faults.settle():
            if time.monotonic() >= until:
                return
            yield

    def _is_there(self, attachment: Attachment) -> bool:
        """Whether it still is, after a pause."""
        return self._registry.attachments.get(attachment.key) is attachment

    def _unseen(self) -> dict[Network, Problem]:
        """The net-attach-defs of which nobody here can tell whether they chain the plugin."""
        seen = {n for attachment in self._registry.attachments.values() for n in attachment.record.networks}
        return {
            network: Problem(POLICY_FOR, UNSEEN.format(network), hint=True)
            for network, definition in self._store.net_attach_defs().items()
            if definition.on_disk and network not in seen
        }

    def problems(self) -> list[str]:
        """What is reported, a line each: broken files, problems in objects, failures to program.

        Of objects a bounded number, for each namespace: `policies` shows all of a policy.
        """
        found = self._found()
        faults = self.faults.faults if self._upkeep.ready else count_faults(found)
        return [*self._of_source(), *lines_of_objects(found, faults), *self._of_pods()]

    def _found(self) -> FoundIn:
        # What is missing is told once everything has been listed.
        return self.faults.found if self._upkeep.ready else self.faults.own()

    def _of_source(self) -> list[str]:
        told = [
            f"{where}: {problem.field + ': ' if problem.field else ''}{problem.message}"
            for where, problems in self.source_problems.items()
            for problem in problems
        ]
        return told + self.kept_notes()

    def _of_pods(self) -> list[str]:
        """Failures to program, and what is odd about attachments."""
        lines: list[str] = []
        for sandbox in self._reconciler.sandboxes.values():
            told = sandbox.tampering.told(time.monotonic())
            said = (sandbox.error, sandbox.beside, sandbox.closing.failed, told)
            lines += [f"{sandbox.identity.path}: {text}" for text in said if text]
        for attachment in self._registry.attachments.values():
            odd = (
                *notes(attachment),
                *unenforceable(attachment),
                *self._clashes(attachment),
                *absences(attachment),
                *self._renamings(attachment),
                *self._too_much(attachment),
            )
            lines += [f"{pod_of(attachment)} {attachment.key.ifname}: {note}" for note in odd]
        return lines

    def notes(self) -> list[str]:
        """What a barrier tells of, though it is reached: as far as a moment is enough to find it out."""
        ended(self._settle(NOTES_SECONDS))
        return [*self._upkeep.adoption.set_aside(), *self.problems()]

    def findings_of(self, key: ObjectKey, problems: Iterable[Problem]) -> tuple[Finding, ...]:
        """What is wrong with an object, for its author."""
        return tuple(
            Finding(HINT if problem.hint else REASONS[key.kind], f"{problem.field}: {problem.message}")
            for problem in problems
        )

    def findings(self) -> dict[ObjectKey, tuple[Finding, ...]]:
        """What is wrong with attachments, for their pods' authors."""
        found: dict[ObjectKey, list[Finding]] = {}
        for attachment in self._registry.attachments.values():
            record = attachment.record
            # An adopted one says itself whose it is.
            if not record.pod_name or record.adopted:
                continue
            told = [Finding("NotEnforced", f"{record.ifname}: {error}") for error in self._errors(attachment)]
            told += [Finding("InterfaceMissing", absence) for absence in absences(attachment)]
            told += [Finding("Tampered", text) for text in self._tampering(attachment)]
            told += [Finding("NetworkStatusDiffers", f"{record.ifname}: {note}") for note in attachment.notes]
            told += [Finding("NetAttachDefDiffers", f"{record.ifname}: {text}") for text in attachment.doubts]
            told += [Finding("TooMuchToHold", f"{record.ifname}: {t}") for t in self._too_much(attachment)]
            if told:
                found.setdefault(ObjectKey("Pod", record.pod_namespace, record.pod_name), []).extend(told)
        return {key: tuple(each) for key, each in found.items()}

    def _describe(self, attachment: Attachment, room: Room) -> dict[str, Any]:
        record = attachment.record
        governing = [] if record.guard else self._store.governing(record.key)
        return {
            "pod": pod_of(attachment),
            "uid": record.pod_uid,
            "interface": record.ifname,
            "ifindex": record.ifindex,
            "containerID": record.container_id,
            "netns": record.netns,
            "networks": list(record.networks),
            "evidence": record.evidence,
            "addresses": [str(ipaddress.ip_address(address)) for address in record.addresses],
            "mac": record.mac,
            "state": state_of(attachment),
            "isolated": self._isolated(attachment),
            "policies": room.cut([f"{policy.namespace}/{policy.name}" for policy in governing]),
            "carriers": [carrier.ifname for carrier in attachment.reach.carriers],
            "error": "; ".join([*self._errors(attachment), *absences(attachment)]),
            "notes": [
                *notes(attachment),
                *self._renamings(attachment),
                *self._too_much(attachment),
                *([lost(attachment)] if record.adopted else []),
            ],
        }

    def _errors(self, attachment: Attachment) -> list[str]:
        """Why it may not be as its policies say."""
        sandbox = self._registry.sandbox(attachment)
        tampering = sandbox.tampering.told(time.monotonic()) if sandbox.tampering.endless else ""
        unsealed = sandbox.closing.failed if attachment.reach.past else ""
        further = (*self._clashes(attachment), *unenforceable(attachment))
        return [text for text in (sandbox.error, tampering, *further, unsealed) if text]

    def _clashes(self, attachment: Attachment) -> list[str]:
        clash = self._registry.sandbox(attachment).clash(attachment.record.ifname)
        return [clash] if clash else []

    def _tampering(self, attachment: Attachment) -> list[str]:
        """What somebody changed in its netns; told by the first attachment there, for all of them."""
        sandbox = self._registry.sandbox(attachment)
        told = sandbox.tampering.told(time.monotonic())
        first = next(iter(sandbox.attachments.values()), None)
        return [told] if told and attachment is first else []

    def _renamings(self, attachment: Attachment) -> list[str]:
        """What became of its name, where rules go by the name."""
        record, now = attachment.record, clean(attachment.record.seen_name)
        if not now or self._reconciler.follows_renames:
            return []
        return [
            f"{record.ifname} was renamed to {now}: it is governed by that name now, and was not from the "
            f"renaming until that was seen, for {self._backend.name}' rules go by names"
        ]

    def _too_much(self, attachment: Attachment) -> list[str]:
        """What is closed while the source is out of date, for want of room (F4)."""
        return [TOO_MUCH.format(direction) for direction in self._store.closed(attachment.key)]

    def _isolated(self, attachment: Attachment) -> list[str]:
        record = attachment.record
        if record.guard or record.unready:
            return ["ingress", "egress"]
        ruleset = self._store.ruleset(record.key)
        directions = {"ingress": ruleset.ingress, "egress": ruleset.egress}
        return [name for name, matches in directions.items() if matches is not None]

    def _governed(self) -> Pausing[dict[tuple[str, str], list[str]]]:
        governed: dict[tuple[str, str], list[str]] = {}
        for attachment in list(self._registry.attachments.values()):
            if not attachment.record.guard and self._is_there(attachment):
                name = f"{pod_of(attachment)} {attachment.key.ifname}"
                for policy in self._store.governing(attachment.key):
                    governed.setdefault((policy.namespace, policy.name), []).append(name)
            yield
        for names in governed.values():
            names.sort()
        return governed


def _types(policy: Policy) -> list[str]:
    types = {"Ingress": policy.ingress, "Egress": policy.egress}
    return [name for name, rules in types.items() if rules is not None]


def _shown(problems: Iterable[Problem]) -> list[dict[str, str]]:
    return [{"field": problem.field, "message": problem.message} for problem in problems]


def _drops(counters: dict[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    return {name: {"packets": packets, "bytes": size} for name, (packets, size) in sorted(counters.items())}
