"""Which attachments a question is about. Pure.

In: attachments, a request's body. Out: those that are meant, or what is known of such a name.
"""

from collections.abc import Collection
from typing import Any

from cni_plugin.errors import INVALID_CONFIG, CniError
from daemon.reconcile import Attachment
from daemon.spelling import fits, tell_missing
from daemon.states import pod_of


def find_one(everything: Collection[Attachment], body: dict[str, Any]) -> Attachment:
    """The attachment that `pod`, `interface` and `containerID` name. CniError: none, or several."""
    pod = optional_text(body, "pod")
    interface = optional_text(body, "interface")
    container = optional_text(body, "containerID")
    found = [
        attachment
        for attachment in everything
        if is_of(attachment, pod)
        and interface in (None, attachment.key.ifname)
        and (container is None or attachment.key.container_id.startswith(container))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CniError(INVALID_CONFIG, _tell_missing(everything, pod, interface))
    names = ", ".join(sorted(f"{pod_of(a)} {a.key}" for a in found))
    which = "the namespace" if len({pod_of(a) for a in found}) > 1 else "the interface"
    raise CniError(INVALID_CONFIG, f"{len(found)} attachments fit; name {which}: {names[:1000]}")


def is_of(attachment: Attachment, wanted: str | None) -> bool:
    """Whether it is of that pod: "namespace/name", or "name" in any namespace; None: of any."""
    record = attachment.record
    return fits(wanted, record.pod_namespace, record.pod_name)


def optional_text(body: dict[str, Any], name: str) -> str | None:
    """A field of a body. CniError: it is no text."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise CniError(INVALID_CONFIG, f"{name} is not a text")
    return value


def _tell_missing(everything: Collection[Attachment], pod: str | None, interface: str | None) -> str:
    interfaces = sorted(a.key.ifname for a in everything if pod and is_of(a, pod))
    if interface and interfaces:
        has = ", ".join(interfaces)[:200]
        return f"no attachment {interface} of pod {pod} on this node; it has {has}"
    known = [pod_of(attachment) for attachment in everything if attachment.record.pod_name]
    whose = f"pod {pod}" if pod else "any pod"
    return f"no attachment of {whose} on this node{tell_missing(pod or '', known)}"
