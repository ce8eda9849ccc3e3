"""python-iptables and the C libraries that it is made of. No other module imports it.

In: nothing. Out: the module `iptc`, or an error that says what is missing. It starts no process; its C
libraries hang or crash when two threads use them at once, so every use is within `one_thread`.
"""

import contextlib
import ctypes
import ctypes.util
import errno
import os
import sysconfig
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from daemon.errors import BackendUnavailableError

# By python-iptables' name for it: the shared objects, newest first. dlopen finds them where ld.so does.
_LIBRARIES = {
    "ip4tc": ("libip4tc.so.2", "libip4tc.so.0"),
    "ip6tc": ("libip6tc.so.2", "libip6tc.so.0"),
    "xtables": ("libxtables.so.12", "libxtables.so.11", "libxtables.so.10"),
}
_EXTENSION_FOLDERS = (
    "/usr/lib/{}/xtables",
    "/usr/lib64/xtables",
    "/usr/lib/xtables",
    "/lib/{}/xtables",
    "/lib/xtables",
)

_REMEDY = (
    "the iptables backend needs libip4tc, libip6tc, libxtables and its extensions (Debian: apt-get install "
    "iptables; XTABLES_LIBDIR names another folder of extensions), or --backend nftables"
)

_one_thread = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Around every use. RuntimeError: another thread is in it, which is a bug of the caller."""
    if not _one_thread.acquire(blocking=False):
        raise RuntimeError("python-iptables is used by two threads at once")
    try:
        yield
    finally:
        _one_thread.release()


@cache
def load() -> ModuleType:
    """The module. BackendUnavailableError: it, or one of its libraries, is missing."""
    os.environ.setdefault("XTABLES_LIBDIR", _extension_folder())
    # Left to itself it looks for libraries by running ldconfig, gcc and ld, a dozen times.
    search, ctypes.util.find_library = ctypes.util.find_library, _find_library
    try:
        import iptc
    except Exception as error:
        # It fails in ways of its own where a library is missing.
        raise BackendUnavailableError(f"python-iptables can't be loaded ({error}): {_REMEDY}") from error
    finally:
        ctypes.util.find_library = search
    module: ModuleType = iptc
    return module


@contextlib.contextmanager
def extensions_needed() -> Iterator[None]:
    """Around what loads iptables' extensions. BackendUnavailableError: one is missing."""
    load()
    try:
        yield
    except Exception as error:
        # python-iptables raises half a dozen unrelated types, and the rules that it compiles are ours.
        folder = os.environ["XTABLES_LIBDIR"]
        raise BackendUnavailableError(
            f"an extension in {folder} can't be used ({error}): {_REMEDY}"
        ) from error


def last_errno() -> int:
    """The number behind an IPTCError that was just caught; EIO where it left none."""
    # What python-iptables itself reads to word its errors.
    number: int = load().ip4tc._get_errno_loc()[0]
    return number or errno.EIO


def _find_library(name: str) -> str | None:
    for candidate in _LIBRARIES.get(name, ()):
        with contextlib.suppress(OSError):
            ctypes.CDLL(candidate)
            return candidate
    return None


def _extension_folder() -> str:
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = [folder.format(multiarch) for folder in _EXTENSION_FOLDERS]
    found = next((folder for folder in folders if Path(folder).is_dir()), None)
    if found is None:
        raise BackendUnavailableError(f"there is no folder of iptables' extensions: {_REMEDY}")
    return found
