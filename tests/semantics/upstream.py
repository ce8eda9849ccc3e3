"""The truth tables of the two upstream end-to-end suites, each row a case.

In: nothing. Out: CASES. s is the server, a b c d are clients, all on one network unless a row says more.
"""

from typing import Any

from tests.lab.objects import Object
from tests.semantics.case import Case, Plan, block, label, pod, pods, policy, tcp, udp

S, A, B, C = pod("s", 10), pod("a", 11), pod("b", 12), pod("c", 13)
TRIO = (S, A, B)
FOUR = (S, A, B, C)


def ingress(*rules: Any, **more: Any) -> Object:
    return {"ingress": list(rules), **more}


def egress(*rules: Any, **more: Any) -> Object:
    return {"policyTypes": ["Egress"], "egress": list(rules), **more}


def come(*peers: Object, ports: list[Object] | None = None) -> Object:
    return {"from": list(peers), **({"ports": ports} if ports else {})}


def go(*peers: Object, ports: list[Object] | None = None) -> Object:
    return {"to": list(peers), **({"ports": ports} if ports else {})}


SIMPLE = (
    Case(
        "simple ingress",
        "B1, B2, C2",
        TRIO,
        lambda _: [policy("p", ingress(come(pods("a"))))],
        "a>s yes; b>s no; s>a yes; s>b yes",
    ),
    Case(
        "ingress list",
        "B2, C2",
        FOUR,
        lambda _: [policy("p", ingress(come(pods("a")), come(pods("c")), policyTypes=["Ingress"]))],
        "a>s yes; b>s no; c>s yes; s>a,b,c yes",
    ),
    Case(
        "simple egress",
        "B1, B2, C2",
        TRIO,
        lambda _: [policy("p", egress(go(pods("a"))))],
        "a>s yes; b>s yes; s>a yes; s>b no",
    ),
    Case(
        "egress list",
        "B2, C2",
        FOUR,
        lambda _: [policy("p", egress(go(pods("a")), go(pods("c"))))],
        "a,b,c>s yes; s>a yes; s>b no; s>c yes",
    ),
    Case(
        "stacked",
        "B3",
        FOUR,
        lambda _: [policy("p1", ingress(come(pods("a")))), policy("p2", ingress(come(pods("b"))))],
        "a>s yes; b>s yes; c>s no",
    ),
)

BLOCKS_WANT = "a>s yes; b>s yes; c>s no"
BLOCKS = (
    Case(
        "ipBlock",
        "C6",
        FOUR,
        lambda plan: [policy("p", ingress(come(block(plan.host(11)), block(plan.host(12)))))],
        BLOCKS_WANT,
    ),
    Case(
        "ipBlock list",
        "C6",
        FOUR,
        lambda plan: [policy("p", ingress(come(block(plan.host(11))), come(block(plan.host(12)))))],
        BLOCKS_WANT,
    ),
    Case(
        "ipBlock stacked",
        "B3, C6",
        FOUR,
        lambda plan: [
            policy("p1", ingress(come(block(plan.host(11))))),
            policy("p2", ingress(come(block(plan.host(12))))),
        ],
        BLOCKS_WANT,
    ),
)


def _except_spec(plan: Plan) -> Object:
    peer = block(plan.net(), plan.host(13), plan.host(14))
    both = ["Ingress", "Egress"]
    return {"policyTypes": both, "ingress": [come(peer)], "egress": [go(peer)]}


PORTS = (
    Case(
        "port range",
        "C1, D3",
        (A, B),
        lambda _: [
            policy(
                "p",
                {
                    "podSelector": label("a"),
                    "policyTypes": ["Egress", "Ingress"],
                    "egress": [{"ports": [{"protocol": "TCP", "port": 5000, "endPort": 5900}]}],
                    "ingress": [{"ports": [{"protocol": "TCP", "port": 6000, "endPort": 6900}]}],
                },
            )
        ],
        "a>b:tcp/5555 yes; a>b:tcp/6666 no; b>a:tcp/5555 no; b>a:tcp/6666 yes",
    ),
    Case(
        "protocol only",
        "D2",
        (A, B),
        lambda _: [
            policy(
                "p",
                {
                    "podSelector": label("a"),
                    "policyTypes": ["Egress", "Ingress"],
                    "egress": [{"ports": [{"protocol": "TCP"}]}],
                    "ingress": [{"ports": [{"protocol": "UDP"}]}],
                },
            )
        ],
        "a>b:tcp/5555 yes; a>b:udp/5555 no; b>a:tcp/5555 no; b>a:udp/5555 yes",
    ),
    Case(
        "selector without pods",
        "C3, C4",
        (S, A, pod("x", 21, "other", network="default/net1")),
        lambda _: [policy("p", ingress(come({"namespaceSelector": label("bar", "foo")})))],
        "a>s no; x>s no; s>a yes",
        namespaces={"other": {"team": "x"}},
    ),
    Case(
        "block with except",
        "C6",
        (*FOUR, pod("d", 20)),
        lambda plan: [policy("p", _except_spec(plan))],
        "a,b,d>s yes; c>s no; s>a yes; s>c no",
    ),
)

ALLOWED = (
    S,
    pod("a", 11, labels={"role": "allowed"}),
    pod("b", 12, labels={"role": "blocked"}),
    pod("c", 13),
)
ROLE = pods("allowed", "role")
SPECIFIC = policy("p2", ingress(come(ROLE, ports=tcp(80))))

STACKED = (
    Case(
        "accept all and specific",
        "B3, C1",
        ALLOWED,
        lambda _: [policy("p1", ingress({"from": []})), SPECIFIC],
        "a,b,c>s:tcp/80,tcp/8080 yes",
    ),
    Case(
        "deny all and specific",
        "B3, B4",
        ALLOWED,
        lambda _: [policy("p1", ingress()), SPECIFIC],
        "a>s:tcp/80 yes; a>s:tcp/8080 no; b,c>s:tcp/80,tcp/8080 no",
    ),
    Case(
        "many ports",
        "C2, D2",
        (S, ALLOWED[1], ALLOWED[2], pod("c", 13, labels={"role": "allowed"})),
        lambda _: [
            policy(
                "p",
                {
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [come(ROLE, ports=[*tcp(80, 443, 22), *udp(53)])],
                    "egress": [go(ROLE, ports=tcp(80))],
                },
            )
        ],
        """a>s:tcp/80,tcp/443,tcp/22,udp/53 yes; a>s:tcp/8080 no; b>s:tcp/80 no; c>s:tcp/80 yes
        s>a:tcp/80 yes; s>b:tcp/80 no""",
    ),
    Case(
        "common rule",
        "E6",
        ALLOWED,
        lambda _: [policy("p", ingress(come(ROLE, ports=tcp(8080))))],
        """a>s:tcp/80 no; a>s:tcp/8080 yes; a>s:tcp/9999 yes
        b>s:tcp/80 no; b>s:tcp/8080 no; b>s:tcp/9999 yes""",
        common={"ingress": [{"ports": tcp(9999)}]},
    ),
)


def _mixed(_: Plan) -> list[Object]:
    staging = {"namespaceSelector": label("staging", "env")}
    both = staging | ROLE
    return [
        policy("p1", ingress(come(both)), namespace="prod"),
        policy("p2", ingress(come(ROLE, staging)), namespace="prod"),
        policy("p3", egress(go(both)), namespace="prod"),
    ]


MIXED = Case(
    "mixed selectors",
    "B3, C2, C3",
    (
        pod("s", 10, "prod"),
        pod("a", 11, "prod", labels={"role": "allowed"}),
        pod("b", 12, "prod", labels={"role": "blocked"}),
        pod("c", 13, "staging", network="prod/net1", labels={"role": "allowed"}),
        pod("d", 14, "staging", network="prod/net1", labels={"role": "blocked"}),
        pod("e", 15, "staging", network="prod/net1", labels={"role": "other"}),
    ),
    _mixed,
    "a,c,d,e>s yes; b>s no; s>c yes; s>a,b,d,e no",
    namespaces={"prod": {"env": "prod"}, "staging": {"env": "staging"}},
)


def _in_three(_: Plan) -> list[Object]:
    peer = {"namespaceSelector": label("ns-b", "kubernetes.io/metadata.name")}
    return [
        policy(
            "p",
            {
                "podSelector": label("pod-1"),
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [come(peer | pods("pod-1"))],
                "egress": [go(peer | pods("pod-2"))],
            },
            networks="net1, ns-b/net1, ns-c/net1",
            namespace="ns-a",
        )
    ]


THREE = Case(
    "three namespaces on one LAN",
    "A1, A4, C3, C5",
    tuple(
        pod(f"pod-{number}", 10 * (index + 1) + number, f"ns-{letter}", id=f"{letter}{number}")
        for index, letter in enumerate("abc")
        for number in (1, 2)
    ),
    _in_three,
    """b1>a1 yes; a1>b2 yes; a1>a2,b1,c1,c2 no; a2,b2,c1,c2>a1 no
    a2>b1,b2,c1,c2 yes; b1>a2,b2,c1,c2 yes""",
    one_lan=True,
)


def _production(_: Plan) -> list[Object]:
    both = ["Ingress", "Egress"]
    production = {"namespaceSelector": label("production", "env")}
    web = tcp(80, 443)
    specs: dict[str, Object] = {
        "frontend": {
            "policyTypes": both,
            "ingress": [come(production, ports=web)],
            "egress": [go(pods("backend"), ports=web)],
        },
        "backend": {
            "policyTypes": both,
            "ingress": [come(pods("frontend"), ports=web), come(pods("monitoring"), ports=tcp(8080))],
            "egress": [go(pods("db"), ports=tcp(3306))],
        },
        "db": {"policyTypes": both, "ingress": [come(pods("backend"), ports=tcp(3306))], "egress": []},
        "monitoring": {"policyTypes": both, "ingress": [], "egress": [go(pods("backend"), ports=tcp(8080))]},
    }
    return [
        policy(name, {"podSelector": label(name), **spec}, namespace="production")
        for name, spec in specs.items()
    ]


PRODUCTION = Case(
    "production",
    "B2, B4, C2, C3, D2",
    (
        pod("frontend", 11, "production", id="f"),
        pod("backend", 12, "production", id="b"),
        pod("db", 13, "production"),
        pod("monitoring", 14, "production", id="m"),
        pod("external", 15, "external", network="production/net1", id="ext"),
    ),
    _production,
    """f>b:tcp/80,tcp/443 yes; f>b:tcp/22 no; b>db:tcp/3306 yes; f>db:tcp/3306 no; m>b:tcp/8080 yes
    m>db:tcp/3306 no; b>ext:tcp/80 no; m>f:tcp/80 no; f>m:tcp/80,tcp/8080 no; db>b:tcp/80,tcp/8080 no
    ext>f:tcp/80,tcp/443 no; ext>b:tcp/80,tcp/8080 no""",
    namespaces={"production": {"env": "production"}, "external": {"env": "external"}},
)

CASES: tuple[Case, ...] = (*SIMPLE, *BLOCKS, *PORTS, *STACKED, MIXED, THREE, PRODUCTION)
