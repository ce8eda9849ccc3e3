"""One tenant's worst policies, and what others notice: their ADDs meanwhile, and the daemon's memory.

In: a lab. Out: figures. In a namespace of their own two pods are governed by a policy that is edited again
and again: a small one, one of 600 selectors and 600 ranges of ports in a rule, and policies of 1.5 MB, which
is what an API server takes, of one kind of item each. From the edit until it is in force a pod of another
namespace has one ADD after the other. What counts is by how much the slowest of them is slower than beside
the small policy. The cluster has 2,000 other pods on the network.
"""

import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tests.bench import wire
from tests.bench.figures import Figure
from tests.bench.memory import peak_kib, resident_kib
from tests.bench.node import cluster_pods
from tests.lab import Attachment, Daemon, Lab, objects

BACKENDS = ("nftables", "iptables")
ROUNDS = 3
OTHERS = 2000
POLICY_BYTES = 1_500_000
MOST_LATER_MS = 50.0
MOST_MEMORY_MIB = 512.0
TIMEOUT = 120.0

TENANT = "tenant"

Item = Mapping[str, Any]


def measure() -> list[Figure]:
    """Measure both backends, one after the other."""
    return [figure for backend in BACKENDS for figure in _measure(backend)]


def _measure(backend: str) -> list[Figure]:
    with Lab() as lab:
        daemon = lab.daemon(backend=backend)
        tenants = [lab.attach(lab.pod(f"tenant-{n}", namespace=TENANT)) for n in range(2)]
        neighbour = lab.attach(lab.pod("neighbour"))
        pods = [
            *(
                objects.pod(a.pod.name, labels={"app": "web"}, namespace=TENANT, networks="default/net1")
                for a in tenants
            ),
            objects.pod("neighbour", networks="net1"),
        ]
        daemon.apply("cluster.json", [objects.network("net1"), *pods, *cluster_pods(OTHERS, OTHERS)])
        daemon.wait_synced(TIMEOUT)
        for attachment in (*tenants, neighbour):
            wire.exchange(daemon, wire.add_request(attachment))
        slowest = {name: _rounds(daemon, neighbour, make) for name, make in POLICIES.items()}
        resident, peak = resident_kib(daemon.pid) / 1024, peak_kib(daemon.pid) / 1024
    calm = slowest.pop("small")
    figures = [
        Figure(f"{backend}: a neighbour's slowest ADD beside a small policy's edits", calm, "ms"),
        *(
            Figure(f"{backend}: how much later beside {name}", worst - calm, "ms", MOST_LATER_MS)
            for name, worst in slowest.items()
        ),
    ]
    memory = Figure(
        f"{backend}: daemon's peak RSS", peak, "MiB", MOST_MEMORY_MIB, note=f"then {resident:.0f} MiB"
    )
    return [*figures, memory]


def _rounds(daemon: Daemon, neighbour: Attachment, make: Callable[[int], Item]) -> float:
    """The slowest ADD of the neighbour while that policy is edited a few times; ms."""
    request = wire.add_request(neighbour)
    times: list[float] = []
    for number in range(ROUNDS):
        daemon.apply("policy.json", make(number))
        ended = threading.Event()
        waiting = threading.Thread(target=_wait, args=(daemon, ended))
        waiting.start()
        while not ended.is_set():
            times.append(wire.exchange(daemon, request) * 1000)
            time.sleep(0.002)
        waiting.join()
    return max(times)


def _wait(daemon: Daemon, ended: threading.Event) -> None:
    try:
        wire.exchange(daemon, wire.WAIT_SYNCED)
    finally:
        ended.set()


# --- policies: each edit has other items, so that nothing is remembered -----------------------------------


def _policy(ingress: list[Item]) -> Item:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress}
    return objects.policy("worst", spec, networks="default/net1", namespace=TENANT)


def _selector(turn: int, number: int) -> Item:
    return {"podSelector": {"matchLabels": {"app": f"a{turn}-{number}"}}}


def _unlike(turn: int, number: int) -> Item:
    """One that selects no pod, and can't be told so by any label's value."""
    lacks = [
        {"key": "place", "operator": "DoesNotExist"},
        {"key": f"k{turn}-{number}", "operator": "DoesNotExist"},
    ]
    return {"namespaceSelector": {}, "podSelector": {"matchExpressions": lacks}}


def _block(turn: int, number: int) -> Item:
    return {"ipBlock": {"cidr": f"{20 + turn + number // 65536}.{number // 256 % 256}.{number % 256}.0/25"}}


def _range(turn: int, number: int) -> Item:
    return {"port": 1 + 6 * number + turn, "endPort": 3 + 6 * number + turn}


def _whole(make: Callable[[int, int], Item], turn: int) -> list[Item]:
    """As many items as a policy of POLICY_BYTES holds."""
    sizes = itertools.accumulate(len(json.dumps(make(turn, n))) + 2 for n in itertools.count())
    return [make(turn, number) for number, _ in enumerate(itertools.takewhile(POLICY_BYTES.__gt__, sizes))]


def _some(make: Callable[[int, int], Item], turn: int, count: int) -> list[Item]:
    return [make(turn, number) for number in range(count)]


def _product(turn: int) -> Item:
    return _policy([{"from": _some(_selector, turn, 600), "ports": _some(_range, turn, 600)}])


def _peers(make: Callable[[int, int], Item], turn: int) -> Item:
    return _policy([{"from": _whole(make, turn)}])


def _rule(turn: int, number: int) -> Item:
    return {"from": [_selector(turn, number)], "ports": [_range(turn, number % 9000)]}


POLICIES: dict[str, Callable[[int], Item]] = {
    "small": lambda turn: _policy([{"from": [_selector(turn, 0)]}]),
    "600 selectors x 600 ranges of ports": _product,
    "10,000 selectors x 10,000 ranges": lambda turn: _policy(
        [{"from": _some(_selector, turn, 10_000), "ports": _some(_range, turn, 10_000)}]
    ),
    "1.5 MB of selectors": partial(_peers, _selector),
    "1,300 selectors that are tried for every pod": lambda turn: _policy(
        [{"from": _some(_unlike, turn, 1300)}]
    ),
    "1.5 MB of the same": partial(_peers, _unlike),
    "1.5 MB of blocks": partial(_peers, _block),
    "1,000 rules": lambda turn: _policy(_some(_rule, turn, 1000)),
    "1.5 MB of rules": lambda turn: _policy(_whole(_rule, turn)[:10_000]),
}
