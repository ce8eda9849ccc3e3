"""The first file system of a virtual machine: busybox, a few modules, and the way on to the host's files.

In: a kernel, busybox, and a command. Out: the bytes of a cpio archive. It touches no file but to read.
"""

import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.vm.kernels import Kernel

ROOT_TAG, OUT_TAG = "root", "out"
OUT = "/out"  # where the guest sees the folder that is shared for its results
EXIT_CODE = "vm: exit code"

_MODULES = ("virtio_pci", "9p", "9pnet_virtio", "overlay")
_9P = "trans=virtio,version=9p2000.L,msize=524288"

# Everything that is written lands in memory. No file system is mounted on /tmp or /run as a whole: the clone
# and the cache may lie there.
_INIT = """#!/busybox sh
/busybox mkdir -p /proc /host /upper /root
/busybox mount -t proc proc /proc
for module in {modules}; do /busybox insmod "/$module"; done
/busybox mount -t 9p -o {p9},ro,cache=loose {root_tag} /host
/busybox mount -t tmpfs -o size=75% tmpfs /upper
/busybox mkdir /upper/changes /upper/work
/busybox mount -t overlay -o lowerdir=/host,upperdir=/upper/changes,workdir=/upper/work overlay /root
cd /root
/busybox mkdir -p lib/modules run/netns .{out}
/busybox mount -t proc proc proc
/busybox mount -t sysfs sysfs sys
/busybox mount -t devtmpfs devtmpfs dev
/busybox mount -t tmpfs tmpfs run/netns
/busybox mount -o bind,ro .{kernel_modules} lib/modules
/busybox mount -t 9p -o {p9},cache=none {out_tag} .{out}
# As PID 1, for the kernel's own modprobe starts from the root that PID 1 has.
exec /busybox chroot /root /bin/sh -c {run}
"""
_RUN = """
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
cd {folder}
{command}
echo "{exit_code} $?"
echo o >/proc/sysrq-trigger
while :; do sleep 60; done
"""


def make_initramfs(kernel: Kernel, busybox: Path, folder: Path, command: Sequence[str]) -> bytes:
    """Make one that runs a command in a folder of the host's, prints its exit code, and powers off."""
    modules = kernel.module_files(*_MODULES)
    run = _RUN.format(folder=shlex.quote(str(folder)), command=shlex.join(command), exit_code=EXIT_CODE)
    init = _INIT.format(
        modules=shlex.join(modules),
        p9=_9P,
        root_tag=ROOT_TAG,
        out_tag=OUT_TAG,
        out=OUT,
        kernel_modules=shlex.quote(str(kernel.modules)),
        run=shlex.quote(run),
    )
    return make_cpio({"init": init.encode(), "busybox": busybox.read_bytes(), **modules})


def make_cpio(files: Mapping[str, bytes]) -> bytes:
    """Pack executable files in the "newc" format, which is the one that the kernel unpacks."""
    members = [_member("dev", stat.S_IFDIR | 0o755, b""), _console()]
    members += [_member(name, stat.S_IFREG | 0o755, content) for name, content in files.items()]
    return b"".join([*members, _member("TRAILER!!!", 0, b"")])


def _console() -> bytes:
    return _member("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))


def _member(name: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> bytes:
    # Inode, mode, uid, gid, links, mtime, size, the file's device (2), device number (2), name's size, check.
    path = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + path) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)
