"""What a privileged pod may prepare in its own namespace: it harms itself alone, and is never believed.

In each case the backend either does its work all the same, or says what is in the way by an error of its own.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from daemon import netns
from daemon.backends import ipset
from daemon.backends.iptables import IptablesBackend
from daemon.backends.iptrender import PREFIX
from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.backends.nftables import NftablesBackend
from daemon.backends.xtables import ScratchTables
from daemon.backends.xtsockopt import MAX_TABLE_BYTES
from daemon.errors import DataplaneError, NetnsError
from daemon.planner import GateRequest, Program, make_plan, make_program
from daemon.policy.ruleset import BlockSet, Match, Members, Ruleset
from daemon.rivals import Rivals
from tests.lab import Lab
from tests.unit.backends.walk import pods

FRIENDS = pods("friend")
MEMBERS = Members(frozenset({bytes([10, 0, 0, n]) for n in range(1, 4)}))
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


def run(*line: str, text: str | None = None) -> str:
    ran = subprocess.run(line, input=text, text=True, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


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
    run("iptables-legacy", "-F")
    run("ipset", "destroy", the_set())
    run("ipset", "create", the_set(), "hash:net")
    run("ipset", "add", the_set(), "10.0.0.0/8")
    # And a rule of ours looks up the false one.
    lookup = ["-m", "set", "--match-set", the_set(), "src", "-j", "RETURN"]
    run("iptables-legacy", "-A", "MNP-ingress-net1", *lookup)
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
    run("iptables-legacy", "-N", "foreign")
    run("iptables-legacy", "-A", "foreign", "-j", "MNP-ingress-net1")
    empty = make_program([], lambda _: Members(), True)
    backend.apply(make_plan(empty, program()))
    assert backend.differences(empty) == ""
    backend.apply(make_plan(program(), empty))
    assert backend.differences(program()) == ""


def test_many_jumps_of_ours(backend: IptablesBackend, inside: None) -> None:
    """The first counts; others there are played with, and cost no more than they must."""
    backend.apply(make_plan(program(), None))
    jump = next(line for line in run("iptables-legacy-save").splitlines() if line.startswith("-A INPUT"))
    others = "-A INPUT -s 192.0.2.1 -j ACCEPT\n"
    text = f"*filter\n:INPUT ACCEPT\n{others}{(jump + chr(10)) * 20_000}COMMIT\n"
    run("iptables-legacy-restore", "--noflush", text=text.replace("-A INPUT", "-I INPUT 1 ", 0))
    run("iptables-legacy", "-I", "INPUT", "-s", "192.0.2.2", "-j", "ACCEPT")
    assert "our rule is not the first of INPUT (IPv4)" in backend.differences(program())
    backend.apply(make_plan(program(), None))
    assert backend.differences(program()) == ""


def test_a_table_beyond_reason_is_refused(backend: IptablesBackend, inside: None) -> None:
    rules = "".join(f"-A INPUT -s 10.{n >> 16}.{n >> 8 & 255}.{n & 255} -j ACCEPT\n" for n in range(120_000))
    run("iptables-legacy-restore", "--noflush", text=f"*filter\n:INPUT ACCEPT\n{rules}COMMIT\n")
    with pytest.raises(
        DataplaneError, match=rf"12000\d rules into the IPv4 filter table.* {MAX_TABLE_BYTES} are"
    ):
        backend.apply(make_plan(program(), None))
    with pytest.raises(DataplaneError, match="the most that is read"):
        backend.present()
    # To a daemon with nftables that is a word of warning, and no failure.
    search = Rivals([backend]).evict(frozenset(), "here")
    assert not search.done
    assert search.beside.startswith("rules of the iptables backend may stand beside ours: ")
    run("iptables-legacy", "-F")
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


LIE = """
import os, socket, struct, sys
family, port = map(int, sys.argv[1:])
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, family)
lie = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -19) + b"\\0\\0"
print(flush=True)
while True:
    try:
        sock.sendto(lie, (port, 0))
    except OSError:
        pass
"""


@contextlib.contextmanager
def lied_to(family: int, port: int) -> Iterator[None]:
    """A process sends an error to a socket over and over, as CAP_NET_ADMIN in a namespace permits."""
    liar = subprocess.Popen([sys.executable, "-S", "-c", LIE, str(family), str(port)], stdout=subprocess.PIPE)
    try:
        assert liar.stdout is not None
        liar.stdout.readline()
        yield
    finally:
        liar.kill()
        liar.communicate()


def test_only_the_kernel_is_believed(inside: None) -> None:
    """The first socket of a process has the process' number as its own, so anybody can aim at it."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as victim:
        victim.bind((0, 0))
        with lied_to(socket.NETLINK_ROUTE, victim.getsockname()[0]):
            assert victim.recvfrom(64)[1][0] != 0
    with lied_to(socket.NETLINK_ROUTE, os.getpid()):
        _assert_believed(500, lambda: netns.link("lo") is not None)
    backend = NftablesBackend(REAPER)
    backend.apply(make_plan(program(), None))
    with lied_to(_NETLINK_NETFILTER, os.getpid()):
        _assert_believed(30, lambda: backend.differences(program()) == "")


def _assert_believed(times: int, read: Callable[[], bool]) -> None:
    """Read right, or not at all: a flood can keep the kernel's answer from a socket, which then says so."""
    right = 0
    for _ in range(times):
        with contextlib.suppress(DataplaneError, NetnsError):
            assert read()
            right += 1
    assert right > times // 2
