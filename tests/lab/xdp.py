"""An XDP program that lets everything pass, on a link, without a compiler.

In: an interface's name in the current namespace. Out: the program is attached; it ends with the link.
"""

import ctypes
import os
import socket
import struct

_SYS_BPF = 321  # x86-64
_PROG_LOAD = 5
_TYPE_XDP = 6
_PASS = struct.pack("=BBhi", 0xB7, 0, 0, 2) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
_RTM_SETLINK = 19
_NLM_F_REQUEST_ACK = 0x5
_IFLA_XDP, _IFLA_XDP_FD, _NESTED = 43, 1, 0x8000

_libc = ctypes.CDLL(None, use_errno=True)


def attach(ifname: str) -> None:
    """Load it and attach it; an OSError says what is missing."""
    program = _load()
    try:
        number = struct.pack("=HHi", 8, _IFLA_XDP_FD, program)
        attribute = struct.pack("=HH", 4 + len(number), _IFLA_XDP | _NESTED) + number
        body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(ifname), 0, 0) + attribute
        header = struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _NLM_F_REQUEST_ACK, 1, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as route:
            route.send(header + body)
            (refused,) = struct.unpack_from("=i", route.recv(4096), 16)
        if refused:
            raise OSError(-refused, f"attach to {ifname}: {os.strerror(-refused)}")
    finally:
        os.close(program)


def _load() -> int:
    code, license_ = ctypes.create_string_buffer(_PASS), ctypes.create_string_buffer(b"GPL")
    asked = struct.pack(
        "=IIQQ", _TYPE_XDP, len(_PASS) // 8, ctypes.addressof(code), ctypes.addressof(license_)
    )
    asked = asked.ljust(128, b"\0")
    found = int(_libc.syscall(_SYS_BPF, _PROG_LOAD, asked, len(asked)))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"load a program: {os.strerror(number)}")
    return found
