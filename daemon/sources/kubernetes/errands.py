"""What is asked of the API server beside lists and watches: one pod for an ADD, container ports, barriers.

In: requests from other threads, and what the state says is due. Out: answers to the state. Each kind has
a thread and a connection of its own, so that none waits for another.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from daemon.decode import decode_object
from daemon.decode.fields import expect_object
from daemon.errors import DecodeError
from daemon.log import get_logger
from daemon.model import ContainerPort, Namespace, ObjectKey, Pod
from daemon.sources.base import Found
from daemon.sources.kubernetes.client import METADATA_LIST, Connection
from daemon.sources.kubernetes.errors import (
    ApiError,
    BadAnswerError,
    ForbiddenError,
    InvalidRequestError,
    NotFoundError,
    RefusedError,
    TooLongError,
)
from daemon.sources.kubernetes.pages import (
    MOST_BYTES,
    PAGE_ITEMS,
    Page,
    PageSize,
    decode_page,
    page_query,
)
from daemon.sources.kubernetes.state import ClusterState
from daemon.sources.kubernetes.watched import (
    NAMESPACES,
    POLICIES,
    Collection,
    Seen,
    identify,
    missing_right,
)

log = get_logger(__name__)

LOOK_UP_SECONDS = 15.0
"""An ADD waits so long for the answer about its pod; a server that is not there says so in less."""
LOOK_UP_AFTER_SECONDS = 0.2
"""What the watch gets for a pod that kubelet has heard of already; then it is asked for."""
RETRY_SECONDS = 1.0
ROUND_SECONDS = 30.0
"""A round of barriers that has not settled by then is begun anew, with new lists."""


class _ResourceKind(msgspec.Struct):
    name: str = ""
    verbs: list[str] = []


class _ResourceList(msgspec.Struct):
    resources: list[_ResourceKind] = []


class Errands:
    """`collections`: what barriers list, policies first, as it is watched now. `node_name`: this node's.

    answered: is told when the server does; a watch may be resting since it did not.
    """

    def __init__(
        self,
        state: ClusterState,
        connect: Callable[[bool], Connection],
        collections: Callable[[], list[Collection]],
        node_name: str,
        answered: Callable[[], None],
    ) -> None:
        self._state = state
        self._collections = collections
        self._node_name = node_name
        self._answered = answered
        self._look_ups: queue.SimpleQueue[tuple[float, str, str, str]] = queue.SimpleQueue()
        self._tokens: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._complaint = ""
        self._asking, self._choring, self._listing = connect(True), connect(False), connect(False)

    # --- from other threads ------------------------------------------------------------------------------

    def look_up(self, namespace: str, name: str, uid: str) -> None:
        """Ask for one pod, unless the watch brings it in a moment."""
        self._look_ups.put((time.monotonic() + LOOK_UP_AFTER_SECONDS, namespace, name, uid))

    def request_sync(self, token: int, deadline: float) -> None:
        """Answer with the token when the caches hold what the server holds now."""
        self._tokens.put((token, deadline))

    def stop(self) -> None:
        """End all threads soon."""
        self._stopping.set()
        for connection in (self._asking, self._choring, self._listing):
            connection.interrupt()
        self._look_ups.put((0.0, "", "", ""))
        self._tokens.put((0, 0.0))
        self._state.end()

    # --- one pod -----------------------------------------------------------------------------------------

    def run_look_ups(self) -> None:
        """Answer look_up() until stop()."""
        while True:
            due, namespace, name, uid = self._look_ups.get()
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                self._asking.close()
                return
            # Behind a server that was silent there may be some that nobody waits for any more.
            wanted = time.monotonic() < due + LOOK_UP_SECONDS
            if wanted and not self._state.has_pod(namespace, name, uid):
                self._state.found(self._ask_pod(namespace, name))

    def _ask_pod(self, namespace: str, name: str) -> Found:
        try:
            raw = self._get_pod(self._asking, namespace, name)
            where = expect_object(raw.get("spec"), "spec").get("nodeName")
            if where != self._node_name:
                place = f"is on node {where}" if where else "is not scheduled to a node"
                message = f"{place}, and this daemon is {self._node_name}: check --node-name"
                return Found(namespace, name, None, message)
            pod = decode_object(raw)
        except NotFoundError:
            return Found(namespace, name, None, "the API server has no pod of that name")
        except (ApiError, DecodeError) as error:
            return Found(namespace, name, None, str(error))
        return Found(namespace, name, pod if isinstance(pod, Pod) else None)

    def _get_pod(self, connection: Connection, namespace: str, name: str) -> dict[str, Any]:
        what = "get pods"
        try:
            body = connection.get(what, f"/api/v1/namespaces/{namespace}/pods/{name}")
        except ForbiddenError as error:
            raise ForbiddenError(what, error.status, missing_right("get", "pods")) from error
        try:
            raw = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadAnswerError(what, f"no pod: {error}") from error
        return {**raw, "kind": "Pod", "apiVersion": "v1"}

    # --- deleted policies, container ports ---------------------------------------------------------------

    def run_chores(self) -> None:
        """Do what the state says is due until stop()."""
        while not self._stopping.is_set():
            if self._state.is_leaving_due():
                self._resolve_leaving()
            elif (wanted := self._state.next_portless()) is not None:
                self._fetch_ports(*wanted)
            else:
                self._state.wait_chore()
        self._choring.close()

    def _resolve_leaving(self) -> None:
        asked = time.monotonic()
        try:
            ending = {place for place in self._state.ending_places(asked) if self._namespace_ends(place)}
            self._state.resolve_leaving(self._kind_goes(), ending, asked)
        except ApiError as error:
            # Not known: they stay until it is.
            log.warning("deletion-waits", extra={"error": str(error)})
            self._stopping.wait(_pause(error))

    def _kind_goes(self) -> bool:
        """Whether the policies' kind is being removed.

        Discovery then offers it without `create`, or not at all.
        """
        for version, _ in POLICIES.versions:
            try:
                body = self._choring.get("discover policies", f"/apis/{version}")
                found = msgspec.json.decode(body, type=_ResourceList)
            except NotFoundError:
                continue
            except ForbiddenError:
                return False  # a cluster that shows its kinds to nobody: then deleted is deleted
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise BadAnswerError("discover policies", str(error)) from error
            plural = POLICIES.resource.partition(".")[0]
            kinds = [kind for kind in found.resources if kind.name == plural]
            if kinds:
                return not all("create" in kind.verbs for kind in kinds)
        return True

    def _namespace_ends(self, name: str) -> bool:
        """Whether a namespace is being deleted, or gone. The server is asked, for the watch may lag."""
        what, fields = "list namespaces", f"metadata.name={name}"
        path = NAMESPACES.versions[0][1]
        page = decode_page(what, self._choring.get(what, path, {"fieldSelector": fields}, METADATA_LIST))
        found = [NAMESPACES.decode(NAMESPACES, raw).object for raw in page.items or ()]
        return not any(isinstance(one, Namespace) and not one.terminating for one in found)

    def _fetch_ports(self, key: ObjectKey, uid: str) -> None:
        ports: tuple[ContainerPort, ...] = ()
        try:
            pod = decode_object(self._get_pod(self._choring, key.namespace, key.name))
            # Another UID: the watch brings that one too.
            if isinstance(pod, Pod) and pod.uid == uid:
                ports = pod.ports
        except NotFoundError:
            pass
        except DecodeError as error:
            log.warning("ports-unknown", extra={"pod": str(key), "error": str(error)})
        except ApiError as error:
            log.warning("ports-wait", extra={"pod": str(key), "error": str(error)})
            self._state.put_off_ports(key)
            self._stopping.wait(_pause(error))
            return
        self._state.put_ports(key, uid, ports)

    # --- barriers ----------------------------------------------------------------------------------------

    def run_barriers(self) -> None:
        """Answer request_sync() until stop(), all that wait at once by one round."""
        waiting: dict[int, float] = {}
        while not self._stopping.is_set():
            while not waiting or not self._tokens.empty():
                token, deadline = self._tokens.get()
                waiting[token] = deadline
            now = time.monotonic()
            waiting = {token: deadline for token, deadline in waiting.items() if deadline > now}
            if waiting and self._play_round():
                self._state.answer(tuple(waiting))
                waiting.clear()
        self._listing.close()

    def _play_round(self) -> bool:
        """List everything, wait for it. False: it has to be begun anew."""
        self._state.begin_round()
        try:
            done: list[str] = []
            # Policies first: whether peers are watched depends on them.
            while waiting := [one for one in self._collections() if one.name not in done]:
                newest = self._state.newest(waiting[0])
                if not self._state.expect(waiting[0], *self._list(waiting[0]), newest):
                    return False
                done.append(waiting[0].name)
                if not self._settle():
                    return False
        except ApiError as error:
            self._complain(error)
            self._stopping.wait(_pause(error))
            return False
        self._complaint = ""
        return True

    def _complain(self, error: ApiError) -> None:
        """Say once why barriers wait."""
        if isinstance(error, ForbiddenError):
            complaint = f"{missing_right(*error.what.split(' ', 1))} ({error.message})"
        else:
            complaint = str(error)
        if complaint != self._complaint:
            self._complaint = complaint
            log.warning("barrier-waits", extra={"reason": complaint})

    def _settle(self) -> bool:
        return self._state.wait_settled(ROUND_SECONDS)

    def _list(self, collection: Collection) -> tuple[dict[ObjectKey, tuple[str, str]], str]:
        """(uid, resourceVersion) of all that is kept of a collection, and the list's own version."""
        what = f"list {collection.resource}"
        found: dict[ObjectKey, tuple[str, str]] = {}
        version = ""
        for page in self._pages(what, collection):
            self._answered()
            version = version or page.metadata.version
            for raw in page.items or ():
                seen = _look(collection, raw)
                if seen is not None:
                    found[seen[0]] = seen[1]
        return found, version

    def _pages(self, what: str, collection: Collection) -> Iterator[Page]:
        more, size = "", PageSize(PAGE_ITEMS)
        while True:
            try:
                page = decode_page(what, self._get_page(what, collection, more, size.items))
            except TooLongError:
                if not size.shrink():
                    raise
                continue
            yield page
            more = page.metadata.more
            if not more:
                return

    def _get_page(self, what: str, collection: Collection, more: str, items: int) -> bytes:
        query = page_query(collection, more, items)
        for _, path in collection.versions[:-1]:
            try:
                return self._listing.get(what, path, query, METADATA_LIST, MOST_BYTES)
            except NotFoundError:
                continue
        try:
            return self._listing.get(what, collection.versions[-1][1], query, METADATA_LIST, MOST_BYTES)
        except InvalidRequestError:
            if collection.fallback is None:
                raise
        return self._get_page(what, collection.fallback, more, items)


def _pause(error: ApiError) -> float:
    return max(RETRY_SECONDS, error.retry_after if isinstance(error, RefusedError) else 0.0)


def _look(collection: Collection, raw: msgspec.Raw) -> tuple[ObjectKey, tuple[str, str]] | None:
    """(key, (uid, version)) of an object by its metadata; None: nothing is kept of it."""
    if collection.metadata_only:
        seen: Seen = collection.decode(collection, raw)
        kept = seen.object is not None or seen.problem is not None
        return (seen.key, (seen.uid, seen.version)) if kept else None
    key, metadata = identify(collection, raw)
    return key, (metadata.uid, metadata.resource_version)
