"""A full node: 250 local attachments in a cluster of 10,000 pods, all from manifests.

In: a lab. Out: figures about the daemon's share of an ADD, one peer added, and memory.

The load: one network; every local pod is selected by one policy that admits 100 peers on 5 TCP ports. 10,000
other pods have an address on the network by their network-status, in ten files; 100 of them are the peers.
The peer that comes and goes is in a small file of its own, as a small change comes from an API server; what
rewriting a large file costs on top is the source's affair.
"""

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

from tests.bench import wire
from tests.bench.figures import Figure
from tests.bench.generations import assert_listed, read_all, sockets_in, until_all_changed
from tests.bench.memory import peak_kib, resident_kib
from tests.bench.timing import interleaved, percentile, spread
from tests.lab import Attachment, Daemon, Lab, objects

LOCAL = 250
CLUSTER = 10_000
PEERS = 100
FILES = 10
PORTS = (80, 443, 5000, 5001, 8080)
ROUNDS = 20
TIMEOUT = 30.0

BUDGETS: dict[str, tuple[float, float | None]] = {"nftables": (2.0, 10.0), "iptables": (10.0, None)}
"""Of an ADD, in ms: median and 99th percentile."""
MOST_FAN_OUT_MS = 100.0
MOST_MEMORY_MIB = 150.0

NETWORK = "default/net1"
POLICY = objects.policy(
    "admit-peers",
    {
        "podSelector": {"matchLabels": {"role": "local"}},
        "policyTypes": ["Ingress"],
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"role": "peer"}}}],
                "ports": [{"protocol": "TCP", "port": port} for port in PORTS],
            }
        ],
    },
)


def measure() -> list[Figure]:
    """Measure both backends, one after the other."""
    return [figure for backend in BUDGETS for figure in _measure(backend)]


def _measure(backend: str) -> list[Figure]:
    """Measure ADDs into fresh namespaces, then a peer that comes and goes, then memory."""
    median, p99 = BUDGETS[backend]
    with Lab() as lab:
        daemon = lab.daemon(backend=backend)
        attachments = [lab.attach(lab.pod(f"local-{number}")) for number in range(LOCAL)]
        _fill(daemon)
        daemon.wait_synced(TIMEOUT)
        adds = [wire.exchange(daemon, wire.add_request(a)) * 1000 for a in attachments]
        memory = resident_kib(daemon.pid) / 1024
        waits, kernel = _fan_out(daemon, attachments, backend)
        after = resident_kib(daemon.pid) / 1024
        peak = peak_kib(daemon.pid) / 1024
    return [
        Figure(
            f"{backend}: daemon's share of ADD, median",
            statistics.median(adds),
            "ms",
            median,
            note=spread(adds),
        ),
        Figure(
            f"{backend}: daemon's share of ADD, p99", percentile(adds, 0.99), "ms", p99, note=f"{LOCAL} ADDs"
        ),
        Figure(
            f"{backend}: one peer, 250 attachments, by wait --synced",
            statistics.median(waits),
            "ms",
            MOST_FAN_OUT_MS,
            note=f"worst of {len(waits)}: {max(waits):.0f} ms",
        ),
        Figure(
            f"{backend}: one peer, 250 attachments, by the kernel",
            statistics.median(kernel),
            "ms",
            MOST_FAN_OUT_MS,
            note=f"worst of {len(kernel)}: {max(kernel):.0f} ms",
        ),
        Figure(
            f"{backend}: daemon RSS, 250 attachments, 10,000 pods",
            max(memory, after),
            "MiB",
            MOST_MEMORY_MIB,
        ),
        Figure(f"{backend}: daemon's peak RSS", peak, "MiB", note="while it first reads the manifests"),
    ]


def cluster_pods(count: int, peers: int, network: str = NETWORK) -> Iterator[objects.Object]:
    """Make pods elsewhere that have an address on the network; the first `peers` of them are peers."""
    for number in range(count):
        role = "peer" if number < peers else "other"
        name = f"pod-{number}"
        # 10.1.128.0 and up: the lab gives its own pods the lower addresses.
        address = f"10.1.{128 + number // 250}.{1 + number % 250}"
        labels = {
            "role": role,
            "place": "elsewhere",
            "app": f"app-{number % 50}",
            "pod-template-hash": f"{number:08x}",
        }
        status = [objects.status_entry(network, "net1", [address])]
        yield objects.pod(name, labels=labels, networks="net1", status=status)


def _fill(daemon: Daemon) -> None:
    locals_ = [objects.pod(f"local-{n}", labels={"role": "local"}, networks="net1") for n in range(LOCAL)]
    daemon.apply("local.json", [objects.network("net1"), POLICY, *locals_])
    everyone = cluster_pods(CLUSTER, PEERS)
    for number in range(FILES):
        daemon.apply(f"cluster-{number}.json", list(itertools.islice(everyone, CLUSTER // FILES)))


def _fan_out(
    daemon: Daemon, attachments: Sequence[Attachment], backend: str
) -> tuple[list[float], list[float]]:
    """Add one peer, and take it away: ms until the barrier returns, and until all kernels have it."""
    peer = objects.pod(
        "late-peer",
        labels={"role": "peer"},
        networks="net1",
        status=[objects.status_entry(NETWORK, "net1", ["10.1.250.1"])],
    )
    with sockets_in(attachments) as sockets:
        present = itertools.cycle([True, False])
        gc.collect()

        def change() -> float:
            """Return when the file was in place."""
            if next(present):
                daemon.apply("late.json", peer)
            else:
                daemon.apply("late.json", [])
            return time.perf_counter()

        def by_barrier() -> float:
            begun = change()
            wire.exchange(daemon, wire.WAIT_SYNCED)
            return (time.perf_counter() - begun) * 1000

        def by_kernel() -> float:
            before = read_all(sockets, backend)
            begun = change()
            until_all_changed(sockets, before, backend)
            return (time.perf_counter() - begun) * 1000

        # Each turn adds by one way and removes by the other; over the rounds both ways see both.
        jobs: dict[str, Callable[[], float]] = {"barrier": by_barrier, "kernel": by_kernel}
        samples = interleaved(ROUNDS, jobs)
        change()
        wire.exchange(daemon, wire.WAIT_SYNCED)
        assert_listed("10.1.250.1", attachments[-1])
    return samples["barrier"], samples["kernel"]
