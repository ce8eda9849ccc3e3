"""The plugin's requests without the plugin, timed from the first byte sent to the last one received.

In: a daemon and requests. Out: seconds. What a fresh process costs is not in it: see `plugin`.
"""

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

import msgpack

from tests.lab import Attachment, Daemon
from tests.netns.enroll import CNI_VERSION, environment

TIMEOUT = 60.0


def add_request(attachment: Attachment) -> bytes:
    """Encode the ADD of an interface that the lab made, as the plugin sends it."""
    config = {
        "cniVersion": CNI_VERSION,
        "name": attachment.network.name,
        "type": "multi-networkpolicy",
        "netAttachDef": f"default/{attachment.network.name}",
        "prevResult": attachment.result(CNI_VERSION),
    }
    env = environment(attachment.pod, attachment.ifname)
    body = {"v": 1, "op": "add", "env": env, "config": json.dumps(config).encode(), "timeLeftMs": 30000}
    return frame(body)


def frame(request: Mapping[str, Any]) -> bytes:
    """Encode one request with its length."""
    body: bytes = msgpack.packb(dict(request))
    return struct.pack(">I", len(body)) + body


def exchange(daemon: Daemon, request: bytes) -> float:
    """Send one request and return the seconds to its reply; a refusal is an error."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        connection.connect(str(daemon.socket))
        begun = time.perf_counter()
        connection.sendall(request)
        reply = bytearray()
        while piece := connection.recv(1 << 16):
            reply += piece
        seconds = time.perf_counter() - begun
    answer = msgpack.unpackb(bytes(reply[4:]))
    if answer.get("ok") is not True or answer.get("result", {}).get("synced") is False:
        raise RuntimeError(f"the daemon refused: {answer}")
    return seconds


WAIT_SYNCED = frame({"v": 1, "op": "wait", "timeoutMs": int(TIMEOUT * 1000)})
"""The request of `mnpctl wait --synced`, without the 0.2 s that starting mnpctl takes."""
