"""What older versions left in a pod, which judged at input, forward and output: taken over, never opened.

proves: E5
"""

from collections.abc import Iterator

import pytest

from daemon import netns
from daemon.backends.base import Backend
from daemon.policy.ruleset import Ruleset
from tests.lab import Attachment, Lab, Pod, Target
from tests.lab.kernelview import VIEWS
from tests.lab.polling import poll
from tests.netns.enroll import check, must
from tests.netns.governed import Governed
from tests.netns.lifeworld import ONLY_A, PORT, World
from tests.netns.test_backend_packets import allow
from tests.netns.test_translation import FRIENDS as FRIEND
from tests.netns.test_translation import addresses, of

FLOODED = 7000
ROUNDS = 25
FORMER = {
    "nftables": r"""
        in=$(nft list chain inet multi-networkpolicy prerouting | grep jump || true)
        out=$(nft list chain inet multi-networkpolicy postrouting | grep jump || true)
        nft add chain inet multi-networkpolicy input '{ type filter hook input priority 0; }'
        nft add chain inet multi-networkpolicy forward '{ type filter hook forward priority 0; }'
        nft add chain inet multi-networkpolicy output '{ type filter hook output priority 0; }'
        for rule in input:"$in" forward:"$in" forward:"$out" output:"$out"; do
            test -z "${rule#*:}" || nft add rule inet multi-networkpolicy "${rule%%:*}" "${rule#*:}"
        done
        for hook in prerouting postrouting; do
            nft flush chain inet multi-networkpolicy $hook
            nft delete chain inet multi-networkpolicy $hook
        done
    """,
    "iptables": r"""
        for command in iptables ip6tables; do
            $command-legacy-save -t mangle | sed -e 's/\*mangle/*filter/' -e '/^:[A-Z]* /d' \
                -e 's/PREROUTING/INPUT/g' -e 's/POSTROUTING/OUTPUT/g' > "$1"
            $command-legacy-restore < "$1"
            $command-legacy -w -N MNP-FORWARD
            $command-legacy -w -A FORWARD -j MNP-FORWARD \
                -m comment --comment "made by multi-networkpolicyd: leave it to that"
            for hook in INPUT OUTPUT; do
                $command-legacy -w -S MNP-$hook | sed -n "s/^-A MNP-$hook/-w -A MNP-FORWARD/p" |
                    xargs -r -L1 $command-legacy
            done
            $command-legacy -w -t mangle -F
            $command-legacy -w -t mangle -X
        done
    """,
}
"""Shell commands that make of our rules what an older version would have made of the same program."""
LEFT = {"nftables": "hook input", "iptables": "MNP-FORWARD"}


def make_former(pod: Pod, backend: str, lab: Lab) -> None:
    """As an older version left it. Ours are in force until those are, so nothing opens by that either."""
    script = f"set -- {lab.folder / 'saved'}\n{FORMER[backend]}"
    VIEWS[backend].run(pod.netns, script, lab.folder / "xtables.lock")
    listing = VIEWS[backend].listing(pod.netns)
    assert LEFT[backend] in listing
    assert "prerouting" not in listing.lower()


def assert_taken_over(pod: Pod, backend: str) -> None:
    listing = VIEWS[backend].listing(pod.netns)
    assert LEFT[backend] not in listing
    assert "prerouting" in listing.lower()


@pytest.fixture
def ends(lab: Lab) -> Iterator[tuple[Attachment, Attachment, Attachment]]:
    server, friend, stranger = (lab.attach(lab.pod(name)) for name in ("server", "friend", "stranger"))
    server.pod.prober.serve(80)
    server.pod.prober.count(FLOODED)
    for name, address in of(server).items():
        stranger.pod.prober.flood(name, address, FLOODED, rate=20_000)
    poll(lambda: server.pod.prober.counted(FLOODED), lambda found: len(found) == 2)
    yield server, friend, stranger
    for name in of(server):
        assert stranger.pod.prober.flooded(name, end=True)["sent"] > 1000


def test_taken_over_under_a_flood(
    lab: Lab, packet_filter: Backend, backend: str, ends: tuple[Attachment, Attachment, Attachment]
) -> None:
    """What neither the former hooks nor ours permit never passes."""
    server, friend, _ = ends
    governed = Governed(packet_filter, server)
    ruleset, held = allow(FRIEND, ((6, (80, 80)),)), addresses(friend)
    governed.program(None)
    before = server.pod.prober.counted(FLOODED)
    for turn in range(ROUNDS):
        governed.program(ruleset, held=held)
        make_former(server.pod, backend, lab)
        with netns.entered(governed.path, None):
            assert packet_filter.present()
            assert packet_filter.gates() == {"ingress-net1", "egress-net1"}
        governed = Governed(packet_filter, server)
        governed.program(Ruleset((), ()) if turn % 2 else ruleset, held=held)
        assert_taken_over(server.pod, backend)
        assert governed.actual is not None
        with netns.entered(governed.path, None):
            assert packet_filter.differences(governed.actual) == ""
    assert server.pod.prober.counted(FLOODED) == before
    targets = {Target("tcp", address, 80): True for address in of(server).values()}
    governed.program(ruleset, held=held)
    assert friend.pod.prober.mismatches(targets) == []


def test_removed_with_the_rest(lab: Lab, packet_filter: Backend, backend: str) -> None:
    """A change of the backend takes them away too."""
    server = lab.attach(lab.pod("server"))
    governed = Governed(packet_filter, server)
    governed.program(Ruleset((), ()))
    make_former(server.pod, backend, lab)
    with netns.entered(governed.path, None):
        packet_filter.remove()
        assert not packet_filter.present()
    assert VIEWS[backend].listing(server.pod.netns) == ""


def test_a_daemon_that_starts_takes_them_over(lab: Lab, backend: str) -> None:
    world = World(lab, backend)
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    world.assert_blocked("b")
    world.daemon.kill()
    make_former(world.server.pod, backend, lab)
    world.assert_open("a")
    world.assert_blocked("b")
    world.daemon.start()
    world.daemon.wait_synced()
    assert_taken_over(world.server.pod, backend)
    must(check(world.daemon, world.server))
    world.assert_open("a")
    world.assert_blocked("b")
    assert world.server.pod.prober.probe(Target("tcp", world.attachments["b"].ipv4, PORT))
