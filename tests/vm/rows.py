"""The rows of the truth tables that each kernel, backend and driver has to get right, and some with SCTP.

In: the tables of tests/semantics. Out: ROWS, whose pods fit together on one LAN: a name is one pod in all of
them. The pod b is never governed, for it is a host outside the node (see `guest.lans`).
"""

from dataclasses import replace

from tests.lab.objects import Object
from tests.semantics import CASES, Case, Plan, Pod
from tests.semantics.case import block, label, pod, pods, policy, tcp

# Chosen by what they cover: selectors, named ports, ranges, default deny, both directions, policyTypes, ICMP,
# and policies that add up.
_CHOSEN = (
    "simple ingress",
    "egress list",
    "stacked",
    "port range",
    "protocol only",
    "selector without pods",
    "deny all and specific",
    "many ports",
    "named ports of the subject",
    "no types, egress rules",
    "only egress, with ingress rules",
    "nothing goes out",
    "ports allow no ICMP",
)

S, A, B, C = pod("s", 10, ports=(("ss7", "SCTP", 2905),)), pod("a", 11), pod("b", 12), pod("c", 13)
X = pod("x", 21, "other", network="default/net1")


def _sctp(*ports: int | str) -> list[Object]:
    return [{"protocol": "SCTP", "port": port} for port in ports]


def _own(name: str, proves: str, spec: Object, probes: str, *given: Pod) -> Case:
    return Case(name, proves, given or (S, A, B), lambda _: [policy("p", spec)], probes)


def _except(plan: Plan) -> list[Object]:
    peers = [block(plan.net(), plan.host(11), plan.host(12)), block(plan.host(12))]
    both = ["Ingress", "Egress"]
    return [policy("p", {"policyTypes": both, "ingress": [{"from": peers}], "egress": [{"to": peers}]})]


_OWN = (
    Case(
        "blocks with except",
        "C6",
        (S, A, B, C),
        _except,
        "b,c>s yes; a>s no; s>b,c yes; s>a no",
    ),
    replace(
        _own(
            "namespace or pod",
            "C3",
            {"ingress": [{"from": [{"namespaceSelector": label("blue", "team")}, pods("a")]}]},
            "a,x>s yes; b,c>s no",
            S,
            A,
            B,
            C,
            X,
        ),
        namespaces={"other": {"team": "blue"}},
    ),
    _own(
        "SCTP ports that come in",
        "D2, D4",
        {"ingress": [{"from": [pods("a")], "ports": [*_sctp(80, "ss7"), *tcp(81)]}]},
        "a>s:sctp/80,sctp/2905,tcp/81 yes; a>s:sctp/81,tcp/80 no; b>s:sctp/80 no",
    ),
    _own(
        "all of SCTP goes out",
        "D2",
        {"policyTypes": ["Egress"], "egress": [{"ports": [{"protocol": "SCTP"}]}]},
        "s>a,b:sctp/80 yes; s>a,b:tcp/80,udp/80 no; a>s:sctp/80 yes",
    ),
    _own(
        "a range of SCTP",
        "D3",
        {"ingress": [{"ports": [{"protocol": "SCTP", "port": 80, "endPort": 90}]}]},
        "a,b>s:sctp/80,sctp/90 yes; a,b>s:sctp/79,sctp/91,tcp/80 no",
    ),
    _own(
        "each destination has its own number",
        "D4",
        {"policyTypes": ["Egress"], "egress": [{"to": [{"podSelector": {}}], "ports": tcp("web")}]},
        "s>a:tcp/8080 yes; s>a:tcp/9090 no; s>b:tcp/9090 yes; s>b:tcp/8080 no",
        S,
        replace(A, ports=(("web", "TCP", 8080),)),
        replace(B, ports=(("web", "TCP", 9090),)),
    ),
)

_BY_NAME = {case.name: case for case in CASES}
ROWS: tuple[Case, ...] = (*(_BY_NAME[name] for name in _CHOSEN), *_OWN)


def all_pods() -> tuple[Pod, ...]:
    """Every pod of every row, without what rows say differently of it."""
    found: dict[str, Pod] = {}
    for one in (one for row in ROWS for one in row.pods):
        plain = Pod(one.name, one.interfaces, one.namespace)
        if found.setdefault(one.key, plain) != plain:
            raise ValueError(f"two pods are called {one.key}")
    return tuple(found.values())
