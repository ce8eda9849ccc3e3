"""What the plugin would ask of the daemon, without the plugin: ADD and DEL of interfaces that the lab made.

In: a daemon and the lab's attachments. Out: the daemon's replies.
"""

from collections.abc import Mapping
from typing import Any

from tests.lab import Attachment, Daemon, Pod

CNI_VERSION = "1.0.0"


def environment(pod: Pod, ifname: str, args: Mapping[str, str] | None = None) -> dict[str, str]:
    """The CNI variables of one attachment; `args` default to the pod's identity."""
    chosen = pod.cni_args if args is None else args
    return {
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": str(pod.netns),
        "CNI_IFNAME": ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in chosen.items()),
    }


def add(
    daemon: Daemon,
    attachment: Attachment,
    network: str | None = None,
    timeout: float = 30.0,
    args: Mapping[str, str] | None = None,
    **config: Any,
) -> dict[str, Any]:
    """ADD of one attachment.

    Network: "namespace/name", by default the lab's network of that name in `default`.
    """
    body = {
        "cniVersion": CNI_VERSION,
        "name": attachment.network.name,
        "type": "multi-networkpolicy",
        "netAttachDef": network or f"default/{attachment.network.name}",
        "prevResult": attachment.result(CNI_VERSION),
        **config,
    }
    env = environment(attachment.pod, attachment.ifname, args)
    return daemon.cni("add", env, body, timeout)


def add_guard(daemon: Daemon, pod: Pod, ifname: str) -> dict[str, Any]:
    """ADD of the guard, which needs no device and no previous result."""
    body = {"cniVersion": CNI_VERSION, "name": "guarded", "type": "multi-networkpolicy", "guard": True}
    return daemon.cni("add", environment(pod, ifname), body)


def delete(daemon: Daemon, pod: Pod, ifname: str) -> dict[str, Any]:
    """DEL, with no more than old Multus leaves of a configuration."""
    return daemon.cni("del", environment(pod, ifname), {"cniVersion": CNI_VERSION, "name": "n"})


def check(daemon: Daemon, attachment: Attachment) -> dict[str, Any]:
    """CHECK of one attachment."""
    body = {
        "cniVersion": CNI_VERSION,
        "name": attachment.network.name,
        "type": "multi-networkpolicy",
        "prevResult": attachment.result(CNI_VERSION),
    }
    return daemon.cni("check", environment(attachment.pod, attachment.ifname), body)


def must(reply: Mapping[str, Any]) -> None:
    """The daemon said yes."""
    assert reply.get("ok") is True, reply
