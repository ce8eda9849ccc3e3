"""The composition root: settings to objects, threads and their end.

In: Settings. Out: a running daemon, and its exit code. Nothing else creates threads or wires modules
together.

Threads: main (signals), server (all clients), source (reads and decodes), dataplane (owns everything that has
state). A thread that ends unexpectedly ends the process with its traceback; the rules in the kernel stay.
"""

import contextlib
import functools
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from daemon import log as logs
from daemon.adoption import Adoption
from daemon.attachments import RecordStore
from daemon.backends.choice import Choice, choose
from daemon.backends.iptables import IptablesBackend
from daemon.backends.nfsocket import Reaper
from daemon.backends.nftables import NftablesBackend
from daemon.barrier import Barriers
from daemon.config import Settings, unknown_variables
from daemon.dataplane import Dataplane
from daemon.errors import ConfigError, StopAskedError
from daemon.inbox import Inbox
from daemon.lifecycle import Lifecycle, LifecycleSettings
from daemon.metrics import MetricsServer
from daemon.places import StateLock, using_socket, using_state
from daemon.policy.budget import Budget
from daemon.reconcile import Reconciler
from daemon.registry import Registry
from daemon.report import Report
from daemon.server import MAX_CONNECTIONS, Server
from daemon.sources.base import Source, Update
from daemon.sources.keeping import Keeping
from daemon.sources.keptfiles import KeptFiles
from daemon.sources.kubernetes.allowance import most_bytes
from daemon.sources.kubernetes.client import Client
from daemon.sources.kubernetes.login import Login, follow_kubeconfig, follow_pod
from daemon.sources.kubernetes.source import KubernetesSource
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.manifests import ManifestsSource
from daemon.sources.memory import Memory
from daemon.store import Store
from daemon.tamper import Watch
from daemon.upkeep import Upkeep

log = logs.get_logger(__name__)

STOP_SECONDS = 3.5
"""Of the 5 s that SIGTERM may take."""
SWITCH_SECONDS = 0.001
"""After so long a thread that computes gives way. Python's own 5 ms would cost an ADD, which waits for the
kernel some thirty times, 150 ms while a source decodes."""
RESERVED_DESCRIPTORS = 192
"""Held back from the socket's clients, for the work itself: files, namespaces, netlink, those of a source."""
FEW_DESCRIPTORS = 1024
"""Below this limit a start says so."""
CRASHED = 70
"""EX_SOFTWARE: a thread ended with an exception."""


def run(settings: Settings) -> int:
    """Run until SIGTERM, SIGINT or SIGHUP.

    Raises MultiNetworkPolicyError when the start fails; returns 0 after a stop, whenever that was asked for.
    """
    if problems := unsupported(settings):
        raise ConfigError(problems)
    logs.configure(settings.log_format, settings.log_level)
    for name in unknown_variables(os.environ):
        log.warning("unknown-variable", extra={"variable": name, "hint": "no setting has this name"})
    for name, value, origin in settings.origins():
        log.info("setting", extra={"setting": name, "value": value, "from": origin})
    for rule, meaning in wide_open(settings):
        log.warning("common-rule-open", extra={"rule": rule, "meaning": meaning})
    # Before any thread exists, so that all inherit it: signals are the main thread's to wait for.
    stopping = _stop_signals()
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
    # Where whoever started us ignores it, it could not be told how modprobe or an exec plugin has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    threading.excepthook = _crash
    limit = _raise_descriptor_limit()
    sys.setswitchinterval(SWITCH_SECONDS)
    with contextlib.ExitStack() as stack:
        with using_state(settings.state_dir):
            try:
                stack.enter_context(StateLock(settings.state_dir, functools.partial(_pause, stopping)))
            except StopAskedError as asked:
                log.info("stopped", extra={"reason": str(asked)})
                return 0
            daemon = Daemon(settings, most_clients(limit))
        daemon.start()
        number = signal.sigwait(stopping)
        daemon.stop(signal.Signals(number).name)
    return 0


def _stop_signals() -> set[signal.Signals]:
    """SIGTERM; and SIGINT and SIGHUP, but for what nohup, or `&` in a script, had ignored from the start."""
    asked = (signal.SIGINT, signal.SIGHUP)
    return {signal.SIGTERM, *(number for number in asked if signal.getsignal(number) is not signal.SIG_IGN)}


def _pause(stopping: set[signal.Signals], seconds: float) -> str:
    """Wait, but not on when one of these signals comes: its name; "": none came."""
    found = signal.sigtimedwait(stopping, seconds)
    return "" if found is None else signal.Signals(found.si_signo).name


class Daemon:
    """All parts, wired. start() returns when the socket listens; the source is read by its own thread."""

    def __init__(self, settings: Settings, most_clients: int) -> None:
        choice = choose_backend(settings)
        clock = time.monotonic
        keeping = self._keeping = Keeping(KeptFiles(settings.state_dir / "policies"), clock)
        self._source = make_source(settings, lambda update: self._dataplane.post_update(update), keeping)
        source = self._source
        inbox = Inbox()
        budget = Budget(settings.namespace_rules, settings.namespace_elements)
        store = Store(settings.common_rules, budget, node_name(settings))
        records = RecordStore(settings.state_dir / "attachments", _boot_id(), _booted())
        reconciler = Reconciler(
            store,
            choice.backend,
            clock,
            lambda sandbox: upkeep.on_gone(sandbox),
            choice.rivals,
            _signature(settings.state_dir),
        )
        registry = Registry(store, records, reconciler)
        backends = (choice.backend, *choice.rivals)
        adoption = Adoption(registry, reconciler, records, backends, settings.netns_paths)
        upkeep = Upkeep(store, registry, reconciler, adoption, settings.multus_cache_dir)
        lifecycle = Lifecycle(
            store,
            registry,
            reconciler,
            upkeep,
            clock,
            source.look_up,
            LifecycleSettings(records.boot_id, settings.track_connections, source.look_up_seconds),
        )
        barriers = Barriers(reconciler, clock, source.request_sync)
        report = Report(store, registry, reconciler, upkeep, choice, settings.source)
        report.waiting_adds = lambda: lifecycle.waiting
        report.source_cost = source.cost
        report.kept_notes = keeping.notes
        barriers.notes = report.notes
        barriers.searching = lambda: adoption.searching
        barriers.unverified = upkeep.unverified
        self._dataplane = Dataplane(
            inbox,
            registry,
            reconciler,
            upkeep,
            lifecycle,
            barriers,
            report,
            Watch(reconciler, choice.backend, clock, time.thread_time),
            source.tell if source.wants_findings else None,
            lambda: keeping.governs(store.governed.take()),
        )
        with using_socket(settings.socket):
            self._server = Server(settings.socket, self._dataplane.post_request, most=most_clients)
        address = settings.metrics_address
        self._metrics = MetricsServer(address, self._dataplane.ask_status) if address else None
        self._threads: list[threading.Thread] = []
        upkeep.restore(records)

    def start(self) -> None:
        """Start every thread."""
        self._spawn("server", self._server.run)
        self._spawn("dataplane", self._dataplane.run)
        if self._metrics is not None:
            self._spawn("metrics", self._metrics.run)
        self._spawn("keeping", self._keeping.run)
        self._source.start()
        log.info("started", extra={"pid": os.getpid()})

    def stop(self, reason: str) -> None:
        """Finish what is in hand and end every thread, within STOP_SECONDS; the rules in the kernel stay."""
        log.info("stopping", extra={"reason": reason})
        deadline = time.monotonic() + STOP_SECONDS
        self._dataplane.stop(f"this daemon stops ({reason}); another may be starting")
        self._join("dataplane", deadline)
        self._server.stop()
        if not self._source.stop(max(0.0, deadline - time.monotonic())):
            log.warning("thread-left", extra={"which": "source"})
        if self._metrics is not None:
            self._metrics.stop()
        self._join("server", deadline)
        self._keeping.stop()
        self._join("keeping", deadline)
        self._keeping.flush(deadline)
        log.info("stopped")

    def _spawn(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _join(self, name: str, deadline: float) -> None:
        for thread in self._threads:
            if thread.name == name:
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    log.warning("thread-left", extra={"which": name})


def unsupported(settings: Settings) -> list[str]:
    """What these settings ask for that this version does not have, a line each."""
    problems = []
    if settings.source == "kubernetes":
        # What pods' containers are asked for is told by policies alone.
        problems += [
            f"commonRules.egress[{index}]: port {port.name!r}: a name means the ports that pods' containers "
            "call so, which --source kubernetes does not ask for on behalf of commonRules; write the number"
            for index, rule in enumerate(settings.common_rules.egress)
            for port in rule.ports or ()
            if port.name is not None
        ]
    return problems


def wide_open(settings: Settings) -> list[tuple[str, str]]:
    """The common rules that permit everything, and what each means."""
    common = settings.common_rules
    directions = (("ingress", "in", common.ingress), ("egress", "out", common.egress))
    return [
        (f"commonRules.{direction}[{index}]", f"everything may go {way} at every interface: no policy counts")
        for direction, way, rules in directions
        for index, rule in enumerate(rules)
        if rule.peers is None and rule.ports is None
    ]


def choose_backend(settings: Settings) -> Choice:
    """The backend to use, once it has answered on this kernel. Raises BackendUnavailableError."""
    reaper = Reaper()
    # In the order of preference: nftables is atomic as a whole, and safe beside legacy rules of others.
    backends = (NftablesBackend(reaper), IptablesBackend(reaper))
    choice = choose(settings.backend, backends, settings.state_dir / "backend")
    log.info(
        "backend",
        extra={"backend": choice.backend.name, "asked": settings.backend, "because": choice.because},
    )
    return choice


def make_source(settings: Settings, publish: Callable[[Update], None], memory: Memory) -> Source:
    """The source that `--source` names. Raises ConfigError where that can't be used as it is set up."""
    kind, _, directory = settings.source.partition(":")
    if kind == "manifests":
        return ManifestsSource(Path(directory), publish, memory)
    path = settings.kubeconfig
    login = Login(follow_kubeconfig(Path(path)) if path else follow_pod(os.environ))
    # kubelet's own default.
    node = node_name(settings)
    log.info("node", extra={"node": node})
    client = Client(login, f"multi-networkpolicyd/{version('multi-networkpolicy')} ({node})")
    most = most_bytes(settings.namespace_rules, settings.namespace_elements)
    return KubernetesSource(client, node, publish, Timing(), settings.events, most, memory)


def node_name(settings: Settings) -> str:
    """What pods call this node."""
    return settings.node_name or os.uname().nodename.lower()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _booted() -> float:
    """When this kernel was started, in seconds of the wall clock as it is set now; a second early at most."""
    lines = Path("/proc/stat").read_text().splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), 0.0) - 1.0


def _signature(state_dir: Path) -> str:
    """What tells this daemon's rules from those of another one on this node: where its records are."""
    return sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]


def _raise_descriptor_limit() -> int:
    """A waiting ADD is an open socket, and a node may start hundreds of pods at once. The limit from now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(soft, min(hard, 65536))
    if soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < FEW_DESCRIPTORS:
        log.warning("few-descriptors", extra={"limit": limit, "hint": f"allow {FEW_DESCRIPTORS} or more"})
    return limit


def most_clients(limit: int) -> int:
    """How many clients the socket may have at a time, so that they never take the last descriptors."""
    return max(1, min(MAX_CONNECTIONS, limit - RESERVED_DESCRIPTORS))


def _crash(arguments: threading.ExceptHookArgs) -> None:
    """Threads never die quietly: a daemon without one of them would look alive and enforce nothing new."""
    trace = "".join(traceback.format_exception(arguments.exc_value)) if arguments.exc_value else ""
    name = arguments.thread.name if arguments.thread else "?"
    log.critical("thread-died", extra={"which": name, "traceback": trace})
    os._exit(CRASHED)
