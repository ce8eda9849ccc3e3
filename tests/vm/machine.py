"""A virtual machine on a kernel of `kernels`, whose files are this machine's own.

In: a kernel and a command, which runs there as root. Out: what it wrote into a shared folder, its exit code,
and the console. The machine has no network and can change nothing of this one outside that folder.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.initramfs import EXIT_CODE, OUT_TAG, ROOT_TAG, make_initramfs
from tests.vm.kernels import Kernel, find_busybox

MEMORY = 2048  # MiB
CPUS = 2
_TAIL = 6000  # characters of the console in a message


@dataclass(frozen=True)
class Ending:
    """How a machine's command ended; `code` is None where it did not come to its end."""

    code: int | None
    console: str

    @property
    def tail(self) -> str:
        """The last words on the console."""
        return self.console[-_TAIL:]


def run_machine(kernel: Kernel, cwd: Path, command: Sequence[str], out: Path, timeout: float) -> Ending:
    """Boot, run the command, power off; the guest sees `out` as /out. A hang ends by `timeout` seconds."""
    console, initramfs = out / "console", out / "initramfs"
    initramfs.write_bytes(make_initramfs(kernel, find_busybox(), cwd, command))
    with subprocess.Popen(_qemu(kernel, initramfs, console, out), stdin=subprocess.DEVNULL) as qemu:
        try:
            qemu.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        finally:
            qemu.kill()
    text = console.read_text(errors="replace") if console.exists() else ""
    found = re.search(rf"{EXIT_CODE} (\d+)", text)
    return Ending(int(found[1]) if found else None, text)


def _qemu(kernel: Kernel, initramfs: Path, console: Path, out: Path) -> list[str]:
    """Software emulation: a machine without KVM, or one where it hangs, runs the tests too."""
    return [
        *("setpriv", "--pdeathsig", "KILL"),  # it must not go on when the tests were killed
        "qemu-system-x86_64",
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(MEMORY), "-smp", str(CPUS)),
        *("-nographic", "-nodefaults", "-no-reboot", "-serial", f"file:{console}"),
        *("-kernel", str(kernel.image), "-initrd", str(initramfs)),
        # A panic ends the machine at once; on a busy host the timer check makes one.
        *("-append", "console=ttyS0 quiet panic=-1 oops=panic no_timer_check"),
        *("-virtfs", f"local,path=/,mount_tag={ROOT_TAG},security_model=none,readonly=on,multidevs=remap"),
        *("-virtfs", f"local,path={out},mount_tag={OUT_TAG},security_model=none"),
    ]
