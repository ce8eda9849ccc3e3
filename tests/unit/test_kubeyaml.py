"""YAML as Kubernetes reads it: scalars, keys, merges, bounds."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from daemon.kubeyaml import YamlError, load_yaml

SCALARS: list[tuple[str, Any]] = [
    ("text", "text"),
    ("'5'", "5"),
    ('"yes"', "yes"),
    ("", None),
    ("~", None),
    ("null", None),
    ("yes", True),
    ("y", True),
    ("On", True),
    ("no", False),
    ("OFF", False),
    ("yEs", "yEs"),
    ("0", 0),
    ("80", 80),
    ("-5", -5),
    ("+5", 5),
    ("1_000", 1000),
    ("0777", 511),
    ("0o777", 511),
    ("0x1F", 31),
    ("0b11", 3),
    ("-0x10", -16),
    ("08", 8),
    ("1.5", 1.5),
    ("80.0", 80),
    ("1e3", 1000),
    ("18446744073709551615", 18446744073709551615),
    ("18446744073709551616", 18446744073709551616.0),
    # Neither dates nor base 60, as in Kubernetes.
    ("2024-01-01", "2024-01-01"),
    ("12:30:45", "12:30:45"),
    ("10.0.0.1", "10.0.0.1"),
    ("10.0.0.0/8", "10.0.0.0/8"),
    ("::1", "::1"),
    ("+", "+"),
    (".", "."),
    ("1.2.3", "1.2.3"),
    ("=", "="),
    ("!!str 5", "5"),
    ("!!int '5'", 5),
    ("! 5", "5"),
    ("!!float 5", 5),
    ("|\n  a\n  b\n", "a\nb\n"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars(text: str, value: Any) -> None:
    (found,) = load_yaml(f"--- {text}")
    assert found == value
    assert type(found) is type(value)


DOCUMENTS: list[tuple[str, list[Any]]] = [
    ("", []),
    ("# only\n", []),
    ("---\n---\na: 1\n...\n", [None, {"a": 1}]),
    ("a: 1\n...\n--- \nb: 2", [{"a": 1}, {"b": 2}]),
    ("{a: [1, 2], 'b': {c: d}}", [{"a": [1, 2], "b": {"c": "d"}}]),
    ("80: a\nyes: b\n1.5: c", [{"80": "a", "true": "b", "1.5": "c"}]),
    ("a: &x {b: 1}\nc: *x", [{"a": {"b": 1}, "c": {"b": 1}}]),
    ("a: &x 1\nb: *x\nc: &x 2\nd: *x", [{"a": 1, "b": 1, "c": 2, "d": 2}]),
    ("base: &b {a: 1, b: 2}\nc:\n  <<: *b\n  a: 3", [{"base": {"a": 1, "b": 2}, "c": {"a": 3, "b": 2}}]),
    ("c:\n  <<: [{a: 1}, {a: 2, b: 2}]", [{"c": {"a": 1, "b": 2}}]),
]


@pytest.mark.parametrize(("text", "documents"), DOCUMENTS)
def test_documents(text: str, documents: list[Any]) -> None:
    assert load_yaml(text) == documents


BROKEN = [
    ("a: 1\na: 2", 2, "stands twice"),
    ("x:\n  yes: 1\n  true: 2", 3, "'true' stands twice"),
    ("a: {b: 1, b: 2}", 1, "stands twice"),
    ("a: [1", 1, "expected"),
    ("a: b: c", 1, "not allowed"),
    ("\n\n\ta: 1", 3, "a tab stands in the indentation"),
    ("a:\n\tb: 1\nc: 2", 2, "a tab"),
    ("a:\n  b: 1\n\tc: 2", 3, "a tab"),
    ("a:\n  - b\n  \tc: d", 3, "a tab"),
    ("a: |\n\ttext", 2, "a tab"),
    ("a:\n-\tb: c", 2, "a tab"),
    ("a:\r\n\tb: 1", 2, "a tab"),
    ("a: *x", 1, "alias"),
    ("a: &x [*x]", 1, "inside what it means"),
    ("a: !!python/object:os.system x", 1, "tag"),
    ("a: !mine x", 1, "tag"),
    ("a: !mine {}", 1, "tag"),
    ("a: !!int x", 1, "tag"),
    ("a: .inf", 1, "no number"),
    ("a: 1e999", 1, "no number"),
    ("a: " + "9" * 400, 1, "no number"),
    ("a: " + "9" * 1_000_000, 1, "no number"),
    ("a: \x07", 1, "x0007"),
    ("~: a", 1, "key must be a string"),
    ("[a]: b", 1, "key must be a string"),
    ("a:\n  <<: 5", 2, "merges objects"),
    ("[" * 101 + "]" * 101, 1, "nested more than"),
    ("[" * 1_000_000, 1, "nested more than"),
    ("a: 1\n--- \nb: [", 3, "expected"),
]


@pytest.mark.parametrize(("text", "line", "message"), BROKEN)
def test_broken(text: str, line: int, message: str) -> None:
    with pytest.raises(YamlError, match=message) as caught:
        load_yaml(text)
    assert caught.value.line == pytest.approx(line, abs=1)
    assert len(caught.value.message) < 300


TEMPLATES = [
    ("a: 1\nname: {{ .Values.name }}\n", 2, "{{ .Values.name }}"),
    ("name: {{ .Values.name }}-b\n", 1, "{{ .Values.name }}"),
    ("{{- if .Values.on }}\na: 1\n{{- end }}\n", 1, "{{- if .Values.on }}"),
    ('a: 1\nb:\n{{ include "x" . | indent 2 }}\n', 3, '{{ include "x" . | indent 2 }}'),
    ("a: 'fine {{ x }}'\nb: [", 1, "{{ x }}"),
    ("a: {{" + "x" * 1_000_000, 1, "{{xxx"),
]


@pytest.mark.parametrize(("text", "line", "shown"), TEMPLATES, ids=lambda value: str(value)[:20])
def test_a_template_is_told(text: str, line: int, shown: str) -> None:
    with pytest.raises(YamlError, match="a template that is not rendered") as caught:
        load_yaml(text)
    assert caught.value.line == line
    assert caught.value.message.startswith(shown)
    assert len(caught.value.message) < 300


def test_braces_in_good_yaml_are_nobodys_business() -> None:
    assert load_yaml("a: '{{ x }}'\nb: {c: {}}") == [{"a": "{{ x }}", "b": {"c": {}}}]


def test_a_billion_laughs() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 12):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]")
    with pytest.raises(YamlError, match="aliases stand for more than"):
        load_yaml("\n".join(lines))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)


@given(plain, st.booleans())
def test_what_another_writer_writes_reads_the_same(value: Any, flow: bool) -> None:
    # Quoted throughout: the writer does not know that a bare `y` means true.
    text = yaml.safe_dump(value, default_flow_style=flow, default_style='"', allow_unicode=True)
    if isinstance(value, dict) and "<<" in str(value):
        return
    assert load_yaml(text) == [value]
