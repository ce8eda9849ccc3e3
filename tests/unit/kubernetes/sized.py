"""Policies of so many bytes, as the server would send them.

In: what a test wants to be different. Out: objects, raw.
"""

from typing import Any

import msgspec

from tests.lab import objects

PLAIN: dict[str, Any] = {"podSelector": {}, "ingress": []}


def raw(
    name: str = "a",
    size: int = 0,
    version: int = 1,
    spec: Any = None,
    namespace: str = "ns",
    networks: str = "a",
) -> msgspec.Raw:
    """One of exactly so many bytes, 0: as it comes."""
    made = objects.policy(name, PLAIN, networks, namespace)
    made["spec"] = PLAIN if spec is None else spec
    made["metadata"] |= {"uid": f"u-{name}", "resourceVersion": str(version)}
    made["metadata"]["annotations"]["note"] = ""
    if size:
        made["metadata"]["annotations"]["note"] = "x" * (size - len(msgspec.json.encode(made)))
    return msgspec.Raw(msgspec.json.encode(made))


def event(kind: str, *args: Any, **more: Any) -> bytes:
    """The same in a line of a watch."""
    return b'{"type":"' + kind.encode() + b'","object":' + bytes(raw(*args, **more)) + b"}\n"
