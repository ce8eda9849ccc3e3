"""Events on policies and pods for what is reported: aggregated, limited, never a storm.

In: all findings about objects, whenever they may have changed. Out: Events, by a thread of their own. An
Event's name follows from the object, the reason and the message, so that of many nodes that find the same the
first one creates it and the others see that it is there. Losing one loses nothing: `mnpctl` and the metrics
say it too.
"""

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec

from daemon.log import get_logger
from daemon.model import ObjectKey
from daemon.sources.base import HINT, Finding
from daemon.sources.kubernetes.client import JSON, Connection
from daemon.sources.kubernetes.errors import ApiError, ForbiddenError, RefusedError
from daemon.sources.kubernetes.watched import GROUP, missing_right

log = get_logger(__name__)

COMPONENT = "multi-networkpolicy"
MAX_MESSAGE = 1024
"""What the API server takes as an Event's message."""
BURST = 25
REFILL_SECONDS = 5.0
"""Events in a row, and the time after which one more may follow."""
REPEAT_SECONDS = 3660.0
"""Servers keep Events for an hour, and to find that one is there does not renew it: then it is sent again."""
OBJECT_SECONDS = 60.0
"""Between two different Events about the same thing of one object."""
OTHERS_SECONDS = (5.0, 60.0)
"""A node without a pod in the policy's namespace leaves it so long, by chance, to those that have one."""
REFUSED_SECONDS = 600.0
MERGE_PATCH = "application/merge-patch+json"

_API_VERSIONS = {
    "Pod": "v1",
    "Namespace": "v1",
    "MultiNetworkPolicy": f"{GROUP}/v1beta1",
    "NetworkAttachmentDefinition": f"{GROUP}/v1",
}


class _Sent(msgspec.Struct):
    """What was sent last about (object, reason). times: how often the same message was."""

    message: str
    uid: str
    at: float
    times: int = 1


class Objects(msgspec.Struct, frozen=True):
    """What the recorder asks about objects. undecodable: those of which nothing new is known, and why.

    uid: "" for one that is not known. concerned: whether this node should speak up first.
    """

    uid: Callable[[ObjectKey], str]
    concerned: Callable[[ObjectKey], bool]
    undecodable: Callable[[], Mapping[ObjectKey, Finding]]


class EventRecorder:
    """tell() from any thread; run() until stop(). `clock`: monotonic seconds."""

    def __init__(
        self,
        connection: Connection,
        node_name: str,
        objects: Objects,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._node_name = node_name
        self._objects = objects
        self._clock = clock
        self._wake = threading.Condition()
        self._findings: Mapping[ObjectKey, tuple[Finding, ...]] = {}
        self._news = self._stopping = False
        # The thread's own from here on.
        self._sent: dict[tuple[ObjectKey, str], _Sent] = {}
        self._later: dict[tuple[ObjectKey, str], float] = {}
        self._messages: dict[ObjectKey, tuple[tuple[Finding, ...], dict[str, str]]] = {}
        self._refused: dict[str, float] = {}
        self._said_refused = -REFUSED_SECONDS
        self._tokens = float(BURST)
        self._refilled = clock()

    def tell(self, findings: Mapping[ObjectKey, tuple[Finding, ...]]) -> None:
        """All findings as they are now."""
        with self._wake:
            # Though they may be the same: what can't be decoded is not among them.
            self._findings = findings
            self._news = True
            self._wake.notify()

    def stop(self) -> None:
        """End run() soon."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._connection.interrupt()

    def run(self) -> None:
        """Send what is to be sent until stop()."""
        patience: float | None = None
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._news or self._stopping, patience)
                if self._stopping:
                    break
                self._news = False
                findings = self._findings
            patience = self._send_due({**findings, **self._undecodable()})
        self._connection.close()

    def _undecodable(self) -> dict[ObjectKey, tuple[Finding, ...]]:
        return {key: (finding,) for key, finding in self._objects.undecodable().items()}

    # --- what is due -------------------------------------------------------------------------------------

    def _send_due(self, findings: Mapping[ObjectKey, tuple[Finding, ...]]) -> float | None:
        """Send what may be sent now; seconds until there is more, None: nothing is open."""
        self._messages = {key: self._message(key, found) for key, found in findings.items()}
        wanted = {
            (key, reason): message
            for key, (_, messages) in self._messages.items()
            for reason, message in messages.items()
        }
        for place in [place for place in self._sent if place not in wanted]:
            del self._sent[place]
        self._later = {place: due for place, due in self._later.items() if place in wanted}
        nearest = REPEAT_SECONDS if wanted else None
        for place, message in wanted.items():
            wait = self._wait_for(place, message)
            if wait <= 0.0:
                wait = self._try(place, message)
            if wait > 0.0:
                nearest = min(wait, nearest or wait)
        return nearest

    def _message(
        self, key: ObjectKey, found: tuple[Finding, ...]
    ) -> tuple[tuple[Finding, ...], dict[str, str]]:
        """What findings come to by reason; put together once, for there may be thousands."""
        before = self._messages.get(key)
        return before if before is not None and before[0] is found else (found, _aggregate(found))

    def _wait_for(self, place: tuple[ObjectKey, str], message: str) -> float:
        """Seconds until this may be sent; 0: now."""
        now, sent = self._clock(), self._sent.get(place)
        if sent is not None:
            same = sent.message == message and sent.uid == self._objects.uid(place[0])
            return sent.at + (REPEAT_SECONDS if same else OBJECT_SECONDS) - now
        if place not in self._later:
            concerned = self._objects.concerned(place[0])
            jitter = random.uniform(*OTHERS_SECONDS)  # noqa: S311 (jitter, no secret)
            self._later[place] = now + (0.0 if concerned else jitter)
        return self._later[place] - now

    def _try(self, place: tuple[ObjectKey, str], message: str) -> float:
        """Send one if the limit allows; seconds until it may be tried again, 0: it is done."""
        now = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now - self._refilled) / REFILL_SECONDS)
        self._refilled = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) * REFILL_SECONDS
        key, uid = place[0], self._objects.uid(place[0])
        if not uid:
            return OBJECT_SECONDS  # not known (yet): an Event on nothing helps nobody
        if now < (until := self._refused.get(key.namespace, now)):
            return until - now
        self._tokens -= 1.0
        before = self._sent.get(place)
        times = before.times + 1 if before is not None and before.message == message else 1
        try:
            self._send(key, uid, Finding(place[1], message), times)
        except ForbiddenError as error:
            self._pause(key.namespace, now, error)
            self._sent.pop(place, None)
            return REFUSED_SECONDS
        except ApiError as error:
            log.debug("event-not-sent", extra={"object": str(key), "error": str(error)})
            self._later[place] = now + OBJECT_SECONDS
            self._sent.pop(place, None)
            return OBJECT_SECONDS
        self._sent[place] = _Sent(message, uid, now, times)
        return 0.0

    def _pause(self, namespace: str, now: float, error: ForbiddenError) -> None:
        """A right is missing; one namespace may be special, since it ends."""
        self._refused = {name: until for name, until in self._refused.items() if until > now}
        self._refused[namespace] = now + REFUSED_SECONDS
        if now - self._said_refused >= REFUSED_SECONDS:
            self._said_refused = now
            reason = missing_right(*error.what.split(" ", 1))
            log.warning("event-not-sent", extra={"reason": reason, "error": str(error)})

    # --- one Event ---------------------------------------------------------------------------------------

    def _send(self, key: ObjectKey, uid: str, finding: Finding, times: int) -> None:
        body = self._event(key, uid, finding)
        path = f"/api/v1/namespaces/{body['metadata']['namespace']}/events"
        try:
            self._connection.send("create events", "POST", path, msgspec.json.encode(body), JSON)
        except RefusedError as error:
            if error.status != 409:
                raise
            # It is there: by another node, or by us. Only a pod is nobody's but ours to count.
            if key.kind == "Pod":
                change = {"count": times, "lastTimestamp": body["lastTimestamp"]}
                own = f"{path}/{body['metadata']['name']}"
                self._connection.send("patch events", "PATCH", own, msgspec.json.encode(change), MERGE_PATCH)

    def _event(self, key: ObjectKey, uid: str, finding: Finding) -> dict[str, Any]:
        digest = sha256("\0".join((uid, finding.reason, finding.message)).encode()).hexdigest()[:16]
        namespace = key.namespace or "default"
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name[:230].rstrip('-.')}.{digest}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": _API_VERSIONS[key.kind],
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": uid,
            },
            "reason": finding.reason,
            "message": finding.message,
            "type": "Normal" if finding.reason == HINT else "Warning",
            "source": {"component": COMPONENT, "host": self._node_name},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._node_name,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }


def _aggregate(findings: Iterable[Finding]) -> dict[str, str]:
    """One message for each reason, whatever the number of findings."""
    by_reason: dict[str, list[str]] = {}
    for finding in findings:
        # A pod may give its links names that are no text.
        message = finding.message.encode(errors="backslashreplace").decode()
        by_reason.setdefault(finding.reason, []).append(message)
    return {reason: _bounded(messages) for reason, messages in by_reason.items()}


def _bounded(messages: list[str]) -> str:
    for kept in range(min(len(messages), MAX_MESSAGE), 0, -1):
        more = f"; and {len(messages) - kept} more" if kept < len(messages) else ""
        text = "; ".join(messages[:kept]) + more
        if len(text.encode()) <= MAX_MESSAGE:
            return text
    return messages[0].encode()[: MAX_MESSAGE - 3].decode(errors="ignore") + "…"
