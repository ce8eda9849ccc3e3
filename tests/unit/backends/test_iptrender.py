"""Programs as iptables' chains: golden listings, the order of lines, what is asked of ports, names that fit.

A changed golden file is a changed packet filter: look at it, prove it (tests/netns/test_backend_*), then
write it anew by running this module: `python -m tests.unit.backends.test_iptrender`.
"""

import re
import string
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.backends import ipset, ipttext
from daemon.backends.iptrender import (
    FAMILIES,
    HOOKS,
    TRACKING,
    Line,
    chain_lines,
    content,
    counted_by,
    drop_chain,
    edits,
    gate_chain,
    gate_of,
    hook_line,
    set_name,
)
from daemon.model import Direction
from daemon.planner import ChainKey, ChainSpec, Plan, PortSpec, RuleSpec, SetKind, make_plan
from daemon.program import chain_name
from tests.unit.backends.test_nftrender import GUARD, PLANS, RICH, program
from tests.unit.backends.walk import Walk

GOLDEN = Path(__file__).parents[1] / "golden"
TCP, UDP, SCTP, ICMPV6 = 6, 17, 132, 58
KEYS = {direction: ChainKey("net1", direction) for direction in Direction}
MAX_CHAIN_NAME = 28

# --- whole programs -------------------------------------------------------------------------------------


def golden() -> Iterator[tuple[str, str]]:
    """Each golden file's name and what it shall hold."""
    yield "rich.ipt", ipttext.text(program(RICH))
    yield "guard.ipt", ipttext.text(GUARD)


@pytest.mark.parametrize(("name", "text"), list(golden()), ids=[name for name, _ in golden()])
def test_golden(name: str, text: str) -> None:
    assert text == (GOLDEN / name).read_text()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_lines_jump_to_chains_and_look_up_sets_that_are_there(seed: int, family: int) -> None:
    for one in Walk(seed).programs(60):
        chains = content(one, family)
        targets = {line.target for lines in chains.values() for line in lines}
        assert targets <= {*chains, "RETURN", "DROP"}
        looked_up = {name for lines in chains.values() for line in lines for name in line.sets}
        assert looked_up <= {set_name(s.name) for s in one.sets.values() if s.family in (0, family)}
        assert (TRACKING in chains) == one.track
        assert not any(line.target == TRACKING for lines in chains.values() for line in lines)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plan_touches_no_chain_that_stays(family: int) -> None:
    """Of the chains that a plan does not write, all are as before; those that it writes are as after."""
    walk = list(Walk(5).programs(80))
    for before, after in pairwise(walk):
        done = edits(make_plan(after, before), family)
        chains = {**content(before, family), **done.written}
        assert {name: lines for name, lines in chains.items() if name not in done.gone} == content(
            after, family
        )


def test_elements_alone_touch_no_chain() -> None:
    plan = PLANS["one-peer-more"]
    assert plan.set_changes
    assert all(not edits(plan, family).written and not edits(plan, family).gone for family in FAMILIES)


def test_a_drop_chain_is_left_alone_when_rules_change() -> None:
    """Its counter goes on."""
    plan: Plan = make_plan(program(RICH), program(RICH_WITHOUT_ITS_LAST))
    written = edits(plan, 4).written
    assert gate_chain(KEYS[Direction.INGRESS]) in written
    assert not [name for name in written if counted_by(name)]
    # The control: for another owner it begins anew.
    other = edits(PLANS["other-owner"], 4).written
    assert drop_chain(KEYS[Direction.INGRESS]) in other


RICH_WITHOUT_ITS_LAST = type(RICH)(RICH.ingress[:-1] if RICH.ingress else None, RICH.egress)


# --- one chain ------------------------------------------------------------------------------------------

PERMIT = RuleSpec(None, None, None, None, "p")


def steps(lines: Iterable[Line]) -> list[str]:
    """What each line is for, the same ones in a row once."""
    return [step for step, _ in groupby(map(step_of, lines))]


def step_of(line: Line) -> str:
    refuses = line.target.startswith("MNP-drop-")
    options = dict(option for match in line.matches for option in match.options)
    if options.get("ctstate") == ("RELATED,ESTABLISHED",):
        return "established"
    if "src-type" in options:
        assert refuses
        return "own source"
    if "tcp-flags" in options:
        assert refuses
        assert options["ctstate"] == ("NEW",)
        assert line.protocol == TCP
        return "midstream"
    if "icmpv6-type" in options:
        return "essential"
    return "refuse" if refuses else f"permit {line.comment}"


ORDER = [
    # isolated, established, direction, family, steps
    (True, True, "ingress", 4, "established, own source, midstream, permit p, refuse"),
    (True, True, "ingress", 6, "established, own source, midstream, essential, permit p, refuse"),
    (True, True, "egress", 4, "established, midstream, permit p, refuse"),
    (True, True, "egress", 6, "established, midstream, essential, permit p, refuse"),
    (True, False, "ingress", 4, "own source, midstream, permit p, refuse"),
    (True, False, "egress", 6, "midstream, essential, permit p, refuse"),
    (False, True, "ingress", 4, "established, midstream"),
    (False, True, "egress", 6, "established, midstream"),
    (False, False, "ingress", 6, "midstream"),
]


@pytest.mark.parametrize(("isolated", "established", "direction", "family", "want"), ORDER)
def test_the_order_of_lines(
    isolated: bool, established: bool, direction: str, family: int, want: str
) -> None:
    """B2, C10, E1, E2, E3: what is refused whatever the rules say comes before what they permit."""
    spec = ChainSpec(isolated, (PERMIT,) if isolated else (), established)
    key = KEYS[Direction(direction)]
    assert steps(chain_lines(key, spec, family)) == want.split(", ")


def test_essentials_are_those_of_icmpv6() -> None:
    """E3."""
    lines = chain_lines(KEYS[Direction.EGRESS], ChainSpec(True, ()), 6)
    kinds = [
        (line.protocol, match.options[0][1][0])
        for line in lines
        for match in line.matches
        if match.name == "icmp6"
    ]
    wanted = (2, 130, 131, 132, 133, 134, 135, 136, 143)
    assert kinds == [(ICMPV6, str(kind)) for kind in wanted]


def permits(rule: RuleSpec, family: int = 4, direction: Direction = Direction.INGRESS) -> list[Line]:
    lines = chain_lines(KEYS[direction], ChainSpec(True, (rule,)), family)
    return [line for line in lines if line.target == "RETURN" and line.comment == rule.comment]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rule_is_in_the_family_that_it_is_for(family: int) -> None:
    """C9: one for the other family is left out, and never widened."""
    for of in (4, 6, None):
        rule = RuleSpec(of, None if of is None else f"pods{of}-x", SetKind.HOSTS if of else None, None, "p")
        assert len(permits(rule, family)) == (of in (None, family))


@pytest.mark.parametrize(
    ("kind", "direction", "fields"),
    [
        (SetKind.HOSTS, Direction.INGRESS, "src"),
        (SetKind.HOSTS, Direction.EGRESS, "dst"),
        (SetKind.SPANS, Direction.INGRESS, "src"),
        (SetKind.SPANS, Direction.EGRESS, "dst"),
        (SetKind.ENDPOINTS, Direction.EGRESS, "dst,dst"),
        (SetKind.ENDPOINTS, Direction.INGRESS, "dst,dst"),
    ],
)
def test_peers_are_looked_up_at_their_end(kind: SetKind, direction: Direction, fields: str) -> None:
    (line,) = permits(RuleSpec(4, "some-set", kind, None, "p"), 4, direction)
    assert line.sets == ("MNP-some-set",)
    assert [match.options for match in line.matches] == [(("match-set", ("MNP-some-set", fields)),)]


# --- ports ----------------------------------------------------------------------------------------------


ONE_PEER = RuleSpec(4, "some-set", SetKind.HOSTS, PortSpec(UDP, set_name="dports-x"), "p")


@pytest.mark.parametrize(
    ("ports", "protocol", "asked"),
    [
        (None, None, []),
        (PortSpec(TCP), TCP, []),
        (PortSpec(112), 112, []),
        (PortSpec(TCP, span=(80, 80)), TCP, [("multiport", "dports", ("80",))]),
        (PortSpec(SCTP, span=(80, 90)), SCTP, [("multiport", "dports", ("80:90",))]),
        (PortSpec(UDP, set_name="dports-x"), UDP, [("set", "match-set", ("MNP-dports-x", "dst"))]),
    ],
)
def test_ports(ports: PortSpec | None, protocol: int | None, asked: list[object]) -> None:
    """D1, D2, D3: one line, however many ports."""
    (line,) = permits(RuleSpec(None, None, None, ports, "p"))
    assert line.protocol == protocol
    assert [(match.name, *option) for match in line.matches for option in match.options] == asked


def test_peers_and_ports_are_two_look_ups_of_one_line() -> None:
    (line,) = permits(ONE_PEER)
    assert line.sets == ("MNP-some-set", "MNP-dports-x")
    assert [match.options[0][1] for match in line.matches] == [
        ("MNP-some-set", "src"),
        ("MNP-dports-x", "dst"),
    ]


# --- names ----------------------------------------------------------------------------------------------

# What the kernel takes as an interface's name (dev_valid_name), in bytes.
ifnames = st.one_of(
    st.text(string.printable, min_size=1, max_size=15),
    st.text(min_size=1, max_size=15),
    st.text("net1+!_.-", min_size=1, max_size=15),
).filter(
    lambda name: (
        0 < len(name.encode(errors="ignore")) <= 15
        and name not in (".", "..")
        and not re.search(r"[/:\s\0\ud800-\udfff]", name)
    )
)


@given(ifnames)
def test_chain_names_fit_whatever_the_interface(ifname: str) -> None:
    names = [make(ChainKey(ifname, d)) for d in Direction for make in (gate_chain, drop_chain)]
    assert len({*names}) == 4
    for name in (*names, *HOOKS.values(), TRACKING):
        assert len(name) <= MAX_CHAIN_NAME
        # As iptables takes it: no blanks, no "-" or "!" in front.
        assert re.fullmatch(r"MNP-[A-Za-z0-9_.-]+", name)
    assert not {*names} & {*HOOKS.values(), TRACKING}


@given(ifnames)
def test_chains_say_whose_they_are(ifname: str) -> None:
    for direction in Direction:
        key = ChainKey(ifname, direction)
        name = chain_name(direction, ifname)
        assert (gate_of(gate_chain(key)), counted_by(gate_chain(key))) == (name, None)
        assert (gate_of(drop_chain(key)), counted_by(drop_chain(key))) == (None, name)


@given(st.sets(ifnames, min_size=2, max_size=6))
def test_two_interfaces_share_no_chain(some: set[str]) -> None:
    keys = [ChainKey(ifname, direction) for ifname in some for direction in Direction]
    assert len({make(key) for key in keys for make in (gate_chain, drop_chain)}) == 2 * len(keys)


def test_names_of_sets_fit() -> None:
    """With what stands behind one that replaces another."""
    names = {spec.name for seed in range(3) for one in Walk(seed).programs(60) for spec in one.sets.values()}
    assert len(names) > 20
    assert max(len(set_name(name) + "-new") for name in names) <= ipset.MAX_NAME
    assert {name.partition("-")[0] for name in names} > {"pods4", "blocks6", "ports4", "dports"}


def test_comments_are_what_the_kernel_holds() -> None:
    """Owners come from a runtime, and may be anything."""
    (line,) = content(program(RICH), 4)[drop_chain(KEYS[Direction.INGRESS])]
    assert line == Line("DROP", comment="c0ffee net1")
    assert hook_line("PREROUTING").comment.startswith("made by multi-networkpolicyd")


if __name__ == "__main__":
    for file, text in golden():
        (GOLDEN / file).write_text(text)
