"""Kubernetes JSON to the model: the last place where a raw dict lives.

In: one raw object, from the API server or from a file. Out: a ClusterObject whose `problems` tell what in it
means nothing; DecodeError when it can't be decoded at all. No I/O, no logging, no look at other objects.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from daemon.decode.fields import (
    MAX_WORD,
    Raw,
    expect_object,
    expect_string,
    is_name,
    is_namespace,
    kind_of,
    read_labels,
    shown,
)
from daemon.decode.networks import decode_net_attach_def
from daemon.decode.pods import decode_pod
from daemon.decode.policy import decode_common_rules, decode_policy, keep_last_valid
from daemon.errors import DecodeError
from daemon.model import ClusterObject, Namespace, ObjectKey

__all__ = ["KINDS", "decode_common_rules", "decode_object", "keep_last_valid", "meant_key", "read_key"]

KINDS = frozenset({"Namespace", "Pod", "NetworkAttachmentDefinition", "MultiNetworkPolicy"})
NAMESPACE_LABEL = "kubernetes.io/metadata.name"

_GROUP = "k8s.cni.cncf.io/"
# What people write and mean one of KINDS; the first is another API's.
_NEAR_KINDS = {"networkpolicy": "MultiNetworkPolicy"} | {kind.lower(): kind for kind in KINDS}
_POLICY_VERSIONS = (f"{_GROUP}v1beta1", f"{_GROUP}v1beta2")


def read_key(raw: Mapping[str, Any]) -> ObjectKey | None:
    """Which object this is; None: of a kind that means nothing here. A missing namespace reads as `default`.

    Raises DecodeError for a missing kind, and a missing or illegal name or namespace.
    """
    kind = expect_string(raw.get("kind"), "kind")
    if not kind:
        raise DecodeError("kind", "missing: is this a Kubernetes object?")
    if kind not in KINDS:
        return None
    metadata = expect_object(raw.get("metadata"), "metadata")
    name = expect_string(metadata.get("name"), "metadata.name")
    if not name:
        raise DecodeError("metadata.name", "missing")
    if not (is_namespace(name) if kind == "Namespace" else is_name(name)):
        raise DecodeError("metadata.name", f"{shown(name)} is no legal name")
    if kind == "Namespace":
        return ObjectKey(kind, "", name)
    namespace = expect_string(metadata.get("namespace"), "metadata.namespace") or "default"
    if not is_namespace(namespace):
        raise DecodeError("metadata.namespace", f"{shown(namespace)} is no legal namespace")
    return ObjectKey(kind, namespace, name)


def meant_key(raw: Mapping[str, Any]) -> tuple[ObjectKey, str] | None:
    """(which object, what is wrong) of one whose kind is misspelt, or another API's policy; None: neither.

    raw: what `read_key` gave None for. "PodGroup" of somebody else's API must not pass for a misspelt Pod;
    in our own group there are no others.
    """
    kind, version = raw.get("kind"), raw.get("apiVersion")
    version = version if isinstance(version, str) else ""
    word = kind[:MAX_WORD].lower() if isinstance(kind, str) else ""
    near = _near_kind(word, 0.6 if version.startswith(_GROUP) else 0.85)
    if not near:
        return None
    try:
        key = read_key({**raw, "kind": _NEAR_KINDS[near]})
    except DecodeError:
        return None
    group = version.rpartition("/")[0]
    foreign = near == "networkpolicy" and group not in ("", _GROUP[:-1])
    other = f" of {shown(group)[1:-1]}, another API," if foreign else ""
    return (key, f"{shown(kind)}{other} is not read; did you mean {key.kind}?") if key else None


@lru_cache(maxsize=1000)  # a file has 10,000 objects of few kinds
def _near_kind(word: str, cutoff: float) -> str:
    close = get_close_matches(word, _NEAR_KINDS, 1, cutoff)
    return close[0] if close else ""


def decode_object(raw: dict[str, Any]) -> ClusterObject:
    """A Namespace, Pod, NetworkAttachmentDefinition or MultiNetworkPolicy.

    Malformed peers, ports and items of annotations match nothing and are reported in the object's `problems`
    (A2, A3, B1, C7, C8, D3). Raises DecodeError when there is no telling what the object means: wrong kind or
    apiVersion, no or an illegal name, a spec of a wrong type.
    """
    if not isinstance(raw, dict):
        raise DecodeError("", f"expected an object, not {kind_of(raw)}")
    key = read_key(raw)
    if key is None:
        raise DecodeError("kind", f"{shown(raw.get('kind'))} is none of {', '.join(sorted(KINDS))}")
    _check_version(key.kind, raw)
    if key.kind == "Pod":
        return decode_pod(key.namespace, key.name, raw)
    if key.kind == "MultiNetworkPolicy":
        return decode_policy(key.namespace, key.name, raw)
    if key.kind == "NetworkAttachmentDefinition":
        return decode_net_attach_def(key.namespace, key.name, raw)
    return _decode_namespace(key.name, raw)


def _decode_namespace(name: str, raw: Raw) -> Namespace:
    metadata, status = expect_object(raw.get("metadata"), "metadata"), raw.get("status")
    deleted = metadata.get("deletionTimestamp")
    # Of a wrong type they mean nothing, and the labels count all the same.
    terminating = (isinstance(deleted, str) and deleted != "") or (
        isinstance(status, Mapping) and status.get("phase") == "Terminating"
    )
    return Namespace(name, {**read_labels(metadata), NAMESPACE_LABEL: name}, terminating)


def _check_version(kind: str, raw: Raw) -> None:
    version = expect_string(raw.get("apiVersion"), "apiVersion")
    if kind == "MultiNetworkPolicy":
        good, wanted = version in _POLICY_VERSIONS, " or ".join(_POLICY_VERSIONS)
    elif kind == "NetworkAttachmentDefinition":
        good, wanted = version.startswith(_GROUP) and len(version) > len(_GROUP), f"{_GROUP}v1"
    else:
        good, wanted = version == "v1", "v1"
    if not good:
        raise DecodeError("apiVersion", f"{shown(version)} is not what a {kind} has: {wanted}")
