"""Peers, blocks, ports, bounds, common rules; a malformed one matches nothing and is reported.

proves: C1, C2, C3, C6, C7, C8, C9, C12, D1, D2, D3, E6
"""

import difflib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.decode import decode_common_rules
from daemon.decode import fields as fields_module
from daemon.decode.blocks import parse_cidr
from daemon.model import (
    Block,
    PodPeer,
    Port,
    Problem,
    Rule,
    Span,
)
from tests.unit.decoding import A_IS_1, ALL, fields, policy, selector

# --- peers (C1 to C8) ------------------------------------------------------------------------------------


def block(text: str, *spans: Span, family: int = 4) -> Block:
    return Block(text, family, spans)


TEN = (10 << 24, (11 << 24) - 1)
TEN_1_2_3 = (10 << 24) + (1 << 16) + (2 << 8) + 3
PEERS: list[tuple[Any, tuple[Any, ...], list[str]]] = [
    ({"podSelector": {}}, (PodPeer(None, ALL),), []),
    ({"namespaceSelector": {}}, (PodPeer(ALL, ALL),), []),
    ({"namespaceSelector": {}, "podSelector": None}, (PodPeer(ALL, ALL),), []),
    (
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "1"}}},
        (PodPeer(ALL, selector(A_IS_1)),),
        [],
    ),
    ({}, (), [""]),
    ({"podSelector": None}, (), [""]),
    ({"podSelectr": {}}, (), [".podSelectr"]),
    ({"namespaceSelector": {}, "podSelctor": {"matchLabels": {"a": "1"}}}, (), [".podSelctor"]),
    ({"ipBlock": {"cidr": "10.0.0.0/8"}, "Except": []}, (), [".Except"]),
    ({"podSelector": {"matchLabel": {"a": "1"}}}, (), [".podSelector.matchLabel"]),
    ({"podSelector": {"matchLabels": {}, "x": 1}}, (), [".podSelector.x"]),
    (
        {"namespaceSelector": {"matchLabels": {}, "matchExpresions": []}},
        (),
        [".namespaceSelector.matchExpresions"],
    ),
    (
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "valus": ["b"]}]}},
        (),
        [".podSelector.matchExpressions[0].valus"],
    ),
    ({"ipBlock": {"cidr": "10.0.0.0/8"}}, (block("10.0.0.0/8", TEN),), []),
    ({"ipBlock": {"cidr": "10.1.2.3/8"}}, (block("10.1.2.3/8", TEN),), []),
    ({"ipBlock": {"cidr": "0.0.0.0/0"}}, (block("0.0.0.0/0", (0, 2**32 - 1)),), []),
    ({"ipBlock": {"cidr": "::/0"}}, (block("::/0", (0, 2**128 - 1), family=6),), []),
    ({"ipBlock": {"cidr": "::1/128", "except": []}}, (block("::1/128", (1, 1), family=6),), []),
    ({"ipBlock": {"cidr": "10.0.0.0/8", "except": None}}, (block("10.0.0.0/8", TEN),), []),
    ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, (block("10.0.0.0/8", TEN),), [""]),
    ({"ipBlock": {"cidr": "x"}, "podSelector": {}}, (), ["", ".ipBlock.cidr"]),
    ({"ipBlock": {}}, (), [".ipBlock.cidr"]),
    ({"ipBlock": {"cidr": 5}}, (), [".ipBlock.cidr"]),
    ({"ipBlock": "10.0.0.0/8"}, (), [".ipBlock"]),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "xcept": ["10.0.0.0/9"]}},
        (),
        [".ipBlock.xcept"],
    ),
    ({"ipBlock": {"cidr": "10.1.2.3"}}, (block("10.1.2.3/32", (TEN_1_2_3, TEN_1_2_3)),), [".ipBlock.cidr"]),
    ({"ipBlock": {"cidr": "::1"}}, (block("::1/128", (1, 1), family=6),), [".ipBlock.cidr"]),
    (
        {"ipBlock": {"cidr": "10.1.2.2/31", "except": ["10.1.2.2"]}},
        (block("10.1.2.2/31 except 10.1.2.2/32", (TEN_1_2_3, TEN_1_2_3)),),
        [".ipBlock.except[0]"],
    ),
    ({"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}, (), [".ipBlock.cidr"]),
    ({"ipBlock": {"cidr": "::ffff:10.1.2.3"}}, (), [".ipBlock.cidr"]),
    ({"ipBlock": {"cidr": "0.0.0.0/0", "except": ["::FFFF:a00:0/104"]}}, (), [".ipBlock.except[0]"]),
    (
        {"ipBlock": {"cidr": "::/64", "except": ["::fffe:0:0/95"]}},
        (block("::/64 except ::fffe:0:0/95", (0, 0xFFFE00000000 - 1), (1 << 48, 2**64 - 1), family=6),),
        [],
    ),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "10.128.0.0/9"]}},
        (block("10.0.0.0/8 except 10.0.0.0/9, 10.128.0.0/9"),),
        [".ipBlock.except"],
    ),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "10.128.0.0/9", "10.0.0.0/8"]}},
        (block("10.0.0.0/8 except 10.0.0.0/9, 10.128.0.0/9, 10.0.0.0/8"),),
        [".ipBlock.except[2]"],
    ),
    ({"ipBlock": {"cidr": "10.0.0.0/8", "except": "10.0.0.0/9"}}, (), [".ipBlock.except"]),
    ({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/9", "x"]}}, (), [".ipBlock.except[1]"]),
    ({"ipBlock": {"cidr": "10.0.0.0/8", "except": [None]}}, (), [".ipBlock.except[0]"]),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.128.0.0/9"]}},
        (block("10.0.0.0/8 except 10.128.0.0/9", (10 << 24, (10 << 24) + (1 << 23) - 1)),),
        [],
    ),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}},
        (block("10.0.0.0/8 except 11.0.0.0/8", TEN),),
        [".ipBlock.except[0]"],
    ),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["::/0"]}},
        (block("10.0.0.0/8 except ::/0", TEN),),
        [".ipBlock.except[0]"],
    ),
    (
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}},
        (block("10.0.0.0/8 except 0.0.0.0/0"),),
        [".ipBlock.except[0]"],
    ),
]


@pytest.mark.parametrize(("raw", "peers", "problems"), PEERS)
@pytest.mark.parametrize(("direction", "key"), [("ingress", "from"), ("egress", "to")])
def test_peers(direction: str, key: str, raw: Any, peers: tuple[Any, ...], problems: list[str]) -> None:
    found = policy({"policyTypes": [direction.title()], direction: [{key: [raw]}]})
    assert (found.ingress or found.egress) == (Rule(peers, None),)
    assert fields(found) == [f"spec.{direction}[0].{key}[0]{field}" for field in problems]


NO_CIDRS = [
    ("", ""),
    ("/", "length is missing"),
    ("10.0.0.0/", "length is missing"),
    ("10.0.0.0/33", "at most 32"),
    ("10.0.0.0/-1", ""),
    ("10.0.0.0/+8", ""),
    ("10.0.0.0/8 ", "white space"),
    (" 10.0.0.0/8", "white space"),
    ("10.0.0.1\n", "white space"),
    ("10.0.0.0/8/8", ""),
    ("10.0.0/8", ""),
    ("10.0.0", ""),
    ("10.0.0.256/8", ""),
    ("010.0.0.1/8", "leading zeros"),
    ("10.0.0.01", "leading zeros"),
    ("0x0a.0.0.1/8", "hex"),
    ("10.0.0.0/255.0.0.0", "in place of the mask"),
    ("10.0.0.0/٨", ""),
    ("::/129", "at most 128"),
    ("fe80::1%eth0/64", "zone"),
    ("fe80::1%eth0", "zone"),
    ("[fe80::1]", ""),
    ("10.0.0.1:80", ""),
    ("1:2:3/64", ""),
    ("host/8", ""),
    ("10.0.0.0\0/8", ""),
    ("10.0.0.0\0", ""),
    ("10.0.0.0/1000", "at most 32"),
    ("1" * 1_000_000, ""),
]


@pytest.mark.parametrize(("text", "why"), NO_CIDRS, ids=lambda text: repr(text)[:20])
def test_what_is_no_cidr_matches_nothing(text: str, why: str) -> None:
    with pytest.raises(ValueError, match="is no CIDR") as caught:
        parse_cidr(text)
    assert why in str(caught.value)
    assert bool(why) == (": " in str(caught.value).removeprefix(f"{text!r} "))
    assert len(str(caught.value)) < 250
    found = policy({"ingress": [{"from": [{"ipBlock": {"cidr": text}}]}]})
    assert found.ingress == (Rule((), None),)
    assert fields(found) == ["spec.ingress[0].from[0].ipBlock.cidr"]
    found = policy({"ingress": [{"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [text]}}]}]})
    assert found.ingress == (Rule((), None),)


def test_what_is_mapped_is_told_what_to_write() -> None:
    for text, better in (("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("0:0:0:0:0:FFFF:a01:203", "10.1.2.3/32")):
        with pytest.raises(ValueError, match=f"IPv4-mapped, and no packet is: write {better}"):
            parse_cidr(text)


@pytest.mark.parametrize(
    ("text", "block"), [("10.1.2.3", "10.1.2.3/32"), ("2001:db8::7", "2001:db8::7/128"), ("::/032", "::/32")]
)
def test_what_reads_the_same(text: str, block: str) -> None:
    assert parse_cidr(text) == parse_cidr(block)


# --- ports (D1 to D3) ------------------------------------------------------------------------------------

PORTS: list[tuple[Any, Port | None, str]] = [
    ({}, Port(6), ""),
    ({"protocol": None, "port": None}, Port(6), ""),
    ({"protocol": "UDP"}, Port(17), ""),
    ({"protocol": "SCTP", "port": 9}, Port(132, (9, 9)), ""),
    ({"port": 1}, Port(6, (1, 1)), ""),
    ({"port": 65535}, Port(6, (65535, 65535)), ""),
    ({"port": 80, "endPort": 80}, Port(6, (80, 80)), ""),
    ({"port": 80, "endPort": 90}, Port(6, (80, 90)), ""),
    ({"port": "http"}, Port(6, name="http"), ""),
    ({"port": "a-1"}, Port(6, name="a-1"), ""),
    ({"port": 0}, None, ".port"),
    ({"port": 65536}, None, ".port"),
    ({"port": -1}, None, ".port"),
    ({"port": 80.5}, None, ".port"),
    ({"port": True}, None, ".port"),
    ({"port": [80]}, None, ".port"),
    ({"port": 10**5000}, None, ".port"),
    ({"port": "80"}, None, ".port"),
    ({"port": ""}, None, ".port"),
    ({"port": "HTTP"}, None, ".port"),
    ({"port": "a--b"}, None, ".port"),
    ({"port": "-a"}, None, ".port"),
    ({"port": "a-"}, None, ".port"),
    ({"port": "a" * 16}, None, ".port"),
    ({"port": "http\n"}, None, ".port"),
    ({"endPort": 90}, None, ".endPort"),
    ({"port": 80, "endPort": 79}, None, ".endPort"),
    ({"port": 80, "endPort": 65536}, None, ".endPort"),
    ({"port": 80, "endPort": "90"}, None, ".endPort"),
    ({"port": "http", "endPort": 90}, None, ".endPort"),
    ({"protocol": "tcp"}, None, ".protocol"),
    ({"protocol": ""}, None, ".protocol"),
    ({"protocol": "ICMP"}, None, ".protocol"),
    ({"protocol": 6}, None, ".protocol"),
    ({"protocol": ["TCP"]}, None, ".protocol"),
    ({"protocol": "TCP", "prot": 80}, None, ".prot"),
    ({"port": 80, "endport": 90}, None, ".endport"),
    ({"port": 80, "x": None}, None, ".x"),
    (80, None, ""),
]


@pytest.mark.parametrize(("raw", "port", "field"), PORTS)
def test_ports(raw: Any, port: Port | None, field: str) -> None:
    found = policy({"ingress": [{"ports": [raw, {"port": 7}]}]})
    good = () if port is None else (port,)
    assert found.ingress == (Rule(None, (*good, Port(6, (7, 7)))),)
    assert fields(found) == ([] if port else [f"spec.ingress[0].ports[0]{field}"])


def test_a_port_of_unknown_fields_alone_matches_nothing() -> None:
    found = policy({"ingress": [{"ports": [{"prot": 80}]}]})
    assert found.ingress == (Rule(None, ()),)
    assert fields(found) == ["spec.ingress[0].ports[0].prot"]


# --- bounds ----------------------------------------------------------------------------------------------


def test_too_many_items_match_nothing_and_problems_are_bounded() -> None:
    found = policy({"ingress": [{"ports": [{}] * 20_000}]})
    assert found.ingress == (Rule(None, ()),)
    found = policy({"ingress": [{"from": [{}] * 5000}]})
    assert found.ingress == (Rule((), None),)
    assert len(found.problems) == 101
    assert found.problems[-1] == Problem("", "4900 more problems")


STRANGE = [
    {"ingress": [{"from": [{f"podSelectr{i}": {}} for i in range(50_000)]}]},
    {"ingress": [{"from": [{"podSelector": {f"matchLabel{i}": {}}} for i in range(50_000)]}]},
    {"ingress": [{"ports": [{f"prot{i}": 1} for i in range(10_000)]}]},
    {"ingress": [{f"form{i}": 1} for i in range(10_000)]},
    {f"egres{i}": 1 for i in range(100_000)},
    {"podSelector": {"matchExpressions": [{f"ky{i}": 1} for i in range(50_000)]}},
]


@pytest.mark.parametrize("spec", STRANGE, ids=lambda spec: str(spec)[:40])
def test_what_was_meant_is_looked_for_a_hundred_times_at_most(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def close(word: str, known: Any, count: int) -> list[str]:
        asked.append(word)
        return difflib.get_close_matches(word, known, count)

    monkeypatch.setattr(fields_module, "get_close_matches", close)
    assert 1 <= len(policy(spec).problems) <= 101
    assert 1 <= len(asked) <= 100
    assert max(map(len, asked)) <= fields_module.MAX_WORD


def test_messages_are_bounded() -> None:
    huge = "x" * 1_000_000
    found = policy({"policyTypes": [huge, {huge: huge}], "ingress": [{"from": [{huge: {}}], huge: 1}]})
    assert sum(len(problem.field) + len(problem.message) for problem in found.problems) < 2000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["podSelector", "ipBlock", "cidr", "except", "from", "to", "ports", "port"])
            | st.sampled_from(["endPort", "protocol", "matchLabels", "matchExpressions", "key", "operator"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(json_values, json_values, json_values, json_values)
def test_whatever_stands_in_a_spec_it_decodes(one: Any, two: Any, three: Any, four: Any) -> None:
    spec = {"podSelector": one, "policyTypes": two, "ingress": three, "egress": [four]}
    assert policy(spec).ingress is not None or policy(spec).egress is not None


# --- common rules (E6) -----------------------------------------------------------------------------------


def test_common_rules() -> None:
    found, problems = decode_common_rules(
        {
            "ingress": [{"ports": [{"protocol": "ICMP"}, {"protocol": "ICMPv6"}, {"port": 9999}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"protocol": 112}]}],
        },
        "commonRules",
    )
    assert problems == ()
    assert found.ingress == (Rule(None, (Port(1), Port(58), Port(6, (9999, 9999)))),)
    assert found.egress == (Rule((block("10.0.0.0/8", TEN),), (Port(112),)),)


def test_many_hints_hide_no_fault_and_are_none() -> None:
    peers = [{"ipBlock": {"cidr": f"10.0.{i >> 8}.{i & 255}"}} for i in range(450)]
    found = policy({"ingress": [{"from": [*peers, {"ipBlock": {"cidr": "x"}}]}]})
    assert len(found.ingress[0].peers or ()) == 450 if found.ingress else False
    assert [problem.hint for problem in found.problems] == [True] * 10 + [False, True]
    assert found.problems[-1].message == "440 more hints"
    common, problems = decode_common_rules({"ingress": [{"from": peers}]}, "c")
    assert problems == ()
    assert len((common.ingress[0].peers if common.ingress else None) or ()) == 450


def test_a_hint_is_no_fault_of_common_rules() -> None:
    found, problems = decode_common_rules({"ingress": [{"from": [{"ipBlock": {"cidr": "10.1.2.3"}}]}]}, "c")
    assert problems == ()
    assert found.ingress == (Rule((block("10.1.2.3/32", (TEN_1_2_3, TEN_1_2_3)),), None),)


BAD_COMMON = [
    ([], "commonRules"),
    ({"inress": []}, "commonRules.inress"),
    ({"ingress": [{"form": []}]}, "commonRules.ingress[0].form"),
    (
        {"ingress": [{"from": [{"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}]}]},
        "commonRules.ingress[0].from[0].ipBlock.cidr",
    ),
    ({"ingress": [{"from": [{"podSelector": {}}]}]}, "commonRules.ingress[0].from[0]"),
    ({"ingress": [{"ports": [{"protocol": "GRE"}]}]}, "commonRules.ingress[0].ports[0].protocol"),
    ({"ingress": [{"ports": [{"protocol": 256}]}]}, "commonRules.ingress[0].ports[0].protocol"),
    ({"ingress": [{"ports": [{"protocol": True}]}]}, "commonRules.ingress[0].ports[0].protocol"),
    ({"ingress": [{"ports": [{"protocol": "ICMP", "port": 8}]}]}, "commonRules.ingress[0].ports[0].port"),
]


@pytest.mark.parametrize(("raw", "field"), BAD_COMMON)
def test_bad_common_rules(raw: Any, field: str) -> None:
    _, problems = decode_common_rules(raw, "commonRules")
    assert [problem.field for problem in problems] == [field]
