"""Which policies govern something here, told as it changes.

proves: A4
"""

from daemon.model import AttachmentKey
from daemon.policy.governed import Governed
from tests.unit.policy.stored import KEY, PEER_KEY, attach, change, gone, make_store, pod, policy

P, Q = ("ns", "p"), ("ns", "q")
ONE, TWO = AttachmentKey("c1", "net1"), AttachmentKey("c2", "net1")


def test_the_first_and_the_last_attachment_are_told_of() -> None:
    governed = Governed()
    governed.put(ONE, [P, Q])
    governed.put(TWO, [P])
    assert governed.take() == {P: True, Q: True}
    assert governed.take() == {}
    governed.put(ONE, [P])
    assert governed.take() == {Q: False}
    governed.put(ONE, [])
    assert governed.take() == {}
    governed.put(TWO, [])
    assert governed.take() == {P: False}


def test_what_comes_and_goes_between_is_not_told() -> None:
    governed = Governed()
    governed.put(ONE, [P])
    governed.put(ONE, [])
    assert governed.take() == {}
    governed.put(ONE, [P])
    governed.take()
    governed.put(ONE, [])
    governed.put(ONE, [P])
    assert governed.take() == {}
    governed.put(ONE, [])
    governed.put(TWO, [P])
    governed.put(TWO, [])
    assert governed.take() == {P: False}


def test_nothing_is_left_of_what_came_and_went() -> None:
    governed = Governed()
    for number in range(100):
        key, ref = AttachmentKey(f"c{number}", "net1"), ("ns", f"p{number}")
        governed.put(key, [ref])
        if number % 2:
            governed.take()
        governed.put(key, [])
        if number % 3:
            governed.take()
    governed.take()
    assert [len(each) for each in vars(governed).values()] == [0, 0, 0]


def test_a_store_follows_attachments_and_policies() -> None:
    store = make_store(pod(), policy(name="p"), policy(name="q", role="none"))
    attach(store, KEY)
    # Not compiled yet.
    assert store.governed.take() == {}
    store.ruleset(KEY)
    assert store.governed.take() == {P: True}
    store.apply([change(policy(name="q"))])
    store.ruleset(KEY)
    assert store.governed.take() == {Q: True}
    store.apply([gone(policy(name="p"))])
    store.ruleset(KEY)
    assert store.governed.take() == {P: False}
    attach(store, PEER_KEY)
    store.ruleset(PEER_KEY)
    store.detach(KEY)
    assert store.governed.take() == {}
    store.detach(PEER_KEY)
    assert store.governed.take() == {Q: False}
