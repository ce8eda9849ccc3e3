"""What is watched, and how each kind's objects become the model's.

In: an object as the server sent it. Out: Seen. No I/O. Cluster-wide pods are looked at only as far as it
takes to see that they have no secondary address, which is the case for most.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from daemon.decode import decode_object
from daemon.decode.fields import NETWORK_STATUS
from daemon.errors import DecodeError
from daemon.model import ClusterObject, ObjectKey, Pod, Problem
from daemon.sources.kubernetes.errors import ApiError, BadAnswerError, ForbiddenError, NotFoundError

GROUP = "k8s.cni.cncf.io"
CRD_FILES = {
    "multi-networkpolicies": "conf/crd.yaml",
    "network-attachment-definitions": "Multus' own manifests",
}
RIGHTS_FILE = "conf/rbac.yaml"


class Seen(msgspec.Struct, frozen=True):
    """One object as a list or an event gave it.

    object None: nothing of it is kept (a peer without secondary address), or it can't be decoded (`problem`).
    """

    key: ObjectKey
    uid: str
    version: str
    object: ClusterObject | None = None
    problem: Problem | None = None


class Metadata(msgspec.Struct, rename="camel"):
    """The parts of ObjectMeta that are looked at."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, Any] | None = None


class _Object(msgspec.Struct):
    metadata: Metadata


class _MarkMetadata(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class _Mark(msgspec.Struct):
    metadata: _MarkMetadata


_OBJECTS = msgspec.json.Decoder(_Object)
_MARKS = msgspec.json.Decoder(_Mark)
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"

Decode: TypeAlias = Callable[["Collection", msgspec.Raw], Seen]


class Collection(msgspec.Struct, frozen=True):
    """One thing that is listed and watched.

    name: for people and as the key of the caches. resource: "pods", or "multi-networkpolicies.GROUP".
    versions: (apiVersion, path) in order of preference; the first that the server knows is taken.
    fields: a field selector; fallback: the same with one that older servers know.
    """

    name: str
    kind: str
    resource: str
    versions: tuple[tuple[str, str], ...]
    decode: Decode
    fields: str = ""
    metadata_only: bool = False
    fallback: "Collection | None" = None


def decode_whole(collection: Collection, raw: msgspec.Raw) -> Seen:
    """An object of which all may matter. Raises BadAnswerError for what has no name."""
    key, metadata = identify(collection, raw)
    try:
        # Items of lists, and metadata alone, name another kind or none.
        value = {**msgspec.json.decode(raw), "kind": collection.kind, "apiVersion": collection.versions[0][0]}
        return Seen(key, metadata.uid, metadata.resource_version, decode_object(value))
    except DecodeError as error:
        problem = Problem(error.field, error.message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        problem = Problem("", str(error))
    return Seen(key, metadata.uid, metadata.resource_version, None, problem)


def decode_peer(collection: Collection, raw: msgspec.Raw) -> Seen:
    """A pod of another node; without problems, which its own node reports."""
    key, metadata = identify(collection, raw)
    nothing = Seen(key, metadata.uid, metadata.resource_version)
    status = (metadata.annotations or {}).get(NETWORK_STATUS)
    # Most have the default network alone, whose name has no namespace (A8); an escape might hide a slash.
    if not status or (isinstance(status, str) and "/" not in status and "\\" not in status):
        return nothing
    kept = {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid}
    rest = {"labels": metadata.labels, "annotations": {NETWORK_STATUS: status}}
    try:
        pod = decode_object({"apiVersion": "v1", "kind": "Pod", "metadata": {**kept, **rest}})
    except DecodeError:
        return nothing
    if not isinstance(pod, Pod) or not any(entry.addresses for entry in pod.statuses):
        return nothing
    pod = msgspec.structs.replace(pod, problems=(), local=False)
    return Seen(key, metadata.uid, metadata.resource_version, pod)


def own_pods(node_name: str) -> Collection:
    """This node's pods, in full."""
    return Collection(
        "own pods", "Pod", "pods", (("v1", "/api/v1/pods"),), decode_whole, f"spec.nodeName={node_name}"
    )


def peer_pods(node_name: str) -> Collection:
    """All other nodes' pods that may be peers (A7), as metadata; most of them are dropped at once.

    Not those of no node yet: they have no address, whatever their annotations say.
    """
    fields = f"spec.nodeName!={node_name},spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"
    found = Collection("peer pods", "Pod", "pods", (("v1", "/api/v1/pods"),), decode_peer, fields, True)
    # Servers before 1.28 have no field selector for it.
    return msgspec.structs.replace(found, fields=f"{fields},spec.hostNetwork=false", fallback=found)


NAMESPACES = Collection(
    "namespaces",
    "Namespace",
    "namespaces",
    (("v1", "/api/v1/namespaces"),),
    decode_whole,
    metadata_only=True,
)
NET_ATTACH_DEFS = Collection(
    "net-attach-defs",
    "NetworkAttachmentDefinition",
    f"network-attachment-definitions.{GROUP}",
    ((f"{GROUP}/v1", f"/apis/{GROUP}/v1/network-attachment-definitions"),),
    decode_whole,
)
POLICIES = Collection(
    "policies",
    "MultiNetworkPolicy",
    f"multi-networkpolicies.{GROUP}",
    tuple(
        (f"{GROUP}/{version}", f"/apis/{GROUP}/{version}/multi-networkpolicies")
        for version in ("v1beta2", "v1beta1")
    ),
    decode_whole,
)


def identify(collection: Collection, raw: msgspec.Raw) -> tuple[ObjectKey, Metadata]:
    """(key, metadata) of an object of any kind. Raises BadAnswerError where that makes no sense."""
    try:
        metadata = _OBJECTS.decode(raw).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswerError(f"watch {collection.name}", f"an object without metadata: {error}") from error
    return ObjectKey(collection.kind, metadata.namespace, metadata.name), metadata


def read_mark(collection: Collection, raw: msgspec.Raw) -> tuple[str, bool]:
    """(resourceVersion, whether it ends the initial events) of a BOOKMARK."""
    try:
        metadata = _MARKS.decode(raw).metadata
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswerError(f"watch {collection.name}", f"a bookmark without metadata: {error}") from error
    return metadata.resource_version, (metadata.annotations or {}).get(_INITIAL_EVENTS_END) == "true"


def newer(version: str, than: str) -> bool:
    """Whether a resourceVersion is later than another; they are numbers (API conventions, since 1.35)."""
    try:
        return int(version) > int(than)
    except ValueError:
        return version != than


def missing_kind(resource: str) -> str:
    """What to do about a kind that the server does not have."""
    plural = resource.partition(".")[0]
    where = CRD_FILES.get(plural)
    return f"its CustomResourceDefinition is not installed; it comes with {where}" if where else "not served"


def missing_right(verb: str, resource: str) -> str:
    """What to do about a right that we lack."""
    return f"{verb} on {resource} is not granted; {RIGHTS_FILE} grants it"


def explain(collection: Collection, error: ApiError) -> str:
    """Why a collection can't be had, and what to do about it."""
    if isinstance(error, NotFoundError):
        return missing_kind(collection.resource)
    if isinstance(error, ForbiddenError):
        verb, _, resource = error.what.partition(" ")
        return f"{missing_right(verb, resource)} ({error.message})"
    return str(error)
