"""A kernel that fails at each step of an edit: nothing opens, it is reported, and it recovers.

The failing edit goes through the daemon's own reconciler. Afterwards the kernel's state, as others read
it, is that of before, or denied, or, once something was carried out, the new one: chain by chain, and no set
holds more than there. For the fake, a step is an object that it refuses.

proves: E2, E5
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from daemon import netns
from daemon.errors import DataplaneError, TransactionError
from daemon.planner import EMPTY, make_plan
from daemon.reconcile import Sandbox
from daemon.standing import State as Standing
from tests.contract.backends import BACKENDS, REAL, Subject
from tests.contract.edits import EDITS, ONE_DIRECTION, Edit, laxer, named, without
from tests.contract.faults import Fault, How, Switchboard
from tests.contract.readers import State
from tests.contract.scenarios import WEB_OF_FRIEND as PROGRAM
from tests.contract.trials import Known, Place, Rig
from tests.contract.words import FAMILIES, FRIEND, NOBODY, STRANGER, address
from tests.lab import Lab, namespaces

RETRY_SECONDS = 120.0

LASTING = [
    Fault(How.REFUSED, errno.ENOMEM),
    Fault(How.REFUSED, errno.EBUSY),
    Fault(How.REFUSED, errno.EPERM),
    Fault(How.UNSENT, errno.EBADF),
    Fault(How.LOST, errno.EBADF),
    Fault(How.LOST, errno.ENOBUFS),
]
ONCE = [replace(LASTING[index], lasting=False) for index in (0, 3, 5)]
FAULTS = [*LASTING, *ONCE]
ELEMENTS = [
    Fault(How.REFUSED, errno.ENOSPC, element=address(family, host))
    for family in FAMILIES
    for host in (FRIEND, STRANGER)
]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Lab(()) as lab:
        yield Place(str(namespaces.create_namespace(f"{lab.tag}.place")), ifindex=7, host=9)


def faulty(place: Place, edit: Edit, subject: Subject, fault: Fault, at: int) -> list[str]:
    """Try an edit with a fault; what was wrong with what came of it."""
    known = place.known(edit, subject)
    rig = Rig(subject)
    sandbox = place.begin(edit, rig)
    rig.arm(fault, at, known.names)
    raised = False
    try:
        place.edit(edit, rig)
    except DataplaneError:
        raised = True
    rig.disarm()
    now = place.read(subject, rig.backend)
    wrong = [f"open: {one}" for one in laxer(now, _allowed(known, edit, fault, at))]
    if _unlike(now, known.after, fault) or raised:
        wrong += _unreported(rig, sandbox, edit, raised)
    wrong += _unrecovered(place, rig, sandbox, subject, known, fault, raised)
    place.end(subject)
    return [f"step {at}: {one}" for one in wrong]


def _allowed(known: Known, edit: Edit, fault: Fault, at: int) -> list[State]:
    """The new state may be there once something was carried out: a later step, a lost answer, another try."""
    nothing_done = at == 0 and fault.how is not How.LOST and fault.lasting and not fault.element
    return [known.before, *known.denied, *([] if nothing_done else [known.after])]


def _unlike(now: State, wanted: State, fault: Fault) -> list[str]:
    """What differs. Where the kernel says of a set that it is in use, it may stay, if no rule looks it up."""
    if fault.number == errno.EBUSY:
        now = without(now, set(now.sets) - set(wanted.sets) - set(named(now)))
    return now.differences(wanted)


def _unreported(rig: Rig, sandbox: Sandbox, edit: Edit, raised: bool) -> Iterator[str]:
    if edit.before is None:
        if not raised:
            yield "the ADD succeeded"
        return
    if not sandbox.error:
        yield "no error is told"
    if sandbox not in rig.node.reconciler.pending():
        yield "no retry is due"
    for attachment in sandbox.attachments.values():
        if attachment.state not in (Standing.DENIED, Standing.PENDING):
            yield f"it stands as {attachment.state}"


def _unrecovered(
    place: Place, rig: Rig, sandbox: Sandbox, subject: Subject, known: Known, fault: Fault, raised: bool
) -> Iterator[str]:
    rig.node.clock.now += RETRY_SECONDS
    if raised:
        rig.node.reconciler.apply(sandbox, confirm=True)
    rig.node.settle()
    state = place.read(subject, rig.backend)
    yield from (f"not recovered: {one}" for one in _unlike(state, known.after, fault))
    if sandbox.error or rig.node.reconciler.pending():
        yield f"the error stays: {sandbox.error}"
    for attachment in sandbox.attachments.values():
        if attachment.state is not Standing.APPLIED:
            yield f"recovered, it stands as {attachment.state}"


ROWS = [(subject, fault) for subject in BACKENDS for fault in (FAULTS if subject.real else FAULTS[:1])]


@pytest.mark.parametrize("edit", EDITS, ids=str)
@pytest.mark.parametrize(("subject", "fault"), ROWS, ids=[f"{s}-{f}" for s, f in ROWS])
def test_each_step_may_fail(place: Place, edit: Edit, subject: Subject, fault: Fault) -> None:
    steps = range(place.known(edit, subject).steps)
    assert [line for at in steps for line in faulty(place, edit, subject, fault, at)] == []


@pytest.mark.parametrize("edit", EDITS, ids=str)
@pytest.mark.parametrize("fault", ELEMENTS, ids=lambda fault: f"{fault.element.hex()}")
@pytest.mark.parametrize("subject", REAL, ids=str)
def test_each_element_may_be_refused(place: Place, edit: Edit, subject: Subject, fault: Fault) -> None:
    assert faulty(place, edit, subject, fault, 0) == []


@pytest.mark.parametrize("subject", BACKENDS, ids=str)
def test_what_is_refused_denies_its_direction_alone(place: Place, subject: Subject) -> None:
    """One address of an ingress rule: ingress is denied, egress stays as its policy says."""
    edit = ONE_DIRECTION
    known = place.known(edit, subject)
    rig = Rig(subject)
    sandbox = place.begin(edit, rig)
    refused = [name for name in known.names if name.startswith("blocks4")]
    rig.arm(Fault(How.REFUSED, errno.ENOSPC, element=address(4, NOBODY)), 0, refused)
    place.edit(edit, rig)
    now = place.read(subject, rig.backend)
    standing = [attachment.state for attachment in sandbox.attachments.values()]
    place.end(subject)
    assert standing == [Standing.DENIED]
    ingress, egress = (
        {name: rules for name, rules in now.chains.items() if f"{direction}-net1" in name}
        for direction in ("ingress", "egress")
    )
    assert ingress
    assert egress
    assert ingress.items() <= known.denied[-2].chains.items()
    assert egress.items() <= known.after.chains.items()
    assert laxer(now, [known.after, known.denied[-2]]) == []


@pytest.mark.parametrize("how", How)
@pytest.mark.parametrize("subject", REAL, ids=str)
def test_a_fault_is_seen_as_what_it_is(subject: Subject, how: How) -> None:
    """A refusal is told with its number; what was not sent or not answered is not taken for one."""

    def failed() -> DataplaneError:
        board = Switchboard()
        backend = subject.make(board.seams)
        backend.apply(make_plan(EMPTY, None))
        board.arm(Fault(how, errno.ENOMEM), 0)
        with pytest.raises(DataplaneError) as raised:
            backend.apply(make_plan(PROGRAM, EMPTY))
        return raised.value

    error = netns.in_scratch(failed)
    assert isinstance(error, TransactionError) is (how is How.REFUSED)
    assert getattr(error, "errno", errno.ENOMEM) == errno.ENOMEM
    assert os.strerror(errno.ENOMEM) in str(error)


def test_laxer_states_are_told() -> None:
    """The states that an edit may be left with are told from those that it may not."""
    open_, shut = (
        State({"c": ("match s", "drop")}, {"s": frozenset({"a"})}, ()),
        State({"c": ("drop",)}, {}, ()),
    )
    more = State(open_.chains, {"s": frozenset({"a", "b"})}, ())
    assert laxer(shut, [open_, shut]) == laxer(open_, [more]) == []
    assert laxer(open_, [shut]) != []
    assert laxer(more, [open_, shut]) != []
    assert laxer(State({}, {}, ()), [open_, shut]) != []
