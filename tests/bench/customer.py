"""A customer-sized load: 485 policies of 450 CIDRs on 9 networks, 100 local pods.

In: a lab. Out: figures about a program from scratch, one policy edit, and memory.

The load, spelled out because every word of it matters. Each policy belongs to one of 9 networks (54 on eight
of them, 53 on the ninth) and admits, in one ingress rule, 450 IPv4 blocks of its own (/24 to /32, none the
same as another's) on TCP 443. Each of the 100 local pods has one interface on one network (11 or 12 a
network). Policies select by `app`; a network's policies are dealt out to its pods in turn, so each of them
selects one local pod and a pod is isolated by 4 or 5: together 218,250 blocks in the kernel. The manifests
are one file a network.

`customer-all-apps` is the same with every policy selecting every pod of its network: 2.4 million blocks. No
budget was set for that; it shows what a wide selector costs.
"""

import statistics
import time
from collections.abc import Sequence

from daemon.backends.base import Backend
from daemon.backends.iptables import IptablesBackend
from daemon.backends.nfsocket import Reaper
from daemon.backends.nftables import NftablesBackend
from tests.bench import wire
from tests.bench.figures import Figure
from tests.bench.generations import listed
from tests.bench.memory import peak_kib, resident_kib
from tests.bench.timing import spread
from tests.lab import Attachment, Daemon, Lab, objects
from tests.lab.namespaces import inside

NETWORKS = tuple(f"net{number}" for number in range(1, 10))
POLICIES = 485
CIDRS = 450
PODS = 100
STARTS = 3
EDITS = 15
TIMEOUT = 120.0

MOST_START_S = 5.0
MOST_EDIT_MS = 200.0
MOST_MEMORY_MIB = 300.0


def measure(backend: str = "nftables") -> list[Figure]:
    """Measure the load with one policy a pod's app."""
    return _measure(backend, STARTS, EDITS, everyone=False, promised=True)


def measure_all_apps() -> list[Figure]:
    """Measure the load in which every policy selects every pod of its network."""
    return _measure("nftables", 1, 5, everyone=True, promised=False)


def _measure(backend: str, starts: int, edits: int, *, everyone: bool, promised: bool) -> list[Figure]:
    with Lab(NETWORKS) as lab:
        daemon = lab.daemon(backend=backend)
        attachments = [_attach(lab, number) for number in range(PODS)]
        for number in range(len(NETWORKS)):
            daemon.apply(NETWORKS[number] + ".json", _objects(number, everyone=everyone))
        daemon.wait_synced(TIMEOUT)
        adds = [wire.exchange(daemon, wire.add_request(a)) * 1000 for a in attachments]
        times = [_from_scratch(daemon, attachments, _BACKENDS[backend]) for _ in range(starts)]
        edited = [_edit(daemon, number, everyone=everyone) for number in range(edits)]
        _assert_in_force(attachments, edits - 1)
        resident, peak = resident_kib(daemon.pid) / 1024, peak_kib(daemon.pid) / 1024
    limit = (MOST_START_S, MOST_EDIT_MS, MOST_MEMORY_MIB) if promised else (None, None, None)
    return [
        Figure(
            "start to synced, from scratch", statistics.median(times), "s", limit[0], note=_worst(times, "s")
        ),
        Figure(
            "one policy edit to synced", statistics.median(edited), "ms", limit[1], note=_worst(edited, "ms")
        ),
        Figure("daemon's share of ADD, median", statistics.median(adds), "ms", note=spread(adds)),
        Figure("daemon RSS", resident, "MiB", limit[2]),
        Figure("daemon's peak RSS", peak, "MiB", limit[2]),
    ]


def _assert_in_force(attachments: Sequence[Attachment], edit: int) -> None:
    """The last edit's block, and as many more as belong there, are in the kernel: what was timed was real."""
    network = edit % len(NETWORKS)
    one = next(a for a in attachments if a.network.name == NETWORKS[network])
    text = listed(one)
    if f"203.0.113.{edit}" not in text or text.count(".0/2") < CIDRS // 2:
        raise RuntimeError(f"{one.pod.name} has not the blocks of its policies, though all was synced")


def _worst(samples: Sequence[float], unit: str) -> str:
    return f"worst of {len(samples)}: {max(samples):.3g} {unit}"


def _attach(lab: Lab, number: int) -> Attachment:
    return lab.attach(lab.pod(f"local-{number}"), NETWORKS[number % len(NETWORKS)])


def _objects(network: int, *, everyone: bool, edit: int | None = None) -> list[objects.Object]:
    """Make all that one network's file holds; `edit` changes one block of its first policy."""
    name = NETWORKS[network]
    local = [n for n in range(PODS) if n % len(NETWORKS) == network]
    pods = [objects.pod(f"local-{n}", labels={"app": f"app-{n}"}, networks=f"{name}@net1") for n in local]
    numbers = [n for n in range(POLICIES) if n % len(NETWORKS) == network]
    policies = []
    for place, number in enumerate(numbers):
        app = None if everyone else f"app-{local[place % len(local)]}"
        policies.append(_policy(number, name, app, edit if place == 0 else None))
    return [objects.network(name), *pods, *policies]


def _policy(number: int, network: str, app: str | None, edit: int | None) -> objects.Object:
    blocks = [_block(number * CIDRS + place) for place in range(CIDRS)]
    if edit is not None:
        blocks[0] = f"203.0.113.{edit}/32"
    rule = {
        "from": [{"ipBlock": {"cidr": block}} for block in blocks],
        "ports": [{"protocol": "TCP", "port": 443}],
    }
    selector = {} if app is None else {"matchLabels": {"app": app}}
    spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [rule]}
    return objects.policy(f"policy-{number}", spec, networks=network)


def _block(number: int) -> str:
    """Return one of 218,250 blocks, each in a /24 of its own, none beside another so that none merge."""
    length = 24 + number % 9
    third = number * 2
    return f"{20 + (third >> 16)}.{(third >> 8) & 255}.{third & 255}.0/{length}"


def _from_scratch(daemon: Daemon, attachments: Sequence[Attachment], backend: Backend) -> float:
    """Stop it, remove all that it programmed, start it: seconds until everything is in the kernel again."""
    daemon.stop()
    for attachment in attachments:
        with inside(attachment.pod.netns):
            backend.remove()
    begun = time.perf_counter()
    daemon.start(wait=False)
    daemon.wait_listening(TIMEOUT)
    wire.exchange(daemon, wire.WAIT_SYNCED)
    return time.perf_counter() - begun


_REAPER = Reaper()
_BACKENDS: dict[str, Backend] = {
    "nftables": NftablesBackend(_REAPER),
    "iptables": IptablesBackend(_REAPER),
}


def _edit(daemon: Daemon, number: int, *, everyone: bool) -> float:
    """Change one block of one policy: ms from its file's rename until it is in force."""
    network = number % len(NETWORKS)
    content = _objects(network, everyone=everyone, edit=number)
    daemon.apply(NETWORKS[network] + ".json", content)
    begun = time.perf_counter()
    wire.exchange(daemon, wire.WAIT_SYNCED)
    return (time.perf_counter() - begun) * 1000
