"""What a Ruleset looks like: how rules are united, merged, shared and left out.

proves: A1, A4, B1, B2, B3, C1, C2, C4, C5, C8, C9, D1, D2, D3, D4, E6
"""

import pytest

from daemon.model import (
    Block,
    CommonRules,
    ContainerPort,
    Operator,
    PodPeer,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.compile import compile_ruleset, governs
from daemon.policy.ruleset import OPEN, BlockSet, EndpointSet, Match, PodSet, Ruleset

pytestmark = pytest.mark.unit

NET = ("ns/net1",)
NONE = CommonRules()
APP = Selector((Requirement("app", Operator.IN, ("web",)),))
SUBJECT = Subject("ns", {"app": "web"}, (ContainerPort("web", 6, 8080), ContainerPort("dns", 17, 53)), NET)
PEER = PodPeer(None, APP)
PODS = PodSet(NET, "ns", None, APP)
LOW = Block("0.0.0.0/31", 4, ((0, 1),))
NEXT = Block("0.0.0.2/31", 4, ((2, 3),))
SAME_IN_IPV6 = Block("::2/127", 6, ((2, 3),))
EMPTY = Block("0.0.0.0/31", 4, ())
HTTP = Port(6, (80, 80))


def policy(
    name: str = "p", ingress: tuple[Rule, ...] | None = None, egress: tuple[Rule, ...] | None = None
) -> Policy:
    return Policy("ns", name, NET, Selector(), ingress, egress)


def ingress_of(*rules: Rule, subject: Subject = SUBJECT) -> list[tuple[object, object]]:
    found = compile_ruleset(subject, [policy(ingress=rules)], NONE).ingress
    assert found is not None
    return [(match.peer, match.ports) for match in found]


def egress_of(*rules: Rule) -> list[tuple[object, object]]:
    found = compile_ruleset(SUBJECT, [policy(egress=rules)], NONE).egress
    assert found is not None
    return [(match.peer, match.ports) for match in found]


RULES = [
    ("anyone, everything", Rule(None, None), [(None, None)]),
    ("nobody", Rule((), None), []),
    ("no good port", Rule(None, ()), []),
    ("a pod", Rule((PEER,), None), [(PODS, None)]),
    ("the same pod twice", Rule((PEER, PEER), None), [(PODS, None)]),
    ("blocks united", Rule((LOW, NEXT), None), [(BlockSet(((0, 3),), ()), None)]),
    ("families apart", Rule((LOW, SAME_IN_IPV6), None), [(BlockSet(((0, 1),), ((2, 3),)), None)]),
    ("empty block", Rule((EMPTY,), None), []),
    ("empty block beside a pod", Rule((EMPTY, PEER), None), [(PODS, None)]),
    ("pods before blocks", Rule((LOW, PEER), None), [(PODS, None), (BlockSet(((0, 1),), ()), None)]),
    ("one port", Rule(None, (HTTP,)), [(None, ((6, (80, 80)),))]),
    ("a whole protocol wins", Rule(None, (HTTP, Port(6))), [(None, ((6, None),))]),
    ("and wins before", Rule(None, (Port(6), HTTP)), [(None, ((6, None),))]),
    (
        "neighbours merge",
        Rule(None, (HTTP, Port(6, (81, 90)), Port(6, (85, 95)))),
        [(None, ((6, (80, 95)),))],
    ),
    (
        "protocols sorted, apart",
        Rule(None, (Port(17, (53, 53)), Port(6, (53, 53)), HTTP)),
        [(None, ((6, (53, 53)), (6, (80, 80)), (17, (53, 53))))],
    ),
]


@pytest.mark.parametrize(("name", "rule", "want"), RULES, ids=[name for name, _, _ in RULES])
def test_rule(name: str, rule: Rule, want: list[tuple[object, object]]) -> None:
    """Both directions alike; a rule that came to nothing leaves the isolation (an empty tuple, not None)."""
    assert ingress_of(rule) == want
    assert egress_of(rule) == want


def test_named_ports_of_the_subject() -> None:
    assert ingress_of(Rule((PEER,), (Port(6, name="web"), HTTP))) == [
        (PODS, ((6, (80, 80)), (6, (8080, 8080))))
    ]
    assert ingress_of(Rule(None, (Port(17, name="web"),))) == []
    assert ingress_of(Rule(None, (Port(6, name="gone"), HTTP))) == [(None, ((6, (80, 80)),))]
    assert ingress_of(Rule(None, (Port(6, name="web"), Port(6)))) == [(None, ((6, None),))]


def test_first_of_several_named_alike() -> None:
    twice = Subject("ns", {}, (ContainerPort("web", 6, 81), ContainerPort("web", 6, 80)), NET)
    assert ingress_of(Rule(None, (Port(6, name="web"),)), subject=twice) == [(None, ((6, (81, 81)),))]


@pytest.mark.parametrize(
    ("peers", "scope"),
    [(None, None), ((PEER,), PODS), ((LOW,), BlockSet(((0, 1),), ()))],
    ids=["anyone", "pods", "blocks"],
)
def test_named_ports_of_destinations(
    peers: tuple[PodPeer | Block, ...] | None, scope: PodSet | BlockSet | None
) -> None:
    named = EndpointSet(NET, scope, ((6, "web"), (17, "dns")))
    rule = Rule(peers, (Port(17, name="dns"), Port(6, name="web"), Port(6, name="web")))
    assert egress_of(rule) == [(named, None)]
    both = Rule(peers, (HTTP, Port(6, name="web"), Port(17, name="dns")))
    assert egress_of(both) == [(scope, ((6, (80, 80)),)), (named, None)]


def test_destinations_are_looked_for_on_the_policys_networks() -> None:
    """All networks that the policy names, though the subject is on one of them (D4)."""
    both = ("ns/net1", "ns/net2")
    given = Policy("ns", "p", both, Selector(), None, (Rule(None, (Port(6, name="web"),)),))
    found = compile_ruleset(SUBJECT, [given], NONE).egress
    assert found == (Match(EndpointSet(both, None, ((6, "web"),)), None, ("ns/p egress[0]",)),)


def test_equal_permissions_are_one_match_with_all_origins() -> None:
    rule = Rule((PEER,), (HTTP,))
    found = compile_ruleset(SUBJECT, [policy("a", (rule, rule)), policy("b", (rule,))], NONE)
    origins = ("ns/a ingress[0]", "ns/a ingress[1]", "ns/b ingress[0]")
    assert found == Ruleset(ingress=(Match(PODS, ((6, (80, 80)),), origins),))


def test_origin_counts_left_out_rules() -> None:
    found = compile_ruleset(SUBJECT, [policy("a", (Rule((), None), Rule(None, None)))], NONE)
    assert found.ingress == (Match(None, None, ("ns/a ingress[1]",)),)


def test_no_policy_is_open() -> None:
    assert compile_ruleset(SUBJECT, [], CommonRules((Rule(None, None),), ())) == OPEN


def test_directions_do_not_touch() -> None:
    assert compile_ruleset(SUBJECT, [policy("a", ingress=())], NONE) == Ruleset(ingress=(), egress=None)
    assert compile_ruleset(SUBJECT, [policy("a", egress=())], NONE) == Ruleset(ingress=None, egress=())


def test_common_rules_where_isolated() -> None:
    common = CommonRules((Rule((LOW,), (Port(1), Port(58))),), (Rule(None, (Port(6, name="web"),)),))
    found = compile_ruleset(SUBJECT, [policy("a", ingress=(), egress=())], common)
    assert found.ingress == (
        Match(BlockSet(((0, 1),), ()), ((1, None), (58, None)), ("commonRules ingress[0]",)),
    )
    named = EndpointSet(NET, None, ((6, "web"),))
    assert found.egress == (Match(named, None, ("commonRules egress[0]",)),)
    only = compile_ruleset(SUBJECT, [policy("a", ingress=())], common)
    assert only.egress is None


def test_selected_namespaces_are_everywhere() -> None:
    """Equal sets of two policies' namespaces are equal values; those of the own namespace are not."""
    anywhere = Rule((PodPeer(APP, APP),), None)
    assert ingress_of(anywhere) == [(PodSet(NET, "", APP, APP), None)]


GOVERNS = [
    ("the pod", policy(), "ns", {}, NET, True),
    ("another namespace", policy(), "other", {}, NET, False),
    ("another network", policy(), "ns", {}, ("ns/net2",), False),
    ("one of the candidates", policy(), "ns", {}, ("ns/net2", "ns/net1"), True),
    ("no network", policy(), "ns", {}, (), False),
    ("names no network", Policy("ns", "p", (), Selector(), (), None), "ns", {}, NET, False),
    ("malformed selector", Policy("ns", "p", NET, None, (), None), "ns", {}, NET, False),
    ("selected", Policy("ns", "p", NET, APP, (), None), "ns", {"app": "web"}, NET, True),
    ("not selected", Policy("ns", "p", NET, APP, (), None), "ns", {}, NET, False),
]


@pytest.mark.parametrize("case", GOVERNS, ids=[case[0] for case in GOVERNS])
def test_governs(case: tuple[str, Policy, str, dict[str, str], tuple[str, ...], bool]) -> None:
    _, given, namespace, labels, networks, want = case
    assert governs(given, namespace, labels, networks) is want
