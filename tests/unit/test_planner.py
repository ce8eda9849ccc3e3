"""Programs and plans: names, what a change touches, and that plans lead where a program from scratch does."""

import subprocess
import sys
import time

import msgspec
import pytest

from daemon.backends.fake import FakeBackend, table_of
from daemon.desired import make_program
from daemon.model import Direction, Selector
from daemon.planner import (
    DENIED,
    UNTOUCHED,
    ChainKey,
    ChainSpec,
    GateRequest,
    Plan,
    PortSpec,
    Program,
    SetKind,
    chain_name,
    denied_gate,
    digest,
    dispatches,
    in_commits,
    make_plan,
)
from daemon.policy.ruleset import (
    OPEN,
    BlockSet,
    EndpointSet,
    Match,
    Members,
    PodSet,
    PodUnion,
    Ports,
    Ruleset,
)
from daemon.program import label
from tests.unit.backends.walk import NETWORKS, SCTP, TCP, UDP, Walk, pods

CLIENTS = pods("client")
WEB = EndpointSet(NETWORKS, None, ((TCP, "web"),))
ONE = frozenset({bytes([10, 0, 0, 1])})
TWO = ONE | {bytes([10, 0, 0, 2])}
INGRESS = ChainKey("net1", Direction.INGRESS)
EGRESS = ChainKey("net1", Direction.EGRESS)
FROM_CLIENTS = Ruleset((Match(CLIENTS, ((TCP, (80, 80)),), ("default/p ingress[0]",)),), None)


def gate(ruleset: Ruleset | None, ifindex: int | None = 7, owner: str = "c0ffee net1") -> GateRequest:
    return GateRequest("net1", ifindex, owner, ruleset)


def program(request: GateRequest, held: Members | None = None, track: bool = True) -> Program:
    members = held or Members()
    return make_program([request], lambda _: members, track)


@pytest.mark.parametrize("seed", range(6))
def test_plans_lead_where_a_program_from_scratch_does(seed: int) -> None:
    backend = FakeBackend()
    actual: Program | None = None
    for step, desired in enumerate(Walk(seed).programs(80)):
        backend.apply(make_plan(desired, None if step % 20 == 0 else actual))
        assert backend.tables[""] == table_of(desired), f"step {step}"
        assert make_plan(desired, desired).empty
        actual = desired


# What a wide enough search finds: two sets of one name.
FIRST = Ruleset((Match(BlockSet(((16, 31),), ()), ((TCP, (80, 80)),), ("a",)),), None)
SECOND = Ruleset((Match(BlockSet(((32, 63),), ()), ((TCP, (81, 81)),), ("b",)),), ())
BOTH = Ruleset((*(FIRST.ingress or ()), *(SECOND.ingress or ())), None)
SHARED = Ruleset(tuple(Match(pods(role), None, (role,)) for role in ("client", "server")), None)


class TestClashes:
    @pytest.fixture(autouse=True)
    def short_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("daemon.desired.LONGEST_SET_NAME", len("blocks"))

    @pytest.mark.parametrize("ruleset", [BOTH, SHARED], ids=["blocks", "pods"])
    def test_two_sets_of_one_name_close_and_are_told(self, ruleset: Ruleset) -> None:
        made = program(gate(ruleset))
        chain = made.gates["net1"].ingress
        assert chain == ChainSpec(isolated=True)
        assert made.gates["net1"].egress == UNTOUCHED
        assert made.sets == {}
        assert "same name, " in made.clashes["net1"]

    def test_what_comes_first_is_not_concerned(self) -> None:
        requests = [gate(FIRST), GateRequest("net2", 8, "c0ffee net2", SECOND)]
        made = make_program(requests, lambda _: Members(), True)
        assert made.gates["net1"] == program(gate(FIRST)).gates["net1"]
        assert made.sets == program(gate(FIRST)).sets
        assert list(made.clashes) == ["net2"]
        chains = (made.gates["net2"].ingress, made.gates["net2"].egress)
        assert [(chain.isolated, chain.rules) for chain in chains if chain] == 2 * [(True, ())]

    def test_the_same_sets_are_no_clash(self) -> None:
        again = Ruleset((Match(BlockSet(((16, 31),), ()), None, ("c",)),), None)
        requests = [gate(FIRST), GateRequest("net2", 8, "c0ffee net2", again)]
        made = make_program(requests, lambda _: Members(), True)
        assert made.clashes == {}
        assert len(made.sets) == 1


class TestProgram:
    def test_open_attachment_has_no_chains(self) -> None:
        made = program(gate(OPEN)).gates["net1"]
        assert (made.ingress, made.egress) == (None, None)

    def test_other_direction_of_an_isolated_attachment_is_only_kept_from_midstream(self) -> None:
        made = program(gate(FROM_CLIENTS)).gates["net1"]
        assert made.ingress is not None
        assert made.ingress.isolated
        assert made.egress == UNTOUCHED

    def test_guard_and_unready_are_denied_both_ways(self) -> None:
        made = program(denied_gate("net1", None, "c0ffee net1")).gates["net1"]
        assert (made.ingress, made.egress, made.ifindex) == (DENIED, DENIED, None)
        assert not DENIED.established
        assert DENIED.isolated

    def test_shared_sets_have_rules_in_both_families_whoever_is_in_them(self) -> None:
        empty, full = program(gate(FROM_CLIENTS)), program(gate(FROM_CLIENTS), Members(TWO))
        assert empty.gates["net1"] == full.gates["net1"]
        assert empty.gates["net1"].ingress is full.gates["net1"].ingress
        assert sorted((spec.family, len(spec.elements)) for spec in full.sets.values()) == [(4, 2), (6, 0)]

    def test_nobody_is_a_rule_that_never_matches_and_not_a_rule_without_peers(self) -> None:
        """C4: with and without ports."""
        for ports in (None, ((TCP, (80, 80)),)):
            made = program(gate(Ruleset((Match(CLIENTS, ports, ("p",)),), None)))
            chain = made.gates["net1"].ingress
            assert chain is not None
            assert all(rule.peer is not None for rule in chain.rules)

    @pytest.mark.parametrize(
        ("blocks", "want"),
        [
            (BlockSet((), ()), []),
            (BlockSet(((1, 1),), ()), [(4, SetKind.HOSTS)]),
            (BlockSet(((1, 1), (5, 6)), ()), [(4, SetKind.SPANS)]),
            (BlockSet((), ((1, 9),)), [(6, SetKind.SPANS)]),
            (BlockSet(((0, 2**32 - 1),), ((1, 1),)), [(4, SetKind.SPANS), (6, SetKind.HOSTS)]),
        ],
    )
    def test_blocks_make_a_set_only_in_their_families(
        self, blocks: BlockSet, want: list[tuple[int, SetKind]]
    ) -> None:
        """C9."""
        made = program(gate(Ruleset((Match(blocks, None, ("p",)),), None)))
        assert [(spec.family, spec.kind) for spec in made.sets.values()] == want
        chain = made.gates["net1"].ingress
        assert chain is not None
        assert [(rule.family, rule.peer_kind) for rule in chain.rules] == want

    def test_equal_spans_share_a_set_whatever_the_other_family_is(self) -> None:
        one, two = BlockSet(((1, 9),), ()), BlockSet(((1, 9),), ((1, 9),))
        made = program(gate(Ruleset((Match(one, None, ("p",)), Match(two, None, ("q",))), None)))
        assert len(made.sets) == 2

    @pytest.mark.parametrize(
        ("ports", "want"),
        [
            (None, [None]),
            (((TCP, None),), [PortSpec(TCP)]),
            (((TCP, (0, 65535)),), [PortSpec(TCP)]),
            (((TCP, None), (TCP, (80, 80))), [PortSpec(TCP)]),
            (((TCP, (80, 80)), (UDP, None)), [PortSpec(TCP, span=(80, 80)), PortSpec(UDP)]),
            (((TCP, (80, 90)),), [PortSpec(TCP, span=(80, 90))]),
            # No bitmap:port of ipset reads a port of SCTP.
            (((SCTP, (80, 80)), (SCTP, (90, 99))), [PortSpec(SCTP, (80, 80)), PortSpec(SCTP, (90, 99))]),
        ],
    )
    def test_ports_make_a_rule_for_each_protocol_and_for_each_port_of_sctp(
        self, ports: Ports | None, want: list[PortSpec | None]
    ) -> None:
        """D1, D2, D3."""
        made = program(gate(Ruleset((Match(None, ports, ("p",)),), None)))
        chain = made.gates["net1"].ingress
        assert chain is not None
        assert [rule.ports for rule in chain.rules] == want
        assert made.sets == {}

    def test_several_ports_are_a_set_that_all_rules_and_protocols_share(self) -> None:
        ports = ((TCP, (80, 80)), (TCP, (90, 99)), (UDP, (80, 80)), (UDP, (90, 99)))
        made = program(gate(Ruleset((Match(CLIENTS, ports, ("p",)), Match(None, ports, ("q",))), None)))
        (spec,) = (spec for spec in made.sets.values() if spec.kind is SetKind.PORTS)
        assert (spec.family, spec.comment) == (0, "80, 90-99")
        assert spec.elements == frozenset({(80, 80), (90, 99)})
        chain = made.gates["net1"].ingress
        assert chain is not None
        assert {rule.ports for rule in chain.rules} == {PortSpec(p, set_name=spec.name) for p in (TCP, UDP)}

    @pytest.mark.parametrize("count", [2, 30, 1000])
    def test_rules_do_not_grow_with_peers_and_ports(self, count: int) -> None:
        """Peers and port ranges of one rule: two families, whatever their numbers."""
        pods = tuple(PodSet(NETWORKS, f"ns{n}", None, Selector()) for n in range(count))
        ports = tuple((TCP, (10 * n + 1, 10 * n + 5)) for n in range(count))
        chain = program(gate(Ruleset((Match(PodUnion(NETWORKS, pods), ports, ("p",)),), None))).gates["net1"]
        assert chain.ingress is not None
        assert len(chain.ingress.rules) == 2

    def test_comments_name_policies_within_bounds(self) -> None:
        origins = tuple(f"a-namespace/some-policy ingress[{number}]" for number in range(20))
        chain = program(gate(Ruleset((Match(None, None, origins),), None))).gates["net1"].ingress
        assert chain is not None
        comment = chain.rules[0].comment
        assert comment.startswith(origins[0])
        assert comment.endswith("more")
        assert len(comment.encode()) <= 127

    def test_set_comments(self) -> None:
        comments = {spec.comment for spec in program(gate(FROM_CLIENTS)).sets.values()}
        assert comments == {"role=client in namespace default on default/net-a"}
        named = program(gate(Ruleset(None, (Match(WEB, None, ("p",)),))))
        assert {s.comment for s in named.sets.values()} == {"tcp web of pods on default/net-a, other/net-b"}

    @pytest.mark.parametrize(
        ("ifname", "want"),
        [
            ("net1", "ingress-net1"),
            ("eth0.100", "ingress-eth0.100"),
            ("a_b-c", "ingress-a_b-c"),
            ("odd:name", "ingress-odd_na-"),
            ("odd_name", "ingress-odd_name"),
            ('"; flush', "ingress-___flu-"),
            ("é", "ingress-_-"),
        ],
    )
    def test_chain_names_are_what_nft_takes(self, ifname: str, want: str) -> None:
        name = chain_name(Direction.INGRESS, ifname)
        assert name.startswith(want[:20])
        # What iptables puts in front leaves that much of its 28.
        assert len(name) <= 24
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")

    def test_chain_names_differ_for_different_interfaces(self) -> None:
        names = {chain_name(Direction.INGRESS, ifname) for ifname in ("a:b", "a;b", "a_b", "a\u00e9b")}
        assert len(names) == 4

    def test_an_interface_can_not_be_called_like_what_stands_for_another(self) -> None:
        stand_in = label("a:b")
        assert len(stand_in) <= 15
        assert label(stand_in) != stand_in


class TestPlan:
    def test_a_peer_touches_only_its_set(self) -> None:
        before = program(gate(FROM_CLIENTS), Members(ONE))
        plan = make_plan(program(gate(FROM_CLIENTS), Members(TWO)), before)
        assert [(c.removed, c.added) for c in plan.set_changes] == [(frozenset(), TWO - ONE)]
        assert plan == Plan(plan.program, reset=False, set_changes=plan.set_changes)

    def test_a_change_is_computed_once_for_all_netns(self) -> None:
        old, new = Members(ONE), Members(TWO)
        pair = [(program(gate(FROM_CLIENTS), old), program(gate(FROM_CLIENTS), new)) for _ in range(2)]
        first, second = (make_plan(desired, actual) for actual, desired in pair)
        (one,), (other,) = first.set_changes, second.set_changes
        assert one.spec is other.spec
        assert one.added is other.added
        assert one.removed is other.removed

    def test_guard_to_final_keeps_the_chain(self) -> None:
        """E5: rewritten in place, so that no packet meets a chain that is still empty."""
        guard = program(denied_gate("net1", None, "c0ffee net1"))
        plan = make_plan(program(gate(FROM_CLIENTS)), guard)
        assert [(w.key, w.exists, w.replaced) for w in plan.chains] == [
            (INGRESS, True, False),
            (EGRESS, True, False),
        ]
        assert {(d.key, d.ifindex) for d in plan.dispatch_removed} == {(INGRESS, 0), (EGRESS, 0)}
        assert {(d.key, d.ifindex) for d in plan.dispatch_added} == {(INGRESS, 7), (EGRESS, 7)}

    def test_another_owner_gets_a_new_chain(self) -> None:
        before = program(gate(FROM_CLIENTS, owner="decade net1"))
        plan = make_plan(program(gate(FROM_CLIENTS)), before)
        assert all(w.replaced for w in plan.chains)
        assert set(plan.dispatch_removed) == set(plan.dispatch_added) != set()

    def test_rules_come_before_members_that_the_old_rules_might_let_in(self) -> None:
        """E5: at port 80 neither end lets a packet of the new member in."""
        wider = Ruleset((Match(CLIENTS, ((TCP, (80, 443)),), ("default/p ingress[0]",)),), None)
        before = program(gate(wider), Members(ONE | {bytes([10, 0, 0, 9])}))
        plan = make_plan(program(gate(FROM_CLIENTS), Members(TWO)), before)
        first, second = in_commits(plan)
        assert first.chains == plan.chains
        assert [(set(c.removed), set(c.added)) for c in first.set_changes] == [
            ({bytes([10, 0, 0, 9])}, set())
        ]
        assert [(set(c.removed), set(c.added)) for c in second.set_changes] == [(set(), set(TWO - ONE))]
        assert not second.chains

    def test_a_change_of_members_or_of_rules_alone_is_one_commit(self) -> None:
        before = program(gate(FROM_CLIENTS), Members(ONE))
        members = make_plan(program(gate(FROM_CLIENTS), Members(TWO)), before)
        rules = make_plan(program(gate(Ruleset((), None)), Members(ONE)), before)
        rewritten = make_plan(program(gate(FROM_CLIENTS), Members(TWO)), None)
        assert [in_commits(plan) for plan in (members, rules, rewritten)] == [
            (members,),
            (rules,),
            (rewritten,),
        ]

    def test_the_last_policy_gone(self) -> None:
        before = program(gate(FROM_CLIENTS), Members(ONE))
        plan = make_plan(program(gate(OPEN)), before)
        assert plan.stale_chains == (INGRESS, EGRESS)
        assert set(plan.stale_sets) == set(before.sets)
        assert not plan.chains

    def test_unknown_is_a_reset_with_all_in_it(self) -> None:
        desired = program(gate(FROM_CLIENTS), Members(ONE))
        plan = make_plan(desired, None)
        assert plan.reset
        assert {s.name for s in plan.new_sets} == set(desired.sets)
        assert len(plan.chains) == len(plan.dispatch_added) == 2
        assert plan.track is True

    def test_two_gates_on_one_index(self) -> None:
        """The device of the first is gone, and its number was given to the second."""
        stale = GateRequest("net1", 7, "c0ffee net1", FROM_CLIENTS)
        new = GateRequest("net2", 7, "decade net2", FROM_CLIENTS)
        both = make_program([stale, new], lambda _: Members(), True)
        entries = make_plan(both, None).dispatch_added
        assert {entry.key.ifname for entry in entries} == {"net2"}

    def test_a_peer_costs_250_netns_little(self) -> None:
        old, new = Members(ONE), Members(TWO)
        before = [program(gate(FROM_CLIENTS, owner=f"{n} net1"), old) for n in range(250)]
        started = time.process_time()
        plans = [
            make_plan(program(gate(FROM_CLIENTS, owner=f"{n} net1"), new), actual)
            for n, actual in enumerate(before)
        ]
        assert time.process_time() - started < 0.3 * 0.250
        assert all(plan.set_changes for plan in plans)


class TestDigest:
    def test_is_the_same_in_another_process(self) -> None:
        code = (
            "from tests.unit.test_planner import *\n"
            "print(*[digest(p) for p in Walk(3).programs(20)])\n"
            "print(digest(program(gate(FROM_CLIENTS), Members(TWO))))"
        )
        runs = [
            subprocess.run(
                [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
            )
            for seed in ("1", "2")
        ]
        assert runs[0].stdout == runs[1].stdout != b""

    def test_every_part_counts(self) -> None:
        base = program(gate(FROM_CLIENTS), Members(ONE))
        others = [
            program(gate(FROM_CLIENTS), Members(TWO)),
            program(gate(FROM_CLIENTS), Members(ONE), track=False),
            program(gate(FROM_CLIENTS, ifindex=8), Members(ONE)),
            program(gate(FROM_CLIENTS, owner="decade net1"), Members(ONE)),
            program(gate(Ruleset((), None)), Members(ONE)),
            program(gate(OPEN)),
        ]
        assert len({digest(p) for p in [base, *others]}) == 7
        assert digest(base) == digest(program(gate(FROM_CLIENTS), Members(frozenset(ONE))))


def test_further_names_are_dispatched_beside_the_number() -> None:
    """An interface that is away: by its number if that comes back, and by each name that it had."""
    away = GateRequest("net1", 7, "c0ffee net1", FROM_CLIENTS, names=("net1", "pod37cd"))
    other = GateRequest("net2", 8, "decade net2", FROM_CLIENTS)
    held = Members()
    both = make_program([away, other], lambda _: held, True)
    found = dispatches(both)
    assert {(entry.key.ifname, entry.interface) for entry in found} == {
        ("net1", 7),
        ("net1", "net1"),
        ("net1", "pod37cd"),
        ("net2", 8),
    }
    back = msgspec.structs.replace(away, names=())
    plan = make_plan(make_program([back, other], lambda _: held, True), both)
    assert {entry.interface for entry in plan.dispatch_removed} == {"net1", "pod37cd"}
    assert (plan.chains, plan.dispatch_added) == ((), ())
