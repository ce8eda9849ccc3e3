"""Interfaces whose packets a program of the pod takes from the device itself: VFs on a user-space driver.

In: a request. Out: whether it is about one, and the error to answer it with. It reads below /sys and changes
nothing.
"""

import re
from pathlib import Path

from cni_plugin.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, CniError
from daemon.cni import AddRequest

DEVICES = Path("/sys/bus/pci/devices")
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
DRIVERS = ("vfio-pci", "uio_pci_generic", "igb_uio")
MAX_SHOWN = 80

WHY = (
    "its packets never meet the kernel's packet filter, so no policy can be enforced on them, and it is "
    "refused rather than left open"
)


def drives(add: AddRequest, devices: Path = DEVICES) -> bool:
    """Whether the device is one of user space, whatever else has the interface's name (some add a dummy)."""
    return _driver(add.device, devices) in DRIVERS


def missing(add: AddRequest, devices: Path = DEVICES) -> CniError:
    """No kernel's interface for CNI_IFNAME: code 7 and why, where a device without one is told of; else 4."""
    ifname = add.key.ifname
    where = f"the net-attach-def {add.network}" if add.network else "its net-attach-def"
    remedy = f"take multi-networkpolicy out of the plugins list of {where}, and keep its network apart"
    if add.device.startswith("/"):
        what = f"it is the user-space socket {add.device[:MAX_SHOWN]!r}"
    elif add.device:
        driver = _driver(add.device, devices)
        bound = f"bound to {driver}" if driver else "on a user-space driver (vfio-pci, DPDK)"
        what = f"it is the device {add.device[:MAX_SHOWN]!r}, {bound}"
        remedy += "; or bind the device to its network driver"
    else:
        return CniError(
            INVALID_ENVIRONMENT,
            f"CNI_IFNAME {ifname}: no such interface in {add.netns}",
            f"if it is a VF on a user-space driver (vfio-pci, DPDK) or a vhost-user socket, {WHY}: {remedy}",
        )
    return CniError(
        INVALID_CONFIG, f"CNI_IFNAME {ifname} is no interface of the kernel: {what}; {WHY}", remedy
    )


def _driver(device: str, devices: Path) -> str:
    """The driver that a PCI device is bound to; "": not known."""
    if not _PCI_ADDRESS.fullmatch(device):
        return ""
    try:
        return (devices / device / "driver").readlink().name
    except (OSError, ValueError):
        return ""
