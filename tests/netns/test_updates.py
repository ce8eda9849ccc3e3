"""E5: no denied packet slips through any update, and no allowed one is lost by it.

proves: E5
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Lab, objects
from tests.netns.lifeworld import World
from tests.netns.siege import FLOOD_PORT, Siege


@pytest.fixture(scope="module")
def node(backend: str) -> Iterator[Siege[World]]:
    with Lab() as lab:
        world = World(lab, backend)
        world.enroll_all()
        made = Siege(world)
        try:
            yield made
        finally:
            made.end()


@pytest.fixture
def siege(node: Siege[World]) -> Siege[World]:
    """Without policies and with its first pods only, all floods arriving: one for all tests here."""
    for path in node.world.daemon.manifests.glob("*.yaml"):
        if path.stem in ("policy", "others"):
            path.unlink()
    node.world.daemon.apply("pods", [node.world.object(name) for name in node.world.attachments])
    wait(node)
    node.assert_all_arrive()
    return node


def role(name: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"role": name}}}


def udp(first: int, last: int | None = None) -> dict[str, Any]:
    return {"protocol": "UDP", "port": first, **({"endPort": last} if last else {})}


def shapes(siege: Siege[World]) -> list[dict[str, Any]]:
    """Policies for the server that all allow a's UDP, nothing of b's, and are as unlike as can be."""
    friend = [
        {"ipBlock": {"cidr": f"{siege.friend.ipv4}/32"}},
        {"ipBlock": {"cidr": f"{siege.friend.ipv6}/128"}},
    ]
    but = [
        {"ipBlock": {"cidr": "0.0.0.0/0", "except": [f"{siege.foe.ipv4}/32"]}},
        {"ipBlock": {"cidr": "::/0", "except": [f"{siege.foe.ipv6}/128"]}},
    ]
    web = {"ports": [{"port": 80}]}
    expression = {"key": "role", "operator": "In", "values": ["a", "c"]}
    return [
        {"ingress": [{"from": [role("a")]}]},
        {"ingress": [{"from": friend, "ports": [udp(FLOOD_PORT)]}]},
        {
            "ingress": [
                web,
                {"from": [role("a")], "ports": [udp(FLOOD_PORT - 100, FLOOD_PORT + 100), udp(53)]},
            ]
        },
        {"ingress": [{"from": but}, {"from": [role("nobody")]}]},
        {"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [role("a")]}], "egress": []},
        {
            "ingress": [
                {
                    "from": [{"podSelector": {"matchExpressions": [expression]}}],
                    "ports": [{"protocol": "UDP"}],
                }
            ]
        },
    ]


def enforce(siege: Siege[World], *specs: dict[str, Any]) -> None:
    """Put these policies for the server in force, in the place of those that were."""
    found = [
        objects.policy(f"p{number}", {**role("server"), **spec}, networks="net1")
        for number, spec in enumerate(specs)
    ]
    siege.world.daemon.apply("policy", found)
    wait(siege)


def wait(siege: Siege[World]) -> None:
    siege.world.daemon.wait_synced()


def hashed(siege: Siege[World]) -> list[dict[str, Any]]:
    """Those of the shapes whose sets are all found by hash: hosts, and no spans of addresses or ports."""
    return [spec for number, spec in enumerate(shapes(siege)) if number not in (2, 3)]


def test_rules_replaced(siege: Siege[World]) -> None:
    enforce(siege, shapes(siege)[0])
    with siege.watched():
        for _ in range(12):
            for spec in hashed(siege):
                enforce(siege, spec)
    siege.world.daemon.remove("policy")
    wait(siege)
    siege.assert_all_arrive()


def test_rules_with_spans_replaced(siege: Siege[World]) -> None:
    """The kernel shows a new interval set's elements an instant after the rules that look them up.

    Hence such sets come a commit earlier; in one commit about one edit in a hundred loses a packet here.
    """
    enforce(siege, shapes(siege)[0])
    with siege.watched():
        for _ in range(12):
            for spec in shapes(siege):
                enforce(siege, spec)


def long(turn: int) -> dict[str, Any]:
    """300 rules, of which one, ever elsewhere, allows a's UDP: some chains, of both families, in parts."""
    rules = [{"from": [role(f"nobody-{turn}-{n}")], "ports": [udp(1000 + n)]} for n in range(299)]
    return {"ingress": [*rules[: 100 * turn], {"from": [role("a")]}, *rules[100 * turn :]]}


def parts(siege: Siege[World]) -> int:
    return siege.world.ruleset(siege.server.pod).count("\tchain rules-")


def test_long_chains_replaced(siege: Siege[World], backend: str) -> None:
    short = shapes(siege)[0]
    enforce(siege, short)
    with siege.watched():
        for _ in range(3):
            for turn in range(4):
                enforce(siege, long(turn))
                assert parts(siege) == (2 if backend == "nftables" else 0)
            enforce(siege, short)
            assert parts(siege) == 0


def test_killed_while_a_long_chain_comes_or_goes(siege: Siege[World]) -> None:
    """What is there of a chain that nothing goes to yet harms nobody, and is gone after the next start."""
    enforce(siege, shapes(siege)[0])
    delay = 0.0
    with siege.watched():
        for turn in range(12):
            spec = shapes(siege)[0] if turn % 3 == 2 else long(turn % 3)
            siege.world.daemon.apply(
                "policy", objects.policy("p0", {**role("server"), **spec}, networks="net1")
            )
            # Not waiting for a condition: each kill shall come at another moment.
            time.sleep(delay := delay + 0.02)
            siege.world.daemon.kill()
            siege.world.daemon.start()
        enforce(siege, shapes(siege)[0])
    assert parts(siege) == 0


def test_policies_added_and_removed(siege: Siege[World]) -> None:
    """B3: they add up, so some of them are enough; one that isolates is always there."""
    some = hashed(siege)
    enforce(siege, some[0])
    with siege.watched():
        for number in range(20):
            enforce(siege, some[number % 3], *some[number % 4 :])
            enforce(siege, some[number % len(some)])


def test_peers_come_and_go(siege: Siege[World]) -> None:
    enforce(siege, shapes(siege)[0])

    def others(first: int, last: int) -> None:
        found = [
            objects.pod(
                f"other{number}",
                labels={"role": "a"},
                networks="net1",
                status=[
                    objects.status_entry(
                        "default/net1", "net1", [f"10.1.7.{number}", f"fd00:1::7:{number:x}"]
                    )
                ],
            )
            for number in range(first, last)
        ]
        siege.world.daemon.apply("others", found)
        wait(siege)

    with siege.watched():
        for step in range(30):
            others(step, 100 + step)
            others(100, 101)


# Of iptables alone, whose sets change one after the other: an address that goes from one to another is in
# neither for some microseconds, on the strict side. 40,000 such edits at this test's 1000 packets a second
# lost 16 packets, at most 8 of them in a row: an edit that was interrupted in between, for a time slice.
LOST_BETWEEN_SETS = {"nftables": 0, "iptables": 10}


def test_a_peer_relabelled(siege: Siege[World], backend: str) -> None:
    """The pod whose flood is allowed goes from one selector's peers to another's, and back."""
    server, foe = (siege.world.object(name) for name in ("server", "b"))
    enforce(siege, {"ingress": [{"from": [role("a")]}, {"from": [role("c")], "ports": [udp(FLOOD_PORT)]}]})
    with siege.watched(LOST_BETWEEN_SETS[backend]):
        for step in range(40):
            relabelled = objects.pod("a", labels={"role": "a" if step % 2 else "c"})
            siege.world.daemon.apply("pods", [server, relabelled, foe])
            wait(siege)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_daemon_ends_and_starts(siege: Siege[World], how: str) -> None:
    enforce(siege, shapes(siege)[0])
    with siege.watched():
        getattr(siege.world.daemon, how)()
        siege.world.daemon.start()
    with siege.watched():
        getattr(siege.world.daemon, how)()
        enforced = objects.policy("p0", {**role("server"), **shapes(siege)[1]}, networks="net1")
        siege.world.daemon.apply("policy", enforced)
        siege.world.daemon.start()


def test_killed_in_the_middle_of_edits(siege: Siege[World]) -> None:
    """Whatever it was about to do, one batch is in force or the other."""
    enforce(siege, shapes(siege)[0])
    with siege.watched():
        for number in range(4):
            for spec in hashed(siege):
                siege.world.daemon.apply("policy", objects.policy("p0", {**role("server"), **spec}))
            if number % 2:
                wait(siege)
            siege.world.daemon.kill()
            siege.world.daemon.start()


def test_all_rewritten(siege: Siege[World]) -> None:
    enforce(siege, shapes(siege)[0])
    view, server = siege.world.view, siege.server.pod
    for script, left in view.strange:
        with siege.watched():
            siege.world.daemon.stop()
            siege.world.tamper(script)
            assert left in siege.world.ruleset(server), "the control: it was there"
            siege.world.daemon.start()
        assert left not in siege.world.ruleset(server)
