"""Imprints: what is written of a record is read again, fits everywhere, and nonsense claims nothing."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import imprint
from daemon.attachments import Record
from daemon.netns import NetnsIdentity
from daemon.wording import MAX_COMMENT, clean
from tests.unit.test_records import BOOT, make_record

PLACE = NetnsIdentity("/run/netns/there", 4, 4026532999, 99)
BY = "0123456789ab"
LONG = {
    "container": "c" * 64,
    "pod_namespace": "n" * 63,
    "pod_name": "p" * 253,
    "pod_uid": "00000000-0000-4000-8000-000000000000",
    "networks": tuple(f"{'n' * 63}/{number}-{'x' * 60}" for number in range(4)),
    "addresses": tuple(bytes([n]) * 16 for n in range(20)),
    "lower": "macvlan on 12 of 0",
    "seen_name": "p\udcff",
}


def made(**changes: object) -> Record:
    container = changes.pop("container", "abc")
    return msgspec.structs.replace(make_record(), container_id=container, **changes)


@pytest.mark.parametrize(
    "changes", [{}, LONG, {"guard": True, "ifindex": 0}, {"pod_name": "", "pod_namespace": ""}]
)
def test_what_was_written_is_claimed(changes: dict[str, object]) -> None:
    record = made(**changes)
    lines = imprint.write(record, BY)
    assert all(clean(line) == line and len(line) <= MAX_COMMENT for line in lines)
    (claim,) = imprint.read(["nothing jumps here", *reversed(lines)])
    assert (claim.by, claim.ifname) == (BY, "net1")
    assert claim.record(PLACE, BOOT) == msgspec.structs.replace(
        record,
        netns=PLACE.path,
        device=PLACE.device,
        inode=PLACE.inode,
        cookie=PLACE.cookie,
        labels={},
        ports=(),
        adopted=True,
        unready=record.pod_name != "",
    )


def test_several_in_one_netns() -> None:
    lines = [*imprint.write(made(), BY), *imprint.write(made(ifname="net2"), "another")]
    assert [(claim.ifname, claim.by) for claim in imprint.read(lines)] == [("net1", BY), ("net2", "another")]


def test_of_what_takes_too_many_lines_there_are_none() -> None:
    many = tuple(number.to_bytes(16, "big") for number in range(1000))
    assert imprint.write(made(addresses=many), BY) == ()


def test_half_of_it_claims_nothing() -> None:
    lines = imprint.write(made(), BY)
    assert len(lines) > 1
    assert imprint.read(lines[1:]) == []


NONSENSE = {
    "no interface": {"interface": ""},
    "an interface that is a path": {"interface": "../x"},
    "no address": {"addresses": "0a00"},
    "no hex": {"addresses": "zz"},
    "no number": {"index": "x"},
    "a large number": {"index": str(1 << 40)},
    "no container": {"container": ""},
}


@pytest.mark.parametrize("changes", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_no_record(changes: dict[str, str]) -> None:
    (claim,) = imprint.read(imprint.write(made(), BY))
    bad = imprint.Claim(BY, {**claim.fields, **changes})
    with pytest.raises(ValueError, match=r".+"):
        bad.record(PLACE, BOOT)


@given(st.lists(st.text(max_size=130), max_size=8))
def test_anything_may_stand_there(lines: list[str]) -> None:
    for claim in imprint.read([*lines, *(f"net1 1/1 {line}" for line in lines)]):
        try:
            record = claim.record(PLACE, BOOT)
        except ValueError:
            continue
        assert record.adopted
