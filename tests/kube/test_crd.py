"""conf/crd.yaml on a real server: what it takes and refuses, and what it does with objects stored before it.

Both versions, except where one says nothing that the other does not.

proves: A10, C6, C7, C8, C12, D2, D3, B1
"""

import re
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import yaml

from daemon.decode import decode_object
from daemon.errors import DecodeError
from daemon.model import Policy
from tests.kube.crd_table import REFUSED, ROWS, Row, block, come, ports
from tests.kube.crds import LAX_POLICY_CRD
from tests.lab.apiserver import CONF, ApiServer
from tests.lab.kubeapi import APPLY, MERGE, ApiRefusal, KubeApi, object_path
from tests.lab.objects import POLICY_FOR, Object, policy
from tests.lab.polling import poll
from tests.semantics import CASES, FAMILIES, Case, Plan

KIND = "MultiNetworkPolicy"
CRD: dict[str, Any] = yaml.safe_load((CONF / "crd.yaml").read_text())
CRD_NAME = CRD["metadata"]["name"]
VERSIONS = ("v1beta1", "v1beta2")
PATIENCE = 60.0

# What the daemon alone tells: of the annotation, and of blocks what would take a reading of both.
UNSEEN = re.compile("^metadata.annotations|is IPv4-mapped|together they cover")

STRANGE = [row for row in REFUSED if "only the keys" in row.message]
STORED = [row for row in REFUSED if not row.mistyped]


def refusal(api: KubeApi, raw: Mapping[str, Any]) -> ApiRefusal | None:
    """What the server has against an object; nothing is stored."""
    try:
        api.create(raw, dryRun="All")
    except ApiRefusal as error:
        return error
    return None


def daemon_problems(raw: Object, *, hints: bool = True) -> list[str]:
    """What the daemon says of an object as its author wrote it."""
    try:
        found = decode_object(raw)
    except DecodeError as error:
        return [str(error)]
    assert isinstance(found, Policy)
    told = (problem for problem in found.problems if hints or not problem.hint)
    return [f"{problem.field}: {problem.message}" for problem in told]


def names(error: ApiRefusal, field: str, message: str) -> bool:
    """Whether one cause names this field and says this."""
    return any(message in text and (place == field or f": {field} " in text) for place, text in error.causes)


def changed(spec: Mapping[str, Any]) -> Object:
    """The other direction of a spec: an edit that leaves alone what is wrong in the first."""
    return {"ingress": [{"ports": [{"port": 81}]}]} if "egress" in spec else {"egress": [{}]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeApi]:
    """A server that held malformed policies before conf/crd.yaml came: `stored-N`, `strange-N`."""
    with ApiServer(tmp_path_factory.mktemp("crd")) as server:
        made = server.admin
        made.apply(LAX_POLICY_CRD)
        made.wait_established(CRD_NAME)
        for number, row in enumerate(STORED):
            made.create(policy(f"stored-{number}", row.spec))
        for number, row in enumerate(STRANGE):
            made.create(policy(f"strange-{number}", row.spec))
        server.install(crds=[CONF / "crd.yaml"])
        for version in VERSIONS:
            # The schema is not in force at once.
            poll(partial(refusal, made, policy("p", come({}), version=version)), bool, PATIENCE)
        yield made


# --- the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_server_says(api: KubeApi, row: Row, version: str) -> None:
    error = refusal(api, policy("p", row.spec, version=version))
    if row.accepted:
        assert error is None
    else:
        assert error is not None
        assert error.status == 422
        assert names(error, row.field, row.message), error.causes


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_daemon_agrees(row: Row) -> None:
    problems = daemon_problems(policy("p", row.spec))
    assert bool(problems) == (not row.accepted or bool(row.daemon)), problems


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_server_and_daemon_agree_about_the_truth_tables(api: KubeApi, case: Case, family: int) -> None:
    for raw in case.policies(Plan(family)):
        problems = [line for line in daemon_problems(raw, hints=False) if not UNSEEN.search(line)]
        plain = {**raw, "metadata": {**raw["metadata"], "namespace": "default"}}
        assert (refusal(api, plain) is not None) == bool(problems), (raw["spec"], problems)


def test_the_table_is_large() -> None:
    assert len(ROWS) >= 180
    assert len(REFUSED) >= 80
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("path", sorted((CONF / "samples").glob("policy-*.yaml")), ids=lambda path: path.stem)
def test_our_samples_are_accepted(api: KubeApi, path: Any) -> None:
    for raw in yaml.safe_load_all(path.read_text()):
        plain = {**raw, "metadata": {**raw["metadata"], "namespace": "default"}}
        assert refusal(api, plain) is None


# --- both versions are one -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_the_other_version_reads_the_same(api: KubeApi, version: str) -> None:
    spec = {
        "podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "Exists"}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": 5000, "endPort": 5900, "protocol": "SCTP"}, {"port": "http"}]}],
        "egress": [{"to": [block("10.0.0.9/8", "10.1.0.0/16"), {"namespaceSelector": {}}]}],
    }
    raw = policy(f"both-{version}", spec, version=version)
    api.create(raw)
    for other in VERSIONS:
        found = api.request("GET", object_path({**raw, "apiVersion": f"k8s.cni.cncf.io/{other}"}))
        assert found["spec"] == spec
        assert found["metadata"]["annotations"] == {POLICY_FOR: "net1"}
        assert found["apiVersion"].endswith(other)


def test_the_definition_is_established_and_structural(api: KubeApi) -> None:
    status = api.get("CustomResourceDefinition", "", CRD_NAME)["status"]
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions == {"Established": "True", "NamesAccepted": "True"}
    assert status["storedVersions"] == ["v1beta1"]
    assert status["acceptedNames"]["shortNames"] == ["multi-policy", "mnp"]


@pytest.mark.parametrize("version", VERSIONS)
def test_printer_columns(api: KubeApi, version: str) -> None:
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"]}
    raw = policy(f"shown-{version}", spec, "net1, other/net2")
    api.create(raw)
    table = api.request(
        "GET",
        object_path({**raw, "apiVersion": f"k8s.cni.cncf.io/{version}"}),
        accept="application/json;as=Table;v=v1;g=meta.k8s.io",
    )
    shown = [column["name"] for column in table["columnDefinitions"]]
    assert shown == ["Name", "Policy-For", "Pod-Selector", "Types", "Age"]
    name, networks, selector, types, _ = table["rows"][0]["cells"]
    assert (name, networks) == (raw["metadata"]["name"], "net1, other/net2")
    assert (selector, types) == ('{"matchLabels":{"app":"web"}}', '["Ingress"]')


@pytest.mark.parametrize("validation", ["Ignore", "Warn", "Strict"])
def test_misspelt_keys_are_refused_whatever_a_client_asks_for(api: KubeApi, validation: str) -> None:
    """Else the server prunes them, and stores a wider policy than was written: the daemon never sees it."""
    raw = policy("misspelt", come({"namespaceSelector": {}, "podSelctor": {"matchLabels": {"a": "b"}}}))
    with pytest.raises(
        ApiRefusal, match=r'\{"namespaceSelector":\{\},"podSelctor":.*only the keys podSelector'
    ):
        api.create(raw, dryRun="All", fieldValidation=validation)
    spec = come(block("10.0.0.0/8"))
    api.apply(policy("misspelt", spec))
    wider = {"spec": {"ingress": [{"froms": [], "ports": [{"port": 80}]}]}}
    with pytest.raises(ApiRefusal, match="only the keys from, ports"):
        api.request("PATCH", object_path(raw), wider, MERGE, fieldValidation=validation)
    applied = {**raw, "spec": {**spec, "egres": []}}
    with pytest.raises(ApiRefusal, match="only the keys podSelector, policyTypes"):
        api.request("PATCH", object_path(raw), applied, APPLY, fieldManager="me", force="true")
    assert api.get(KIND, "default", "misspelt")["spec"] == spec


BESIDE: list[tuple[Object, bool]] = [
    ({"egress": []}, False),
    ({"Spec": {}}, False),
    ({"x": None}, False),
    ({"status": {}}, True),
    ({"status": {"x": 1}}, True),
]


@pytest.mark.parametrize(("beside", "accepted"), BESIDE, ids=str)
@pytest.mark.parametrize("spec", [{"ingress": [{}]}, None], ids=["spec", "no-spec"])
def test_keys_beside_the_spec(api: KubeApi, spec: Object | None, beside: Object, accepted: bool) -> None:
    """An indentation too few takes `egress` out of the spec. Upstream's schema took any status."""
    raw = {**policy("beside", spec or {}), **beside}
    if spec is None:
        del raw["spec"]
    error = refusal(api, raw)
    assert accepted == (error is None)
    assert error is None or "only the keys apiVersion, kind, metadata, spec" in str(error)


# --- stored before ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(len(STORED)), ids=lambda number: str(STORED[number]))
def test_a_malformed_object_that_was_there(api: KubeApi, number: int) -> None:
    """Its labels and its other parts can change, what is wrong can be made right, and only so."""
    row, name = STORED[number], f"stored-{number}"
    direction = row.field.split(".")[1].partition("[")[0]
    before = api.get(KIND, "default", name)["spec"]
    api.patch(KIND, "default", name, {"metadata": {"labels": {"team": "blue"}}})
    api.annotate(KIND, "default", name, example__com="seen")
    api.patch(KIND, "default", name, {"spec": changed(row.spec)})
    assert api.get(KIND, "default", name)["spec"] == {**before, **changed(row.spec)}
    wrong = {"ingress": [{"ports": [{"port": 77777}]}]}
    with pytest.raises(ApiRefusal, match=r"spec\.ingress\[0\]\.ports\[0\]\.port"):
        api.patch(KIND, "default", name, {"spec": wrong})
    if direction in ("ingress", "egress"):
        longer = [*row.spec[direction], {"ports": [{"port": 82}]}]
        with pytest.raises(ApiRefusal, match=rf"spec\.{direction}"):
            api.patch(KIND, "default", name, {"spec": {direction: longer}})
    api.patch(KIND, "default", name, {"spec": {"podSelector": None, "policyTypes": None, direction: None}})
    assert refusal(api, {**api.get(KIND, "default", name), "metadata": {"name": "p"}}) is None


@pytest.mark.parametrize("number", range(len(STRANGE)), ids=lambda number: str(STRANGE[number]))
def test_an_object_with_unknown_keys_that_was_there(api: KubeApi, number: int) -> None:
    """Only a schema that keeps anything lets such in. The daemon sees the keys, and they can be taken out.

    Until then the labels can change where the key is in a list, which counts as unchanged.
    """
    row, name = STRANGE[number], f"strange-{number}"
    before = api.get(KIND, "default", name)
    assert daemon_problems(before)
    label = partial(api.patch, KIND, "default", name, {"metadata": {"labels": {"team": "blue"}}})
    if "[" in row.field:
        assert label()["spec"] == before["spec"]
    else:
        with pytest.raises(ApiRefusal, match="only the keys"):
            label()
    right = {**api.get(KIND, "default", name), "spec": come(block("10.0.0.0/8"))}
    api.request("PUT", object_path(right), right)


# --- sizes -----------------------------------------------------------------------------------------------


def addresses(count: int) -> list[Object]:
    return [block(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}/32") for i in range(count)]


def many(peer: str, hole: str) -> Object:
    """100 rules of 100 peers, each block with an except."""
    peers = [[block(peer.format(r, p), hole.format(r, p)) for p in range(100)] for r in range(100)]
    return {"ingress": [{"from": row} for row in peers]}


def full_windows() -> Object:
    """As many excepts as each rule about them looks at, and more."""
    hundred = [block("10.0.0.0/8", "10.0.0.0/9")] * 100
    deep = [block("10.0.0.0/8", *(f"10.0.{i}.0/24" for i in range(200)))] * 10
    return {"ingress": [{"from": deep}] * 10 + [{"from": hundred}] * 90}


RANGES: list[Object] = [{"port": 9, "endPort": 99}] * 400
VALUES = {"key": "a", "operator": "In", "values": [f"value-{i}" for i in range(20_000)]}
LARGE = {
    "100-rules-of-100-peers": many("10.{}.{}.0/24", "10.{}.{}.128/25"),
    "the-same-of-IPv6": many("2001:db8:0:{:04x}:{:04x}::/80", "2001:db8:0:{:04x}:{:04x}:7::/96"),
    "full-windows": full_windows(),
    "450-blocks": come(*addresses(450)),
    "35000-blocks": come(*addresses(35_000)),
    "20000-rules": {"egress": [{"to": [peer]} for peer in addresses(20_000)]},
    "60000-excepts": come(block("10.0.0.0/8", *(one["ipBlock"]["cidr"] for one in addresses(60_000)))),
    "60000-ports": ports(*({"port": 1 + i} for i in range(60_000))),
    "100-rules-of-400-ranges": {"ingress": [{"ports": RANGES}] * 100},
    "20000-values": come({"podSelector": {"matchExpressions": [VALUES]}}),
    "20000-labels": {"podSelector": {"matchLabels": {f"key-{i}": "value" for i in range(20_000)}}},
}


@pytest.mark.parametrize("name", LARGE)
def test_large_policies(api: KubeApi, name: str) -> None:
    """Up to what the server can store: no list has a limit, and no rule becomes too dear at run time."""
    begun = time.monotonic()
    assert refusal(api, policy("large", LARGE[name])) is None
    # Alone on a machine it takes 2 seconds at most.
    assert time.monotonic() - begun < PATIENCE / 2


def test_one_wrong_except_among_many_is_named(api: KubeApi) -> None:
    spec = many("10.{}.{}.0/24", "10.{}.{}.128/25")
    spec["ingress"][73]["from"][41] = block("10.73.41.0/24", "10.73.42.0/24")
    error = refusal(api, policy("large", spec))
    assert error is not None
    assert names(error, "spec.ingress[73].from[41].ipBlock.except[0]", "must lie inside cidr")
