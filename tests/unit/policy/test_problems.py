"""What is wrong with objects, in pieces: a change costs what it concerns, and nobody waits for another's.

proves: C5
"""

import sys
from collections.abc import Iterator
from types import FrameType

import msgspec

from daemon.model import NetworkStatus, Pod, Policy
from daemon.policy.owners import MOST_LOOKS
from daemon.policy.references import POLICY_FOR
from daemon.policy.turns import Turns
from daemon.store import Store
from tests.unit.policy.stored import change, gone, make_store, pod, policy

OWN, POLICIES, PAIRS = "ns/own", 500, 1000


def far(name: str, address: int, network: str = OWN) -> Pod:
    """A pod of another node with one address."""
    status = NetworkStatus(network, "net1", (address.to_bytes(4, "big"),))
    return pod(name, f"uid-{name}", local=False, statuses=(status,))


def attacked() -> Store:
    """500 policies, each for other networks, and 2,000 pods, each two of which have an address together."""
    many = [policy(name=f"p{n}", networks=(OWN, f"ns/x{n}")) for n in range(POLICIES)]
    pods = [far(f"{side}{n}", n) for side in ("left", "right") for n in range(PAIRS)]
    return make_store(*many, *pods)


def looked_at(store: Store) -> int:
    """How much is looked at to tell what is wrong now."""
    before = store.faults.looked
    store.problems()
    return store.faults.looked - before


def told(store: Store, one: Policy) -> list[str]:
    return [found.message for found in store.problems()[one.key] if "unique" in found.message]


def calls(pieces: Iterator[None]) -> list[int]:
    """How many functions each piece calls, and those of C: time would depend on the machine."""
    counted = [0]

    def count(frame: FrameType, event: str, argument: object) -> None:
        counted[-1] += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for _ in pieces:
            counted.append(0)
    finally:
        sys.setprofile(None)
    return counted


def test_only_what_a_change_concerns_is_looked_at() -> None:
    store = attacked()
    elsewhere = policy(name="elsewhere", networks=("ns/other",))
    store.apply([change(elsewhere)])
    store.problems()
    store.apply([change(far("alone", 99_999)), change(far("there", 7, "ns/third"))])
    assert looked_at(store) == 0, "no two pods share anything on networks that a policy names"
    store.apply([change(far("one", 8, "ns/other"))])
    assert looked_at(store) == 1
    store.apply([change(far("two", 8, "ns/other"))])
    assert looked_at(store) == 2, "the group of networks, and its policy"
    assert told(store, elsewhere) == ["0.0.0.8 is not unique: pods ns/one, ns/two have it on these networks"]
    # More addresses than are told of change no more than their number.
    store.apply([gone(far("two", 8, "ns/other"))])
    assert looked_at(store) == 2
    assert elsewhere.key not in {key for key, found in store.problems().items() if len(found) > 1}


def test_every_piece_is_small() -> None:
    store = attacked()
    first = calls(store.faults.settle())
    store.apply([change(far("flip", 3))])
    again = calls(store.faults.settle())
    # Noting what is concerned is one piece, and everything else is one policy's at a time.
    for counted in (first, again):
        assert max(counted) < 8 * POLICIES + 4 * MOST_LOOKS
        assert len(counted) > POLICIES
    assert sum(again) < 5 * POLICIES * MOST_LOOKS


def test_what_is_left_out_is_said() -> None:
    store, one = attacked(), policy(name="p0", networks=(OWN, "ns/x0"))
    found = told(store, one)
    assert len(found) == 9
    assert found[-1].startswith("at least ") or found[-1].endswith("more addresses are not unique")
    store.apply(change(far(f"more{n}", n)) for n in range(PAIRS, PAIRS + 5000))
    store.apply(change(far(f"less{n}", n)) for n in range(PAIRS, PAIRS + 5000))
    assert told(store, one)[:8] == found[:8], "those that have been shared for longest"
    (*_, last) = (problem for problem in store.problems()[one.key] if problem.field == POLICY_FOR)
    assert "at least" in last.message


def test_nobody_waits_for_what_another_has_made_stale() -> None:
    store = attacked()
    neighbour = msgspec.structs.replace(policy(name="theirs", networks=("team/lan",)), namespace="team")
    store.apply([change(neighbour)])
    pieces = store.faults.settle()
    for _ in range(2 * POLICIES):
        next(pieces)
        store.apply([change(policy(name="again", networks=(OWN, f"ns/y{store.faults.looked}")))])
        if store.faults.of(neighbour.key):
            break
    assert store.faults.looked < 10 + POLICIES


def test_turns() -> None:
    turns: Turns[int] = Turns()
    for number in range(5):
        turns.put("much", number)
    turns.put("little", 9)
    turns.put("much", 0)
    turns.drop("much", 3)
    turns.drop("nobody", 3)
    assert [turns.take() for _ in range(5)] == [0, 9, 1, 2, 4]
    assert not turns
