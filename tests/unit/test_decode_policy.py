"""Policies: networks, directions, rules, selectors; a malformed part is reported and widens nothing.

proves: A1, A2, A3, A4, B1, B4, C1, C8
"""

from typing import Any

import pytest

from daemon.decode import decode_object, keep_last_valid
from daemon.errors import DecodeError
from daemon.model import (
    Operator,
    PodPeer,
    Policy,
    Rule,
    Selector,
)
from tests.unit.decoding import A_IS_1, ALL, GOOD_PEER, POLICY_FOR, fields, needs, policy, selector

# --- networks (A1 to A3) ---------------------------------------------------------------------------------

NETWORKS = [
    ("net1", ("ns/net1",), 0),
    (" net1 ,\tother / net2\n, net1", ("ns/net1", "other/net2"), 0),
    ("ns/net1,net1", ("ns/net1",), 0),
    (",net1,, ,", ("ns/net1",), 0),
    ("a/b/c,net1", ("ns/net1",), 1),
    ("/net1,ns/,ok", ("ns/ok",), 2),
    ("UPPER, ok, Ns/x, with space", ("ns/ok",), 3),
    ("with.dot", ("ns/with.dot",), 0),
    ("", (), 1),
    (" , ", (), 1),
    (None, (), 1),
]


@pytest.mark.parametrize(("text", "networks", "problems"), NETWORKS)
def test_policy_for(text: str | None, networks: tuple[str, ...], problems: int) -> None:
    found = policy({}, text)
    assert found.networks == networks
    assert len(found.problems) == problems


def test_no_annotations_at_all_is_reported() -> None:
    raw = {"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy", "metadata": {"name": "p"}}
    found = decode_object(raw)
    assert isinstance(found, Policy)
    assert found.networks == ()
    assert [problem.field for problem in found.problems] == [f"metadata.annotations[{POLICY_FOR}]"]


def test_an_annotation_that_is_no_string_is_undecodable() -> None:
    with pytest.raises(DecodeError):
        policy({}, 5)


# --- directions (B1, B4) ---------------------------------------------------------------------------------

DIRECTIONS: list[tuple[dict[str, Any], bool, bool, int]] = [
    ({}, True, False, 0),
    ({"policyTypes": []}, True, False, 0),
    ({"policyTypes": None}, True, False, 0),
    ({"egress": []}, True, False, 0),
    ({"egress": None}, True, False, 0),
    ({"egress": [{}]}, True, True, 0),
    ({"egress": [None]}, True, True, 1),
    ({"egress": {"to": []}}, True, True, 1),
    ({"policyTypes": ["Ingress"], "egress": [{}]}, True, False, 0),
    ({"policyTypes": ["Egress"], "ingress": [{}]}, False, True, 0),
    ({"policyTypes": ["Ingress", "Egress"]}, True, True, 0),
    ({"policyTypes": ["ingress", "Egress"]}, False, True, 1),
    ({"policyTypes": ["ingress", 5, None]}, True, False, 3),
    ({"policyTypes": ["ingress"], "egress": [{}]}, True, True, 1),
    ({"policyTypes": "Egress"}, True, False, 1),
]


@pytest.mark.parametrize(("spec", "ingress", "egress", "problems"), DIRECTIONS)
def test_directions(spec: dict[str, Any], ingress: bool, egress: bool, problems: int) -> None:
    found = policy(spec)
    assert (found.ingress is not None, found.egress is not None) == (ingress, egress)
    assert len(found.problems) == problems


@pytest.mark.parametrize("spec", [None, {}])
def test_no_spec_isolates_everything_as_in_kubernetes(spec: Any) -> None:
    found = policy(spec)
    assert (found.pod_selector, found.ingress, found.egress) == (ALL, (), None)


RULES: list[tuple[Any, tuple[Rule, ...], list[str]]] = [
    (None, (), []),
    ([], (), []),
    ([{}], (Rule(None, None),), []),
    ([{"from": None, "ports": None}], (Rule(None, None),), []),
    ([{"from": [], "ports": []}], (Rule(None, None),), []),
    ([None], (), ["spec.ingress[0]"]),
    (["x", {}], (Rule(None, None),), ["spec.ingress[0]"]),
    ("x", (), ["spec.ingress"]),
    ({"from": []}, (), ["spec.ingress"]),
    # In the API server, too, a field of that name is dropped.
    ([{"to": [GOOD_PEER]}], (Rule(None, None),), ["spec.ingress[0].to"]),
    ([{"from": "x"}], (Rule((), None),), ["spec.ingress[0].from"]),
    ([{"from": {}}], (Rule((), None),), ["spec.ingress[0].from"]),
    ([{"from": [None]}], (Rule((), None),), ["spec.ingress[0].from[0]"]),
    ([{"ports": {}}], (Rule(None, ()),), ["spec.ingress[0].ports"]),
    ([{"ports": [None]}], (Rule(None, ()),), ["spec.ingress[0].ports[0]"]),
]


@pytest.mark.parametrize(("ingress", "rules", "problems"), RULES)
def test_rules(ingress: Any, rules: tuple[Rule, ...], problems: list[str]) -> None:
    found = policy({"ingress": ingress})
    assert found.ingress == rules
    assert fields(found) == problems


# --- selectors (A4) --------------------------------------------------------------------------------------


SELECTORS: list[tuple[Any, Selector]] = [
    (None, ALL),
    ({}, ALL),
    ({"matchLabels": None, "matchExpressions": None}, ALL),
    ({"matchLabels": {"a": "1"}}, selector(A_IS_1)),
    ({"matchLabels": {"a": ""}}, selector(needs("a", Operator.IN, ""))),
    ({"matchLabels": {"b": "2", "a": "1"}}, selector(A_IS_1, needs("b", Operator.IN, "2"))),
    (
        {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]},
        selector(A_IS_1),
    ),
    (
        {"matchExpressions": [{"key": "k.io/a", "operator": "NotIn", "values": ["z", "b", "z"]}]},
        selector(needs("k.io/a", Operator.NOT_IN, "b", "z")),
    ),
    ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, selector(needs("a", Operator.EXISTS))),
    (
        {"matchExpressions": [{"key": "a", "operator": "DoesNotExist", "values": []}]},
        selector(needs("a", Operator.DOES_NOT_EXIST)),
    ),
]


@pytest.mark.parametrize(("raw", "wanted"), SELECTORS)
def test_selectors(raw: Any, wanted: Selector) -> None:
    found = policy({"podSelector": raw, "ingress": [{"from": [{"namespaceSelector": raw or {}}]}]})
    assert found.pod_selector == wanted
    assert found.ingress == (Rule((PodPeer(wanted, ALL),), None),)
    assert found.problems == ()


BAD_SELECTORS: list[tuple[Any, str]] = [
    ("x", ""),
    ([], ""),
    ({"matchLabels": []}, ".matchLabels"),
    ({"matchLabels": {"a": 1}}, ".matchLabels[a]"),
    ({"matchLabels": {"a": True}}, ".matchLabels[a]"),
    ({"matchLabels": {"a": None}}, ".matchLabels[a]"),
    ({"matchLabels": {"a": "b c"}}, ".matchLabels[a]"),
    ({"matchLabels": {"a": "x" * 64}}, ".matchLabels[a]"),
    ({"matchLabels": {"a b": "c"}}, ".matchLabels"),
    ({"matchLabels": {"/a": "c"}}, ".matchLabels"),
    ({"matchExpressions": {}}, ".matchExpressions"),
    ({"matchExpressions": [None]}, ".matchExpressions[0]"),
    ({"matchExpressions": [{"key": "a"}]}, ".matchExpressions[0].operator"),
    (
        {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]},
        ".matchExpressions[0].operator",
    ),
    ({"matchExpressions": [{"key": "a", "operator": ["In"]}]}, ".matchExpressions[0].operator"),
    ({"matchExpressions": [{"operator": "Exists"}]}, ".matchExpressions[0].key"),
    ({"matchExpressions": [{"key": "a", "operator": "In"}]}, ".matchExpressions[0].values"),
    ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": []}]}, ".matchExpressions[0].values"),
    ({"matchExpressions": [{"key": "a", "operator": "In", "values": "b"}]}, ".matchExpressions[0].values"),
    (
        {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", 1]}]},
        ".matchExpressions[0].values[1]",
    ),
    (
        {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]},
        ".matchExpressions[0].values",
    ),
]


@pytest.mark.parametrize(("raw", "field"), BAD_SELECTORS)
def test_a_malformed_pod_selector_governs_nothing(raw: Any, field: str) -> None:
    found = policy({"podSelector": raw})
    assert found.pod_selector is None
    assert fields(found) == [f"spec.podSelector{field}"]


@pytest.mark.parametrize(("raw", "field"), BAD_SELECTORS)
@pytest.mark.parametrize("key", ["podSelector", "namespaceSelector"])
def test_a_peer_with_a_malformed_selector_matches_nothing(key: str, raw: Any, field: str) -> None:
    found = policy({"ingress": [{"from": [{key: raw}, GOOD_PEER]}]})
    assert found.ingress == (Rule((PodPeer(None, ALL),), None),)
    assert fields(found) == [f"spec.ingress[0].from[0].{key}{field}"]


def test_the_last_valid_version_counts() -> None:
    old = policy({"podSelector": {"matchLabels": {"a": "1"}}, "ingress": [{}]})
    broken = policy({"podSelector": {"matchLabels": {"a": 1}}})
    kept = keep_last_valid(broken, old)
    assert (kept.pod_selector, kept.ingress) == (old.pod_selector, old.ingress)
    assert set(broken.problems) < set(kept.problems)
    assert keep_last_valid(broken, kept) == kept
    assert keep_last_valid(broken, None) is broken
    assert keep_last_valid(broken, broken) is broken
    new = policy({})
    assert keep_last_valid(new, old) is new
