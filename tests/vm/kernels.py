"""The distribution kernels that the virtual machines boot, where `./build.sh kernels` unpacked them.

In: a kernel's version. Out: its image, and its modules by name. It downloads nothing.
"""

import lzma
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.lab import cache_folder

VERSIONS = ("6.1", "6.12")


class MissingKernelError(Exception):
    """What the virtual machine boots is not there; the message says what makes it."""


@dataclass(frozen=True)
class Kernel:
    """One unpacked kernel package."""

    version: str
    folder: Path
    release: str  # what `uname -r` says on it

    @property
    def image(self) -> Path:
        """What the machine boots."""
        return self.folder / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        """What /lib/modules shall be."""
        return self.folder / "lib/modules"

    def module_files(self, *names: str) -> dict[str, bytes]:
        """Return these modules and all that they need, by file name, in the order in which they load."""
        found: dict[str, bytes] = {}
        for name in names:
            line = ["modprobe", "-d", str(self.folder), "-S", self.release, "--show-depends", name]
            steps = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
            for step in steps:
                action, _, path = step.strip().partition(" ")
                if action == "insmod":  # else it is built in
                    found |= _uncompressed(Path(path))
        return found


def find_kernel(version: str) -> Kernel:
    """Return the newest kernel of a version that was downloaded."""
    link = cache_folder() / f"vm-linux-{version}"
    if not link.exists():
        raise MissingKernelError(f"no {link}: run  ./build.sh kernels")
    folder = link.resolve()
    (release,) = (path.name for path in (folder / "lib/modules").iterdir())
    return Kernel(version, folder, release)


def find_busybox() -> Path:
    """Return the statically linked busybox that a machine starts with."""
    path = cache_folder() / "vm-busybox" / "bin/busybox"
    if not path.exists():
        raise MissingKernelError(f"no {path}: run  ./build.sh kernels")
    return path


def _uncompressed(path: Path) -> dict[str, bytes]:
    content = path.read_bytes()
    if path.suffix == ".xz":  # busybox's insmod can't read these
        return {path.stem: lzma.decompress(content)}
    return {path.name: content}
