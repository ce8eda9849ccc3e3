"""What a privileged pod may prepare in its own namespace: it harms itself alone, and is never believed.

In each case the backend either does its work all the same, or says what is in the way by an error of its own.
"""

import contextlib
import errno
import fcntl
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from daemon import netns
from daemon.backends import ipset, nfsocket
from daemon.backends.base import Backend
from daemon.backends.iptables import MOST_LINES, IptablesBackend
from daemon.backends.iptrender import PREFIX
from daemon.backends.nfsocket import Connect, NetfilterSocket, Reaper
from daemon.backends.nftables import NftablesBackend
from daemon.backends.xtables import ScratchTables
from daemon.backends.xtsockopt import MAX_TABLE_BYTES
from daemon.desired import make_program
from daemon.errors import DataplaneError, TransactionError
from daemon.netlink import NLMSG_ERROR
from daemon.planner import GateRequest, Program, make_plan
from daemon.policy.ruleset import BlockSet, Match, Members, Ruleset
from daemon.program import closed
from daemon.rivals import Rivals
from tests.lab import Lab
from tests.lab.programs import run
from tests.unit.backends.walk import pods

FRIENDS = pods("friend")
ADDRESSES = frozenset({bytes([10, 0, 0, n]) for n in range(1, 4)})
MEMBERS = Members(ADDRESSES)
WEB = Ruleset((Match(FRIENDS, ((6, (80, 80)),), ("default/web ingress[0]",)),), None)
REAPER = Reaper()
_NETLINK_NETFILTER = 12


@pytest.fixture
def backend() -> IptablesBackend:
    return IptablesBackend(REAPER, tables=ScratchTables())


@pytest.fixture
def inside(lab: Lab) -> Iterator[None]:
    """The test runs in an empty pod's namespace."""
    with netns.entered(str(lab.pod("alone").netns), None):
        yield


def program(members: Members = MEMBERS, ruleset: Ruleset = WEB) -> Program:
    return make_program([GateRequest("net1", 7, "c0ffee net1", ruleset)], lambda _: members, True)


def the_set() -> str:
    (name,) = (name for name, spec in program().sets.items() if spec.family == 4)
    return PREFIX + name


def members(name: str) -> set[str]:
    return set(run("ipset", "list", name).partition("Members:\n")[2].split())


WANTED = {"10.0.0.1", "10.0.0.2", "10.0.0.3"}


def test_names_that_are_no_text(backend: IptablesBackend, inside: None) -> None:
    for command in ("iptables-legacy", "ip6tables-legacy"):
        subprocess.run([command, "-N", b"\xff"], check=True)
        subprocess.run([command, "-N", b"MNP-\xff"], check=True)
    assert not backend.present()
    backend.apply(make_plan(program(), None))
    assert backend.differences(program()) == ""
    assert backend.present()
    assert backend.gates() == {"ingress-net1", "egress-net1"}
    assert Rivals([backend]).told() == ["rules of the iptables backend too"]
    backend.remove()
    assert not backend.present()


def test_a_set_of_another_type_in_the_place_of_ours(backend: IptablesBackend, inside: None) -> None:
    backend.apply(make_plan(program(), None))
    run("iptables-legacy", "-t", "mangle", "-F")
    run("ipset", "destroy", the_set())
    run("ipset", "create", the_set(), "hash:net")
    run("ipset", "add", the_set(), "10.0.0.0/8")
    # And a rule of ours looks up the false one.
    lookup = ["-m", "set", "--match-set", the_set(), "src", "-j", "RETURN"]
    run("iptables-legacy", "-t", "mangle", "-A", "MNP-ingress-net1", *lookup)
    assert "is another one" in backend.differences(program())
    backend.apply(make_plan(program(), None))
    assert backend.differences(program()) == ""
    assert members(the_set()) == WANTED


@pytest.mark.parametrize("options", [["timeout", "3600"], ["netmask", "8"], ["counters"]], ids=lambda o: o[0])
def test_a_set_with_options_in_the_place_of_ours(
    backend: IptablesBackend, inside: None, options: list[str]
) -> None:
    run("ipset", "create", the_set(), "hash:ip", *options)
    run("ipset", "add", the_set(), "10.0.0.1")
    backend.apply(make_plan(program(), None))
    assert members(the_set()) == WANTED
    assert options[0] not in run("ipset", "list", the_set(), "-terse")


def test_a_set_with_far_more_than_ours_is_not_read(backend: IptablesBackend, inside: None) -> None:
    run("ipset", "create", the_set(), "hash:ip", "maxelem", "1000000", "hashsize", "262144")
    many = (f"add {the_set()} 20.{n >> 16}.{n >> 8 & 255}.{n & 255}\n" for n in range(120_000))
    run("ipset", "restore", text="".join(many))
    assert f"set {the_set()} has 120000 elements instead of 3" in backend.differences(program())
    backend.apply(make_plan(program(), None))
    assert members(the_set()) == WANTED


def test_a_leftover_replacement_brings_nobody_back(backend: IptablesBackend, inside: None) -> None:
    """E5: a run that was killed after the swap left what was revoked under the replacement's name."""
    backend.apply(make_plan(program(), None))
    run("ipset", "create", f"{the_set()}-new", "hash:ip")
    run("ipset", "add", f"{the_set()}-new", "10.0.0.66")
    run("ipset", "add", the_set(), "10.0.0.77")
    backend.apply(make_plan(program(), None))
    assert members(the_set()) == WANTED
    assert backend.differences(program()) == ""


def test_foreign_jumps_to_a_chain_that_goes(backend: IptablesBackend, inside: None) -> None:
    backend.apply(make_plan(program(), None))
    run("iptables-legacy", "-t", "mangle", "-N", "foreign")
    run("iptables-legacy", "-t", "mangle", "-A", "foreign", "-j", "MNP-ingress-net1")
    empty = make_program([], lambda _: Members(), True)
    backend.apply(make_plan(empty, program()))
    assert backend.differences(empty) == ""
    backend.apply(make_plan(program(), empty))
    assert backend.differences(program()) == ""


def test_many_jumps_of_ours(backend: IptablesBackend, inside: None) -> None:
    """The first counts; others there are played with, and cost no more than they must."""
    backend.apply(make_plan(program(), None))
    saved = run("iptables-legacy-save").splitlines()
    jump = next(line for line in saved if line.startswith("-A PREROUTING"))
    others = "-A PREROUTING -s 192.0.2.1 -j ACCEPT\n"
    text = f"*mangle\n:PREROUTING ACCEPT\n{others}{(jump + chr(10)) * 20_000}COMMIT\n"
    run("iptables-legacy-restore", "--noflush", text=text.replace("-A PREROUTING", "-I PREROUTING 1 ", 0))
    run("iptables-legacy", "-t", "mangle", "-I", "PREROUTING", "-s", "192.0.2.2", "-j", "ACCEPT")
    assert "our rule is not the first of PREROUTING (IPv4)" in backend.differences(program())
    backend.apply(make_plan(program(), None))
    assert backend.differences(program()) == ""


def fill(family: int) -> None:
    """Put more rules into the current netns' table than anybody reads."""
    base = "10.{}.{}.{}" if family == 4 else "fd00:{:x}:{:x}::{:x}"
    sources = (base.format(n >> 16, n >> 8 & 255, n & 255) for n in range(120_000))
    rules = "".join(f"-A PREROUTING -s {source} -j ACCEPT\n" for source in sources)
    command = "iptables-legacy-restore" if family == 4 else "ip6tables-legacy-restore"
    run(command, "--noflush", text=f"*mangle\n:PREROUTING ACCEPT\n{rules}COMMIT\n")


@pytest.mark.parametrize("family", [4, 6])
def test_a_table_beyond_reason_is_replaced(backend: IptablesBackend, inside: None, family: int) -> None:
    """Not read, nor left in the way of what policies isolate: whatever stood in it is gone."""
    first, second = program(), program(ruleset=Ruleset((), None))
    backend.apply(make_plan(first, None))
    fill(family)
    told = rf"12\d{{4}} rules into the IPv{family} mangle table.* {MAX_TABLE_BYTES} are the most that is read"
    with pytest.raises(DataplaneError, match=told):
        backend.apply(make_plan(second, first))
    backend.apply(make_plan(second, None))
    assert backend.differences(second) == ""
    save = "iptables-legacy-save" if family == 4 else "ip6tables-legacy-save"
    rules = [
        line for line in run(save, "-t", "mangle").splitlines() if line.startswith(("-A PRE", "-A POST"))
    ]
    assert [line.rpartition(" ")[2] for line in rules] == ["MNP-PREROUTING", "MNP-POSTROUTING"]


def test_more_rules_than_are_read_back_are_refused_before_anything_is_begun(
    backend: IptablesBackend, inside: None
) -> None:
    def rules(count: int) -> Program:
        ports = (Match(None, ((6, (1 + n, 1 + n)),), ("p",)) for n in range(count))
        return program(ruleset=Ruleset(tuple(ports), None))

    backend.apply(make_plan(program(), None))
    with pytest.raises(TransactionError, match=f"{MOST_LINES + 1} rules for one netns; {MOST_LINES} are"):
        backend.apply(make_plan(rules(MOST_LINES + 1), program()))
    assert backend.differences(program()) == ""
    backend.apply(make_plan(closed(rules(MOST_LINES + 1), program()), None))
    assert backend.differences(closed(rules(MOST_LINES + 1), program())) == ""


def test_a_table_beyond_reason_in_the_eyes_of_others(backend: IptablesBackend, inside: None) -> None:
    fill(4)
    with pytest.raises(DataplaneError, match="the most that is read"):
        backend.present()
    # To a daemon with nftables that is a word of warning, and no failure.
    search = Rivals([backend]).evict(frozenset(), "here")
    assert not search.done
    assert search.beside.startswith("rules of the iptables backend may stand beside ours: ")
    run("iptables-legacy", "-t", "mangle", "-F")
    backend.apply(make_plan(program(), None))
    assert backend.differences(program()) == ""


class Destroyer:
    """Destroys a set as often as it can, which the kernel permits while no rule refers to it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ended = threading.Event()
        # Opened here: the thread's own namespace is the host's.
        self._socket = NetfilterSocket(REAPER)
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Destroyer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with self._socket as sock:
            while not self._ended.is_set():
                with contextlib.suppress(DataplaneError):
                    sock.perform([ipset.destroy(self._name)])


def test_sets_that_vanish(backend: IptablesBackend, inside: None) -> None:
    """Each try ends well, or with an error of our own."""
    failed = 0
    with Destroyer(the_set()):
        for _ in range(200):
            try:
                backend.apply(make_plan(program(), None))
            except DataplaneError:
                failed += 1
            backend.remove()
    assert failed > 0
    backend.apply(make_plan(program(), None))
    assert backend.differences(program()) == ""


def test_the_first_address_of_all(backend: IptablesBackend, inside: None) -> None:
    """C6: ipset's hosts can't hold 0.0.0.0 or ::, its blocks can."""
    blocks = BlockSet(((0, 0), (9, 9)), ((0, 0),))
    wanted = program(ruleset=Ruleset((Match(blocks, None, ("default/p ingress[0]",)),), None))
    backend.apply(make_plan(wanted, None))
    assert backend.differences(wanted) == ""


# --- answers that are not the kernel's -------------------------------------------------------------------


class LiedTo(socket.socket):
    """A netlink socket to which somebody else has sent an error before the kernel answers.

    CAP_NET_ADMIN in a namespace permits that, and a process' first socket has the number of the process. Not
    a race to be won here: the lie comes first, each time.
    """

    lies = 0

    def send(self, wire: bytes, /, flags: int = 0) -> int:  # type: ignore[override]
        if self.getsockname()[0] == 0:
            self.bind((0, 0))
        sequence = int.from_bytes(wire[8:12], sys.byteorder)
        lie = struct.pack("=IHHIIi", 20, NLMSG_ERROR, 0, sequence, 0, -errno.ENODEV)
        with socket.socket(self.family, self.type, self.proto) as liar:
            liar.sendto(lie, self.getsockname())
        LiedTo.lies += 1
        return super().send(wire, flags)


@pytest.fixture
def lies(inside: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many lies were told."""
    monkeypatch.setattr(LiedTo, "lies", 0)
    return lambda: LiedTo.lies


def test_only_the_kernel_is_believed_about_a_link(
    lies: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", LiedTo)
        found = netns.link("lo")
    assert lies() == 1
    assert found is not None
    assert found.ifname == "lo"


@pytest.mark.parametrize(
    "make",
    [
        lambda connect: NftablesBackend(REAPER, connect),
        lambda connect: IptablesBackend(REAPER, connect, ScratchTables()),
    ],
    ids=["nftables", "iptables"],
)
def test_only_the_kernel_is_believed_about_rules(
    make: Callable[[Connect], Backend], lies: Callable[[], int]
) -> None:
    backend = make(lambda: LiedTo(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER))
    backend.apply(make_plan(program(), None))
    changed = program(Members(ADDRESSES | {bytes([10, 0, 0, 9])}))
    backend.apply(make_plan(changed, program()))
    told = lies()
    assert told >= 2
    assert backend.differences(changed) == ""
    assert lies() > told


# --- no answer at all ------------------------------------------------------------------------------------


class Unheard(socket.socket):
    """A netlink socket whose requests get lost, with a number such as a busy daemon's descriptors have."""

    def __init__(self) -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as low:
            super().__init__(fileno=fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1024))

    def send(self, wire: bytes, /, flags: int = 0) -> int:  # type: ignore[override]
        return len(wire)


def test_a_kernel_that_does_not_answer_is_not_waited_for_for_ever(
    inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nfsocket, "DEADLINE_SECONDS", 0.05)
    backend = NftablesBackend(REAPER, Unheard)
    with pytest.raises(DataplaneError, match=r"did not answer within 0\.05 s"):
        backend.apply(make_plan(program(), None))
