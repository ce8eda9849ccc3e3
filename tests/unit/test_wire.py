"""wire.py against the msgpack package, both ways, and its refusals."""

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import wire

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(1 << 63), max_value=(1 << 64) - 1)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=40), inner, max_size=40),
    max_leaves=60,
)

# Each side of every width that msgpack has.
EDGES = [
    *[
        n + d
        for n in (0, 127, 128, 255, 256, 1 << 16, 1 << 32, (1 << 64) - 2)
        for d in (-1, 0, 1)
        if n + d < 1 << 64
    ],
    *[-n + d for n in (32, 128, 1 << 15, 1 << 31) for d in (-1, 0, 1)],
    -(1 << 63),
    *["x" * n for n in (0, 31, 32, 255, 256, 65535, 65536)],
    *[b"x" * n for n in (0, 255, 256, 65535, 65536)],
    *[[None] * n for n in (0, 15, 16, 65535, 65536)],
    *[{str(i): i for i in range(n)} for n in (0, 15, 16, 65535, 65536)],
]


def reference_unpack(body: bytes) -> Any:
    return msgpack.unpackb(body, raw=False, strict_map_key=False)


@given(VALUES)
def test_packs_what_msgpack_reads(value: Any) -> None:
    assert reference_unpack(wire.pack(value)) == value


@given(VALUES)
def test_packs_the_same_bytes_as_msgpack(value: Any) -> None:
    assert wire.pack(value) == msgpack.packb(value)


@given(VALUES)
def test_unpacks_what_msgpack_writes(value: Any) -> None:
    assert wire.unpack(msgpack.packb(value)) == value


@pytest.mark.parametrize("value", EDGES, ids=lambda v: f"{type(v).__name__}-{len(str(v))}")
def test_every_width_both_ways(value: Any) -> None:
    assert wire.pack(value) == msgpack.packb(value)
    assert wire.unpack(msgpack.packb(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_wire_error(body: bytes) -> None:
    try:
        value = wire.unpack(body)
    except wire.WireError:
        return
    assert reference_unpack(body) == value


@given(VALUES, st.data())
def test_a_cut_message_is_refused(value: Any, draw: st.DataObject) -> None:
    body = wire.pack(value)
    cut = draw.draw(st.integers(0, len(body) - 1))
    with pytest.raises(wire.WireError):
        wire.unpack(body[:cut])


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        pytest.param(b"", "cut off", id="nothing"),
        pytest.param(b"\xc0\xc0", "1 bytes after", id="two values"),
        pytest.param(b"\xc1", "0xc1", id="never-used byte"),
        pytest.param(msgpack.packb(1.5), "0xcb", id="float"),
        pytest.param(msgpack.packb(msgpack.ExtType(5, b"x")), "0xd4", id="extension"),
        pytest.param(b"\xa2\xff\xfe", "UTF-8", id="text that is not UTF-8"),
        pytest.param(b"\xdf\xff\xff\xff\xff", "announced", id="map of 4G"),
        pytest.param(b"\xdd\xff\xff\xff\xff", "announced", id="array of 4G"),
        pytest.param(b"\xc6\xff\xff\xff\xffabc", "announced", id="bin of 4G"),
        pytest.param(b"\x81\xc0\xc0", "key", id="nil as key"),
        pytest.param(b"\x81\x90\xc0", "key", id="array as key"),
        pytest.param(b"\x91" * 100 + b"\xc0", "deeper", id="deep arrays"),
        pytest.param(b"\x81\xa1a" * 5000 + b"\xc0", "deeper", id="deep maps"),
    ],
)
def test_refuses(body: bytes, says: str) -> None:
    with pytest.raises(wire.WireError, match=says):
        wire.unpack(body)


@pytest.mark.parametrize(
    "value",
    [1.5, 1 << 64, -(1 << 63) - 1, {1, 2}, "\ud800", object(), nested(wire.MAX_DEPTH + 1)],
    ids=lambda v: str(type(v).__name__),
)
def test_does_not_pack(value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.pack(value)


def test_depth_bound_is_the_same_both_ways() -> None:
    deepest = nested(wire.MAX_DEPTH)
    assert wire.unpack(wire.pack(deepest)) == deepest


def test_frame_and_length() -> None:
    framed = wire.frame(b"abc")
    assert framed == b"\x00\x00\x00\x03abc"
    assert wire.body_length(framed[: wire.HEADER_BYTES], limit=3) == 3


@pytest.mark.parametrize(
    ("header", "limit"), [(b"\x00\x00\x00", 9), (b"\x00\x00\x00\x04", 3), (b"GET ", wire.MAX_CTL_REPLY)]
)
def test_bad_length_prefix(header: bytes, limit: int) -> None:
    with pytest.raises(wire.WireError):
        wire.body_length(header, limit)


def test_frame_refuses_what_the_other_side_would() -> None:
    with pytest.raises(wire.WireError, match="at most"):
        wire.frame(bytes(wire.MAX_REQUEST + 1))
    assert len(wire.frame(bytes(wire.MAX_REQUEST))) == wire.MAX_REQUEST + wire.HEADER_BYTES


def test_ops_are_distinct() -> None:
    ops = wire.PLUGIN_OPS + wire.CTL_OPS
    assert len(set(ops)) == len(ops)
    assert wire.WIRE_VERSION in wire.SERVED_VERSIONS
