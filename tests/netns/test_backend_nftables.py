"""The nftables backend on the real kernel: what is programmed, in which steps, and what it refuses."""

import errno
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from daemon import netns
from daemon.backends import nftmessages
from daemon.backends.nfsocket import NetfilterSocket, Reaper
from daemon.backends.nftables import NftablesBackend
from daemon.backends.nftrender import render
from daemon.backends.shape import REHEARSAL
from daemon.desired import make_program
from daemon.errors import DataplaneError, TransactionError
from daemon.model import Span
from daemon.planner import (
    EMPTY,
    ChainSpec,
    Gate,
    Program,
    RuleSpec,
    SetKind,
    SetSpec,
    denied_gate,
    make_plan,
)
from daemon.policy.ruleset import Members
from tests.lab import Lab
from tests.lab.programs import run
from tests.unit.backends.walk import Walk

TABLE = "inet multi-networkpolicy"
FOREIGN = "table ip someone { chain c { type filter hook input priority 0; counter; }; }"


@pytest.fixture(scope="module")
def backend() -> NftablesBackend:
    return NftablesBackend(Reaper())


@pytest.fixture
def inside(lab: Lab) -> Iterator[None]:
    """The test runs in an empty pod's namespace."""
    with netns.entered(str(lab.pod("alone").netns), None):
        yield


def nft(*arguments: str, text: str | None = None) -> str:
    return run("nft", *arguments, text=text)


def listed() -> list[str]:
    """Our table as nft reads it, in an order that does not depend on when what was made."""
    objects = json.loads(nft("-j", "list", "table", *TABLE.split()))["nftables"]
    rules: dict[str, list[Any]] = {}
    rest = []
    for item in objects:
        (kind, found), *_ = item.items()
        if kind == "rule":
            rules.setdefault(found["chain"], []).append(_plain(found["expr"]))
        elif kind != "metainfo":
            rest.append(json.dumps([kind, _plain(found)], sort_keys=True))
    return sorted(rest) + [json.dumps(entry, sort_keys=True) for entry in sorted(rules.items())]


def _plain(node: Any) -> Any:
    """Without handles and counts; sets in order."""
    if isinstance(node, dict):
        dropped = {"handle", "packets", "bytes"}
        return {
            key: sorted((_plain(v) for v in value), key=json.dumps)
            if key in ("elem", "set") and isinstance(value, list)
            else _plain(value)
            for key, value in node.items()
            if key not in dropped
        }
    return [_plain(item) for item in node] if isinstance(node, list) else node


def from_scratch(backend: NftablesBackend, program: Program) -> list[str]:
    def programmed() -> list[str]:
        backend.apply(make_plan(program, None))
        return listed()

    return netns.in_scratch(programmed)


@pytest.mark.parametrize("seed", range(4))
def test_walks_lead_where_a_program_from_scratch_does(
    backend: NftablesBackend, inside: None, seed: int
) -> None:
    """Programs change at random; after each plan the kernel holds what it would hold from scratch."""
    actual: Program | None = None
    nft("-f", "-", text=FOREIGN)
    foreign = nft("-s", "list", "table", "ip", "someone")
    for step, desired in enumerate(Walk(seed).programs(40)):
        reset = step % 13 == 0
        before = backend.generation()
        plan = make_plan(desired, None if reset else actual)
        assert backend.apply(plan, before) == before + plan.commits, f"step {step}"
        assert listed() == from_scratch(backend, desired), f"step {step}"
        assert backend.differences(desired) == "", f"step {step}"
        actual = desired
    assert nft("-s", "list", "table", "ip", "someone") == foreign


@pytest.mark.parametrize("seed", range(4))
def test_text_is_what_nft_lists(backend: NftablesBackend, inside: None, seed: int) -> None:
    """nft reads `render`'s text back as the very same rules and elements."""
    for program in list(Walk(seed).programs(30))[::6]:
        backend.apply(make_plan(program, None))
        ours = listed()
        # Interfaces that are not here are listed by number.
        nft("-f", "-", text=f"delete table {TABLE}\n{_numbered(program, backend.text(program))}")
        assert listed() == ours
        backend.remove()


def _numbered(program: Program, text: str) -> str:
    for gate in program.gates.values():
        if gate.ifindex is not None:
            text = re.sub(rf'([io]if) "{re.escape(gate.ifname)}"', rf"\1 {gate.ifindex}", text)
    return text


def test_a_program_reads_well(backend: NftablesBackend, inside: None) -> None:
    backend.apply(make_plan(REHEARSAL, None))
    assert nft("-s", "list", "table", *TABLE.split()) == backend.text(REHEARSAL)


def test_probe(backend: NftablesBackend) -> None:
    backend.probe()


TAMPERINGS = [
    "add rule {t} prerouting accept",
    "insert rule {t} ingress-lo return",
    "flush chain {t} ingress-lo",
    "flush chain {t} postrouting",
    "flush chain {t} prerouting",
    "add element {t} blocks4-probe {{ 10.0.0.0/8 }}",
    "flush set {t} ports6-probe",
    "add chain {t} more",
    "add set {t} more {{ type ipv4_addr; }}",
    "delete table {t}",
    "flush ruleset",
    "flush chain {t} tracking; add rule {t} tracking accept",
    "flush chain {t} tracking; add rule {t} tracking ct state established return",
    "flush chain {t} tracking; delete chain {t} tracking",
]


@pytest.mark.parametrize("line", TAMPERINGS)
def test_what_others_change_is_found_and_repaired(backend: NftablesBackend, inside: None, line: str) -> None:
    generation = backend.apply(make_plan(REHEARSAL, None))
    wanted = listed()
    assert backend.differences(REHEARSAL) == ""
    nft("-f", "-", text=line.format(t=TABLE))
    assert backend.generation() != generation
    assert backend.differences(REHEARSAL) != ""
    backend.apply(make_plan(REHEARSAL, None))
    assert backend.differences(REHEARSAL) == ""
    assert listed() == wanted


@pytest.mark.parametrize(
    "content",
    [
        "set blocks4-probe { type ipv6_addr; elements = { ::1 }; }",
        "map ports6-probe { type ipv4_addr : verdict; }",
        "chain prerouting { counter; }",
        "chain ingress-lo { type filter hook output priority 0; }",
        "quota drop-ingress-lo { 1 bytes; }",
    ],
)
def test_other_things_under_our_names(backend: NftablesBackend, inside: None, content: str) -> None:
    nft("-f", "-", text=f"table {TABLE} {{ {content}; }}")
    backend.apply(make_plan(REHEARSAL, None))
    assert backend.differences(REHEARSAL) == ""
    assert listed() == from_scratch(backend, REHEARSAL)


def test_a_refused_element_is_named_and_nothing_applied(backend: NftablesBackend, inside: None) -> None:
    backend.apply(make_plan(REHEARSAL, None))
    before = listed(), backend.generation()
    spec = REHEARSAL.sets["blocks4-probe"]
    # Two intervals that overlap: the planner never makes such.
    overlapping: list[Span] = [(1, 2), (10 << 24, (10 << 24) + 9), (5, 10 << 24)]
    bad = SetSpec(spec.name, spec.kind, 4, frozenset(overlapping), "")
    desired = Program(REHEARSAL.gates, {**REHEARSAL.sets, spec.name: bad}, track=False)
    with pytest.raises(TransactionError) as refused:
        backend.apply(make_plan(desired, REHEARSAL))
    assert refused.value.errno == errno.EEXIST
    assert "blocks4-probe, element 10.0.0.0" in refused.value.refused
    assert (listed(), backend.generation()) == before


@pytest.mark.parametrize(
    ("program", "names"),
    [
        (
            Program(
                {
                    "n": Gate(
                        "n", 5, "o", ChainSpec(True, (RuleSpec(4, "gone", SetKind.HOSTS, None, "p"),)), None
                    )
                },
                {},
                track=True,
            ),
            "rule to ingress-n: p",
        ),
        (
            Program({}, {"s" * 300: SetSpec("s" * 300, SetKind.HOSTS, 4, frozenset(), "")}, track=True),
            "set sss",
        ),
    ],
)
def test_refusals_name_the_object(
    backend: NftablesBackend, inside: None, program: Program, names: str
) -> None:
    with pytest.raises(TransactionError) as refused:
        backend.apply(make_plan(program, None))
    assert names in str(refused.value)
    assert not backend.read().table


def test_a_commit_in_between_is_noticed(inside: None) -> None:
    """A reset reads first; what it read must be what its batch meets."""
    with NetfilterSocket(Reaper(1)) as sock, pytest.raises(TransactionError) as refused:
        sock.transact([nftmessages.new_table("x")], generation=4711)
    assert refused.value.errno == errno.ERESTART
    assert "batch as a whole" in refused.value.refused


def test_hundreds_of_refusals_do_not_hang(inside: None) -> None:
    with NetfilterSocket(Reaper(1)) as sock, pytest.raises(DataplaneError):
        sock.transact([nftmessages.delete_set(f"set-{number}") for number in range(5000)])


def test_big_sets_take_several_messages(backend: NftablesBackend, inside: None) -> None:
    hosts = frozenset(number.to_bytes(4, "big") for number in range(1, 20_001))
    hosts6 = frozenset(number.to_bytes(16, "big") for number in range(1, 20_001))
    spans = frozenset((number * 16, number * 16 + 3) for number in range(1, 5001))
    sets = [
        SetSpec("pods4-big", SetKind.HOSTS, 4, hosts, "big"),
        SetSpec("pods6-big", SetKind.HOSTS, 6, hosts6, "big"),
        SetSpec("blocks4-big", SetKind.SPANS, 4, spans, "big"),
        SetSpec("blocks6-big", SetKind.SPANS, 6, spans, "big"),
    ]
    program = Program({}, {spec.name: spec for spec in sets}, track=True)
    assert len(render(make_plan(program, None))) < 60
    backend.apply(make_plan(program, None))
    assert backend.differences(program) == ""


def test_many_interfaces(backend: NftablesBackend, inside: None) -> None:
    many = [denied_gate(f"i{number}", number + 1, "o") for number in range(150)]
    program = make_program(many, lambda _: Members(), True)
    backend.apply(make_plan(program, None))
    assert backend.differences(program) == ""


def test_remove(backend: NftablesBackend, inside: None) -> None:
    nft("-f", "-", text=FOREIGN)
    backend.apply(make_plan(REHEARSAL, None))
    backend.remove()
    backend.remove()
    assert "someone" in nft("list", "tables")
    assert "multi-networkpolicy" not in nft("list", "tables")
    backend.apply(make_plan(EMPTY, None))
    assert backend.differences(EMPTY) == ""
