"""The store while held, with much in it: in pieces, and within the budget of a namespace.

proves: E8, F4
"""

import pytest

from daemon.holding import holding
from daemon.model import (
    AttachmentKey,
    Block,
    CommonRules,
    Direction,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
    Subject,
)
from daemon.policy.budget import Budget
from daemon.store import Store
from tests.unit.policy.stored import (
    ALL_PODS,
    FROM_PODS,
    KEY,
    NET1,
    PEER_KEY,
    STALE,
    attach,
    change,
    gone,
    make_store,
    pod,
    policy,
    status,
)

pytestmark = pytest.mark.unit

MANY = 2000
OTHER_KEY = AttachmentKey("c3", "net1")


def crowd(count: int = MANY) -> list[Pod]:
    return [
        pod(
            f"peer-{n}",
            uid=f"u{n}",
            labels={"n": str(n % 2)},
            statuses=status((10 << 24 | n).to_bytes(4, "big")),
        )
        for n in range(256, 256 + count)
    ]


def from_pods_with(value: str) -> Rule:
    return Rule((PodPeer(None, Selector((Requirement("n", Operator.IN, (value,)),))),), None)


def pieces(store: Store, key: AttachmentKey = KEY) -> int:
    """How many the work takes."""
    found = 1
    while not store.prepare(key, lambda: True):
        found += 1
    return found


def block_rule(first: int, last: int, port: int) -> Rule:
    return Rule((Block("block", 4, ((first, last),)),), (Port(6, (port, port)),))


def edited(store: Store, name: str, many: int, last: int) -> None:
    store.apply(
        [change(policy(*(block_rule(n << 8, (n << 8) + last, n + 1) for n in range(many)), name=name))]
    )


def test_a_set_that_is_new_while_held_is_looked_for_in_pieces() -> None:
    store = make_store(policy(FROM_PODS), *crowd())
    attach(store)
    store.hold()
    store.apply([change(policy(from_pods_with("1")))])
    assert pieces(store) > MANY // 64 - 8
    assert pieces(store) == 1
    (match,) = store.ruleset(KEY).ingress or ()
    assert len(getattr(match.peer, "spans4", ())) == MANY // 2


def test_what_both_permit_is_worked_out_in_pieces() -> None:
    store = make_store(pod())
    edited(store, "deny", 900, 9)
    attach(store)
    store.hold()
    edited(store, "deny", 900, 5)
    assert pieces(store) > 5
    assert pieces(store) == 1
    assert len(store.ruleset(KEY).ingress or ()) == 900


def test_what_is_unfinished_is_finished_for_whoever_comes_next_and_ends_with_its_attachment() -> None:
    store = make_store(pod(), pod("q"))
    attach(store)
    attach(store, PEER_KEY, ("ns", "q"))
    edited(store, "deny", 900, 9)
    store.hold()
    edited(store, "deny", 900, 5)
    assert not store.prepare(KEY, lambda: True)
    assert pieces(store, PEER_KEY) > 5
    assert store.ruleset(PEER_KEY).ingress == store.ruleset(KEY).ingress
    edited(store, "deny", 900, 4)
    assert not store.prepare(KEY, lambda: True)
    store.detach(KEY)
    assert pieces(store, PEER_KEY) > 5
    edited(store, "deny", 900, 3)
    assert not store.prepare(PEER_KEY, lambda: True)
    assert store.release() == {PEER_KEY}
    assert len(store.ruleset(PEER_KEY).ingress or ()) == 900


def test_a_policy_that_changes_while_it_is_worked_out() -> None:
    store = make_store(pod(), *crowd())
    edited(store, "deny", 900, 9)
    attach(store)
    store.hold()
    edited(store, "deny", 900, 5)
    assert not store.prepare(KEY, lambda: True)
    store.apply([change(policy(FROM_PODS))])
    pieces(store)
    assert store.ruleset(KEY).ingress == ()


def with_little_room(elements: int) -> Store:
    """While held: ranges that fit (F1, by the prefixes that they come to) never come to more together."""
    store = Store(CommonRules(), Budget())
    store._budget = Budget(1000, elements)
    return store


def edit(store: Store, by: int) -> None:
    """Ten ranges in each of three policies, moved: then and now together are cut into nineteen."""
    places = (("ns", "one", "a", 0), ("ns", "two", "b", 1 << 16), ("theirs", "three", "a", 0))
    for namespace, name, app, base in places:
        spans = tuple((n + by, n + by + 12) for n in range(base, base + 200, 20))
        app_is = Selector((Requirement("app", Operator.IN, (app,)),))
        rule = Rule((Block("ranges", 4, spans),), (Port(6, (80, 80)),))
        store.apply([change(Policy(namespace, name, (NET1,), app_is, (rule,), None))])


def ranges(store: Store, key: AttachmentKey) -> int:
    return sum(len(getattr(match.peer, "spans4", ())) for match in store.ruleset(key).ingress or ())


def test_what_all_pods_of_a_namespace_come_to_counts_together_and_no_other_one_notices() -> None:
    """F4: it closes one direction of one attachment, is told, and over when the source is current."""
    store = with_little_room(24)
    attach(store, app="a")
    attach(store, PEER_KEY, ("ns", "q"), app="b")
    store.attach(OTHER_KEY, ("theirs", "r"), "", Subject("theirs", {"app": "a"}, (), (NET1,)), (STALE,))
    everyone = (KEY, PEER_KEY, OTHER_KEY)
    edit(store, 0)
    store.hold()
    assert [ranges(store, key) for key in everyone] == [10, 10, 10]
    edit(store, 10)
    assert [ranges(store, key) for key in everyone] == [19, 0, 19]
    assert [store.closed(key) for key in everyone] == [(), (Direction.INGRESS,), ()]
    assert [store.ruleset(key).ingress is None for key in everyone] == [False, False, False]
    edit(store, 0)
    assert [ranges(store, key) for key in everyone] == [10, 10, 10]
    edit(store, 10)
    store.detach(KEY)
    assert [ranges(store, key) for key in (PEER_KEY, OTHER_KEY)] == [19, 19]
    assert store.closed(PEER_KEY) == ()
    store.release()
    assert [ranges(store, key) for key in (PEER_KEY, OTHER_KEY)] == [10, 10]
    assert store.closed(PEER_KEY) == ()


def test_equal_rulesets_count_once_and_are_the_same_objects() -> None:
    store = with_little_room(24)
    attach(store, app="a")
    attach(store, PEER_KEY, ("ns", "q"), app="a")
    edit(store, 0)
    store.hold()
    edit(store, 10)
    assert [ranges(store, key) for key in (KEY, PEER_KEY)] == [19, 19]
    assert store.ruleset(KEY) is store.ruleset(PEER_KEY)


def test_to_hold_is_worked_towards_in_pieces_while_attachments_go() -> None:
    store = make_store(policy(FROM_PODS), *crowd())
    attach(store)
    attach(store, PEER_KEY, ("ns", "q"))
    attached: dict[AttachmentKey, object] = {KEY: 0, PEER_KEY: 0}
    work = holding(store, attached)
    taken = [next(work) for _ in range(8)]
    store.detach(PEER_KEY)
    del attached[PEER_KEY]
    taken += list(work)
    assert len(taken) > MANY // 64 - 8
    store.apply([gone(policy())])
    assert [match.peer for match in store.ruleset(KEY).ingress or ()] == [ALL_PODS]
