"""Netlink's wire format, there and back."""

from hypothesis import given
from hypothesis import strategies as st

from daemon import netlink

attribute_lists = st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)))


@given(attribute_lists)
def test_attributes_come_back(wanted: list[tuple[int, bytes]]) -> None:
    body = b"".join(netlink.attr(kind, payload) for kind, payload in wanted)
    assert len(body) % 4 == 0
    assert netlink.attribute_list(body) == wanted


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_fail(body: bytes) -> None:
    """The kernel is trusted, but a reader that never ends would take the daemon's thread with it."""
    netlink.attribute_list(body)
    list(netlink.answers(body))
