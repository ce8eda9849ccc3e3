"""Own tables: peers (C).

In: nothing. Out: CASES. s is the governed pod; a and b are in its namespace, x and y in another one.
"""

from collections.abc import Callable
from typing import Any

from tests.lab.objects import Object
from tests.semantics.case import Case, Interface, Plan, Pod, block, label, pod, pods, policy, tcp

S, A, B = pod("s", 10), pod("a", 11), pod("b", 12)
X = pod("x", 21, "other", network="default/net1")
Y = pod("y", 22, "other", network="default/net1", labels={"pod": "a"})
EVERYONE = (S, A, B, X, Y)
OTHER = {"other": {"team": "blue"}, "default": {"team": "red"}}


def _from(
    name: str,
    proves: str,
    peers: Callable[[Plan], list[Any]],
    yes: str,
    no: str,
    given: tuple[Pod, ...] = EVERYONE,
) -> Case:
    """Who reaches s when these are the peers, and whom s reaches: the same, asked in the other direction."""

    def policies(plan: Plan) -> list[Object]:
        both = ["Ingress", "Egress"]
        return [
            policy(
                "p",
                {"policyTypes": both, "ingress": [{"from": peers(plan)}], "egress": [{"to": peers(plan)}]},
            )
        ]

    lines = [f"{key}>s yes;s>{key} yes" for key in yes.split()] + [
        f"{key}>s no;s>{key} no" for key in no.split()
    ]
    return Case(name, proves, given, policies, ";".join(lines), namespaces=OTHER)


SELECTORS = (
    _from("empty list is anyone", "C1", lambda _: [], "a b x y", ""),
    _from("pods of the own namespace", "C2", lambda _: [pods("a")], "a", "b x y"),
    _from("all pods of the own namespace", "C2, C3", lambda _: [{"podSelector": {}}], "a b", "x y"),
    _from(
        "all pods of a namespace",
        "C3",
        lambda _: [{"namespaceSelector": label("blue", "team")}],
        "x y",
        "a b",
    ),
    _from("all pods of all namespaces", "C3", lambda _: [{"namespaceSelector": {}}], "a b x y", ""),
    _from(
        "namespace by name",
        "C3",
        lambda _: [{"namespaceSelector": label("other", "kubernetes.io/metadata.name")}],
        "x y",
        "a b",
    ),
    _from(
        "namespace and pod",
        "C3",
        lambda _: [{"namespaceSelector": label("blue", "team"), "podSelector": label("a")}],
        "y",
        "a b x",
    ),
    _from(
        "namespace or pod",
        "C3",
        lambda _: [{"namespaceSelector": label("blue", "team")}, {"podSelector": label("a")}],
        "a x y",
        "b",
    ),
    _from("all namespaces and a pod", "C3", lambda _: [{"namespaceSelector": {}, **pods("a")}], "a y", "b x"),
    _from("selects nobody", "C4", lambda _: [pods("nobody")], "", "a b x y"),
    _from(
        "an address that is no pod",
        "C3",
        lambda _: [{"namespaceSelector": {}}],
        "a",
        "l",
        (S, A, pod("l", 24, listed=False)),
    ),
)

NETWORKS = (
    Case(
        "only addresses on networks that are named",
        "C5",
        (
            pod("s", interfaces=(Interface("default/net1", 10),)),
            pod("t", interfaces=(Interface("default/net2", 31),)),
            A,
        ),
        lambda _: [policy("p", {"ingress": [{"from": [{"podSelector": {}}]}]})],
        "a>s yes; t>s no",
        one_lan=True,
    ),
    Case(
        "addresses on any network that is named",
        "A1, C5",
        (
            pod("s", interfaces=(Interface("default/net1", 10),)),
            pod("t", interfaces=(Interface("default/net2", 31),)),
            A,
        ),
        lambda _: [policy("p", {"ingress": [{"from": [pods("t")]}]}, "net1,net2")],
        "a>s no; t>s yes",
        one_lan=True,
    ),
    Case(
        "no pods, but ports",
        "C4",
        (S, A),
        lambda _: [policy("p", {"ingress": [{"from": [pods("nobody")], "ports": tcp(80)}]})],
        "a>s:tcp/80,tcp/81 no",
    ),
)


def _halved(plan: Plan) -> Object:
    return block(plan.net(8, 8), plan.net(8, 4), plan.net(12, 4))


BLOCKS = (
    _from("one host", "C6", lambda plan: [block(plan.host(11))], "a", "b x y"),
    _from("everyone", "C6", lambda plan: [block(plan.all)], "a b x y", ""),
    _from("everyone but one", "C6", lambda plan: [block(plan.all, plan.host(12))], "a x y", "b"),
    _from(
        "except is local to its block",
        "C6",
        lambda plan: [block(plan.net(), plan.host(12)), block(plan.host(12))],
        "a b x y",
        "",
    ),
    _from(
        "nested and duplicated",
        "C6",
        lambda plan: [block(plan.net(8, 8)), block(plan.host(11)), block(plan.net(8, 8))],
        "a b",
        "x y",
    ),
    _from("neighbours", "C6", lambda plan: [block(plan.net(8, 4)), block(plan.net(12, 4))], "a b", "x y"),
    _from("host bits set", "C6", lambda plan: [block(plan.net(11, 8))], "a b", "x y"),
    _from("except with host bits set", "C6", lambda plan: [block(plan.net(), plan.net(11, 8))], "x y", "a b"),
    _from(
        "overlapping excepts",
        "C6",
        lambda plan: [block(plan.net(), plan.net(8, 8), plan.net(8, 4))],
        "x y",
        "a b",
    ),
    _from("except covers all", "C8", lambda plan: [block(plan.net(8, 8), plan.net())], "", "a b x y"),
    _from("except outside", "C8", lambda plan: [block(plan.net(8, 8), plan.host(21))], "a b", "x y"),
    _from(
        "except of the other family",
        "C8",
        lambda plan: [block(plan.net(), plan.other.net()), block(plan.host(11))],
        "a",
        "",
    ),
    _from("excepts cover all together", "C8", lambda plan: [_halved(plan)], "", "a b x y"),
    _from("one address", "C6", lambda plan: [block(plan.address(11))], "a", "b x y"),
    _from("everyone but one address", "C6", lambda plan: [block(plan.all, plan.address(12))], "a x y", "b"),
    _from("block of the other family", "C9", lambda plan: [block(plan.other.all)], "", "a b x y"),
    _from("block or pod", "C2, C6", lambda plan: [block(plan.host(21)), pods("b")], "b x", "a y"),
    _from("block beside a selector", "C7", lambda plan: [block(plan.host(21)) | pods("a")], "x", "a b y"),
)

_STRANGERS = [pods(f"nobody-{number}") for number in range(30)]
_FAR = [block("192.0.2.0/24"), block("2001:db8::/64")]
MANY = (
    _from("one of many selectors", "C2, C4", lambda _: [*_STRANGERS, pods("b")], "b", "a x y"),
    _from("none of many selectors", "C4", lambda _: _STRANGERS, "", "a b x y"),
    _from(
        "many selectors, here and elsewhere, and blocks",
        "C2, C3, C6",
        lambda plan: [
            *_STRANGERS,
            pods("a"),
            {"namespaceSelector": {}, **pods("x")},
            *_FAR,
            block(plan.host(12)),
        ],
        "a b x",
        "y",
    ),
)

NOBODY = "a b x y"
MALFORMED = (
    _from("empty peer", "C8", lambda _: [{}], "", NOBODY),
    _from("empty peer beside a good one", "C8", lambda _: [{}, pods("a")], "a", "b x y"),
    _from("misspelt peer", "C8", lambda _: [{"podSelectr": {}}], "", NOBODY),
    _from("bad CIDR", "C8", lambda _: [block("10.93.0.0/33")], "", NOBODY),
    _from("no CIDR", "C8", lambda _: [block("everything")], "", NOBODY),
    _from(
        "bad CIDR beside a good one",
        "C8",
        lambda plan: [block("nonsense"), block(plan.host(11))],
        "a",
        "b x y",
    ),
    _from("bad except", "C8", lambda plan: [block(plan.all, "nonsense")], "", NOBODY),
    _from(
        "bad operator",
        "C8",
        lambda _: [{"podSelector": {"matchExpressions": [{"key": "pod", "operator": "Is"}]}}],
        "",
        NOBODY,
    ),
    _from(
        "bad namespace selector",
        "C8",
        lambda _: [
            {"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}, **pods("a")}
        ],
        "",
        NOBODY,
    ),
)

MAPPED = "::ffff:0:0/97"
NAMED_A: Object = {"key": "pod", "operator": "In", "values": ["a"]}
STRANGE = (
    _from(
        "misspelt except",
        "C12",
        lambda plan: [{"ipBlock": {"cidr": plan.all, "excepts": [plan.host(12)]}}],
        "",
        NOBODY,
    ),
    _from(
        "misspelt except beside a good one",
        "C12",
        lambda plan: [{"ipBlock": {**block(plan.all, plan.host(12))["ipBlock"], "exept": []}}],
        "",
        NOBODY,
    ),
    _from(
        "misspelt podSelector beside namespaces",
        "C12",
        lambda _: [{"namespaceSelector": {}, "podSelctor": label("a")}],
        "",
        NOBODY,
    ),
    _from(
        "misspelt peer beside a good one",
        "C12",
        lambda plan: [{**block(plan.all), "podSelctor": label("a")}, pods("a")],
        "a",
        "b x y",
    ),
    _from(
        "misspelt expressions beside labels",
        "C12",
        lambda _: [{"podSelector": {**label("a"), "matchExpresions": [NAMED_A]}}, pods("b")],
        "b",
        "a x y",
    ),
    _from(
        "misspelt labels",
        "C12",
        lambda _: [{"namespaceSelector": {"matchLabel": {"team": "blue"}}}, pods("b")],
        "b",
        "a x y",
    ),
    _from(
        "an unknown key in an expression",
        "C12",
        lambda _: [{"podSelector": {"matchExpressions": [{**NAMED_A, "value": "b"}]}}],
        "",
        NOBODY,
    ),
    _from("mapped except", "C8", lambda plan: [block(plan.all, MAPPED), pods("a")], "a", "b x y"),
    _from("mapped block", "C8", lambda _: [block(MAPPED), pods("a")], "a", "b x y"),
)

CASES: tuple[Case, ...] = (*SELECTORS, *NETWORKS, *BLOCKS, *MANY, *MALFORMED, *STRANGE)
