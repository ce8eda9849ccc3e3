"""A tc filter that lets everything pass and is longer than what the kernel lists at once.

In: an interface's name in the current namespace, which has the queueing discipline clsact. Out: the filter
is attached to what comes in, and is the first.
"""

import os
import socket
import struct

from daemon.backends.nfnetlink import NLM_F_ACK, NLM_F_CREATE
from daemon.netlink import NLM_F_REQUEST, attr, pack

_INSTRUCTIONS = 4090  # of classic BPF: 32,720 bytes
_RETURN = struct.pack("=HBBI", 6, 0, 0, 0)
_RTM_NEWTFILTER = 44
_INCOMING = 0xFFFFFFF2


def attach(ifname: str) -> None:
    """Make it and attach it; an OSError says what is missing."""
    options = attr(4, struct.pack("=H", _INSTRUCTIONS)) + attr(5, _RETURN * _INSTRUCTIONS)
    where = struct.pack(
        "=BxxxiIII", 0, socket.if_nametoindex(ifname), 0, _INCOMING, 1 << 16 | socket.htons(3)
    )
    body = where + attr(1, b"bpf\0") + attr(2, options)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
        route.send(pack(_RTM_NEWTFILTER, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, body))
        (refused,) = struct.unpack_from("=i", route.recv(1 << 16), 16)
    if refused:
        raise OSError(-refused, f"attach to {ifname}: {os.strerror(-refused)}")
