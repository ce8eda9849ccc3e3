"""Execute a command for which the kernel has no legacy tables: `python without_legacy_tables.py COMMAND…`.

In: a command. Out: that command, in this process; getsockopt and setsockopt of ip_tables and ip6_tables are
refused to it and to all that it starts, as by a kernel without these modules. x86-64 only.
"""

import ctypes
import errno
import os
import struct
import sys

_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_REFUSE, _ALLOW = 0x00050000 | errno.ENOPROTOOPT, 0x7FFF0000
_SETSOCKOPT, _GETSOCKOPT = 54, 55
_SOL_IP, _SOL_IPV6 = 0, 41
_FIRST_OPTION, _AFTER_LAST_OPTION = 64, 70  # IPT_BASE_CTL and what follows it
_CALL_NUMBER, _LEVEL, _OPTION = 0, 24, 32  # offsets in struct seccomp_data

# Code, jump if true, jump if false, operand. Jumps count instructions from the next one on.
_FILTER = (
    (_LOAD_WORD, 0, 0, _CALL_NUMBER),
    (_JUMP_IF_EQUAL, 1, 0, _GETSOCKOPT),
    (_JUMP_IF_EQUAL, 0, 7, _SETSOCKOPT),
    (_LOAD_WORD, 0, 0, _LEVEL),
    (_JUMP_IF_EQUAL, 1, 0, _SOL_IP),
    (_JUMP_IF_EQUAL, 0, 4, _SOL_IPV6),
    (_LOAD_WORD, 0, 0, _OPTION),
    (_JUMP_IF_AT_LEAST, 0, 2, _FIRST_OPTION),
    (_JUMP_IF_AT_LEAST, 1, 0, _AFTER_LAST_OPTION),
    (_RETURN, 0, 0, _REFUSE),
    (_RETURN, 0, 0, _ALLOW),
)

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 22, 38
_SECCOMP_MODE_FILTER = 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))


def refuse_legacy_tables() -> None:
    """From here on, for this process."""
    code = b"".join(struct.pack("HBBI", *step) for step in _FILTER)
    kept = ctypes.create_string_buffer(code)
    program = _Program(len(_FILTER), ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    refuse_legacy_tables()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 (what it is for)
