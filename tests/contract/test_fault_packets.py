"""What real packets meet where a kernel failed at a step of an edit: nothing that neither end of it permits.

Each step fails in a pod of its own, so that one timeout serves all of them. The control is the edit without a
fault: before and after it, some of the probes pass, and not the same ones.

proves: E5
"""

import contextlib
import errno
import itertools
from collections.abc import Iterator

import pytest

from daemon.errors import DataplaneError
from tests.contract.backends import REAL, Subject
from tests.contract.edits import EDITS, Edit
from tests.contract.faults import Fault, How
from tests.contract.site import addresses
from tests.contract.trials import Place, Rig
from tests.contract.words import FAMILIES, FRIEND, STRANGER, text
from tests.lab import Attachment, Lab, Target
from tests.lab.prober import BLOCKED_TIMEOUT, OPEN_TIMEOUT, probe_all

# What passes before and after: who, of which ENDS.
CHOSEN = {
    "rules and members": ("friend tcp80", "stranger tcp443"),
    "tightening": ("friend tcp80, friend udp53, stranger udp53", "friend tcp80"),
    "guard to final": ("", "friend tcp80"),
}
FAULTS = [Fault(How.REFUSED, errno.ENOMEM), Fault(How.LOST, errno.ENOBUFS)]
ENDS = ("tcp80", "tcp443", "udp53")
_FIRST_HOST = 10
_FIRST_SOURCE_PORT = 20_000

Passed = frozenset[str]


class Lan:
    """A friend and a stranger who probe, and as many subjects as are asked for."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._ports = itertools.count(_FIRST_SOURCE_PORT)
        peers = {"friend": FRIEND, "stranger": STRANGER}
        self._probers = {name: self._pod(name, host).pod.prober for name, host in peers.items()}
        self._places: list[Place] = []

    def places(self, count: int) -> list[Place]:
        """Subjects with nothing programmed."""
        for number in range(len(self._places), count):
            host = _FIRST_HOST + number
            made = self._pod(f"subject-{host}", host)
            made.pod.prober.serve(80, 443, 53)
            self._places.append(Place(str(made.pod.netns), made.ifindex, host))
        return self._places[:count]

    def _pod(self, name: str, host: int) -> Attachment:
        return self._lab.attach(self._lab.pod(name), "net1", "net1", addresses(host))

    def passed(self, places: list[Place], want: Passed = frozenset()) -> list[Passed]:
        """What passes to each of these subjects; for what is wanted the probes wait longer."""
        tries = [(place, family, end) for place in places for family in FAMILIES for end in ENDS]
        found: dict[int, set[str]] = {place.host: set() for place in places}
        verdicts = probe_all(
            {
                prober: [self._target(*one, f"{name} {one[2]}" in want) for one in tries]
                for name, prober in self._probers.items()
            }
        )
        for name, prober in self._probers.items():
            for (place, family, end), verdict in zip(tries, verdicts[prober], strict=True):
                if verdict == "open":
                    found[place.host].add(f"{name} IPv{family} {end}")
        return [frozenset(found[place.host]) for place in places]

    def _target(self, place: Place, family: int, end: str, wanted: bool) -> Target:
        timeout = OPEN_TIMEOUT if wanted else BLOCKED_TIMEOUT
        port = next(self._ports)
        return Target(end[:3], text(family, place.host), int(end[3:]), timeout, "", port)


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lab() as lab:
        yield Lan(lab)


@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit.name in CHOSEN], ids=str)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("subject", REAL, ids=str)
def test_nothing_passes_that_neither_end_permits(
    lan: Lan, subject: Subject, fault: Fault, edit: Edit
) -> None:
    before, after = map(_both_families, CHOSEN[edit.name])
    _control(lan, subject, edit)
    places = lan.places(lan.places(1)[0].known(edit, subject).steps)
    for at, place in enumerate(places):
        rig = Rig(subject)
        place.begin(edit, rig)
        rig.arm(fault, at, [])
        with contextlib.suppress(DataplaneError):
            place.edit(edit, rig)
    passed = lan.passed(places)
    for place in places:
        place.end(subject)
    wrong = {at: one for at, one in enumerate(passed) if not (one <= before or one <= after)}
    assert wrong == {}


def _control(lan: Lan, subject: Subject, edit: Edit) -> None:
    """What passes before and after the edit when nothing fails."""
    (place,) = lan.places(1)
    rig = Rig(subject)
    place.begin(edit, rig)
    before, after = CHOSEN[edit.name]
    assert lan.passed([place], _listed(before)) == [_both_families(before)]
    place.edit(edit, rig)
    assert lan.passed([place], _listed(after)) == [_both_families(after)]
    place.end(subject)


def _listed(words: str) -> Passed:
    return frozenset(words.split(", ")) if words else frozenset()


def _both_families(words: str) -> Passed:
    return frozenset(f"{who} IPv{n} {end}" for who, end in map(str.split, _listed(words)) for n in FAMILIES)
