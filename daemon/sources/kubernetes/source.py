"""The Kubernetes source: threads that list and watch, and errands, around one state.

In: a client and this node's name. Out: updates. Wiring alone: what is watched stands in watched.py, what
follows from it in state.py.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from daemon.model import ObjectKey
from daemon.sources.base import Finding, Update
from daemon.sources.kubernetes.allowance import Allowance
from daemon.sources.kubernetes.client import Client
from daemon.sources.kubernetes.errands import LOOK_UP_SECONDS, Errands
from daemon.sources.kubernetes.events import EventRecorder, Objects
from daemon.sources.kubernetes.reflector import Reflector
from daemon.sources.kubernetes.sink import Callbacks, Standing
from daemon.sources.kubernetes.state import ClusterState
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import (
    NAMESPACES,
    NET_ATTACH_DEFS,
    POLICIES,
    Collection,
    own_pods,
    peer_pods,
)
from daemon.sources.memory import FORGETFUL, Memory

LAST_WORDS_SECONDS = 2.0


class KubernetesSource:
    """See Source. `publish` is called from several threads, one at a time."""

    def __init__(
        self,
        client: Client,
        node_name: str,
        publish: Callable[[Update], None],
        timing: Timing,
        events: bool,
        most: int,
        memory: Memory = FORGETFUL,
    ) -> None:
        """most: bytes of policies that are kept of one namespace (F3)."""
        self._client = client
        self._timing = timing
        self._most = most
        self._always = (own_pods(node_name), POLICIES, NET_ATTACH_DEFS, NAMESPACES)
        self._peers = peer_pods(node_name)
        callbacks = Callbacks(self._count(publish), self._follow_needs, self._nudge, self._start_over, memory)
        self._state = ClusterState(self._always, self._peers, callbacks)
        self._errands = Errands(self._state, client.connect, self._watched, node_name, self._nudge)
        objects = Objects(self._state.reference, self._state.is_concerned, self._state.undecodable)
        self._recorder = EventRecorder(client.connect(), node_name, objects) if events else None
        self._lock = threading.Lock()
        self._reflectors: dict[str, Reflector] = {}
        self._reflecting: dict[str, threading.Thread] = {}
        self._threads: list[threading.Thread] = []
        self._linger: threading.Timer | None = None
        self._stopping = False
        self._bytes_at_start = 0

    @property
    def look_up_seconds(self) -> float:
        """See Source."""
        return LOOK_UP_SECONDS

    def start(self) -> None:
        """Begin to list and watch."""
        with self._lock:
            for collection in self._always:
                self._reflect(collection)
            self._spawn("look-ups", self._errands.run_look_ups)
            self._spawn("chores", self._errands.run_chores)
            self._spawn("barriers", self._errands.run_barriers)
            if self._recorder is not None:
                self._spawn("events", self._recorder.run)

    def stop(self, timeout: float) -> bool:
        """End all threads; False when one still works after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._lock:
            self._stopping = True
            if self._linger is not None:
                self._linger.cancel()
            for reflector in self._reflectors.values():
                reflector.stop()
            threads = list(self._threads)
        self._errands.stop()
        if self._recorder is not None:
            self._recorder.stop()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def request_sync(self, token: int, deadline: float) -> None:
        """See Source: one consistent metadata list of each watched collection."""
        self._errands.request_sync(token, deadline)

    def look_up(self, namespace: str, name: str, uid: str) -> None:
        """See Source: one live GET."""
        self._errands.look_up(namespace, name, uid)

    @property
    def wants_findings(self) -> bool:
        """See Source."""
        return self._recorder is not None

    def tell(self, findings: Mapping[ObjectKey, tuple[Finding, ...]]) -> None:
        """See Source: Events on the objects."""
        if self._recorder is not None:
            self._recorder.tell(findings)

    def cost(self) -> Mapping[str, Any]:
        """See Source: requests, bytes, watches."""
        return {**self._client.cost.summary(), "bytesAtStart": self._bytes_at_start}

    # --- inside ------------------------------------------------------------------------------------------

    def _count(self, publish: Callable[[Update], None]) -> Callable[[Update], None]:
        def counting(update: Update) -> None:
            if update.complete and not self._bytes_at_start:
                self._bytes_at_start = self._client.cost.bytes_received
            publish(update)

        return counting

    def _watched(self) -> list[Collection]:
        """What is watched now, policies first."""
        rest = [collection for collection in self._always if collection is not POLICIES]
        return [POLICIES, *rest, *([self._peers] if self._state.needs_peers else [])]

    def _spawn(self, name: str, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _reflect(self, collection: Collection) -> None:
        allowance = Allowance(self._most if collection is POLICIES else None)
        reflector = Reflector(collection, self._client.connect(), self._state, self._timing, allowance)
        self._reflectors[collection.name] = reflector
        self._reflecting[collection.name] = self._spawn(collection.name, reflector.run)

    def _follow_needs(self) -> None:
        """Other nodes' pods are needed from now on, or no longer; whoever comes last sees what holds."""
        with self._lock:
            if self._linger is not None:
                self._linger.cancel()
                self._linger = None
            if self._stopping:
                return
            if not self._state.needs_peers:
                self._linger = threading.Timer(self._timing.linger, self._end_peers)
                self._linger.daemon = True
                self._linger.start()
            elif self._peers.name not in self._reflectors:
                self._reflect(self._peers)

    def _end_peers(self) -> None:
        name = self._peers.name
        with self._lock:
            if self._state.needs_peers or self._stopping or name not in self._reflectors:
                return
            reflector, thread = self._reflectors[name], self._reflecting[name]
        reflector.stop()
        # Its last words must not come after those of the next one.
        thread.join(LAST_WORDS_SECONDS)
        with self._lock:
            if self._stopping or self._reflectors.get(name) is not reflector:
                return
            del self._reflectors[name], self._reflecting[name]
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            if not self._state.forget_peers():
                self._state.stands(self._peers, Standing())
                self._reflect(self._peers)

    def _nudge(self) -> None:
        with self._lock:
            reflectors = list(self._reflectors.values())
        for reflector in reflectors:
            reflector.nudge()

    def _start_over(self) -> None:
        with self._lock:
            reflectors = list(self._reflectors.values())
        for reflector in reflectors:
            reflector.start_over()
