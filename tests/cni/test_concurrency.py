"""Many at once: ADDs and DELs of a whole node's pods, and of one and the same attachment.

proves: A6
"""

import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.cni.node import Node, R, T, addresses_of, at_once, finish, plain
from tests.netns import enroll

PODS = 50
WIRE = 200
RACES = 10


def timed(work: Callable[[T], R], items: Sequence[T]) -> tuple[list[R], float]:
    """All at once; returns the seconds until the last too."""
    begun = time.monotonic()
    done = at_once(work, items)
    return done, time.monotonic() - begun


def test_many_cnitool_adds_and_dels(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    pods = [node.pod() for _ in range(PODS)]
    chains = [node.chain(guard=number % 2 == 0) for number in range(PODS)]

    def run(command: str) -> tuple[list[Any], float]:
        jobs = list(zip(chains, pods, strict=True))
        return timed(lambda job: node.lab.cnitool(command, *job), jobs)

    added, adding = run("add")
    assert [r for r in added if r.code != 0] == []
    node.assert_governed([address for r in added for address in addresses_of(r.result)])
    deleted, deleting = run("del")
    assert [r for r in deleted if r.code != 0] == []
    for pod in pods:
        node.assert_nothing_left(pod)
    with capsys.disabled():
        print(f"\n{PODS} cnitool ADDs at once: {adding:.2f} s; DELs: {deleting:.2f} s")  # noqa: T201


def test_many_adds_over_the_wire(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    attachments = [node.attached() for _ in range(WIRE)]
    replies, seconds = timed(lambda attachment: enroll.add(node.daemon, attachment), attachments)
    assert [reply for reply in replies if not reply["ok"]] == []
    node.assert_governed([address for a in attachments for address in plain(a)])
    assert all(len(node.records(a.pod)) == 1 for a in attachments[::20])
    with capsys.disabled():
        print(f"\n{WIRE} ADDs over the wire at once: {seconds:.2f} s")  # noqa: T201


def test_the_same_attachment_many_times_at_once(node: Node) -> None:
    attachment, once = node.attached(), node.attached()
    enroll.must(enroll.add(node.daemon, once))
    replies = at_once(lambda _: enroll.add(node.daemon, attachment), range(20))
    assert all(reply["ok"] for reply in replies)
    assert len(node.records(attachment.pod)) == 1
    # But for whose they are, the rules are those of a single ADD.
    whose = re.compile(r"cnitool-\w+|.*\"net1 \d/\d .*")
    many, single = (whose.sub("", node.ruleset(a.pod)) for a in (attachment, once))
    assert "ingress-net1" in single
    assert many == single
    node.assert_governed(plain(attachment))


def test_dels_that_race_with_adds_never_open_what_lives(node: Node) -> None:
    """Processes of the built plugin, in whatever order the kernel runs them."""
    chance = random.Random(7)
    attachments = [node.attached() for _ in range(RACES)]
    for attachment in attachments:
        children = [node.start_plugin(attachment)]
        time.sleep(chance.uniform(0.0, 0.015))
        assert node.plugin("DEL", attachment).code == 0
        (done,) = map(finish, children)
        assert done.code == 0 or done.error()["code"] == 11
        if done.code != 0:
            assert node.plugin("ADD", attachment).code == 0
    node.assert_governed([address for a in attachments for address in plain(a)])
    for attachment in attachments:
        assert node.plugin("DEL", attachment).code == 0
        node.lab.detach(attachment)
    for attachment in attachments:
        node.assert_nothing_left(attachment.pod)
