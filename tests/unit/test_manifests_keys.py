"""A key that stands twice in one object of a JSON manifest: refused, as YAML refuses it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.sources.documents import Memo, read_documents
from daemon.sources.jsonkeys import find_repeated, frame

pytestmark = pytest.mark.unit

POD = '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"%s","namespace":"a"},\n"spec":{}}'
LIST = '{"apiVersion":"v1","kind":"List",\n"items":[%s]%s}'
GOOD, OTHER = POD % "a", POD % "b"

REFUSED = [
    (
        "at the top",
        '{"apiVersion":"v1","kind":"Pod",\n"kind":"Namespace","metadata":{"name":"x"}}',
        2,
        "kind",
    ),
    ("within", GOOD.replace('"spec":{}', '"spec":{\n"x":[{"a":1},{"a":1,\n"a":2}]}'), 4, "a"),
    ("spelt otherwise", GOOD.replace('"spec":{}', '"spec":{"a":1,"\\u0061":2}'), 2, "a"),
    ("empty", GOOD.replace('"spec":{}', '"spec":{"":1,"":2}'), 2, ""),
    ("in an item", LIST % (f'{GOOD},\n{GOOD[:-1]}, "spec":{{}}}}', ""), 5, "spec"),
    ("the items", LIST % (GOOD, f',\n"items":[{OTHER}]'), 4, "items"),
    ("beside the items", LIST % (GOOD, ',\n"kind":"List"'), 4, "kind"),
    (
        "in what is no object of ours",
        '{"kind":"ConfigMap","apiVersion":"v1","data":{"x":"1","x":"2"}}',
        1,
        "x",
    ),
]


@pytest.mark.parametrize(("text", "line", "key"), [row[1:] for row in REFUSED], ids=[r[0] for r in REFUSED])
def test_refused(text: str, line: int, key: str) -> None:
    json.loads(text)
    reading = read_documents(text.encode(), Memo(), json=True)
    assert reading.items == []
    ((_, problem),) = reading.errors
    assert problem.message == f"line {line}: the key {key!r} stands twice in one object"


@pytest.mark.parametrize("text", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_refused_in_a_yaml_file_too(text: str) -> None:
    reading = read_documents(text.encode(), Memo(), json=False)
    assert reading.items == []
    assert "twice" in reading.errors[0][1].message


def test_what_stands_beside_it_is_read() -> None:
    bad = GOOD.replace("{", '{"kind":"Pod",', 1)
    reading = read_documents(f"{bad}\n{OTHER}".encode(), Memo(), json=True)
    assert [item.key.name for item in reading.items if item.key] == ["b"]
    assert len(reading.errors) == 1


ACCEPTED = [
    '{"a":{"a":{"a":[{"a":1},{"a":2}]}}}',
    '{"a":"\\"a\\":1,\\"a\\":2","b":"{\\"","c":["a","a"]}',
    '[{"a":1},{"a":1},"a","a"]',
    '{"a":%s,"b":1e400,"c":-0.5}' % ("9" * 5000),
    '{"a":"b","b":"a","c":["b",{"b":[]}],"d":{}}',
    "[]",
    '"a"',
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    assert find_repeated(text.encode()) is None


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(values, st.sampled_from([None, 1]), st.booleans())
def test_whatever_is_written_once(value: Any, indent: int | None, ascii_only: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    if text.isascii() or not any(0xD800 <= ord(char) < 0xE000 for char in text):
        assert find_repeated(text.encode()) is None


@given(st.dictionaries(st.text(max_size=2), values, min_size=1, max_size=3), values, st.data())
def test_whatever_is_written_twice(value: dict[str, Any], other: Any, draw: st.DataObject) -> None:
    key = draw.draw(st.sampled_from(sorted(value)))
    text = f"[{json.dumps(other)},{json.dumps(value)[:-1]}, {json.dumps(key)}: null}}]"
    place = text.rindex(json.dumps(key))
    assert find_repeated(text.encode()) == (place, key)


class TestFrame:
    ITEMS = (b'{"a": 1}', b'{"b": 2}')

    @pytest.mark.parametrize(
        ("document", "left"),
        [
            (b'{"items": [{"a": 1} ,\n {"b": 2}], "x": 1}', b'{"items": [], "x": 1}'),
            (b'{"x": {"a": 1}, "items": [{"a": 1},{"b": 2}]}', b'{"x": {"a": 1}, "items": []}'),
            (
                b'{"x": [{"a": 1},{"b": 2}], "items": [{"a": 1},{"b": 2}]}',
                b'{"x": [], "items": [{"a": 1},{"b": 2}]}',
            ),
            (b'{"items": []}', b'{"items": []}'),
        ],
    )
    def test_the_items_are_cut_out_where_they_stand(self, document: bytes, left: bytes) -> None:
        assert frame(document, self.ITEMS) == left

    def test_no_items(self) -> None:
        assert frame(b'{"items": []}', ()) == b'{"items": []}'

    def test_it_gives_up_where_they_seem_to_be_everywhere(self) -> None:
        document = b'{"x": [%s], "items": [{},1]}' % b",".join([b"{}"] * 50)
        assert frame(document, (b"{}", b"1")) == document


def test_only_new_items_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of one of 10,000 objects costs that one, and the list round them."""
    looked: list[int] = []

    def counted(document: bytes) -> tuple[int, str] | None:
        looked.append(len(document))
        return find_repeated(document)

    monkeypatch.setattr("daemon.sources.documents.find_repeated", counted)
    pods = [POD % f"p{number}" for number in range(10_000)]
    first = read_documents((LIST % (",".join(pods), "")).encode(), Memo(), json=True)
    assert len(first.items) == 10_000
    looked.clear()
    pods[5000] = POD % "another"
    second = read_documents((LIST % (",".join(pods), "")).encode(), first.memo, json=True)
    assert len(second.items) == 10_000
    assert sum(looked) < 300


def test_msgspec_takes_the_last_one() -> None:
    """Why there is a check: if this fails, msgspec may have one of its own."""
    assert msgspec.json.decode(b'{"a":1,"a":2}') == {"a": 2}
