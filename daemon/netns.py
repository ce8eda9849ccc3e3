"""Entering network namespaces, and finding a link in them.

In: paths as a container runtime gives them. Out: identities, links, and a calling thread that is back in
the host's namespace whatever happened. No other module changes a thread's namespace. It must not keep a
namespace alive (no descriptor outlives a call), and must not block on what a path leads to: a FIFO, a device,
another file system's file are refused before they are opened for reading.

Device and inode do not identify a namespace (both are reused at once); the kernel's cookie does, where
there is one.
"""

import contextlib
import errno
import fcntl
import functools
import os
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from typing import TypeVar

import msgspec
from pyroute2 import netns as pyroute2_netns

from daemon import rtnl
from daemon.errors import NetnsError, NetnsGoneError, NoPodsNetnsError
from daemon.libc import LIBC
from daemon.netlink import attributes

Result = TypeVar("Result")

EXIT_LOST = 70
"""EX_SOFTWARE: the process ended because its thread could not return to the host's namespace."""

_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_SO_NETNS_COOKIE = 71
_IFINFO_BYTES = 16
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO = 1, 3, 5, 18
_IFLA_NETNSID, _IFLA_PERM_ADDRESS = 37, 54
_IFLA_INFO_KIND = 1

MAX_LINKS = 1024
MAX_LINKS_BYTES, MAX_NAMES_BYTES = MAX_LINKS << 10, MAX_LINKS << 8
"""Of a namespace that are looked through (8 ms): more are somebody's play."""


class NetnsIdentity(msgspec.Struct, frozen=True):
    """Which network namespace stood at a path. cookie None: a kernel before 5.14 has none.

    directory: device and inode of what the path stands in; None: not known, or it is in /proc.
    """

    path: str
    device: int
    inode: int
    cookie: int | None
    directory: tuple[int, int] | None = None

    @property
    def token(self) -> int:
        """One number for this namespace, whatever path leads to it; unique while the namespace lives."""
        if self.cookie is not None:
            return self.cookie
        return 1 << 128 | self.device << 64 | self.inode

    def same(self, other: "NetnsIdentity") -> bool:
        """The same namespace, as far as the kernel lets us tell."""
        if self.cookie is not None and other.cookie is not None and self.cookie != other.cookie:
            return False
        return (self.device, self.inode) == (other.device, other.inode)


class Link(msgspec.Struct, frozen=True):
    """A network interface. mac "": it has none.

    permanent: the address that its hardware has, whatever it is given; "": it has none. lower: its kind, and
    on which link it stands, or which is its peer: "macvlan on 3 of 0", the number and this namespace's
    number of that link's namespace; "": on none.
    """

    ifname: str
    ifindex: int
    mac: str
    permanent: str = ""
    lower: str = ""


class Listing(msgspec.Struct, frozen=True):
    """The links of a namespace as the kernel told them; whole: all of them. To decode one costs 0.014 ms."""

    bodies: tuple[bytes, ...]
    whole: bool

    def indexes(self) -> frozenset[int]:
        """The numbers of all."""
        return frozenset(_index(body) for body in self.bodies)

    def links(self) -> list[Link]:
        """All of them."""
        return list(map(_decode_link, self.bodies))

    def having(self, marks: Collection[bytes]) -> list[Link]:
        """Those in which any of these bytes stand, be it by chance."""
        return [_decode_link(body) for body in self.bodies if any(mark in body for mark in marks)]


class _Host(msgspec.Struct, frozen=True):
    """The namespace that this process started in. fd stays open for the life of the process."""

    fd: int
    device: int
    inode: int


@functools.cache
def _host() -> _Host:
    # The main thread's namespace: no thread of ours is elsewhere but within `entered`.
    fd = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    status = os.fstat(fd)
    return _Host(fd, status.st_dev, status.st_ino)


def identify(path: str) -> NetnsIdentity:
    """The network namespace at `path`.

    NetnsGoneError: nothing is there. NetnsError: what is there is no network namespace, or is the host's own.
    """
    fd = _open(path)
    try:
        with _inside(fd):
            return _identity(path, fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def entered(path: str, expected: NetnsIdentity | None) -> Iterator[NetnsIdentity]:
    """Move the calling thread into the namespace at `path` and, at the end, back into the host's.

    expected None: whatever namespace is there. NetnsGoneError: nothing is there, or another than expected.
    NetnsError: no network namespace, or the host's own. When there is no way back the process ends.
    """
    fd = _open(path)
    try:
        with _inside(fd):
            found = _identity(path, fd)
            if expected is not None and not found.same(expected):
                raise NetnsGoneError(path, "another network namespace stands there now")
            yield found
    finally:
        os.close(fd)


def gone(identity: NetnsIdentity, *, thorough: bool) -> bool:
    """Whether the path surely no longer leads to this namespace; a failure to look does not mean that.

    Nor does a directory that is another one than it was (`hidden`).

    thorough: identify what stands there in any case; else its numbers are enough where they are the same: one
    stat, for frequent looking. Another namespace may have got them.
    """
    try:
        found = os.stat(identity.path)
        if not thorough and (found.st_dev, found.st_ino) == (identity.device, identity.inode):
            return False
        return not identify(identity.path).same(identity)
    except (FileNotFoundError, NetnsGoneError):
        return not hidden(identity)
    except NoPodsNetnsError:
        # Of a path in /proc whose number is another process' now.
        return True
    except (OSError, ValueError, NetnsError):
        return False


def hidden(identity: NetnsIdentity) -> bool:
    """Whether the path's directory is another one than it was: something is mounted there, or no more."""
    return identity.directory is not None and _directory(identity.path) != identity.directory


def _directory(path: str) -> tuple[int, int] | None:
    """Device and inode of what a path stands in; None: in none, or in /proc, where it ends with a process."""
    parent = os.path.dirname(path)
    if parent.startswith("/proc/"):
        return None
    try:
        status = os.stat(parent)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def in_scratch(work: Callable[[], Result]) -> Result:
    """Run `work` in an empty network namespace, in a thread that ends with it, and return its result."""
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            _unshare()
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="scratch-netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def _unshare() -> None:
    if LIBC.unshare(_CLONE_NEWNET) != 0:
        raise NetnsError(
            "a new network namespace", "can't be made: CAP_SYS_ADMIN and CONFIG_NET_NS are needed"
        )


def _open(path: str) -> int:
    try:
        # Never open a device or a FIFO, not even without blocking: opening alone can have effects.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise NetnsError(path, "is no network namespace (not a regular file)")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NetnsGoneError(
            path, "does not exist here; is its directory mounted in the daemon's pod?"
        ) from None
    except OSError as error:
        raise NetnsError(path, f"can't be opened: {error.strerror}") from error
    except ValueError as error:
        raise NetnsError(path, f"can't be opened: {error}") from error
    try:
        _check(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check(path: str, fd: int) -> None:
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        # `ip netns add` creates the file before it mounts the namespace on it, and `del` unmounts it first.
        if error.errno == errno.ENOTTY and os.fstat(fd).st_size == 0:
            raise NetnsGoneError(
                path, "is an empty file: no namespace is mounted on it (any more)"
            ) from error
        raise NetnsError(path, "is no network namespace (a plain file?)") from error
    if kind != _CLONE_NEWNET:
        raise NoPodsNetnsError(path, "is a namespace, but not a network namespace")
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) == (_host().device, _host().inode):
        message = "is the host's own network namespace; host-network pods are not governed"
        raise NoPodsNetnsError(path, message)


@contextlib.contextmanager
def _inside(fd: int) -> Iterator[None]:
    host = _host()
    try:
        pyroute2_netns.setns(fd, libc=LIBC)
    except OSError as error:
        raise NetnsError(f"descriptor {fd}", "can't be entered: CAP_SYS_ADMIN is needed") from error
    try:
        yield
    finally:
        _return(host.fd)


def _return(fd: int) -> None:
    try:
        pyroute2_netns.setns(fd, libc=LIBC)
    except OSError as error:
        # A thread left in a pod's namespace would program that pod for every other: nothing is safe to do
        # but end.
        sys.stderr.write(f"fatal: can't return to the host's network namespace: {error}\n")
        sys.stderr.flush()
        os._exit(EXIT_LOST)


def _identity(path: str, fd: int) -> NetnsIdentity:
    status = os.fstat(fd)
    return NetnsIdentity(path, status.st_dev, status.st_ino, _cookie(path), _directory(path))


def _cookie(path: str) -> int | None:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return None
        raise NetnsError(path, f"can't be identified: {error.strerror}") from error
    return int(struct.unpack("=Q", raw)[0])


# --- links: in the current namespace ---------------------------------------------------------------------
# A link takes 0.05 ms this way; an IPRoute 1.7 ms, opening and a lookup, and decoding all attributes 0.1 ms.


def link(ifname: str) -> Link | None:
    """The interface of that name in the current namespace; None: there is none.

    NetnsError: it can't be read.
    """
    return _read_link(rtnl.link_body(name=ifname))


def link_by_index(ifindex: int) -> Link | None:
    """The interface of that index in the current namespace; None: there is none. NetnsError as link()."""
    return _read_link(rtnl.link_body(ifindex))


def links() -> Listing:
    """The interfaces in the current namespace. NetnsError as link().

    No link hides behind another: those that the kernel lists by name only are asked for one by one.
    """
    try:
        with rtnl.Route() as route:
            dumped = route.dump(rtnl.GETLINK, rtnl.link_body(), MAX_LINKS_BYTES)
            if dumped.ended is rtnl.Ended.LONG:
                return Listing(tuple(dumped.bodies), False)
            return _completed(route, dumped)
    except OSError as error:
        raise NetnsError("its links", f"can't be read: {error}") from error


def _completed(route: rtnl.Route, dumped: rtnl.Dump) -> Listing:
    bodies = dumped.bodies
    names, whole = rtnl.names(MAX_NAMES_BYTES)
    if dumped.whole and whole and len(names) == len(bodies):
        return Listing(tuple(bodies), True)
    listed = {_decode_link(body).ifname for body in bodies}
    others = [name for name in names if name not in listed]
    bodies += [body for name in others[:MAX_LINKS] if (body := _ask_link(route, name)) is not None]
    return Listing(tuple(bodies), whole and len(others) <= MAX_LINKS)


def _ask_link(route: rtnl.Route, ifname: str) -> bytes | None:
    try:
        return route.ask(rtnl.GETLINK, rtnl.link_body(name=ifname))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _read_link(body: bytes) -> Link | None:
    try:
        with rtnl.Route() as route:
            return _decode_link(route.ask(rtnl.GETLINK, body))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return None
        raise NetnsError("its links", f"can't be read: {error}") from error


def _decode_link(body: bytes) -> Link:
    """The attributes that we need, behind a struct ifinfomsg whose index stands at byte 4."""
    ifindex = _index(body)
    found = attributes(body, _IFINFO_BYTES)
    name, mac = os.fsdecode(found[_IFLA_IFNAME].rstrip(b"\0")), found.get(_IFLA_ADDRESS, b"").hex(":")
    permanent = found.get(_IFLA_PERM_ADDRESS, b"").hex(":")
    return Link(name, ifindex, mac, permanent, _lower(found))


def _index(body: bytes) -> int:
    return int(struct.unpack_from("=i", body, 4)[0])


def _lower(found: dict[int, bytes]) -> str:
    if _IFLA_LINK not in found:
        return ""
    link_info = attributes(found.get(_IFLA_LINKINFO, b""))
    kind = link_info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(errors="replace")
    number = int.from_bytes(found[_IFLA_LINK], sys.byteorder)
    space = int.from_bytes(found.get(_IFLA_NETNSID, b""), sys.byteorder)
    return f"{kind} on {number}" + (f" of {space}" if _IFLA_NETNSID in found else "")
