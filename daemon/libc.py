"""The C library that this process has loaded already.

In: nothing. Out: LIBC, for calls that Python's own modules do not offer. Libraries that are left to
themselves look for it by running ldconfig, or gcc and ld: no daemon on a node should start those.
"""

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
"""errno: ctypes.get_errno()."""
