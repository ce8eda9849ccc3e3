"""One file's bytes to objects, decoding only what is new.

In: the content of a YAML or JSON file, and the memo of its last reading. Out: a Reading: an Item for each
object, errors of syntax, and the memo for next time. Pure. A file may hold 10,000 objects, in as many
documents or in one List, and an edit of one must not cost the decoding of all: files are cut at document
markers and lists into their items as raw bytes, and only pieces whose bytes are new are parsed.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from hashlib import blake2b
from json import JSONDecodeError, JSONDecoder
from typing import Any, TypeAlias

import msgspec

from daemon.decode import KINDS, decode_object, meant_key, read_key
from daemon.decode.fields import kind_of, shown
from daemon.errors import DecodeError
from daemon.kubeyaml import YamlError, find_template, load_yaml
from daemon.model import ClusterObject, ObjectKey, Problem
from daemon.sources.jsonkeys import find_repeated, frame
from daemon.sources.listitems import MARKER, split_items

_MARKER = re.compile(rb"^---(?=[ \t\r\n]|\Z)", re.M)
# Nothing but a marker, comments, directives and blank lines.
_EMPTY = re.compile(rb"(?:---)?(?:[ \t\r\n]+|#[^\r\n]*|%[^\r\n]*(?=[\r\n]|\Z)|\.\.\.(?=[ \t\r\n]|\Z))*\Z")
_JSON_OFFSET = re.compile(r"\(byte (\d+)\)")
_GAP = re.compile(r"[ \t\r\n]*")


class Item(msgspec.Struct, frozen=True):
    """One object of a file. object None: undecodable (`problem`), or a kind without meaning (`ignored`).

    key None: it has no readable kind and name. meant: which object it is then, by its misspelt kind.
    """

    key: ObjectKey | None = None
    object: ClusterObject | None = None
    problem: Problem | None = None
    ignored: str = ""
    meant: ObjectKey | None = None


Items: TypeAlias = tuple[Item, ...]


class Memo(msgspec.Struct, frozen=True):
    """What a file's last reading came to, by digest of the bytes: whole documents, and items of lists."""

    documents: dict[bytes, tuple[Items, bool]] = {}
    pieces: dict[bytes, Items] = {}


class Reading(msgspec.Struct, frozen=True):
    """All objects of a file, in order. starts: (index of its first item, is a list) of each document."""

    items: list[Item]
    starts: list[tuple[int, bool]]
    errors: list[tuple[str, Problem]]
    memo: Memo

    def place(self, index: int) -> str:
        """Where in the file an item stands: `#2`, or `#2.items[5]`."""
        document = bisect_right(self.starts, (index, True)) - 1
        first, listed = self.starts[document]
        return f"#{document + 1}.items[{index - first}]" if listed else f"#{document + 1}"


class _Envelope(msgspec.Struct):
    """What tells a list from an object, its items still raw."""

    kind: str = ""
    apiVersion: str = ""  # noqa: N815  # JSON's name
    items: list[msgspec.Raw] | msgspec.UnsetType = msgspec.UNSET


_ENVELOPES = msgspec.json.Decoder(_Envelope)


def read_documents(content: bytes, old: Memo, *, json: bool) -> Reading:
    """Read a file's content. Errors of syntax are in the result; what stands beside them is still read."""
    return _Reader(content, old).read(json=json)


class _Syntax(Exception):  # noqa: N818  # never leaves this module
    """Line from 1, in the document at hand."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.message = message


class _Reader:
    def __init__(self, content: bytes, old: Memo) -> None:
        self._content = content.removeprefix(b"\xef\xbb\xbf")
        self._old = old
        self._documents: dict[bytes, tuple[Items, bool]] = {}
        self._pieces: dict[bytes, Items] = {}
        self._items: list[Item] = []
        self._starts: list[tuple[int, bool]] = []
        self._errors: list[tuple[str, Problem]] = []

    def read(self, *, json: bool) -> Reading:
        try:
            self._content.decode()
        except UnicodeDecodeError as error:
            self._fail("", error.start, _Syntax(1, "is not UTF-8"))
        else:
            for start, document in self._cut_json() if json else self._cut_yaml():
                self._read_document(start, document, json=json)
        return Reading(self._items, self._starts, self._errors, self._remember())

    def _remember(self) -> Memo:
        # Documents that were not parsed anew did not look up their pieces; those must outlive this reading.
        pieces = {**self._old.pieces, **self._pieces}
        if len(pieces) > 2 * max(1000, len(self._items)):
            pieces = self._pieces
        return Memo(self._documents, pieces)

    def _fail(self, place: str, offset: int, error: _Syntax) -> None:
        line = self._content.count(b"\n", 0, offset) + error.line
        self._errors.append((place, Problem("", f"line {line}: {error.message}")))

    # --- documents ---------------------------------------------------------------------------------------

    def _cut_yaml(self) -> Iterator[tuple[int, bytes]]:
        """Documents with their offset. A marker at the start of a line ends whatever stands before it."""
        ends = [match.start() for match in _MARKER.finditer(self._content)]
        for start, end in zip([0, *ends], [*ends, len(self._content)], strict=True):
            document = self._content[start:end]
            if not _EMPTY.match(document):
                yield start, document

    def _cut_json(self) -> Iterator[tuple[int, bytes]]:
        """One value, or several in a row."""
        text = self._content.decode()
        if not text.strip():
            return
        try:
            msgspec.json.decode(self._content, type=msgspec.Raw)
        except (msgspec.MsgspecError, RecursionError):
            yield from self._cut_json_values(text)
        else:
            yield 0, self._content

    def _cut_json_values(self, text: str) -> Iterator[tuple[int, bytes]]:
        decoder = JSONDecoder()
        end = offset = 0
        while gap := _GAP.match(text, end):
            start = gap.end()
            if start == len(text):
                return
            offset += start - end
            try:
                _, end = decoder.raw_decode(text, start)
            except JSONDecodeError as error:
                self._fail("", 0, _no_json(text, error.lineno, error.msg))
                return
            except RecursionError:
                self._fail("", offset, _Syntax(1, "no JSON: nested too deep"))
                return
            value = text[start:end].encode()
            yield offset, value
            offset += len(value)

    def _read_document(self, offset: int, document: bytes, *, json: bool) -> None:
        digest = _digest(document)
        found = self._old.documents.get(digest)
        if found is None:
            try:
                found = self._parse_document(document, json=json)
            except _Syntax as error:
                self._starts.append((len(self._items), False))
                self._fail(f"#{len(self._starts)}", offset, error)
                return
        self._documents[digest] = found
        items, listed = found
        self._starts.append((len(self._items), listed))
        self._items.extend(items)

    def _parse_document(self, document: bytes, *, json: bool) -> tuple[Items, bool]:
        if json or document.lstrip().startswith(b"{"):
            try:
                return self._parse_json(document)
            except _Syntax:
                # What begins like JSON in a .yaml file may be YAML's own flow style.
                if json:
                    raise
        return self._parse_yaml(document)

    # --- JSON --------------------------------------------------------------------------------------------

    def _parse_json(self, document: bytes) -> tuple[Items, bool]:
        try:
            envelope = _ENVELOPES.decode(document)
        except msgspec.ValidationError:
            # Valid JSON of another shape: decoding says what is wrong with it.
            return _parse_value(_load_json(document))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _json_syntax(document, error) from None
        if envelope.items is msgspec.UNSET or not envelope.kind.endswith("List"):
            return _parse_value(_load_json(document))
        default = _item_kind(envelope.kind, envelope.apiVersion)
        pieces = [bytes(raw) for raw in envelope.items]
        found: list[Item] = []
        try:
            _require_single_keys(frame(document, pieces))
            for piece in pieces:
                found += self._parse_piece(piece, default, json=True)
        except _Syntax:
            # Told with its line in the whole.
            _load_json(document)
            raise
        return tuple(found), True

    def _parse_piece(self, piece: bytes, default: tuple[str, str], *, json: bool) -> Items:
        """One item of a list. Raises _Syntax."""
        digest = _digest(piece, "\0".join(default))
        items = self._pieces.get(digest) or self._old.pieces.get(digest)
        if items is None:
            raw = _load_json(piece) if json else _load_yaml_item(piece)
            items = (_decode(raw, default),)
        self._pieces[digest] = items
        return items

    # --- YAML --------------------------------------------------------------------------------------------

    def _parse_yaml(self, document: bytes) -> tuple[Items, bool]:
        split = split_items(document)
        if split is not None:
            frame, pieces = split
            try:
                return self._parse_yaml_list(frame, pieces)
            except _Syntax:
                # An alias into another item, or no YAML at all: parsed whole, either is told with its line.
                pass
        found: list[Item] = []
        values = [value for value in _load_yaml(document) if value is not None]
        listed = False
        for value in values:
            items, listed = _parse_value(value)
            found += items
        return tuple(found), listed and len(values) == 1

    def _parse_yaml_list(self, frame: bytes, pieces: list[bytes]) -> tuple[Items, bool]:
        documents = [document for document in _load_yaml(frame) if document is not None]
        head = documents[0] if len(documents) == 1 and isinstance(documents[0], dict) else {}
        kind, version = head.get("kind"), head.get("apiVersion")
        if not isinstance(kind, str) or not kind.endswith("List") or not isinstance(version, str | None):
            raise _Syntax(1, "no list")
        if head.get("items") != [MARKER]:
            raise _Syntax(1, "its items are not where they seem to be")
        default = _item_kind(kind, version or "")
        found: list[Item] = []
        for piece in pieces:
            found += self._parse_piece(piece, default, json=False)
        return tuple(found), True


# --- pieces ----------------------------------------------------------------------------------------------


def _digest(content: bytes, extra: str = "") -> bytes:
    # salt and person would bound `extra` at 16 bytes.
    state = blake2b(content, digest_size=16)
    if extra != "\0":
        state.update(extra.encode())
    return state.digest()


def _load_json(document: bytes) -> Any:
    try:
        value = msgspec.json.decode(document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _json_syntax(document, error) from None
    _require_single_keys(document)
    return value


def _require_single_keys(document: bytes) -> None:
    try:
        repeated = find_repeated(document)
    except RecursionError as error:
        raise _json_syntax(document, error) from None
    if repeated is not None:
        line = document.count(b"\n", 0, repeated[0]) + 1
        raise _Syntax(line, f"the key {repeated[1][:80]!r} stands twice in one object")


def _json_syntax(document: bytes, error: Exception) -> _Syntax:
    offset = _JSON_OFFSET.search(str(error))
    line = document.count(b"\n", 0, int(offset[1])) + 1 if offset else 1
    message = (
        "nested too deep" if isinstance(error, RecursionError) else _JSON_OFFSET.sub("", str(error)).strip()
    )
    return _no_json(document.decode(errors="replace"), line, message)


def _no_json(text: str, line: int, message: str) -> _Syntax:
    found = find_template(text)
    if found is not None:
        line, message = found[0], f"{found[1]}: a template that is not rendered? ({message})"
    return _Syntax(line, f"no JSON: {message}")


def _load_yaml(document: bytes) -> list[Any]:
    try:
        return load_yaml(document.decode())
    except YamlError as error:
        raise _Syntax(error.line, f"no YAML: {error.message}") from None


def _load_yaml_item(piece: bytes) -> Any:
    """The only item of a block sequence."""
    documents = _load_yaml(piece)
    if len(documents) != 1 or not isinstance(documents[0], list) or len(documents[0]) != 1:
        raise _Syntax(1, "no item of a list")
    return documents[0][0]


def _parse_value(value: Any) -> tuple[Items, bool]:
    """An object, or a list of them."""
    if isinstance(value, dict):
        kind, items = value.get("kind"), value.get("items")
        if isinstance(kind, str) and kind.endswith("List"):
            version = value.get("apiVersion")
            default = _item_kind(kind, version if isinstance(version, str) else "")
            if isinstance(items, list):
                return tuple(_decode(item, default) for item in items), True
            if items is None and (kind == "List" or default[0]):
                return (), True
    return (_decode(value, ("", "")),), False


def _item_kind(kind: str, version: str) -> tuple[str, str]:
    """(kind, apiVersion) of items that lack them: those of a PodList are pods."""
    singular = kind.removesuffix("List")
    return (singular, version) if singular in KINDS else ("", "")


def _decode(raw: Any, default: tuple[str, str]) -> Item:
    if not isinstance(raw, dict):
        return Item(problem=Problem("", f"expected an object, not {kind_of(raw)}"))
    if default[0] and "kind" not in raw:
        raw = {"apiVersion": default[1], **raw, "kind": default[0]}
    key = None
    try:
        key = read_key(raw)
        return Item(key, decode_object(raw)) if key is not None else _decode_strange(raw)
    except DecodeError as error:
        hint = " (a template that is not rendered?)" if "{{" in error.message else ""
        return Item(key, problem=Problem(error.field, error.message + hint))


def _decode_strange(raw: dict[str, Any]) -> Item:
    """One of a kind without meaning here, or of a misspelt one."""
    found = meant_key(raw)
    if found is None:
        return Item(ignored=shown(raw["kind"])[1:-1])
    key, message = found
    return Item(problem=Problem("kind", message), meant=key)
