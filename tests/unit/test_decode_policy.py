"""Policies: networks, directions, rules, selectors; a malformed part is reported and widens nothing.

proves: A1, A2, A3, A4, B1, B4, C1, C8, C12
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
    # What a closure is for (F3) no author can say.
    ("*,*/*,ns/*,*/net1", (), 4),
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


NEAR_ANNOTATIONS: list[tuple[dict[str, Any], str]] = [
    (
        {"annotations": {"k8s.v1.cni.cncf.io/policy-fro": "net1"}},
        "is 'k8s.v1.cni.cncf.io/policy-fro' misspelt?",
    ),
    (
        {"annotations": {"k8s.v1.cni.cncf.io/policyFor": "net1"}},
        "is 'k8s.v1.cni.cncf.io/policyFor' misspelt?",
    ),
    ({"annotations": {"k8s.cni.cncf.io/policy-for": "net1"}}, "is 'k8s.cni.cncf.io/policy-for' misspelt?"),
    ({"anotations": {POLICY_FOR: "net1"}}, "is 'anotations' misspelt? annotations is known"),
    ({"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"}}, "governs nothing"),
    ({"annotations": {"x" * 1_000_000: "net1"}}, "governs nothing"),
]


@pytest.mark.parametrize(("metadata", "message"), NEAR_ANNOTATIONS, ids=lambda value: str(value)[:40])
def test_a_misspelt_annotation_is_told(metadata: dict[str, Any], message: str) -> None:
    raw = {"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy"}
    found = decode_object({**raw, "metadata": {"name": "p", **metadata}})
    assert isinstance(found, Policy)
    assert found.networks == ()
    (problem,) = found.problems
    assert problem.message.startswith("missing or empty: this policy governs nothing")
    assert message in problem.message
    assert message != "governs nothing" or problem.message.endswith(message)


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
    # What can't be read may have said either direction.
    ({"policyTypes": ["ingress", 5, None]}, True, True, 4),
    ({"policyTypes": ["ingress"], "egress": [{}]}, True, True, 2),
    ({"policyTypes": "Egress"}, True, True, 2),
    ({"policyTypes": {}}, True, True, 2),
    ({"policyType": ["Egress"]}, True, True, 2),
    ({"PolicyTypes": ["Egress"]}, True, True, 2),
    ({"policytypes": ["Ingress"]}, True, True, 2),
    ({"egres": [{}]}, True, True, 2),
    ({"Egress": []}, True, True, 2),
    ({"ingres": [{}]}, True, True, 2),
    ({"x": 1, "y": 2}, True, True, 2),
    ({"policyTypes": ["Ingress"], "egres": [{}]}, True, False, 1),
    ({"policyTypes": ["Egress"], "ingres": [{}]}, False, True, 1),
]


@pytest.mark.parametrize(("spec", "ingress", "egress", "problems"), DIRECTIONS)
def test_directions(spec: dict[str, Any], ingress: bool, egress: bool, problems: int) -> None:
    found = policy({"podSelector": {}, **spec})
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
    ([{"to": [GOOD_PEER]}], (), ["spec.ingress[0].to"]),
    ([{"from": [GOOD_PEER], "to": []}], (), ["spec.ingress[0].to"]),
    ([{"froms": [GOOD_PEER], "ports": [{"port": 80}]}], (), ["spec.ingress[0].froms"]),
    ([{"form": [GOOD_PEER]}, {}], (Rule(None, None),), ["spec.ingress[0].form"]),
    ([{"from": [], "port": None}], (), ["spec.ingress[0].port"]),
    ([{"From": [GOOD_PEER]}], (), ["spec.ingress[0].From"]),
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


@pytest.mark.parametrize(
    ("beside", "isolated"),
    [
        ({"egress": []}, True),
        ({"Spec": {}}, True),
        ({"status": {}}, False),
        # A direction is named: nothing else can be meant.
        ({"policyTypes": ["Egress"], "spec": {"policyTypes": ["Ingress"]}}, False),
    ],
)
def test_keys_beside_the_spec(beside: dict[str, Any], isolated: bool) -> None:
    """An indentation too few takes a direction out of the spec."""
    metadata = {"name": "p", "annotations": {POLICY_FOR: "net1"}}
    raw = {"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy", "metadata": metadata}
    found = decode_object({**raw, **beside})
    assert isinstance(found, Policy)
    assert found.ingress == ()
    assert found.egress == (() if isolated else None)
    told = [key for key in beside if key not in ("status", "spec")]
    assert fields(found)[: len(told)] == told
    assert set(fields(found)[len(told) :]) <= {"spec.policyTypes", "spec.podSelector"}


MEANT = [
    (
        {"egres": []},
        "spec.egres: unknown key (did you mean egress?): nothing that stands in it is permitted; "
        "what it may have been meant to restrict is closed",
    ),
    ({"podSelctor": {}, "policyTypes": ["Egress"]}, "did you mean podSelector?): nothing that stands in it"),
    ({"podSelector": {}, "policyTypes": ["Ingress"], "ingres": [{}]}, "ingress?): nothing that stands in it"),
    ({"PolicyTypes": []}, "did you mean policyTypes?"),
    ({"interfaces": []}, "known are egress, ingress, podSelector, policyTypes"),
    ({"policyTypes": ["ingress"]}, "did you mean Ingress?"),
    ({"ingress": [{"form": []}]}, "did you mean from?"),
    ({"ingress": [{"to": []}]}, "spec.ingress[0].to: ingress rules have from, not to: this rule"),
    ({"egress": [{"from": []}]}, "spec.egress[0].from: egress rules have to, not from: this rule"),
    ({"ingress": [{"ports": [{"prot": 80}]}]}, "did you mean port?"),
    ({"ingress": [{"from": [{"podSelctor": {}}]}]}, "did you mean podSelector?): this peer matches nothing"),
    ({"ingress": [{"from": [{"ipBlock": {"cidr": "::/0", "excepts": []}}]}]}, "did you mean except?"),
    ({"ingress": [{"from": [{"podSelector": {"matchExpresions": []}}]}]}, "did you mean matchExpressions?"),
    ({"podSelector": {"matchLabel": {}}}, "did you mean matchLabels?"),
    ({"ingress": [{"\n": 1}]}, "spec.ingress[0].'\\n': unknown key (known are from, ports)"),
]


@pytest.mark.parametrize(("spec", "message"), MEANT)
def test_what_was_meant_is_told(spec: dict[str, Any], message: str) -> None:
    assert message in "\n".join(f"{problem.field}: {problem.message}" for problem in policy(spec).problems)


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


HALF_UNDERSTOOD: list[tuple[Any, Selector, list[str]]] = [
    ({"matchLabel": {"a": "1"}}, ALL, [".matchLabel"]),
    ({"matchLabels": {"a": "1"}, "matchExpresions": []}, selector(A_IS_1), [".matchExpresions"]),
    (
        {"matchExpressions": [{"key": "b", "operator": "Exists", "in": 1}], "matchLabels": {"a": "1"}},
        selector(A_IS_1),
        [".matchExpressions[0].in"],
    ),
    ({"x": 1, "matchExpressions": [{"y": 1}]}, ALL, [".x", ".matchExpressions[0].y"]),
]


@pytest.mark.parametrize(("raw", "wanted", "problems"), HALF_UNDERSTOOD)
def test_a_half_understood_pod_selector_isolates_and_allows_nothing(
    raw: Any, wanted: Selector, problems: list[str]
) -> None:
    """It selects what was meant, and maybe more: to isolate too much is safe, to allow too much is not."""
    spec = {"podSelector": raw, "policyTypes": ["Ingress", "Egress"], "ingress": [{}], "egress": [{}]}
    found = policy(spec)
    assert (found.pod_selector, found.ingress, found.egress) == (wanted, (), ())
    assert fields(found) == [f"spec.podSelector{field}" for field in problems]
    assert policy({**spec, "policyTypes": ["Egress"]}).ingress is None
    peer = policy({"ingress": [{"from": [{"podSelector": raw}, GOOD_PEER]}]})
    assert peer.ingress == (Rule((PodPeer(None, ALL),), None),)
    assert len(peer.problems) == 1


@pytest.mark.parametrize("key", ["podSelctor", "PodSelector", "selector"])
def test_a_misspelt_pod_selector_isolates_all_and_allows_nothing(key: str) -> None:
    spec = {key: {"matchLabels": {"a": "1"}}, "policyTypes": ["Ingress"], "ingress": [{}]}
    found = policy(spec)
    assert (found.pod_selector, found.ingress, found.egress) == (ALL, (), None)
    assert fields(found) == [f"spec.{key}", "spec.podSelector"]
    assert policy({**spec, "podSelector": {}}).ingress == (Rule(None, None),)


def test_a_malformed_and_half_understood_pod_selector_governs_nothing() -> None:
    found = policy({"podSelector": {"matchLabels": {"a": 1}, "x": 1}, "ingress": [{}]})
    assert found.pod_selector is None
    assert fields(found) == ["spec.podSelector.x", "spec.podSelector.matchLabels[a]"]


def test_the_last_valid_version_counts() -> None:
    old = policy({"podSelector": {"matchLabels": {"a": "1"}}, "ingress": [{}]})
    broken = policy({"podSelector": {"matchLabels": {"a": 1}}})
    kept = keep_last_valid(broken, old)
    assert (kept.pod_selector, kept.ingress) == (old.pod_selector, old.ingress)
    (problem,), (told,) = broken.problems, kept.problems
    assert problem.message.endswith("put it in quotes: this policy governs nothing")
    assert told.field == problem.field
    assert told.message.endswith("put it in quotes: the last valid version of this policy stays in force")
    assert keep_last_valid(broken, kept) == kept
    assert keep_last_valid(broken, None) is broken
    assert keep_last_valid(broken, broken) is broken
    new = policy({})
    assert keep_last_valid(new, old) is new


def test_names_of_networks_are_one_string() -> None:
    metadata = {"name": "p", "annotations": {POLICY_FOR: ["net1", "net2"]}}
    raw = {"apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy", "metadata": metadata}
    with pytest.raises(DecodeError, match="one string with commas between the names, not a list"):
        decode_object(raw)
