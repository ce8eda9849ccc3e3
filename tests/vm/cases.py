"""All that a virtual machine has to report, by name: what runs inside writes it, and who waits expects it.

In: nothing. Out: CASES. It imports nothing that is slow to import, for it does so in the machine too.
"""

from dataclasses import dataclass

from tests.vm.rows import ROWS

BACKENDS = ("nftables", "iptables")
GOVERNED = ("macvlan", "ipvlan-l2", "ipvlan-l3")  # drivers whose packets pass the pod's own hooks
REFUSED = "ipvlan-l3s"  # the one whose packets may not


@dataclass(frozen=True)
class VmCase:
    """One line of a kernel's results: `where` is a driver or another part of the node."""

    backend: str
    where: str
    name: str

    def __str__(self) -> str:
        return f'{self.backend} {self.where} "{self.name}"'


REFUSALS = ("without a policy", "with a policy", "with the guard", "DEL after it")
# By hand, without the plugin: what a drop of all that comes in does.
HOOKS = {
    "ipvlan-l2": ("drops from outside", "drops from the same node"),
    "ipvlan-l3": ("drops from outside", "drops from the same node"),
    "ipvlan-l3s": ("is passed by from outside", "drops from the same node"),
}
# What is done with a governed interface.
KINDS = (
    "enslaved to a VRF later",
    "enslaved to a VRF before ADD",
    "enslaved to a bond",
    "a VLAN on it",
    "an ipvlan on it",
    "an ipvtap is refused",
)
LEGACY = (
    "their drop drops",
    "their accept opens nothing",
    "what they redirect is judged as it was dialled",
    "they stay as they are",
)
CHOICES = {  # what is taken away, and the backend that is chosen
    "with everything": "nftables",
    "without nf_tables": "iptables",
    "without ip_tables": "nftables",
    "with neither": "",
}
WITHOUT = {  # what is taken away, the backend that is asked for all the same, and what the refusal names
    "without nf_tables": ("nftables", "`modprobe -a nf_tables "),
    "without ip_tables": ("iptables", "`modprobe -a iptable_mangle "),
    "without ip_set": ("iptables", "`modprobe -a ip_set_hash_ip "),
}

CASES: tuple[VmCase, ...] = (
    *(VmCase("auto", "modules", name) for name in CHOICES),
    *(VmCase(backend, "modules", f"refused {name}") for name, (backend, _) in WITHOUT.items()),
    *(VmCase("none", driver, f"a drop by hand {name}") for driver, names in HOOKS.items() for name in names),
    *(
        VmCase(backend, where, name)
        for backend in BACKENDS
        for where, names in {
            **{driver: tuple(row.name for row in ROWS) for driver in GOVERNED},
            REFUSED: tuple(f"refused {name}" for name in REFUSALS[:-1]) + REFUSALS[-1:],
            "legacy-rules": LEGACY,
            "links": KINDS,
        }.items()
        for name in names
    ),
)
