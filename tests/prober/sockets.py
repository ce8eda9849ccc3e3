"""Sockets by the words of a probe: protocol, numeric address, port.

In: those words. Out: sockets that never block, and verdicts for the kernel's errors.
"""

import errno
import socket
import struct
from typing import Any

PING = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
ECHO_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
# What a flood's packets carry: a mark and their number.
FLOOD_PAYLOAD = struct.Struct(">4sQ")
FLOOD_MARK = b"mnpt"
# Level, the option that asks for it, and the kind of control message that tells which address a datagram
# was sent to.
PACKET_ADDRESS = {
    # 8 is IP_PKTINFO, which the socket module names from 3.12 on.
    socket.AF_INET: (socket.IPPROTO_IP, 8, 8),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, socket.IPV6_PKTINFO),
}


def family_of(address: str) -> socket.AddressFamily:
    """Tell the family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def anyone(family: socket.AddressFamily) -> str:
    """Return the wildcard address."""
    return "::" if family == socket.AF_INET6 else "0.0.0.0"


def endpoint(address: str, port: int) -> tuple[Any, ...]:
    """Return what connect and bind take; a link-local address carries its interface after `%`."""
    if "%" in address:
        return socket.getaddrinfo(address, port, flags=socket.AI_NUMERICHOST)[0][4]
    return (address, port)


def open_socket(protocol: str, family: socket.AddressFamily) -> socket.socket:
    """Open a socket that never blocks; protocol tcp, udp, sctp or icmp (of either version)."""
    kinds = {
        "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
        "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
        "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
        "icmp": (socket.SOCK_DGRAM, PING[family]),
    }
    kind, number = kinds[protocol]
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK, number)
    if protocol == "tcp":
        # End by RST: no TIME_WAIT, so that a source port can be used again at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def verdict_of(error: OSError) -> str:
    """Return the verdict that an error of the kernel stands for."""
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return f"error:{errno.errorcode.get(error.errno or 0, error.errno)}"


def listening(protocol: str, family: socket.AddressFamily, port: int, address: str = "") -> socket.socket:
    """Open a server's socket, on all addresses of the family unless one is named."""
    sock = open_socket(protocol, family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if protocol == "udp":
        level, option, _ = PACKET_ADDRESS[family]
        sock.setsockopt(level, option, 1)
    sock.bind(endpoint(address or anyone(family), port))
    if protocol != "udp":
        sock.listen(1024)
    return sock
