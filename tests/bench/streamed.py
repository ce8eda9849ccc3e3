"""A streaming list by a client that throws everything away: what the API server and the network take.

In: an API server. Out: seconds, bytes, and how many objects came.
"""

import time
from dataclasses import dataclass

import requests

from daemon.sources.kubernetes.client import METADATA
from tests.lab.apiserver import ADMIN_TOKEN, ApiServer

_END = b"k8s.io/initial-events-end"
_PIECE = 1 << 16
_TIMEOUT = 120.0


@dataclass(frozen=True)
class StreamedList:
    """seconds: from the request to the mark at the end of the list."""

    seconds: float
    bytes: int
    objects: int


def stream_list(server: ApiServer, fields: str) -> StreamedList:
    """List pods' metadata as the daemon does at its start."""
    query = {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "fieldSelector": fields,
    }
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Accept": METADATA}
    received = objects = 0
    last = b""
    begun = time.perf_counter()
    with requests.get(
        f"{server.url}/api/v1/pods",
        params=query,
        headers=headers,
        verify=str(server.ca_file),
        timeout=_TIMEOUT,
        stream=True,
    ) as answer:
        answer.raise_for_status()
        while _END not in last:
            piece: bytes = answer.raw.read1(_PIECE, decode_content=True)
            if not piece:
                raise RuntimeError("the list broke off")
            received += len(piece)
            objects += piece.count(b"\n")
            last = last[-len(_END) :] + piece
    seconds = time.perf_counter() - begun
    # The mark ends the last line, which is no object.
    return StreamedList(seconds, received, objects - last.partition(_END)[2].count(b"\n"))
