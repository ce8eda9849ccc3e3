"""Whole Ethernet frames, for packets that no socket would send: spoofed sources, mid-stream segments.

In: addresses, ports, flags. Out: bytes for `Prober.send_frames`, with right checksums.
"""

import ipaddress
import struct

_ETHERTYPES = {4: 0x0800, 6: 0x86DD}
TCP, UDP, ICMP, ICMPV6 = 6, 17, 1, 58
SYN, ACK, PSH, RST, FIN = 0x02, 0x10, 0x08, 0x04, 0x01
_HOP_LIMIT = 64


def checksum(content: bytes) -> int:
    """Return the internet checksum (RFC 1071)."""
    padded = content + b"\0" * (len(content) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(source_mac: str, target_mac: str, source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """Wrap a transport packet, whose checksum is filled in here, into IPv4 or IPv6 and Ethernet."""
    start, end = ipaddress.ip_address(source), ipaddress.ip_address(target)
    body = _with_checksum(start.packed + end.packed, protocol, payload)
    if start.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, _HOP_LIMIT, protocol, 0)
        head += start.packed + end.packed
        head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    else:
        head = struct.pack(">IHBB", 6 << 28, len(body), protocol, _HOP_LIMIT) + start.packed + end.packed
    macs = bytes.fromhex(target_mac.replace(":", "") + source_mac.replace(":", ""))
    return macs + struct.pack(">H", _ETHERTYPES[start.version]) + head + body


def udp(source_port: int, target_port: int, payload: bytes = b"") -> bytes:
    """Make a UDP datagram with an empty checksum."""
    return struct.pack(">HHHH", source_port, target_port, 8 + len(payload), 0) + payload


def tcp(source_port: int, target_port: int, flags: int, sequence: int = 1, payload: bytes = b"") -> bytes:
    """Make a TCP segment with an empty checksum."""
    acknowledged = 1 if flags & ACK else 0
    head = struct.pack(
        ">HHIIBBHHH", source_port, target_port, sequence, acknowledged, 5 << 4, flags, 65535, 0, 0
    )
    return head + payload


def echo_request(version: int, identifier: int = 1, sequence: int = 1, payload: bytes = b"") -> bytes:
    """Make an ICMP (4) or ICMPv6 (6) echo request with an empty checksum."""
    return struct.pack(">BBHHH", 8 if version == 4 else 128, 0, 0, identifier, sequence) + payload


def _with_checksum(addresses: bytes, protocol: int, payload: bytes) -> bytes:
    at = {UDP: 6, TCP: 16, ICMP: 2, ICMPV6: 2}.get(protocol)
    if at is None:
        return payload
    # Only ICMP for IPv4 leaves the pseudo header out. IPv4's has the same sum in IPv6's wider layout.
    pseudo = b"" if protocol == ICMP else addresses + struct.pack(">II", len(payload), protocol)
    total = checksum(pseudo + payload)
    if protocol == UDP and total == 0:
        total = 0xFFFF
    return payload[:at] + struct.pack(">H", total) + payload[at + 2 :]
