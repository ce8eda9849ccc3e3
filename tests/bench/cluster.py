"""A node of a large cluster: 250 local attachments, 110,000 pods elsewhere, a real API server.

In: a lab, kube-apiserver and etcd on this machine. Out: figures about the daemon's start, its memory, its
cost on the API server, and its CPU time while pods change.

The load is that of `node`, with all objects in the API server: 10,000 pods elsewhere have secondary IPv4 and
IPv6 addresses, 100 of them are peers; 100,000 more have a network-status without any, as Multus writes it
where it is the cluster's default network. The API server and etcd share this machine's cores with the daemon,
so every time that waits for them is longer than where they have a machine of their own; CPU times are the
daemon's alone.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from daemon.backends.nfsocket import NetfilterSocket
from tests.bench import crowd, node, wire
from tests.bench.crowd import CrowdedServer
from tests.bench.figures import Figure
from tests.bench.generations import (
    assert_listed,
    read_all,
    sockets_in,
    until_all_changed,
    until_none_changes,
)
from tests.bench.memory import peak_kib, resident_kib
from tests.bench.pace import CpuClock, cpu_seconds, keep_pace
from tests.bench.streamed import stream_list
from tests.kube.conftest import install
from tests.lab import Attachment, Lab, objects
from tests.lab.kubedaemon import KubeDaemon

PEERS, OTHERS, PLAIN = node.PEERS, node.CLUSTER - node.PEERS, 100_000
TIMEOUT = 180.0
QUIET_SECONDS = 30.0
LOAD_SECONDS, EVENTS_A_SECOND = 20.0, 100
CHANGES = 10
LATE, LATE_ADDRESS = "late-peer", "10.1.250.1"
FIELDS = (
    "spec.nodeName!=node,spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed,spec.hostNetwork=false"
)
"""The pods that a daemon on NODE asks for."""

MOST_MEMORY_MIB = node.MOST_MEMORY_MIB
MOST_FAN_OUT_MS = node.MOST_FAN_OUT_MS


def measure() -> list[Figure]:
    """Measure two starts, rest, barriers, one peer's change, and three kinds of load."""
    # The daemon ends before what it is connected to.
    with (
        tempfile.TemporaryDirectory(prefix="bench-kube-") as folder,
        CrowdedServer(Path(folder)) as server,
        Lab() as lab,
    ):
        _fill(server)
        figures = _list_barely(server)
        daemon = lab.adopt(KubeDaemon(lab.daemon_folder(), server))
        figures += _first_start(daemon)
        attachments = [lab.attach(lab.pod(f"local-{number}")) for number in range(node.LOCAL)]
        for attachment in attachments:
            wire.exchange(daemon, wire.add_request(attachment))
        figures += [*_restart(daemon), *_rest(daemon)]
        with sockets_in(attachments) as sockets:
            late = _LatePeer(server, sockets)
            figures += _changes(late, daemon, attachments[-1])
            figures += _loads(server, daemon, late, sockets)
        return [
            *figures,
            Figure("daemon RSS, at the end", _resident(daemon), "MiB", MOST_MEMORY_MIB),
            Figure("daemon's peak RSS, at the end", _peak(daemon), "MiB"),
        ]


# --- what there is ---------------------------------------------------------------------------------------


def _fill(server: CrowdedServer) -> None:
    install(server)
    for name in ("default", *crowd.spaces()):
        server.admin.apply(objects.namespace(name))
    server.admin.apply(objects.network("net1"))
    server.admin.apply(node.POLICY)
    for number in range(node.LOCAL):
        labels = {"role": "local"}
        server.admin.create(objects.pod(f"local-{number}", labels=labels, networks="net1"))
    server.fill(PEERS, OTHERS, PLAIN)


def _list_barely(server: CrowdedServer) -> list[Figure]:
    found = stream_list(server, FIELDS)
    wanted = PEERS + OTHERS + PLAIN
    if found.objects != wanted:
        raise RuntimeError(f"the API server lists {found.objects} pods of {wanted}")
    note = f"{found.objects:,} pods' metadata, {found.bytes / 1e6:.0f} MB, read and thrown away"
    return [Figure("the same list, a bare client", found.seconds, "s", note=note)]


# --- starts ----------------------------------------------------------------------------------------------


def _first_start(daemon: KubeDaemon) -> list[Figure]:
    """No records, and nobody waits: what listing alone takes."""
    begun = time.perf_counter()
    daemon.start(wait=False)
    daemon.wait_listening(TIMEOUT)
    # Seldom, for each look costs the daemon something.
    while not (cost := _cost(daemon))["bytesAtStart"]:
        if time.perf_counter() - begun > TIMEOUT:
            raise RuntimeError(f"not listed in {TIMEOUT:g} s: {daemon.log[-2000:]}")
        time.sleep(0.1)
    seconds = time.perf_counter() - begun
    return [
        Figure(
            "start to all listed", seconds, "s", note=f"{cpu_seconds(daemon.pid):.1f} s of CPU; no records"
        ),
        Figure("received at the start", cost["bytesAtStart"] / 1e6, "MB"),
        Figure("open watches", cost["watches"], ""),
        Figure("daemon's peak RSS, first list", _peak(daemon), "MiB"),
    ]


def _restart(daemon: KubeDaemon) -> list[Figure]:
    """With all records to take over, and `wait --synced` from the first moment."""
    daemon.stop()
    begun = time.perf_counter()
    daemon.start(wait=False)
    daemon.wait_listening(TIMEOUT)
    _barrier(daemon)
    seconds, cpu, cost = time.perf_counter() - begun, cpu_seconds(daemon.pid), _cost(daemon)
    peak, resident = _peak(daemon), _resident(daemon)
    note = f"{cpu:.1f} s of CPU; {cost['bytes'] / 1e6:.0f} MB, for the barrier lists all once more"
    return [
        Figure("start to synced, 250 records", seconds, "s", note=note),
        Figure("daemon RSS, then", resident, "MiB", MOST_MEMORY_MIB),
        Figure("daemon's peak RSS, then", peak, "MiB", note="no budget for the peak"),
    ]


def _rest(daemon: KubeDaemon) -> list[Figure]:
    """Nothing changes: what watches cost, and what memory stays; then barriers."""
    before, clock = _cost(daemon), CpuClock(daemon.pid)
    time.sleep(QUIET_SECONDS)
    after, share = _cost(daemon), clock.share()
    asked = sum(after["requests"].values()) - sum(before["requests"].values())
    resident = _resident(daemon)
    barrier = _barrier(daemon)
    listed = _cost(daemon)["bytes"] - after["bytes"]
    received = (after["bytes"] - before["bytes"]) / QUIET_SECONDS
    return [
        Figure("daemon RSS, settled", resident, "MiB", MOST_MEMORY_MIB),
        Figure(
            "requests a second, at rest",
            asked / QUIET_SECONDS,
            "",
            note=f"{asked} in {QUIET_SECONDS:.0f} s; each of {after['watches']} watches begins anew every "
            f"5 to 10 minutes; {received:.0f} bytes/s",
        ),
        Figure("CPU of the daemon, at rest", share, "%", note="of one core"),
        Figure(
            "wait --synced, nothing to wait for",
            barrier,
            "s",
            note=f"{listed / 1e6:.0f} MB, compressed: it lists every pod's metadata",
        ),
    ]


# --- one peer --------------------------------------------------------------------------------------------


class _LatePeer:
    """A pod elsewhere that becomes a peer, and no longer one, by its label."""

    def __init__(self, server: CrowdedServer, sockets: Sequence[NetfilterSocket]) -> None:
        self._server = server
        self._sockets = sockets
        self._is_peer = False
        crowd.create(server, crowd.one_more("other", LATE, LATE_ADDRESS, "fd00:1::ffff"))

    def change(self) -> None:
        self._is_peer = not self._is_peer
        _set_role(self._server, LATE, "peer" if self._is_peer else "other")

    def change_in_kernels(self) -> float:
        """Ms from the API's answer until it is in force everywhere."""
        before = read_all(self._sockets)
        self.change()
        begun = time.perf_counter()
        until_all_changed(self._sockets, before)
        return (time.perf_counter() - begun) * 1000


def _changes(late: _LatePeer, daemon: KubeDaemon, attachment: Attachment) -> list[Figure]:
    samples = [late.change_in_kernels() for _ in range(CHANGES)]
    begun = time.perf_counter()
    late.change()
    _barrier(daemon)
    seconds = time.perf_counter() - begun
    assert_listed(LATE_ADDRESS, attachment)
    worst = f"from the API's answer; worst of {len(samples)}: {max(samples):.0f} ms"
    return [
        Figure(
            "one peer's label, 250 attachments, by the kernel",
            statistics.median(samples),
            "ms",
            MOST_FAN_OUT_MS,
            note=worst,
        ),
        Figure("the same, by wait --synced", seconds, "s", note="most of it the lists of the barrier"),
    ]


def _set_role(server: CrowdedServer, name: str, role: str) -> None:
    server.admin.patch("Pod", "default", name, {"metadata": {"labels": {"role": role}}})


# --- many events -----------------------------------------------------------------------------------------


def _loads(
    server: CrowdedServer, daemon: KubeDaemon, late: _LatePeer, sockets: Sequence[NetfilterSocket]
) -> list[Figure]:
    """Pods that mean nothing to a node, pods that might, and peers."""
    api = server.admin

    def plain(number: int) -> None:
        space, name = crowd.where(PEERS + OTHERS + number % PLAIN, second=False)
        api.patch("Pod", space, name, {"status": {"message": str(number)}}, "status")

    def other(number: int) -> None:
        space, name = crowd.where(PEERS + number % OTHERS, second=True)
        api.patch("Pod", space, name, {"metadata": {"labels": {"canary": str(number)}}})

    def peer(number: int) -> None:
        turn, place = divmod(number, PEERS)
        _set_role(server, crowd.where(place, second=True)[1], "peer" if turn % 2 else "other")

    figures = [
        _load(daemon, "pods without secondary address", plain, late.change_in_kernels),
        _load(daemon, "pods with one, peers of nothing", other, late.change_in_kernels),
        _load(
            daemon, "peers of all 250 that come and go", peer, lambda: until_none_changes(sockets, 0.5) * 1000
        ),
    ]
    _barrier(daemon)
    return figures


def _load(daemon: KubeDaemon, name: str, job: Callable[[int], None], lag: Callable[[], float]) -> Figure:
    before, clock = _cost(daemon), CpuClock(daemon.pid)
    rate = keep_pace(EVENTS_A_SECOND, LOAD_SECONDS, job)
    share, after = clock.share(), lag()
    received = (_cost(daemon)["bytes"] - before["bytes"]) / (EVENTS_A_SECOND * LOAD_SECONDS)
    kept_up = f"in force {after:.0f} ms after the last"
    note = f"of one core; {rate:.0f} events/s, {received / 1000:.1f} kB each; {kept_up}"
    return Figure(f"CPU, {EVENTS_A_SECOND} events/s: {name}", share, "%", note=note)


# --- the daemon ------------------------------------------------------------------------------------------


def _barrier(daemon: KubeDaemon) -> float:
    """Wait until all that the API server holds is in force: seconds."""
    begun = time.perf_counter()
    reply = daemon.rpc({"v": 1, "op": "wait", "timeoutMs": int(TIMEOUT * 1000)}, TIMEOUT + 10)
    if not reply.get("result", {}).get("synced"):
        raise RuntimeError(f"not synced: {reply}")
    return time.perf_counter() - begun


def _cost(daemon: KubeDaemon) -> dict[str, Any]:
    """As `mnpctl status` shows it."""
    reply = daemon.rpc({"v": 1, "op": "statusReport"}, TIMEOUT)
    if not reply["ok"]:
        raise RuntimeError(f"no status: {reply}")
    cost: dict[str, Any] = reply["result"]["sourceCost"]
    return cost


def _resident(daemon: KubeDaemon) -> float:
    return resident_kib(daemon.pid) / 1024


def _peak(daemon: KubeDaemon) -> float:
    return peak_kib(daemon.pid) / 1024
