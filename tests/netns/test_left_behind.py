"""One key that is used again in another namespace while the first lives: each stays restricted to its end.

proves: A11
"""

from typing import Any

import msgspec
import pytest

from daemon.attachments import Record
from tests.lab import Attachment, Lab, Target, objects
from tests.netns.enroll import CNI_VERSION, environment, must
from tests.netns.lifeworld import PORT, World, eventually, records


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    world = World(lab, backend)
    policy = objects.policy("deny", {"podSelector": {}, "policyTypes": ["Ingress"]}, networks="net1")
    world.daemon.apply("policy", policy)
    world.daemon.wait_synced()
    return world


def add_as(world: World, container: str, attachment: Attachment, **changes: str) -> dict[str, Any]:
    """ADD of an attachment under another container's ID."""
    body = {
        "cniVersion": CNI_VERSION,
        "name": "net1",
        "type": "multi-networkpolicy",
        "netAttachDef": "default/net1",
        "prevResult": attachment.result(CNI_VERSION),
    }
    env = environment(attachment.pod, attachment.ifname) | {"CNI_CONTAINERID": container, **changes}
    return world.daemon.cni("add", env, body)


def served(world: World, number: int) -> Attachment:
    """One more sandbox of a pod that is called as the server."""
    attachment = world.lab.attach(world.lab.pod("server", suffix=f"-{number}"))
    attachment.pod.prober.serve(PORT)
    return attachment


def assert_closed(world: World, *attachments: Attachment) -> None:
    targets = [Target("tcp", address, PORT) for a in attachments for address in (a.ipv4, a.ipv6)]
    assert world.attachments["a"].pod.prober.mismatches(dict.fromkeys(targets, False)) == []


def saved(world: World) -> list[Record]:
    """What a start would find."""
    return [
        msgspec.json.decode(path.read_bytes().partition(b"\n")[0], type=Record)
        for path in records(world.daemon)
    ]


def test_one_key_in_three_living_namespaces(world: World) -> None:
    servers = [served(world, number) for number in range(3)]
    open_before = dict.fromkeys([Target("tcp", a.ipv4, PORT) for a in servers], True)
    assert world.attachments["a"].pod.prober.mismatches(open_before) == []
    for attachment in servers:
        must(add_as(world, "one-and-the-same", attachment))
    assert_closed(world, *servers)
    world.daemon.wait_synced()
    assert len({record.key for record in saved(world)}) == 3
    for left, attachment in enumerate(servers):
        attachment.pod.end()
        eventually(lambda left=left: len(world.daemon.ctl("attachments")) == 2 - left)  # type: ignore[misc]
        assert len(records(world.daemon)) == 2 - left
        if rest := servers[left + 1 :]:
            assert_closed(world, *rest)
    assert "unexpected" not in world.daemon.log


def test_left_behind_twice_over_a_restart(world: World) -> None:
    servers = [served(world, number) for number in range(3)]
    for attachment in servers:
        must(add_as(world, "one-and-the-same", attachment))
    world.daemon.wait_synced()
    world.daemon.kill()
    world.daemon.start()
    assert len(world.daemon.ctl("attachments")) == 3
    assert_closed(world, *servers)
