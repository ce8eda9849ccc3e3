"""Policies that conf/crd.yaml takes or refuses, and what the refusal must name.

In: nothing. Out: ROWS. A refused row names the field (a cause of the answer has it as its field, or begins
its message with it) and a part of the message. The daemon must agree: it reports a problem for each refused
spec, and none for an accepted one, unless the row says why it does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.semantics import Plan
from tests.semantics.upstream import CASES as UPSTREAM

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """field and message: of a refusal; none: accepted. daemon: why it reports what the schema takes.

    mistyped: upstream's schema refuses it, too, or prunes it, so that no object like it is stored anywhere.
    """

    name: str
    spec: Spec
    field: str = ""
    message: str = ""
    daemon: str = ""
    mistyped: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def accepted(self) -> bool:
        """Whether the schema takes it."""
        return not self.field


NAME = "should match '^(?<port_name__or_number_without_quotes>"
KEY = "should match '^(?<label_key>"
VALUE = "should match '^(?<label_value>"
INSIDE = "must lie inside cidr, and be smaller"
NO_CIDR = "must be of type cidr"
EMPTY = "an empty peer: give podSelector, namespaceSelector or ipBlock"
ALONE = "ipBlock stands alone"
NUMERIC = "endPort needs a numeric port"
LESS = "endPort must not be less than port"
NEEDS = "need at least one value"
NONE = "take no values"
PROTOCOLS = 'supported values: "TCP", "UDP", "SCTP"'
OPERATORS = 'supported values: "In", "NotIn", "Exists", "DoesNotExist"'
ONLY = 'supported values: "only the keys '
SELECTOR_KEYS = f"{ONLY}matchLabels, matchExpressions"
DIRECTIONS = 'supported values: "Ingress", "Egress"'

ALL_PODS: dict[str, Any] = {"podSelector": {}}
TEN = {"ipBlock": {"cidr": "10.0.0.0/8"}}


def come(*peers: Any) -> Spec:
    return {**ALL_PODS, "ingress": [{"from": list(peers)}]}


def go(*peers: Any) -> Spec:
    return {**ALL_PODS, "policyTypes": ["Egress"], "egress": [{"to": list(peers)}]}


def ports(*items: Any) -> Spec:
    return {**ALL_PODS, "ingress": [{"ports": list(items)}]}


def block(cidr: Any, *excepts: Any) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def subject(**selector: Any) -> Spec:
    return {"podSelector": selector, "ingress": [{}]}


def labelled(key: str, value: Any = "x") -> Spec:
    return subject(matchLabels={key: value})


def needs(key: Any, operator: Any, *values: Any) -> dict[str, Any]:
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def requires(*args: Any) -> Spec:
    return subject(matchExpressions=[needs(*args)])


def ten(third: int) -> str:
    return f"10.0.{third}.0/24"


def far_out(rule: int, peer: int, item: int) -> Spec:
    """An except outside its cidr at this place; all before it are right."""
    excepts = [f"10.1.{i}.0/24" for i in range(item)] + ["11.0.0.0/8"]
    peers = [block("10.0.0.0/8", "10.2.0.0/16")] * peer + [block("10.0.0.0/8", *excepts)]
    return {"ingress": [{"from": [TEN]}] * rule + [{"from": peers}]}


def _peers() -> Iterator[Row]:
    first, to = "spec.ingress[0].from[0]", "spec.egress[0].to[0]"
    yield Row("no peers", come())
    yield Row("no list of peers", {**ALL_PODS, "ingress": [{}]})
    yield Row("a pod selector", come({"podSelector": {"matchLabels": {"a": "b"}}}))
    yield Row("all pods of all namespaces", come({"podSelector": {}, "namespaceSelector": {}}))
    yield Row("a namespace selector, out", go({"namespaceSelector": {}}))
    yield Row("an empty peer", come({}), first, EMPTY)
    yield Row("an empty peer, out", go(TEN, {}), "spec.egress[0].to[1]", EMPTY)
    yield Row("a peer of null", come({"podSelector": None}), first, EMPTY)
    yield Row("a peer that is a string", come("10.0.0.0/8"), first, "type object", mistyped=True)
    yield Row("a peer that is null", come(None), first, "type object", mistyped=True)
    beside = {"podSelector": {}, **TEN}
    yield Row("a block beside pods", come(beside), first, ALONE)
    yield Row("a block beside namespaces, out", go({"namespaceSelector": {}, **TEN}), to, ALONE)
    yield Row("a block beside a selector, third", come(TEN, TEN, beside), "spec.ingress[0].from[2]", ALONE)
    peers = "spec.ingress[0].from"
    yield Row("peers that are an object", {"ingress": [{"from": TEN}]}, peers, "type array", mistyped=True)


def _misspelt() -> Iterator[Row]:
    """Unknown keys, at each place where an object stands."""
    rule, out = "spec.ingress[0]", "spec.egress[0]"
    peer, port, first = f"{rule}.from[0]", f"{rule}.ports[0]", "spec.podSelector.matchExpressions[0]"
    peer_keys = f"{ONLY}podSelector, namespaceSelector, ipBlock"
    exists = needs("a", "Exists")
    for name, spec, field, keys in (
        ("egress", {"egres": [{}]}, "spec", f"{ONLY}podSelector, policyTypes, ingress, egress"),
        ("egress beside the rest", {**go(), "ingres": []}, "spec", f"{ONLY}podSelector, policyTypes"),
        ("types", {"PolicyTypes": ["Egress"]}, "spec", f"{ONLY}podSelector, policyTypes"),
        ("from", {"ingress": [{"froms": [TEN]}]}, rule, f"{ONLY}from, ports"),
        ("from beside ports", {"ingress": [{"form": [TEN], "ports": []}]}, rule, f"{ONLY}from, ports"),
        ("from inside egress", {"egress": [{"from": [TEN]}]}, out, f"{ONLY}to, ports"),
        ("to inside ingress", {"ingress": [{"to": [TEN], "ports": []}]}, rule, f"{ONLY}from, ports"),
        ("peer", come({"ipBlok": {"cidr": "10.0.0.0/8"}}), peer, peer_keys),
        ("peer beside a good one", come({**TEN, "podSelectr": {}}), peer, peer_keys),
        ("podSelector", come({"namespaceSelector": {}, "podSelctor": {}}), peer, peer_keys),
        ("peer, out", go(TEN, {**TEN, "x": 1}), f"{out}.to[1]", peer_keys),
        ("except", come({"ipBlock": {**block("::/0")["ipBlock"], "excepts": []}}), f"{peer}.ipBlock", ONLY),
        (
            "except beside except",
            come({"ipBlock": {**block("::/0", "::/1")["ipBlock"], "Except": None}}),
            f"{peer}.ipBlock",
            f"{ONLY}cidr, except",
        ),
        ("port", ports({"protocol": "TCP", "prot": 80}), port, f"{ONLY}protocol, port, endPort"),
        ("endPort", ports({"port": 80, "endport": 80}), port, f"{ONLY}protocol, port, endPort"),
        ("labels", subject(matchLabel={"a": "b"}), "spec.podSelector", SELECTOR_KEYS),
        ("expressions", subject(matchLabels={}, matchExpresions=[]), "spec.podSelector", SELECTOR_KEYS),
        ("values", subject(matchExpressions=[{**exists, "valus": ["x"]}]), first, f"{ONLY}key, operator, v"),
        (
            "labels in a peer",
            come({"podSelector": {"matchLabel": {"a": "b"}}}),
            f"{peer}.podSelector",
            SELECTOR_KEYS,
        ),
        (
            "values in a peer",
            go({"namespaceSelector": {"matchExpressions": [{**exists, "value": []}]}}),
            f"{out}.to[0].namespaceSelector.matchExpressions[0]",
            f"{ONLY}key, operator, values",
        ),
    ):
        yield Row(f"misspelt {name}", spec, field, keys, mistyped=True)


def _blocks() -> Iterator[Row]:
    cidr = "spec.ingress[0].from[0].ipBlock.cidr"
    for text in ("10.1.2.3/32", "10.0.0.7/24", "0.0.0.0/0", "::/0", "2001:db8::1/64", "::ffff:0:0/95"):
        yield Row(f"block {text}", come(block(text)))
    alone = "a hint: read as a block of one"
    for text in ("10.1.2.3", "2001:db8::1"):
        yield Row(f"address {text}", come(block(text)), daemon=alone)
    mapped = "IPv4-mapped: no schema tells"
    yield Row("a mapped block", come(block("::ffff:10.0.0.1/104")), daemon=mapped)
    yield Row("a mapped address", come(block("::ffff:10.0.0.1")), daemon=mapped)
    yield Row("a long block", come(block("2001:0db8:0000:0000:0000:0000:0000:0001/128")))
    yield Row("the longest block", come(block("2001:0db8:0000:0000:0000:0000:255.255.255.255/128")))
    for text in ("010.0.0.0/8", "010.1.2.3"):
        yield Row(f"leading zeros: {text}", come(block(text)), daemon="the server reads them as decimal")
    for text in ("10.0.0.0/33", "10.0.0", "10.0.0/8", "::/129", "10.0.0.0/-1", " 10.0.0.0/8", "web", ""):
        yield Row(f"no block: {text!r}", come(block(text)), cidr, NO_CIDR)
    for text in ("10.0.0.1 ", "10.0.0.0/255.0.0.0", "fe80::1%eth0", "0x0a.0.0.1", "10.0.0.0/"):
        yield Row(f"no block: {text!r}", come(block(text)), cidr, NO_CIDR)
    yield Row("no block, out", go(TEN, block("fe80::/x")), "spec.egress[0].to[1].ipBlock.cidr", NO_CIDR)
    yield Row("a block that is a number", come(block(10)), cidr, NO_CIDR, mistyped=True)
    yield Row("a block without cidr", come({"ipBlock": {}}), cidr, "Required value", mistyped=True)


def _excepts() -> Iterator[Row]:
    cidr, excepts = "spec.ingress[0].from[0].ipBlock.cidr", "spec.ingress[0].from[0].ipBlock.except"
    yield Row("an except", come(block("10.0.0.0/8", "10.1.0.0/16")))
    yield Row("no except in the list", come({"ipBlock": {"cidr": "10.0.0.0/8", "except": []}}))
    yield Row("nested and repeated excepts", come(block("10.0.0.0/8", ten(1), ten(1), "10.0.0.0/16", ten(2))))
    yield Row("excepts with host bits", come(block("10.9.9.9/8", "10.1.2.3/16")))
    yield Row("an except of IPv6", go(block("::/0", "2001:db8::/32", "fe80::1/10")))
    yield Row("an except of one address", come(block("10.0.0.0/31", "10.0.0.1/32")))
    alone = "a hint: read as a block of one"
    yield Row("an except of an address", come(block("10.0.0.0/8", "10.1.2.3")), daemon=alone)
    yield Row(
        "an except of an address outside", come(block("10.0.0.0/8", "11.1.2.3")), daemon="no CIDR to compare"
    )
    yield Row("a later except of an address", go(block("10.0.0.0/8", ten(1), "10.1.2.3")), daemon=alone)
    halves = block("10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9")
    yield Row("excepts that cover all", come(halves), daemon="no rule adds blocks up")
    yield Row("a mapped except", come(block("::/0", "::ffff:10.0.0.1/104")), daemon="IPv4-mapped")
    yield Row("an except outside", come(block(ten(0), ten(1))), f"{excepts}[0]", INSIDE)
    yield Row("a wider except", come(block("10.1.0.0/16", "10.0.0.0/8")), f"{excepts}[0]", INSIDE)
    yield Row("an equal except", come(block(ten(0), ten(0))), f"{excepts}[0]", INSIDE)
    yield Row("an equal except, host bits", come(block(ten(0), "10.0.0.77/24")), f"{excepts}[0]", INSIDE)
    yield Row("an except of the other family", come(block("::/0", ten(0))), f"{excepts}[0]", INSIDE)
    yield Row("a second except outside", come(block(ten(0), "10.0.0.1/32", ten(1))), f"{excepts}[1]", INSIDE)
    out = "spec.egress[0].to[1].ipBlock.except"
    yield Row("an except outside, out", go(TEN, block(ten(0), ten(1))), f"{out}[0]", INSIDE)
    yield Row(
        "a later except outside, out", go(TEN, block(ten(0), "10.0.0.0/25", ten(1))), f"{out}[1]", INSIDE
    )
    yield Row("a bad except", come(block(ten(0), "10.0.0")), f"{excepts}[0]", NO_CIDR)
    yield Row(
        "a bad except, third",
        come(block(ten(0), "10.0.0.1/32", "10.0.0.2/32", "x")),
        f"{excepts}[2]",
        NO_CIDR,
    )
    yield Row("an except in a bad block", come(block("10.0.0.0/99", ten(0))), cidr, NO_CIDR)
    whole = {"ipBlock": {"cidr": ten(0), "except": "10.0.0.1/32"}}
    yield Row("excepts that are a string", come(whole), excepts, "type array", mistyped=True)
    corner = "spec.ingress[99].from[99].ipBlock.except[0]"
    yield Row("the last place where the first except is looked at", far_out(99, 99, 0), corner, INSIDE)
    corner = "spec.ingress[9].from[9].ipBlock.except[99]"
    yield Row("the last place where all excepts are looked at", far_out(9, 9, 99), corner, INSIDE)
    beyond = "outside the window that the rule's cost leaves"
    yield Row("an except outside in the 101st rule", far_out(100, 0, 0), daemon=beyond)
    yield Row("an except outside in the 101st peer", far_out(0, 100, 0), daemon=beyond)
    yield Row("the 101st except outside", far_out(0, 0, 100), daemon=beyond)


def _ports() -> Iterator[Row]:
    first = "spec.ingress[0].ports[0]"
    port, protocol, end = (f"{first}.{part}" for part in ("port", "protocol", "endPort"))
    yield Row("no ports", ports())
    yield Row("a port of nothing", ports({}))
    yield Row("a port of null", ports({"port": None}))
    for item in ({"port": 1}, {"port": 65535}, {"protocol": "UDP"}, {"protocol": "SCTP", "port": 80}):
        yield Row(f"port {item}", ports(item))
    for name in ("http", "a", "5g", "x-1-y", "123456789012-ab"):
        yield Row(f"port name {name}", ports({"port": name}))
    for number, message in (
        (0, "greater than or equal to 1"),
        (-1, "greater"),
        (65536, "less than or equal"),
    ):
        yield Row(f"port {number}", ports({"port": number}), port, message)
    yield Row(
        "port 70000, second", ports({"port": 1}, {"port": 70000}), "spec.ingress[0].ports[1].port", "65535"
    )
    for name in ("80", "HTTP", "a--b", "-a", "a-", "a_b", "", "a b", "http\n"):
        yield Row(f"no port name: {name!r}", ports({"port": name}), port, NAME)
    yield Row("a long port name", ports({"port": "a" * 16}), port, "may not be more than 15")
    yield Row("a port with a fraction", ports({"port": 80.5}), port, "type integer,string", mistyped=True)
    yield Row("a port that is true", ports({"port": True}), port, "type integer,string", mistyped=True)
    for word in ("ICMP", "tcp", "", "6"):
        yield Row(f"protocol {word!r}", ports({"protocol": word}), protocol, PROTOCOLS)
    yield Row("a protocol that is a number", ports({"protocol": 6}), protocol, "type string", mistyped=True)
    yield Row("a range", ports({"port": 5000, "endPort": 5900, "protocol": "UDP"}))
    yield Row("a range of one", ports({"port": 5000, "endPort": 5000}))
    yield Row("a range, out", {**ALL_PODS, "egress": [{"ports": [{"port": 1, "endPort": 65535}]}]})
    yield Row("a range without a beginning", ports({"endPort": 90}), end, NUMERIC)
    yield Row("a range that begins at a name", ports({"port": "http", "endPort": 90}), end, NUMERIC)
    yield Row("a range backwards", ports({"port": 90, "endPort": 80}), end, LESS)
    backwards: list[Any] = [{"ports": [{"port": 1}]}] * 99 + [
        {"ports": [{"port": 1}] * 99 + [{"port": 9, "endPort": 8}]}
    ]
    corner = "spec.egress[99].ports[99].endPort"
    yield Row("the last place where ranges are compared", {"egress": backwards}, corner, LESS)
    yield Row("a range to 0", ports({"port": 1, "endPort": 0}), end, "greater than or equal to 1")
    yield Row("a range to 70000", ports({"port": 1, "endPort": 70000}), end, "less than or equal to 65535")
    yield Row("a range to a name", ports({"port": 1, "endPort": "90"}), end, "type integer", mistyped=True)


def _selectors() -> Iterator[Row]:
    first = "spec.podSelector.matchExpressions[0]"
    values = f"{first}.values"
    for key in ("a", "A_b.c-1", "example.com/a", "a" * 63, "x" * 63 + "." + "y" * 63 + "/a"):
        yield Row(f"label key {key}", labelled(key))
        yield Row(f"required key {key}", requires(key, "Exists"))
    for value in ("", "a", "A_b.c-1", "1" * 63):
        yield Row(f"label value {value!r}", labelled("a", value))
    for operator, good, bad, message in (
        ("In", ["x", ""], [], NEEDS),
        ("NotIn", ["x"], [], NEEDS),
        ("Exists", [], ["x"], NONE),
        ("DoesNotExist", [], [""], NONE),
    ):
        yield Row(operator, requires("a", operator, *good))
        yield Row(f"{operator} with {bad}", requires("a", operator, *bad), values, message)
        inner = come({"namespaceSelector": {"matchExpressions": [needs("a", operator, *bad)]}})
        path = "spec.ingress[0].from[0].namespaceSelector.matchExpressions[0].values"
        yield Row(f"{operator} with {bad} in a peer", inner, path, message)
    yield Row(
        "In with an empty list", subject(matchExpressions=[{**needs("a", "In"), "values": []}]), values, NEEDS
    )
    yield Row("Exists with an empty list", subject(matchExpressions=[{**needs("a", "Exists"), "values": []}]))
    for word in ("Equals", "in", ""):
        yield Row(f"operator {word!r}", requires("a", word, "x"), f"{first}.operator", OPERATORS)
    missing = subject(matchExpressions=[{"key": "a"}])
    yield Row("no operator", missing, f"{first}.operator", "Required value", mistyped=True)
    missing = subject(matchExpressions=[{"operator": "Exists"}])
    yield Row("no key", missing, f"{first}.key", "Required value", mistyped=True)
    for key in ("a b", "", "-a", "a-", "a/b/c", "/a", "Example.com/a", "a..b/c", "a" * 64):
        yield Row(f"no key: {key!r}", requires(key, "Exists"), f"{first}.key", KEY)
    for value in ("a b", "-a", "a-", "a/b", "ä", "a\n"):
        yield Row(f"no value: {value!r}", labelled("a", value), "spec.podSelector.matchLabels.a", VALUE)
        yield Row(f"no required value: {value!r}", requires("a", "In", "x", value), f"{values}[1]", VALUE)
    yield Row("a long value", labelled("a", "x" * 64), "spec.podSelector.matchLabels.a", "more than 63")
    peer = go({"podSelector": {"matchLabels": {"a": "b c"}}})
    yield Row("no value, out", peer, "spec.egress[0].to[0].podSelector.matchLabels.a", VALUE)
    yield Row(
        "a number as value", labelled("a", 1), "spec.podSelector.matchLabels.a", "type string", mistyped=True
    )
    yield Row("no key of matchLabels", labelled("a b"), daemon="a schema cannot check a map's keys")
    yield Row(
        "a prefix of 254", requires("x" * 254 + "/a", "Exists"), daemon="no pattern can count over dots"
    )


def _directions() -> Iterator[Row]:
    yield Row("nothing but the subject", ALL_PODS)
    yield Row("nothing", {})
    yield Row("no subject", {"ingress": [{}]})
    yield Row("nulls", {"podSelector": None, "policyTypes": None, "ingress": None, "egress": None})
    yield Row("no types in the list", {"policyTypes": [], "egress": [{}]})
    yield Row("no rules", {"policyTypes": ["Ingress", "Egress"], "ingress": [], "egress": []})
    yield Row("a type twice", {"policyTypes": ["Ingress", "Ingress", "Egress"]})
    yield Row("an unknown type", {"policyTypes": ["Ingress", "egress"]}, "spec.policyTypes[1]", DIRECTIONS)
    types = {"policyTypes": "Ingress"}
    yield Row("types that are a string", types, "spec.policyTypes", "type array", mistyped=True)
    yield Row("rules that are an object", {"ingress": {}}, "spec.ingress", "type array", mistyped=True)
    yield Row("a rule that is null", {"ingress": [None]}, "spec.ingress[0]", "type object", mistyped=True)


def _upstream() -> Iterator[Row]:
    """What upstream's two suites apply."""
    for case in UPSTREAM:
        for raw in case.policies(Plan(4)):
            metadata = raw["metadata"]
            yield Row(f"upstream: {case} {metadata['namespace']} {metadata['name']}", raw["spec"])


ROWS = [
    *_peers(),
    *_misspelt(),
    *_blocks(),
    *_excepts(),
    *_ports(),
    *_selectors(),
    *_directions(),
    *_upstream(),
]
REFUSED = [row for row in ROWS if not row.accepted]
