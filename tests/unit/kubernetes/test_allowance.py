"""What is kept of a namespace's policies, to the byte; when it is closed, and when it is worth a new list.

proves: F3
"""

from typing import Any

import msgspec
import pytest

from daemon.model import EVERYWHERE, CommonRules, ObjectKey, Policy, Selector
from daemon.policy.budget import Budget
from daemon.policy.governing import Policies
from daemon.sources.kubernetes.allowance import NOT_KEPT, Allowance, most_bytes
from daemon.sources.kubernetes.stream import ADDED, DELETED, MODIFIED, Event
from daemon.sources.kubernetes.watched import POLICIES, Collection, Seen
from tests.unit.kubernetes.sized import PLAIN, raw

pytestmark = pytest.mark.unit

KIND = POLICIES.kind
MALFORMED: dict[str, Any] = {"podSelector": {"matchLabels": 7}, "ingress": []}
FIXED = 600
"""What a policy with one network is charged beside its bytes."""


def follow(allowance: Allowance, kind: str, one: msgspec.Raw) -> list[str]:
    """What an event comes to: `+a` kept, `~a` not, `-a` gone, and closures as `shut` and `open`."""
    return [describe(deleted, seen) for deleted, seen in allowance.follow(POLICIES, Event(kind, one))]


def describe(deleted: bool, seen: Seen) -> str:
    if seen.key.name == NOT_KEPT:
        return "open" if deleted else "shut"
    sign = "-" if deleted else "~" if seen.object is None and seen.problem is None else "+"
    return f"{sign}{seen.key.name}"


def listed(most: int | None, *raws: msgspec.Raw) -> tuple[Allowance, list[str]]:
    allowance = Allowance(most)
    allowance.begin()
    seen = [describe(False, allowance.take(POLICIES, one, known=False)) for one in raws]
    return allowance, seen + [describe(False, one) for one in allowance.closures()]


# --- how much --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("less", "news"), [(0, ["+b"]), (1, ["shut", "~b"])])
def test_to_the_byte(less: int, news: list[str]) -> None:
    allowance = Allowance(2 * (1000 + FIXED) - less)
    assert follow(allowance, ADDED, raw("a", 1000)) == ["+a"]
    assert follow(allowance, ADDED, raw("b", 1000)) == news


CHARGED = [
    ("its bytes", raw("a", 5000), 5000 + FIXED),
    ("networks", raw(networks="a,b,c"), len(raw(networks="a,b,c")) + 500 + 300),
    (
        "rules",
        raw(spec={**PLAIN, "egress": [{}] * 7}),
        len(raw(spec={**PLAIN, "egress": [{}] * 7})) + FIXED + 70,
    ),
    (
        "problems",
        raw(spec={**PLAIN, "ingress": [{"ports": [{"port": 0}] * 3}]}),
        len(raw(spec={**PLAIN, "ingress": [{"ports": [{"port": 0}] * 3}]})) + FIXED + 10 + 120,
    ),
    (
        "ports",
        raw(spec={**PLAIN, "ingress": [{"ports": [{"port": 1}] * 4}]}),
        len(raw(spec={**PLAIN, "ingress": [{"ports": [{"port": 1}] * 4}]})) + FIXED + 10 + 40,
    ),
    ("what can't be decoded", raw(spec=7), len(raw(spec=7)) + 540),
]


@pytest.mark.parametrize(("one", "most"), [case[1:] for case in CHARGED], ids=[case[0] for case in CHARGED])
def test_what_is_charged(one: msgspec.Raw, most: int) -> None:
    """What is small as the server sends it, and takes more than that, counts for more."""
    assert listed(most, one)[1] == ["+a"]
    assert listed(most - 1, one)[1] == ["~a", "shut"]


def test_each_namespace_has_its_own() -> None:
    _, seen = listed(2000, raw("a", 1300), raw("b", 1300), raw("c", 1300, namespace="other"))
    assert seen == ["+a", "~b", "+c", "shut"]


def test_without_a_bound_everything_is_kept() -> None:
    allowance, seen = listed(None, *(raw(f"p{n}", 100_000) for n in range(20)))
    assert seen == [f"+p{n}" for n in range(20)]
    assert follow(allowance, DELETED, raw("p1")) == ["-p1"]


def count_decodes() -> tuple[Collection, list[int]]:
    """The policies, and the bytes of each that was decoded."""
    decoded: list[int] = []

    def decode(collection: Collection, one: msgspec.Raw) -> Seen:
        decoded.append(len(one))
        return POLICIES.decode(collection, one)

    return msgspec.structs.replace(POLICIES, decode=decode), decoded


def test_nothing_is_decoded_for_which_there_is_no_room() -> None:
    """It takes a second for 2 MB, and a tenant may have thousands of such."""
    counting, decoded = count_decodes()
    allowance = Allowance(100_000)
    for number in range(50):
        allowance.take(counting, raw(f"p{number}", 30_000), known=False)
    assert decoded == [30_000] * 3


def test_nor_without_end_what_turns_out_too_large() -> None:
    """As many bytes in vain as may be kept, with each list; events have cost their author something."""
    many = {**PLAIN, "egress": [{}] * 3000}
    size = len(raw(spec=many))
    counting, decoded = count_decodes()
    allowance = Allowance(3 * size)
    for _ in range(2):
        allowance.begin()
        decoded.clear()
        for number in range(50):
            allowance.take(counting, raw(f"p{number}", spec=many), known=False)
        assert len(decoded) == 3
    allowance.closures()
    for number in range(9):
        allowance.follow(counting, Event(MODIFIED, raw("p1", version=number, spec=many)))
    assert len(decoded) == 12
    assert follow(allowance, MODIFIED, raw("p1")) == ["+p1"]


# --- what closes, and what opens -------------------------------------------------------------------------


def test_a_closure_isolates_all_and_permits_nothing() -> None:
    allowance, _ = listed(100, raw("a", version=7), raw("b", version=4))
    _, change = allowance.follow(POLICIES, Event(ADDED, raw("c", version=9)))
    (closure,) = Allowance.closures(_again(allowance))
    found = closure.object
    assert isinstance(found, Policy)
    assert (found.networks, found.pod_selector, found.ingress, found.egress) == (
        (EVERYWHERE,),
        Selector(),
        (),
        (),
    )
    assert (closure.key, closure.uid, closure.version) == (ObjectKey(KIND, "ns", NOT_KEPT), "", "7")
    (problem,) = found.problems
    for word in (
        "2 are",
        "100 bytes",
        "Delete",
        "namespaceElements",
        "count/multi-networkpolicies.k8s.cni.cncf.io",
    ):
        assert word in problem.message
    assert change[1].version == "9"


def _again(allowance: Allowance) -> Allowance:
    allowance.begin()
    for name, version in (("a", 7), ("b", 4)):
        allowance.take(POLICIES, raw(name, version=version), known=False)
    return allowance


def test_it_opens_when_what_was_missing_is_deleted() -> None:
    allowance, _ = listed(2000, raw("a", 1300), raw("b", 1300), raw("c", 1300))
    assert follow(allowance, DELETED, raw("b")) == ["shut", "-b"]  # another number is told
    assert follow(allowance, DELETED, raw("c")) == ["-c", "open"]
    assert follow(allowance, DELETED, raw("a")) == ["-a"]
    assert follow(allowance, DELETED, raw("never")) == ["-never"]


def test_it_opens_when_what_was_missing_fits_after_an_edit() -> None:
    allowance, _ = listed(2700, raw("a", 1000), raw("b", 1300))
    assert follow(allowance, MODIFIED, raw("b", 1301)) == ["~b"]
    assert follow(allowance, MODIFIED, raw("b", 490)) == ["+b", "open"]
    assert follow(allowance, MODIFIED, raw("b", 500)) == ["+b"]
    assert follow(allowance, MODIFIED, raw("b", 501)) == ["shut", "~b"]


def test_an_edit_beyond_the_bound_closes_before_anything_goes() -> None:
    allowance, seen = listed(4000, raw("a", 1000), raw("b", 1000))
    assert seen == ["+a", "+b"]
    assert follow(allowance, MODIFIED, raw("b", 2000)) == ["shut", "~b"]
    assert follow(allowance, MODIFIED, raw("b", 2001)) == ["~b"]
    assert follow(allowance, MODIFIED, raw("b", 1000)) == ["+b", "open"]


def test_an_edit_makes_room_for_itself() -> None:
    allowance, _ = listed(2000, raw("a", 1300))
    for size in (1400, 700, 1399):
        assert follow(allowance, MODIFIED, raw("a", size)) == ["+a"]
    assert follow(allowance, MODIFIED, raw("a", 1401)) == ["shut", "~a"]


def test_many_are_counted_and_told_in_few_words() -> None:
    allowance, _ = listed(0)
    told = [number for number in range(1, 3000) if follow(allowance, ADDED, raw(f"p{number}"))[0] == "shut"]
    assert told == [*range(1, 11), 11, 101, 1001]
    assert not allowance._places["ns"].kept  # nothing is left of them


def test_what_stays_in_force_of_the_last_valid_version_counts_too() -> None:
    """A4: a malformed selector leaves the last valid one, whatever was written since."""
    allowance, _ = listed(4400, raw("a", 1500))
    for version in range(2, 20):
        assert follow(allowance, MODIFIED, raw("a", 1500, version, MALFORMED)) == ["+a"]
        assert follow(allowance, MODIFIED, raw("a", 1500, version, 7)) == ["+a"]
    assert follow(allowance, MODIFIED, raw("a", 2000, 20, MALFORMED)) == ["shut", "~a"]
    assert follow(allowance, MODIFIED, raw("a", 3000, 21)) == ["+a", "open"]


# --- a new list ------------------------------------------------------------------------------------------


def test_a_list_begins_anew() -> None:
    allowance, seen = listed(2000, raw("a", 1300), raw("b", 1300))
    assert seen == ["+a", "~b", "shut"]
    allowance.begin()
    assert describe(False, allowance.take(POLICIES, raw("b", 1300), known=False)) == "+b"
    assert allowance.closures() == []
    allowance.begin()
    assert allowance.closures() == []
    assert allowance._places == {}


def worth(allowance: Allowance) -> bool:
    return allowance.worth_listing


def test_a_list_is_worth_it_when_half_is_free_again() -> None:
    allowance, _ = listed(7999, *(raw(name, 1400) for name in "abcd"))
    assert not worth(allowance)
    follow(allowance, DELETED, raw("a"))
    assert not worth(allowance)  # there are 4,000
    follow(allowance, MODIFIED, raw("b", 1399))
    assert worth(allowance)
    follow(allowance, DELETED, raw("d"))
    assert not worth(allowance)  # nothing is missing


def test_it_is_not_worth_it_for_what_grew_too_large() -> None:
    """It would be found as it is."""
    allowance, _ = listed(4800, raw("a", 1000), raw("b", 1000))
    follow(allowance, MODIFIED, raw("b", 9000))
    assert not worth(allowance)
    follow(allowance, MODIFIED, raw("a", 999))
    assert worth(allowance)


# --- beside what may be in force -------------------------------------------------------------------------

USED: list[tuple[str, Budget, list[dict[str, Any]]]] = [
    (
        "blocks",
        Budget(10, 3000),
        [{"ingress": [{"from": [{"ipBlock": {"cidr": f"2001:db8:1:{n:x}::/64"}} for n in range(3000)]}]}],
    ),
    (
        "spans of ports",
        Budget(10, 3000),
        [{"ingress": [{"ports": [{"port": 1000, "endPort": 2000, "protocol": "TCP"}] * 3000}]}],
    ),
    ("one rule each", Budget(100, 1), [{"ingress": [{}]}] * 100),
    (
        "selectors",
        Budget(100, 1100),
        [{"egress": [{"to": [{"podSelector": {"matchLabels": {"app": "x" * 60}}}]}]}] * 100,
    ),
]


@pytest.mark.parametrize(("name", "budget", "specs"), USED, ids=[case[0] for case in USED])
def test_what_may_be_in_force_is_kept(name: str, budget: Budget, specs: list[dict[str, Any]]) -> None:
    """F1: a namespace that uses its budget up is not closed for it."""
    fields = [{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"x": "x" * 200}}}]
    allowance, store = Allowance(most_bytes(budget.rules, budget.elements)), Policies(CommonRules(), budget)
    for number, spec in enumerate(specs):
        made = msgspec.json.decode(raw(f"p{number}", spec={"podSelector": {}, **spec}))
        made["metadata"]["managedFields"] = fields
        one = msgspec.Raw(msgspec.json.encode(made))
        seen = allowance.take(POLICIES, one, known=False)
        assert isinstance(seen.object, Policy), name
        store.put(("ns", f"p{number}"), seen.object)
    assert [store.closed(("ns", f"p{number}")) for number, _ in enumerate(specs)] == [()] * len(specs)
    assert allowance.closures() == []
