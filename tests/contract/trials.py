"""One edit of policies after the other in one netns, by a backend whose kernel can be made to fail.

In: edits, faults. Out: what is in the kernel then, and how the sandbox stands. It judges nothing.
"""

from dataclasses import dataclass

from daemon import netns
from daemon.backends.base import Backend
from daemon.backends.fake import FakeBackend
from daemon.model import AttachmentKey
from daemon.planner import Plan, chain_name
from daemon.reconcile import Sandbox
from tests.contract.backends import Seams, Subject
from tests.contract.edits import Edit, closed
from tests.contract.faults import Fault, Switchboard
from tests.contract.node import Node
from tests.contract.readers import NOTHING, State
from tests.contract.words import FAMILIES, address
from tests.unit.policy.stored import NET1, change

KEY = AttachmentKey("c0ffee", "net1")


class Rig:
    """A backend whose kernel can be made to fail, and a node that uses it."""

    def __init__(self, subject: Subject) -> None:
        self.board = Switchboard()
        self.backend: Backend = subject.make(self.board.seams)
        self.node = Node(self.backend)

    def arm(self, fault: Fault, at: int, names: list[str]) -> None:
        """names: the objects of the edit, which the fake can refuse."""
        if isinstance(self.backend, FakeBackend):
            self.backend.refuse = {names[at]}
        self.board.arm(fault, at)

    def disarm(self) -> None:
        if isinstance(self.backend, FakeBackend):
            self.backend.refuse = set()
        self.board.disarm()


@dataclass(frozen=True)
class Known:
    """How an edit goes when nothing fails: its programs, their states, and how many steps it takes."""

    before: State
    after: State
    denied: tuple[State, ...]
    names: list[str]
    steps: int


class Place:
    """A netns in which one edit after the other is tried."""

    def __init__(self, path: str, ifindex: int, host: int) -> None:
        self.path = path
        self.host = host
        self._ifindex = ifindex
        self._known: dict[tuple[str, str], Known] = {}

    def read(self, subject: Subject, backend: Backend) -> State:
        with netns.entered(self.path, None):
            return subject.read(backend)

    def begin(self, edit: Edit, rig: Rig) -> Sandbox:
        """What is there before an edit."""
        if edit.before is None:
            return rig.node.reconciler.sandbox(netns.identify(self.path))
        rig.node.tell(map(change, edit.before))
        sandbox = rig.node.guard(KEY, self.path) if edit.guarded else self._attach(rig)
        rig.node.settle()
        assert sandbox.error == ""
        return sandbox

    def edit(self, edit: Edit, rig: Rig) -> None:
        """The edit itself; an ADD of its own raises what fails, another one is reconciled."""
        rig.node.tell(edit.changes)
        if edit.before is None:
            rig.node.reconciler.apply(self._attach(rig), confirm=True)
        elif edit.guarded:
            self._attach(rig)
        rig.node.settle()

    def end(self, subject: Subject) -> None:
        """Take all away."""
        backend = subject.make(Seams())
        with netns.entered(self.path, None):
            backend.remove()

    def known(self, edit: Edit, subject: Subject) -> Known:
        """Try the edit with nothing failing."""
        key = (edit.name, subject.name)
        if key not in self._known:
            self._known[key] = self._try(edit, subject)
        return self._known[key]

    def _attach(self, rig: Rig) -> Sandbox:
        addresses = tuple(address(family, self.host) for family in FAMILIES)
        return rig.node.attach(KEY, self.path, self._ifindex, ("ns", "subject"), (NET1,), addresses)

    def _try(self, edit: Edit, subject: Subject) -> Known:
        rig = Rig(subject)
        sandbox = self.begin(edit, rig)
        programs = [sandbox.actual] if sandbox.actual is not None else []
        before = self.read(subject, rig.backend)
        rig.board.steps = 0
        self.edit(edit, rig)
        steps = rig.board.steps
        assert sandbox.actual is not None
        programs.append(sandbox.actual)
        names = _objects(rig.backend.plans[-1]) if isinstance(rig.backend, FakeBackend) else []
        known = Known(
            before,
            self.read(subject, rig.backend),
            tuple(subject.from_scratch(denied) for program in programs for denied in closed(program)),
            names,
            len(names) or steps,
        )
        assert known.after == subject.from_scratch(programs[-1])
        self.end(subject)
        assert self.read(subject, subject.make(Seams())) == NOTHING
        return known


def _objects(plan: Plan) -> list[str]:
    """What the fake can refuse of a plan."""
    sets = [spec.name for spec in plan.new_sets] + [edit.spec.name for edit in plan.set_changes]
    return sets + [chain_name(write.key.direction, write.key.ifname) for write in plan.chains]
