"""The iptables backend on the real kernel: what is programmed, what others see of it, and its lock."""

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon import netns
from daemon.backends.iptables import IptablesBackend
from daemon.backends.nfsocket import Reaper
from daemon.backends.shape import OURS_COMMENT, REHEARSAL
from daemon.backends.xtables import LockFile, Tables
from daemon.errors import DataplaneError
from daemon.planner import EMPTY, ChainSpec, Gate, PortSpec, Program, RuleSpec, SetKind, SetSpec, make_plan
from tests.lab import Lab
from tests.lab.kernelview import IPTABLES
from tests.lab.polling import poll
from tests.lab.programs import run
from tests.unit.backends.walk import Walk


@pytest.fixture(scope="module")
def lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The lock of all here: the machine's own is nobody's in particular."""
    path = tmp_path_factory.mktemp("lock") / "xtables.lock"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XTABLES_LOCKFILE", str(path))
        yield path


@pytest.fixture(scope="module")
def backend(lock: Path) -> IptablesBackend:
    return IptablesBackend(Reaper(), tables=Tables(str(lock)))


@pytest.fixture
def inside(lab: Lab) -> Iterator[None]:
    """The test runs in an empty pod's namespace."""
    with netns.entered(str(lab.pod("alone").netns), None):
        yield


# In scripts: the table that ours are in.
_COMMANDS = """
ipt() { iptables-legacy -w -t mangle "$@"; }
ipt6() { ip6tables-legacy -w -t mangle "$@"; }
"""


def shell(script: str) -> None:
    run("sh", "-ec", _COMMANDS + script)


# --- what is there --------------------------------------------------------------------------------------


@dataclass
class Listing:
    """A listing without the order of chains, of sets and of their elements."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)

    def read(self, family: str, text: str) -> None:
        for line in text.splitlines():
            verb, name, rest = (*line.split(" ", 2), "", "")[:3]
            if verb == "-N" and name.startswith("MNP-"):
                self.chains.setdefault(f"{family} {name}", [])
            elif verb == "-A" and "MNP-" in line:
                # A pod names its interfaces: on a terminal they stand without quotes and control characters.
                self.chains.setdefault(f"{family} {name}", []).append(rest.replace('quo"te', "quo'te"))
            elif verb == "create" and name.startswith("MNP-"):
                # Without sizes and seeds.
                self.sets.setdefault(name, set()).add(" ".join(rest.split()[:3]))
            elif verb == "add" and name.startswith("MNP-"):
                self.sets[name].update(_each(rest))


def _each(element: str) -> list[str]:
    """A range of ports as ipset lists it: one by one."""
    ports = re.fullmatch(r"(\d+)-(\d+)", element)
    return [str(port) for port in range(int(ports[1]), int(ports[2]) + 1)] if ports else [element]


def listed() -> Listing:
    found = Listing()
    for family, command in ((4, "iptables-legacy"), (6, "ip6tables-legacy")):
        found.read(f"IPv{family}", run(command, "-w", "-t", "mangle", "-S"))
    found.read("", run("ipset", "save"))
    return found


def told(backend: IptablesBackend, program: Program) -> Listing:
    """`text`, read alike."""
    found = Listing()
    sets, four, six = re.split(r"^# ip6?tables -t mangle -S$", backend.text(program), flags=re.MULTILINE)
    found.read("", sets)
    found.read("IPv4", four)
    found.read("IPv6", six)
    return found


def from_scratch(backend: IptablesBackend, program: Program) -> Listing:
    def programmed() -> Listing:
        backend.apply(make_plan(program, None))
        return listed()

    return netns.in_scratch(programmed)


FOREIGN = (
    "ipt -N someone; ipt -A PREROUTING -p udp --dport 9 -j someone; "
    "ipset create someone hash:ip; ipset add someone 192.0.2.7"
)


def foreign() -> list[str]:
    text = run("iptables-legacy", "-w", "-t", "mangle", "-S") + run("ipset", "save")
    return [line for line in text.splitlines() if "someone" in line]


@pytest.mark.parametrize("seed", range(4))
def test_walks_lead_where_a_program_from_scratch_does(
    backend: IptablesBackend, inside: None, seed: int
) -> None:
    """Programs change at random; after each plan the kernel holds what it would hold from scratch."""
    actual: Program | None = None
    shell(FOREIGN)
    before = foreign()
    assert len(before) == 4
    for step, desired in enumerate(Walk(seed).programs(30)):
        reset = step % 13 == 0
        backend.apply(make_plan(desired, None if reset else actual))
        assert listed() == from_scratch(backend, desired), f"step {step}"
        assert backend.differences(desired) == "", f"step {step}"
        actual = desired
    assert foreign() == before


# Comments and protocols whose wording is iptables' own; protocols that we have no name for it looks up in
# /etc/protocols.
COMMENTS = ("p", "a-b_c", "a.b", "é", "it's [0], ok", "x" * 127, "")
PROTOCOLS = (1, 6, 17, 58, 132)


def odd_program() -> Program:
    rules = [RuleSpec(None, None, None, PortSpec(6, span=(80, 80)), comment) for comment in COMMENTS]
    rules += [RuleSpec(None, None, None, PortSpec(number), "by number") for number in PROTOCOLS]
    chain = ChainSpec(True, tuple(rules))
    names = ("net1", "net+", "!net1", 'quo"te')
    gates = {name: Gate(name, 5 + at, f"own'er {name}", chain, None) for at, name in enumerate(names)}
    return Program(gates, {}, track=True)


def programs() -> Iterator[Program]:
    yield REHEARSAL
    yield odd_program()
    for seed in range(3):
        yield from list(Walk(seed).programs(30))[::6]


def test_text_is_what_others_list(backend: IptablesBackend, inside: None) -> None:
    for program in programs():
        backend.apply(make_plan(program, None))
        actual = listed()
        assert len(actual.chains) > 6
        assert told(backend, program) == actual
        assert backend.differences(program) == ""


def test_probe(backend: IptablesBackend) -> None:
    backend.probe()


def test_looking_makes_no_table(backend: IptablesBackend, inside: None) -> None:
    """A table costs memory in each pod, and a rule of it time a packet."""
    in_use = Path("/proc/thread-self/net/ip_tables_names")
    assert not backend.present()
    assert in_use.read_text() == ""
    backend.apply(make_plan(REHEARSAL, None))
    assert backend.present()
    assert "mangle" in in_use.read_text()
    backend.remove()
    assert not backend.present()


# --- others ---------------------------------------------------------------------------------------------

TAMPERINGS = [
    "ipt -A MNP-PREROUTING -j ACCEPT",
    "ipt -I MNP-ingress-lo -j RETURN",
    "ipt6 -F MNP-ingress-lo",
    "ipt -D MNP-ingress-lo 2",
    "ipt -R MNP-ingress-lo 2 -j RETURN",
    "ipt -F MNP-drop-in-lo",
    "ipt -F MNP-POSTROUTING",
    "ipt6 -D PREROUTING 1",
    "ipt -I POSTROUTING -j ACCEPT",
    "ipt -D POSTROUTING 1; ipt -A POSTROUTING -p udp -j ACCEPT; "
    f"ipt -A POSTROUTING -m comment --comment '{OURS_COMMENT}' -j MNP-POSTROUTING",
    "ipt -F; ipt -X",
    "ipt -N MNP-more; ipt -A MNP-more -j ACCEPT",
    "ipt6 -F MNP-tracking",
    "ipt6 -R MNP-tracking 1 -m conntrack --ctstate ESTABLISHED -j RETURN",
    "ipt -F MNP-tracking; ipt -X MNP-tracking",
    "ipset add MNP-blocks4-probe 10.0.0.0/8",
    "ipset del MNP-pods6-probe ::1",
    "ipset flush MNP-ports6-probe",
    "ipset create MNP-more hash:ip",
    "ipset create o hash:net; ipset add o 0.0.0.0/1; ipset swap o MNP-blocks4-probe; ipset destroy o",
    "ipset create o hash:net timeout 0; ipset add o 0.0.0.1; ipset add o 0.0.0.2; "
    "ipset swap o MNP-blocks4-probe; ipset destroy o",
    "ipset flush",
    "ipt -F; ipt6 -F; ipset destroy",
]


@pytest.mark.parametrize("script", TAMPERINGS)
def test_what_others_change_is_found_and_repaired(
    backend: IptablesBackend, inside: None, script: str
) -> None:
    backend.apply(make_plan(REHEARSAL, None))
    wanted = listed()
    assert backend.differences(REHEARSAL) == ""
    shell(script)
    assert backend.differences(REHEARSAL) != ""
    backend.apply(make_plan(REHEARSAL, None))
    assert backend.differences(REHEARSAL) == ""
    assert listed() == wanted


# An empty chain under our prefix does nothing: it is what stays where a rule of somebody else jumps to it.
@pytest.mark.parametrize("script", [*IPTABLES.foreign, "ipt -N MNP-more"])
def test_what_others_do_with_their_own_is_no_difference(
    backend: IptablesBackend, inside: None, script: str
) -> None:
    backend.apply(make_plan(REHEARSAL, None))
    shell(script)
    assert backend.differences(REHEARSAL) == ""


OTHER_THINGS = [
    "ipset create MNP-blocks4-probe hash:ip",
    "ipset create MNP-blocks4-probe hash:net family inet6",
    "ipset create MNP-ports6-probe list:set",
    "ipset create MNP-pods6-probe hash:ip family inet6 comment; ipset add MNP-pods6-probe ::1 comment x",
    "ipset create MNP-blocks4-probe-new hash:ip",
    "ipt -N MNP-PREROUTING; ipt -A MNP-PREROUTING -j ACCEPT",
    "ipt -N MNP-ingress-lo; ipt -A POSTROUTING -j MNP-ingress-lo",
]


@pytest.mark.parametrize("script", OTHER_THINGS)
def test_other_things_under_our_names(backend: IptablesBackend, inside: None, script: str) -> None:
    shell(script)
    backend.apply(make_plan(REHEARSAL, None))
    assert backend.differences(REHEARSAL) == ""
    shell("ipt -D POSTROUTING -j MNP-ingress-lo 2>/dev/null || true")
    assert listed() == from_scratch(backend, REHEARSAL)


def test_big_sets(backend: IptablesBackend, inside: None) -> None:
    hosts = frozenset(number.to_bytes(4, "big") for number in range(1, 20_001))
    hosts6 = frozenset(number.to_bytes(16, "big") for number in range(1, 20_001))
    spans = frozenset((number * 16, number * 16 + 3) for number in range(1, 5001))
    ends = frozenset((address, 6, 80) for address in hosts)
    sets = [
        SetSpec("pods4-big", SetKind.HOSTS, 4, hosts, "big"),
        SetSpec("pods6-big", SetKind.HOSTS, 6, hosts6, "big"),
        SetSpec("blocks4-big", SetKind.SPANS, 4, spans, "big"),
        SetSpec("blocks6-big", SetKind.SPANS, 6, spans, "big"),
        SetSpec("ports4-big", SetKind.ENDPOINTS, 4, ends, "big"),
    ]
    program = Program({}, {spec.name: spec for spec in sets}, track=True)
    backend.apply(make_plan(program, None))
    assert backend.differences(program) == ""


def test_remove(backend: IptablesBackend, inside: None) -> None:
    shell(FOREIGN)
    before = foreign()
    backend.apply(make_plan(REHEARSAL, None))
    backend.remove()
    backend.remove()
    assert listed() == Listing()
    assert foreign() == before
    backend.apply(make_plan(EMPTY, None))
    assert backend.differences(EMPTY) == ""


# --- at the same time -----------------------------------------------------------------------------------

ADDED_BY_OTHERS = 40


def test_rules_that_others_add_meanwhile_are_lost_by_nobody(
    backend: IptablesBackend, inside: None, lab: Lab
) -> None:
    """Both take the lock, read the table, change it and write all of it back."""
    path = lab.pods[0].netns
    failures: list[str] = []

    def add_rules() -> None:
        for number in range(ADDED_BY_OTHERS):
            for command in ("iptables-legacy", "ip6tables-legacy"):
                line = f"{command} -w -t mangle -A PREROUTING -p udp --dport {number + 1} -j ACCEPT"
                ran = subprocess.run(
                    ["ip", "netns", "exec", path.name, *line.split()],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if ran.returncode:
                    failures.append(ran.stderr)

    thread = threading.Thread(target=add_rules)
    actual: Program | None = None
    edits = 0
    thread.start()
    while thread.is_alive():
        for desired in Walk(edits).programs(10):
            backend.apply(make_plan(desired, actual))
            actual = desired
            edits += 1
    assert failures == []
    assert edits > 20
    assert actual is not None
    assert backend.differences(actual) == ""
    for command in ("iptables-legacy", "ip6tables-legacy"):
        text = run(command, "-w", "-t", "mangle", "-S", "PREROUTING")
        there = re.findall(r"-A PREROUTING -p udp .*--dport (\d+) -j ACCEPT", text)
        assert there == [str(number + 1) for number in range(ADDED_BY_OTHERS)]


def test_a_lock_that_another_process_keeps(tmp_path: Path) -> None:
    """It is waited for with a deadline, and once for all; after its release it is free at once."""
    path = tmp_path / "xtables.lock"
    file = LockFile(str(path))
    holder = subprocess.Popen(
        ["flock", str(path), "sh", "-c", "echo held; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    begun = time.monotonic()
    with pytest.raises(DataplaneError, match=f"{path} is held by another process") as refused:
        file.take(0.5)
    assert "fuser" in str(refused.value)
    waited = time.monotonic() - begun
    assert 0.5 <= waited < 2
    for _ in range(3):
        with pytest.raises(DataplaneError):
            file.take(0.5)
    assert time.monotonic() - begun - waited < 0.5, "one that hangs costs each pod's turn a wait"
    holder.communicate()

    def taken() -> bool:
        try:
            os.close(file.take(0.5))
        except DataplaneError:
            return False
        return True

    # Whoever waited in vain gets it first, and lets go at once.
    poll(taken, bool)
