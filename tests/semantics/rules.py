"""Own tables: which interfaces are governed (A), directions (B), ports (D), operator-wide rules (E6).

In: nothing. Out: CASES. s is the governed pod unless a row says more.
"""

from typing import Any

from tests.lab.objects import POLICY_FOR, Object
from tests.semantics.case import Case, Interface, Plan, Pod, label, pod, pods, policy, tcp, udp

S, A, B = pod("s", 10), pod("a", 11), pod("b", 12)
TRIO = (S, A, B)
DENY: Object = {"policyTypes": ["Ingress"]}

TWO = (Interface("default/net1", 10), Interface("default/net2", 10))
S_TWO = pod("s", interfaces=TWO)
A_TWO = pod("a", interfaces=(Interface("default/net1", 11), Interface("default/net2", 11)))


def _denied(name: str, proves: str, networks: str, probes: str, *given: Pod) -> Case:
    """A deny of everything that comes in, for what `policy-for` says."""
    return Case(name, proves, given or (S_TWO, A_TWO), lambda _: [policy("p", DENY, networks)], probes)


def _annotated(annotations: Object) -> Object:
    raw = policy("p", DENY)
    raw["metadata"]["annotations"] = annotations
    return raw


POLICY_FOR_CASES = (
    _denied("one network", "A5", "net1", "a>s@net1 no; a>s@net2 yes; s>a@net1 yes"),
    _denied("both networks", "A1", "net1,net2", "a>s@net1 no; a>s@net2 no"),
    _denied(
        "white space and empty items", "A1", " \t\n, default / net1 ,,\tnet2\n,", "a>s@net1 no; a>s@net2 no"
    ),
    _denied("bad items", "A3", "a/b/c, net1, Not_A_Name!, no-such-network", "a>s@net1 no; a>s@net2 yes"),
    _denied("unknown network only", "A3, A6", "no-such-network", "a>s@net1 yes; a>s@net2 yes"),
    _denied("network of another namespace", "A1", "other/net1", "a>s@net1 yes"),
    Case("empty annotation", "A2", TRIO, lambda _: [_annotated({POLICY_FOR: " "})], "a>s yes"),
    Case("no annotation", "A2", TRIO, lambda _: [_annotated({})], "a>s yes"),
    Case("no policy", "A6", TRIO, lambda _: [], "a>s yes; s>a yes"),
    Case(
        "other namespace",
        "A4",
        TRIO,
        lambda _: [policy("p", {"podSelector": {}, **DENY}, "default/net1", namespace="elsewhere")],
        "a>s yes; s>a yes",
        namespaces={"elsewhere": {}},
    ),
    Case(
        "attached twice",
        "A9, C5",
        (pod("s", interfaces=(Interface("default/net1", 10), Interface("default/net1", 20))), A, B),
        lambda _: [policy("p", {"ingress": [{"from": [pods("a")]}]}), policy("q", _from("s", "a"))],
        "a>s@net1 yes; a>s@net2 yes; b>s@net1 no; b>s@net2 no; s>a yes; b>a no",
    ),
    Case(
        "both addresses are peers",
        "A9, C5",
        (S, A, pod("t", interfaces=(Interface("default/net1", 30), Interface("default/net1", 31)))),
        lambda _: [policy("p", {"policyTypes": ["Egress"], "egress": [{"to": [pods("t")]}]})],
        "s>t@net1 yes; s>t@net2 yes; s>a no",
    ),
)


def _from(peer: str, subject: str) -> Object:
    return {"podSelector": label(subject), "ingress": [{"from": [pods(peer)]}]}


def _expression(key: str, operator: str, *values: str) -> Object:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def _selecting(name: str, selector: Any, governed: str, free: str, proves: str = "A4") -> Case:
    """A deny of what comes in for the pods that a selector selects; x has no labels but its name."""
    spec = {"podSelector": selector, **DENY} if selector is not None else dict(DENY)
    raw = policy("p", spec)
    if selector is None:
        del raw["spec"]["podSelector"]
    lines = [f"a>{key} no" for key in governed.split()] + [f"a>{key} yes" for key in free.split()]
    front = pod("f", 21, labels={"tier": "front", "env": "prod"})
    back = pod("b", 22, labels={"tier": "back"})
    return Case(name, proves, (A, front, back, pod("x", 23)), lambda _: [raw], ";".join(lines))


SELECTORS = (
    _selecting("selects all", {}, "f b x", ""),
    _selecting("podSelector missing", None, "f b x", ""),
    _selecting("matchLabels", {"matchLabels": {"tier": "front", "env": "prod"}}, "f", "b x"),
    _selecting("matchLabels are ANDed", {"matchLabels": {"tier": "back", "env": "prod"}}, "", "f b x"),
    _selecting("In", {"matchExpressions": [_expression("tier", "In", "front", "side")]}, "f", "b x"),
    _selecting(
        "NotIn lets keys lack", {"matchExpressions": [_expression("tier", "NotIn", "front")]}, "b x", "f"
    ),
    _selecting("Exists", {"matchExpressions": [_expression("tier", "Exists")]}, "f b", "x"),
    _selecting("DoesNotExist", {"matchExpressions": [_expression("tier", "DoesNotExist")]}, "x", "f b"),
    _selecting(
        "labels and expressions",
        {"matchLabels": {"tier": "front"}, "matchExpressions": [_expression("env", "NotIn", "prod")]},
        "",
        "f b x",
    ),
    _selecting(
        "unknown operator", {"matchExpressions": [_expression("tier", "Like", "f")]}, "", "f b x", "A4"
    ),
    _selecting("In without values", {"matchExpressions": [_expression("tier", "In")]}, "", "f b x", "A4"),
)

LIFE = (
    Case(
        "hostNetwork pod is no peer",
        "A7",
        (S, A, pod("h", 14, labels={"pod": "a"}, host_network=True)),
        lambda _: [policy("p", {"ingress": [{"from": [pods("a")]}]})],
        "a>s yes; h>s no",
    ),
    Case(
        "finished pods are no peers",
        "A7",
        (
            S,
            A,
            pod("done", 14, labels={"pod": "a"}, phase="Succeeded"),
            pod("broken", 15, labels={"pod": "a"}, phase="Failed"),
        ),
        lambda _: [policy("p", {"ingress": [{"from": [pods("a")]}]})],
        "a>s yes; done,broken>s no",
    ),
    Case(
        "v1beta2 means the same",
        "A10, D3",
        TRIO,
        lambda _: [
            policy(
                "p",
                {"ingress": [{"from": [pods("a")], "ports": [{"port": 5000, "endPort": 5900}]}]},
                version="v1beta2",
            )
        ],
        "a>s:tcp/5555 yes; a>s:tcp/5901 no; b>s:tcp/5555 no; s>b:tcp/5555 yes",
    ),
)


def _typed(name: str, spec: Object, probes: str, proves: str = "B1") -> Case:
    return Case(name, proves, TRIO, lambda _: [policy("p", spec)], probes)


FROM_A, TO_A = [{"from": [pods("a")]}], [{"to": [pods("a")]}]
DIRECTIONS = (
    _typed("nothing given", {}, "a>s no; s>a yes", "B1, B4"),
    _typed("no types, egress rules", {"egress": TO_A}, "a>s no; s>a yes; s>b no"),
    _typed("no types, egress empty", {"egress": []}, "a>s no; s>a,b yes"),
    _typed("types empty", {"policyTypes": [], "ingress": FROM_A}, "a>s yes; b>s no; s>a,b yes"),
    _typed(
        "only egress, with ingress rules", {"policyTypes": ["Egress"], "ingress": FROM_A}, "b>s yes; s>a no"
    ),
    _typed(
        "only ingress, with egress rules", {"policyTypes": ["Ingress"], "egress": TO_A}, "a>s no; s>b yes"
    ),
    _typed(
        "an unknown type is ignored", {"policyTypes": ["Ingres", "Egress"], "egress": TO_A}, "b>s yes; s>b no"
    ),
    _typed("only unknown types", {"policyTypes": ["Sideways"], "egress": TO_A}, "b>s no; s>a yes; s>b no"),
    _typed("everything comes in", {"ingress": [{}]}, "a,b>s:tcp/5555,udp/5555,icmp yes", "B4, D1"),
    _typed("nothing goes out", {"policyTypes": ["Egress"], "egress": []}, "s>a,b no; a>s yes", "B4"),
    _typed(
        "everything goes out", {"policyTypes": ["Egress"], "egress": [{}]}, "s>a,b:tcp/1,icmp yes", "B4, D1"
    ),
)


def _ports(name: str, ports: list[Object], probes: str, proves: str, *given: Pod) -> Case:
    """What comes in to s on some ports."""
    return Case(name, proves, given or TRIO, lambda _: [policy("p", {"ingress": [{"ports": ports}]})], probes)


NOT_80 = "a>s:tcp/80,udp/80,tcp/5555,icmp no"


def _ranges(protocol: str, count: int) -> list[Object]:
    """Ports 10001 to 10005, 10011 to 10015, and so on."""
    first = range(10_001, 10_001 + 10 * count, 10)
    return [{"protocol": protocol, "port": port, "endPort": port + 4} for port in first]


PORTS = (
    _ports("empty list of ports", [], "a>s:tcp/1,udp/2,icmp yes", "D1"),
    _ports("TCP by default", [{"port": 80}], "a>s:tcp/80 yes; a>s:udp/80,tcp/81 no", "D2"),
    _ports("all UDP", [{"protocol": "UDP"}], "a>s:udp/1,udp/65535 yes; a>s:tcp/1,icmp no", "D2, D5"),
    _ports(
        "whole protocol wins", [{"protocol": "TCP"}, *tcp(80)], "a>s:tcp/80,tcp/81 yes; a>s:udp/80 no", "D2"
    ),
    _ports(
        "neighbours and overlaps",
        [*tcp(80, 81), {"port": 81, "endPort": 90}],
        "a>s:tcp/80,tcp/90 yes; a>s:tcp/79,tcp/91 no",
        "D3",
    ),
    _ports(
        "range to the end", [{"port": 65000, "endPort": 65535}], "a>s:tcp/65535 yes; a>s:tcp/64999 no", "D3"
    ),
    _ports("range of one", [{"port": 80, "endPort": 80}], "a>s:tcp/80 yes; a>s:tcp/81 no", "D3"),
    _ports("range backwards", [{"port": 80, "endPort": 79}], NOT_80, "D3"),
    _ports("endPort without port", [{"endPort": 80}], NOT_80, "D3, C8"),
    _ports("endPort beside a name", [{"port": "web", "endPort": 80}], NOT_80, "D3"),
    _ports("numeric string", [{"port": "80"}], NOT_80, "C8"),
    _ports("port 0", [{"port": 0}], NOT_80, "C8"),
    _ports("port too big", [{"port": 65616}], NOT_80, "C8"),
    _ports("unknown protocol", [{"protocol": "ICMP"}], NOT_80, "C8"),
    _ports(
        "bad port beside a good one", [{"port": 0}, *tcp(80)], "a>s:tcp/80 yes; a>s:tcp/81,udp/80 no", "C8"
    ),
    _ports(
        "more ranges than a rule has room for",
        [*_ranges("TCP", 1000), *_ranges("UDP", 20), *tcp(80)],
        "a>s:tcp/80,tcp/10001,tcp/10005,tcp/19991,udp/10005,udp/10195 yes;"
        "a>s:tcp/10000,tcp/10006,tcp/20001,udp/80,udp/10006,udp/10201,icmp no",
        "D2, D3",
    ),
    _ports("ports allow no ICMP", [*tcp(80), *udp(80)], "a>s:tcp/80,udp/80 yes; a>s:icmp no", "D5"),
)

NAMED_S = pod("s", 10, ports=(("web", "TCP", 8080), ("dns", "UDP", 53)), init_ports=(("side", "TCP", 9090),))
NAMED = (
    _ports(
        "named ports of the subject",
        [*tcp("web"), *udp("dns")],
        "a>s:tcp/8080,udp/53 yes; a>s:udp/8080,tcp/53,tcp/80 no",
        "D4",
        NAMED_S,
        A,
    ),
    _ports("name with another protocol", [*udp("web")], "a>s:udp/8080,tcp/8080 no", "D4", NAMED_S, A),
    _ports("name of a sidecar's port", [*tcp("side")], "a>s:tcp/9090 yes; a>s:tcp/8080 no", "D4", NAMED_S, A),
    _ports("name that nobody has", [*tcp("http")], "a>s:tcp/80,tcp/8080 no", "D4", NAMED_S, A),
    _ports(
        "name and number", [*tcp("web", 80)], "a>s:tcp/80,tcp/8080 yes; a>s:tcp/9090 no", "D4", NAMED_S, A
    ),
    _ports(
        "first of two ports of that name",
        [*tcp("web")],
        "a>s:tcp/8080 yes; a>s:tcp/9090 no",
        "D4",
        pod("s", 10, ports=(("web", "TCP", 8080),), init_ports=(("web", "TCP", 9090),)),
        A,
    ),
)


def _named_egress(name: str, peers: Any, probes: str) -> Case:
    """What goes out to `web`: x says 8080, y says 9090, z has no such name, l is no known pod."""
    rule: Object = {"ports": tcp("web")}
    given = (
        S,
        pod("x", 21, labels={"app": "web"}, ports=(("web", "TCP", 8080),)),
        pod("y", 22, labels={"app": "web"}, ports=(("web", "TCP", 9090),)),
        pod("z", 23, labels={"app": "web"}),
        pod("l", 24, listed=False),
    )

    def policies(plan: Plan) -> list[Object]:
        to = peers(plan)
        return [policy("p", {"policyTypes": ["Egress"], "egress": [rule | ({"to": to} if to else {})]})]

    return Case(name, "D4", given, policies, probes)


NAMED_EGRESS = (
    _named_egress(
        "each destination has its own number",
        lambda _: [pods("web", "app")],
        "s>x:tcp/8080 yes; s>x:tcp/9090 no; s>y:tcp/9090 yes; s>y:tcp/8080 no; s>z,l:tcp/8080,tcp/9090 no",
    ),
    _named_egress(
        "only the selected destination",
        lambda _: [pods("x")],
        "s>x:tcp/8080 yes; s>y:tcp/9090 no",
    ),
    _named_egress(
        "destinations in a block",
        lambda plan: [{"ipBlock": {"cidr": plan.net(), "except": [plan.host(22)]}}],
        "s>x:tcp/8080 yes; s>x:tcp/9090 no; s>y:tcp/9090 no; s>z,l:tcp/8080 no",
    ),
    _named_egress(
        "any destination",
        lambda _: [],
        "s>x:tcp/8080 yes; s>y:tcp/9090 yes; s>y:tcp/8080 no; s>z,l:tcp/8080,tcp/9090 no",
    ),
)


def _common(name: str, common: Object, spec: Object, probes: str) -> Case:
    return Case(name, "E6", TRIO, lambda _: [policy("p", spec)], probes, common=common)


COMMON = (
    _common(
        "common rules in both directions",
        {"ingress": [{"ports": tcp(9999)}], "egress": [{"ports": udp(53)}]},
        {"policyTypes": ["Ingress", "Egress"]},
        "a>s:tcp/9999 yes; a>s:udp/53 no; s>a:udp/53 yes; s>a:tcp/9999 no",
    ),
    _common(
        "common rules isolate nothing",
        {"ingress": [{"ports": tcp(9999)}], "egress": [{"ports": udp(53)}]},
        {"policyTypes": ["Ingress"]},
        "a>s:tcp/9999 yes; a>s:tcp/80 no; s>a:tcp/80 yes; a>b:tcp/80 yes",
    ),
    _common(
        "common ICMP",
        {"ingress": [{"ports": [{"protocol": "ICMP"}, {"protocol": "ICMPv6"}]}]},
        {"policyTypes": ["Ingress"]},
        "a>s:icmp yes; a>s:tcp/80 no",
    ),
)

CASES: tuple[Case, ...] = (
    *POLICY_FOR_CASES,
    *SELECTORS,
    *LIFE,
    *DIRECTIONS,
    *PORTS,
    *NAMED,
    *NAMED_EGRESS,
    *COMMON,
)
