"""Own tables: keys that nobody knows, in specs, subjects, rules and ports (C12); those in peers are there.

In: nothing. Out: CASES. s is the governed pod, or all are.
"""

from tests.lab.objects import Object
from tests.semantics.case import Case, Plan, label, pod, pods, policy, tcp

S, A, B = pod("s", 10), pod("a", 11), pod("b", 12)
FRONT: Object = {"tier": "front"}
EXISTS: Object = {"key": "tier", "operator": "Exists"}
FROM_A, TO_A = [{"from": [pods("a")]}], [{"to": [pods("a")]}]
SHUT = "a>s no; s>a,b no"
SHUT_IN = "a,b>s:tcp/80,tcp/5555,icmp no; s>a yes"
BOTH = ["Ingress", "Egress"]


def _spec(name: str, spec: Object, probes: str, proves: str = "C12") -> Case:
    return Case(name, proves, (S, A, B), lambda _: [policy("p", spec)], probes)


def _raw(name: str, raw: Object, probes: str) -> Case:
    return Case(name, "A4, B1, C12", (S, A, B), lambda _: [raw], probes)


def _without_subject(spec: Object) -> Object:
    raw = policy("p", spec)
    del raw["spec"]["podSelector"]
    return raw


SPECS = (
    _spec("misspelt egress", {"egres": TO_A}, SHUT, "B1, C12"),
    _spec("misspelt types", {"policyType": ["Egress"]}, SHUT, "B1, C12"),
    _spec("only unknown types and no rules", {"policyTypes": ["egress"]}, SHUT, "B1, C12"),
    _spec("types that are a string", {"policyTypes": "Egress"}, SHUT, "B1, C12"),
    _spec("misspelt ingress with types", {"policyTypes": ["Ingress"], "ingres": FROM_A}, "a>s no; s>a yes"),
    _spec(
        "misspelt egress beside ingress",
        {"policyTypes": BOTH, "ingress": FROM_A, "egres": TO_A},
        "a>s yes; b>s no; s>a,b no",
    ),
    _raw(
        "egress beside the spec",
        {**policy("p", {"ingress": FROM_A}), "egress": TO_A},
        "a>s yes; b>s no; s>a,b no",
    ),
)


def _subject(name: str, selector: Object, governed: str, free: str) -> Case:
    """All pods are denied already or not; the selector is to isolate, and to allow nothing."""
    front, back = pod("f", 21, labels={"tier": "front", "env": "prod"}), pod("k", 22, labels={"tier": "back"})
    denied = pod("d", 23, labels=FRONT)

    def policies(_: Plan) -> list[Object]:
        spec = {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [{}]}
        return [policy("deny", {"podSelector": label("d"), "policyTypes": ["Ingress"]}), policy("p", spec)]

    lines = [f"a>{key} no" for key in governed.split()] + [f"a>{key} yes" for key in free.split()]
    return Case(name, "A4, C12", (A, front, back, denied), policies, ";".join(lines))


SUBJECTS = (
    _subject("misspelt matchLabels", {"matchLabel": FRONT}, "f k d", ""),
    _subject("misspelt expressions", {"matchLabels": FRONT, "matchExpresions": [{**EXISTS}]}, "f d", "k"),
    _subject(
        "an unknown key in an expression of the subject",
        {"matchLabels": FRONT, "matchExpressions": [{**EXISTS, "value": "back"}]},
        "f d",
        "k",
    ),
    _raw(
        "misspelt subject",
        _without_subject({"policyTypes": BOTH, "podSelctor": label("s"), "ingress": [{}], "egress": [{}]}),
        "a,b>s no; s>a,b no; a>b no",
    ),
)

RULES = (
    _spec("misspelt from", {"ingress": [{"froms": [pods("a")], "ports": tcp(80)}]}, SHUT_IN),
    _spec("misspelt from alone", {"ingress": [{"form": [pods("a")]}]}, SHUT_IN),
    _spec("misspelt ports", {"ingress": [{**FROM_A[0], "port": tcp(80)}]}, SHUT_IN),
    _spec("to inside ingress", {"ingress": TO_A}, SHUT_IN),
    _spec("from inside egress", {"policyTypes": ["Egress"], "egress": FROM_A}, "s>a,b no; a>s yes"),
    _spec(
        "misspelt rule beside a good one", {"ingress": [{"form": [pods("b")]}, *FROM_A]}, "a>s yes; b>s no"
    ),
)

NOT_80 = "a>s:tcp/80,udp/80,tcp/5555,icmp no"
PORTS = (
    _spec("misspelt port", {"ingress": [{"ports": [{"protocol": "TCP", "prot": 80}]}]}, NOT_80),
    _spec("misspelt endPort", {"ingress": [{"ports": [{"port": 80, "endport": 90}]}]}, NOT_80),
    _spec(
        "misspelt port beside a good one",
        {"ingress": [{"ports": [{"protocol": "UDP", "prot": 80}, *tcp(80)]}]},
        "a>s:tcp/80 yes; a>s:tcp/81,udp/80 no",
    ),
)

CASES: tuple[Case, ...] = (*SPECS, *SUBJECTS, *RULES, *PORTS)
