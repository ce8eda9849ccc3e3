"""One file's bytes: cutting, lists, syntax errors, and that only new pieces are decoded."""

import json
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.kubeyaml import YamlError, load_yaml
from daemon.sources.documents import Item, Memo, Reading, read_documents
from daemon.sources.listitems import MARKER, split_items


def namespace(name: str) -> str:
    return f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n"


def raw(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def read(text: str | bytes, old: Memo | None = None, *, as_json: bool = False) -> Reading:
    content = text if isinstance(text, bytes) else text.encode()
    return read_documents(content, old or Memo(), json=as_json)


def names(reading: Reading) -> list[str | None]:
    return [item.key.name if item.key else None for item in reading.items]


def as_list(*texts: str, kind: str = "List") -> str:
    items = "".join("- " + text.replace("\n", "\n  ").rstrip(" ") for text in texts)
    return f"apiVersion: v1\nkind: {kind}\nitems:\n{items}"


A, B, C = namespace("a"), namespace("b"), namespace("c")

YAML: list[tuple[str, list[str | None]]] = [
    ("", []),
    ("# nothing\n\n---\n# nothing\n", []),
    (A, ["a"]),
    (f"---\n{A}", ["a"]),
    (f"{A}---\n{B}", ["a", "b"]),
    (f"{A}--- # comment\n{B}---\n", ["a", "b"]),
    (f"%YAML 1.1\n---\n{A}...\n---\n{B}...\n", ["a", "b"]),
    (f"\ufeff{A}", ["a"]),
    (f"{A}---\n{B}".replace("\n", "\r\n"), ["a", "b"]),
    ("--- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n", ["a"]),
    (json.dumps(raw("a")), ["a"]),
    (f"{json.dumps(raw('a'))}\n---\n{json.dumps(raw('b'), indent=1)}", ["a", "b"]),
    (as_list(A, B), ["a", "b"]),
    (as_list(A, B) + f"---\n{C}", ["a", "b", "c"]),
    ("kind: List\napiVersion: v1\nitems: []\n", []),
    ("kind: List\napiVersion: v1\n", []),
    (
        "apiVersion: v1\nkind: NamespaceList\nitems: [{metadata: {name: a}}, {metadata: {name: b}}]",
        ["a", "b"],
    ),
    ("x: |\n  ---\n  y\n" + A, ["a"]),
]


@pytest.mark.parametrize(("text", "wanted"), YAML)
def test_yaml(text: str, wanted: list[str | None]) -> None:
    reading = read(text)
    assert reading.errors == []
    assert names(reading) == wanted


JSON: list[tuple[str, list[str | None]]] = [
    ("", []),
    ("\n ", []),
    (json.dumps(raw("a")), ["a"]),
    (f" {json.dumps(raw('a'))}{json.dumps(raw('b'))}\n{json.dumps(raw('ü'))}", ["a", "b", None]),
    (json.dumps({"kind": "List", "items": [raw("a"), raw("b")]}), ["a", "b"]),
    (json.dumps({"kind": "List", "items": []}), []),
    (json.dumps({"kind": "List"}), []),
    (
        json.dumps({"kind": "NamespaceList", "apiVersion": "v1", "items": [{"metadata": {"name": "a"}}]}),
        ["a"],
    ),
    (json.dumps({"kind": "List", "items": "x"}), [None]),
    (json.dumps({"kind": 5, "items": []}), [None]),
    ("[]", [None]),
    ("5 null", [None, None]),
]


@pytest.mark.parametrize(("text", "wanted"), JSON)
def test_json(text: str, wanted: list[str | None]) -> None:
    reading = read(text, as_json=True)
    assert reading.errors == []
    assert names(reading) == wanted


BROKEN: list[tuple[str | bytes, bool, str, str, list[str | None]]] = [
    (f"{A}---\na: [1\n---\n{B}", False, "#2", "line 7", ["a", "b"]),
    (
        f"{A}---\n{A}extra: 1\nextra: 2\n",
        False,
        "#2",
        "line 11: no YAML: the key 'extra'",
        ["a"],
    ),
    (b"a: \xff", False, "", "not UTF-8", []),
    (b"a\nb: \xff", False, "", "line 2: is not UTF-8", []),
    ('{"a": 1,\n}', True, "", "line 2", []),
    (json.dumps(raw("a")) + "\n{", True, "", "line 2", ["a"]),
    ("[" * 100_000, True, "", "", []),
    ("kind: List\napiVersion: v1\nitems:\n- a: [\n", False, "#1", "line", []),
    (f"{A}---\n{A}spec:\n\tx: 1\n", False, "#2", "line 11: no YAML: a tab stands in the indentation", ["a"]),
    (as_list(A, "a:\n\tb: 1\n"), False, "#1", "line 9: no YAML: a tab stands", []),
    (f"{A}---\n{A}spec: {{{{ .x }}}}\n", False, "#2", "line 10: no YAML: {{ .x }}: a template", ["a"]),
    ("{{- if .x }}\n" + A, False, "#1", "line 1: no YAML: {{- if .x }}: a template", []),
    (f"{A}---\n" + '{"a": {{ .x }}}', False, "#2", "line 6: no YAML: {{ .x }}: a template", ["a"]),
    ('{"a": 1,\n"b": {{ .x }}}', True, "", "line 2: no JSON: {{ .x }}: a template", []),
]


@pytest.mark.parametrize(("text", "as_json", "place", "message", "rest"), BROKEN)
def test_broken(text: str | bytes, as_json: bool, place: str, message: str, rest: list[str | None]) -> None:
    reading = read(text, as_json=as_json)
    ((where, problem),) = reading.errors
    assert where == place
    assert message in problem.message
    assert names(reading) == rest


def test_places() -> None:
    reading = read(f"{A}---\n{as_list(A, B)}---\nkind: List\n---\n{C}")
    assert [reading.place(index) for index in range(4)] == ["#1", "#2.items[0]", "#2.items[1]", "#4"]


def test_ignored_and_undecodable_items() -> None:
    reading = read("kind: Service\n---\nkind: Pod\n---\n- a\n---\nkind: List\nitems: [{kind: List}]\n")
    assert [item.ignored for item in reading.items] == ["Service", "", "", "List"]
    assert [item.problem.field if item.problem else None for item in reading.items] == [
        None,
        "metadata.name",
        "",
        None,
    ]


STRANGE_KINDS = [
    ("MultiNetworkPolcy", "k8s.cni.cncf.io/v1beta1", "did you mean MultiNetworkPolicy?"),
    ("multiNetworkPolicy", "k8s.cni.cncf.io/v1beta1", "did you mean MultiNetworkPolicy?"),
    ("MultiNetworkPolicies", "k8s.cni.cncf.io/v1beta1", "did you mean MultiNetworkPolicy?"),
    ("NetworkPolicy", "k8s.cni.cncf.io/v1beta1", "'NetworkPolicy' is not read; did you mean MultiNet"),
    (
        "NetworkPolicy",
        "networking.k8s.io/v1",
        "of networking.k8s.io, another API, is not read; did you mean M",
    ),
    (
        "Networkpolicy",
        "networking.k8s.io/v1",
        "of networking.k8s.io, another API, is not read; did you mean M",
    ),
    ("NetworkAttachmentDef", "k8s.cni.cncf.io/v1", "did you mean NetworkAttachmentDefinition?"),
    ("Pods", "v1", "did you mean Pod?"),
    ("namespace", "v1", "did you mean Namespace?"),
]
OTHER_KINDS = [
    ("Node", "v1"),
    ("PodGroup", "scheduling.x-k8s.io/v1"),
    ("PodMonitor", "monitoring.coreos.com/v1"),
    ("CiliumNetworkPolicy", "cilium.io/v2"),
    ("AdminNetworkPolicy", "policy.networking.k8s.io/v1alpha1"),
    ("GlobalNetworkPolicy", "crd.projectcalico.org/v1"),
    ("Cluster", "k8s.cni.cncf.io/v1"),
    ("x" * 1_000_000, "v1"),
]


def of_kind(kind: str, version: str, **metadata: Any) -> str:
    return json.dumps({"kind": kind, "apiVersion": version, "metadata": {"name": "web", **metadata}})


@pytest.mark.parametrize(("kind", "version", "message"), STRANGE_KINDS)
def test_a_misspelt_kind_is_told_with_what_was_meant(kind: str, version: str, message: str) -> None:
    (item,) = read(of_kind(kind, version, namespace="shop"), as_json=True).items
    assert (item.key, item.object, item.ignored) == (None, None, "")
    assert item.problem is not None
    assert item.problem.field == "kind"
    assert message in item.problem.message
    assert item.meant is not None
    assert item.meant.name == "web"
    assert item.meant.kind in message or item.meant.kind == "MultiNetworkPolicy"
    assert item.meant.namespace == ("" if kind == "namespace" else "shop")


@pytest.mark.parametrize(("kind", "version"), OTHER_KINDS, ids=lambda value: value[:30])
def test_another_kind_is_no_misspelt_one(kind: str, version: str) -> None:
    (item,) = read(of_kind(kind, version), as_json=True).items
    assert item.ignored.startswith(kind[:50])
    assert item.problem is None


def test_a_misspelt_kind_without_a_legal_name_is_another_kind() -> None:
    (item,) = read(of_kind("Pods", "v1", namespace=5), as_json=True).items
    assert (item.ignored, item.meant) == ("Pods", None)


def test_a_template_in_quotes_is_told() -> None:
    (item,) = read(namespace("'{{ .Values.name }}'")).items
    assert item.problem is not None
    assert "'{{ .Values.name }}' is no legal name (a template that is not rendered?)" in item.problem.message


MANY = [namespace(f"n{index}") for index in range(2000)]
FORMS: dict[str, tuple[Callable[[list[str]], str], bool]] = {
    "documents": ("---\n".join, False),
    "yaml-list": (lambda texts: as_list(*texts), False),
    "yaml-list-indented": (
        lambda texts: "kind: List\nitems:\n" + textwrap.indent(as_list(*texts).split("items:\n")[1], "   "),
        False,
    ),
    "json-list": (
        lambda texts: json.dumps({"kind": "List", "items": [load_yaml(text)[0] for text in texts]}),
        True,
    ),
    "json-values": (lambda texts: "\n".join(json.dumps(load_yaml(text)[0]) for text in texts), True),
}


@pytest.mark.parametrize("form", FORMS)
def test_only_what_changed_is_decoded(form: str) -> None:
    write, as_json = FORMS[form]
    first = read(write(MANY), as_json=as_json)
    assert names(first) == [f"n{index}" for index in range(2000)]
    second = read(write([*MANY[:1000], namespace("new"), *MANY[1000:]]), first.memo, as_json=as_json)
    assert names(second) == [f"n{i}" for i in range(1000)] + ["new"] + [f"n{i}" for i in range(1000, 2000)]
    kept = second.items[:1000] + second.items[1001:]
    # The very same objects: they were not decoded again.
    assert all(one is two for one, two in zip(first.items, kept, strict=True))


def test_the_memo_does_not_grow_for_ever() -> None:
    memo = Memo()
    for generation in range(20):
        texts = [namespace(f"g{generation}-{index}") for index in range(2000)]
        memo = read(as_list(*texts), memo).memo
    assert len(memo.pieces) <= 4000
    assert len(memo.documents) == 1


# --- cutting lists ---------------------------------------------------------------------------------------

UNCUT = [
    "kind: List\nitems: [a]\n",
    "kind: List\nitems:\n  a: b\n",
    "kind: List\nitems: &x\n- a\n",
    "kind: List\nitems:\n- a\n  - b\n- c\n\td: e\n",
    "kind: List\nitems:\n  - a\n - b\n",
    "kind: List\nitems:\n- a\n...\n",
    "kind: List\nitems:\n- a\u2028- b\n",
    f"kind: List\nitems:\n- {MARKER}\n",
    "kind: List\nitems:\n-\ta\n",
    "a: 1\n",
]


@pytest.mark.parametrize("text", UNCUT)
def test_what_can_not_be_cut_safely_is_not_cut(text: str) -> None:
    split = split_items(text.encode(), 0)
    if split is not None:
        assert reassembled(text) in (None, load_yaml(text))


def reassembled(text: str) -> Any:
    """What the reader makes of a cut document; None where it would parse the whole instead."""
    split = split_items(text.encode(), 0)
    if split is None:
        return None
    frame, pieces = split
    try:
        heads = [document for document in load_yaml(frame.decode()) if document is not None]
        head = heads[0] if len(heads) == 1 else None
        if not isinstance(head, dict) or head.get("items") != [MARKER]:
            return None
        items = []
        for piece in pieces:
            documents = load_yaml(piece.decode())
            if len(documents) != 1 or not isinstance(documents[0], list) or len(documents[0]) != 1:
                return None
            items += documents[0]
    except YamlError:
        return None
    return [{**head, "items": items}]


LINES = st.sampled_from(
    [
        "- a: 1",
        "- b",
        "-",
        "  c: 2",
        "  - d",
        '  e: "x',
        'y"',
        "- 'z",
        "q'",
        "  f: |",
        "    text",
        "   - text",
        "- {g: 1,",
        "h: 2}",
        "- [i,",
        "- j]",
        "# comment",
        "  # comment",
        "",
        "k: l",
        'm: "n',
        "items:",
        "- &o p",
        "- *o",
        "  plain",
        "more",
        "? r",
        ": s",
        "--- t",
        "...",
        "- >-",
        "\t- u",
        "- v: |2",
        '- "w" ',
    ]
)


@given(st.lists(LINES, max_size=3), st.lists(LINES, min_size=1, max_size=8), st.sampled_from(["", "  "]))
def test_a_cut_list_reads_as_the_whole(head: list[str], body: list[str], indent: str) -> None:
    text = "\n".join([*head, "items:", *(indent + line for line in body), ""])
    cut = reassembled(text)
    if cut is not None:
        assert cut == [document for document in load_yaml(text) if document is not None]


def test_a_cut_happens() -> None:
    text = as_list(A, B) + "metadata: {}\n"
    assert reassembled(text) == load_yaml(text)
    split = split_items(text.encode(), 0)
    assert split is not None
    assert len(split[1]) == 2


def test_items_compare_by_value() -> None:
    assert read(A).items == read(f"---\n{A}").items
    assert isinstance(read(A).items[0], Item)
