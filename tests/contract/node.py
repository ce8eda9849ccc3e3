"""The daemon's own store, compiler, planner and reconciler over chosen namespaces: no threads, no records.

In: attachments, and changes as a source gives them. Out: programs in the kernel, and how each sandbox stands.
It is wired as daemon/app.py wires it; its clock is a number that tests move on.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from daemon import imprint, netns
from daemon.attachments import RECORD_VERSION, Record
from daemon.backends.base import Backend
from daemon.model import Address, AttachmentKey, Change, CommonRules, Subject
from daemon.reconcile import Attachment, Reconciler, Sandbox
from daemon.store import Store


@dataclass
class Clock:
    """Seconds, as the test has them."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class Node:
    """Attachments in namespaces of their own; changes are in force when `settle` returns, or failed."""

    def __init__(self, backend: Backend) -> None:
        self.clock = Clock()
        self.gone: list[Sandbox] = []
        self.store = Store(CommonRules())
        self.reconciler = Reconciler(self.store, backend, self.clock, self.gone.append)
        self._sandboxes: dict[AttachmentKey, Sandbox] = {}

    def attach(
        self,
        key: AttachmentKey,
        path: str,
        ifindex: int,
        pod: tuple[str, str],
        networks: tuple[str, ...],
        addresses: tuple[Address, ...],
    ) -> Sandbox:
        """An interface of a pod, as after its ADD; in the place of its guard if there is one."""
        sandbox = self._place(key, path, ifindex, guard=False)
        subject = Subject(pod[0], {}, (), networks)
        dirty = self.store.attach(key, pod, "", subject, addresses)
        self._mark(dirty)
        return sandbox

    def guard(self, key: AttachmentKey, path: str) -> Sandbox:
        """An interface whose device does not exist yet."""
        sandbox = self._place(key, path, 0, guard=True)
        self.reconciler.mark([sandbox])
        return sandbox

    def tell(self, changes: Iterable[Change]) -> None:
        """What a source says."""
        self._mark(self.store.apply(changes))

    def settle(self) -> None:
        """Reconcile whatever is due."""
        while self.reconciler.step():
            pass

    def imprints(self, sandbox: Sandbox) -> tuple[str, ...]:
        """What the reconciler writes about the attachments of a sandbox."""
        return imprint.write_all(sandbox.attachments, self.reconciler.signature)

    def _place(self, key: AttachmentKey, path: str, ifindex: int, *, guard: bool) -> Sandbox:
        sandbox = self.reconciler.sandbox(netns.identify(path))
        sandbox.attachments[key.ifname] = Attachment(_record(key, sandbox, ifindex, guard))
        self._sandboxes[key] = sandbox
        return sandbox

    def _mark(self, dirty: Iterable[AttachmentKey]) -> None:
        self.reconciler.mark({id(s): s for key in dirty if (s := self._sandboxes.get(key))}.values())


def _record(key: AttachmentKey, sandbox: Sandbox, ifindex: int, guard: bool) -> Record:
    identity = sandbox.identity
    return Record(
        version=RECORD_VERSION,
        boot_id="",
        container_id=key.container_id,
        ifname=key.ifname,
        netns=identity.path,
        device=identity.device,
        inode=identity.inode,
        cookie=identity.cookie,
        ifindex=ifindex,
        mac="",
        addresses=(),
        pod_namespace="",
        pod_name="",
        pod_uid="",
        labels={},
        ports=(),
        networks=(),
        evidence="",
        configured="",
        config_name="",
        guard=guard,
        withdrawn=False,
        track=True,
    )
