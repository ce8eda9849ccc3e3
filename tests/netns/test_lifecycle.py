"""One attachment's life with a real daemon, real namespaces and real packets.

proves: A6, A12, B2, E7
"""

import time

import pytest

from tests.lab import Lab, Target, objects
from tests.lab.polling import poll
from tests.netns.enroll import add, add_guard, check, delete, environment, must
from tests.netns.lifeworld import DENY_ALL, ONLY_A, PORT, World, eventually, records


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return World(lab, backend)


# --- ADD -------------------------------------------------------------------------------------------------


def test_enrolled_without_a_policy_it_is_open_and_tracked(world: World) -> None:
    """A6."""
    world.enroll_all()
    world.assert_open("a", "b")
    assert world.view.tracks in world.ruleset(world.server.pod)


def test_the_policy_is_in_force_when_add_returns(world: World) -> None:
    """Positive control first: without enrolment the same probe passes."""
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a", "b")
    world.enroll_all()
    world.assert_open("a")
    world.assert_blocked("b")


def test_add_again_changes_nothing_and_succeeds(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    before = world.ruleset(world.server.pod)
    world.enroll_all()
    assert world.ruleset(world.server.pod) == before
    assert len(records(world.daemon)) == 3


def test_without_identity_it_passes_through_and_is_listed(world: World) -> None:
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    must(add(world.daemon, world.server, args={}))
    world.assert_open("a")
    assert [item["pod"] for item in world.daemon.ctl("attachments")] == [""]


def test_an_unknown_pod_is_refused_after_a_second_with_code_11(world: World) -> None:
    stranger = world.lab.attach(world.lab.pod("stranger"))
    started = time.monotonic()
    reply = add(world.daemon, stranger)
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "default/stranger" in reply["msg"]
    assert 0.9 < time.monotonic() - started < 3
    assert records(world.daemon) == []
    assert world.ruleset(stranger.pod) == ""


def test_a_pod_that_shows_up_while_add_waits_is_governed(world: World) -> None:
    late = world.lab.attach(world.lab.pod("late"))
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.apply("late", objects.pod("late"))
    must(add(world.daemon, late))
    late.pod.prober.serve(PORT)
    world.assert_open("a")  # the server is not enrolled: a probe as such works
    client = world.attachments["a"].pod.prober
    assert client.mismatches({Target("tcp", late.ipv4, PORT): False}) == []


def test_another_uid_is_another_pod(world: World) -> None:
    """A12."""
    other = {**world.server.pod.cni_args, "K8S_POD_UID": "somebody-else"}
    reply = add(world.daemon, world.server, args=other)
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "UID" in reply["msg"]
    right = {**world.server.pod.cni_args, "K8S_POD_UID": "uid-default-server"}
    must(add(world.daemon, world.server, args=right))


BAD_NAMESPACES = [
    "/etc/hostname",
    "/nonexistent/netns",
    "/proc/self/ns/net",
    "/proc/self/ns/mnt",
    "/dev/null",
]


@pytest.mark.parametrize("path", BAD_NAMESPACES)
def test_what_is_no_pods_netns_is_refused(path: str, world: World) -> None:
    env = {**environment(world.server.pod, "net1"), "CNI_NETNS": path}
    body = {"cniVersion": "1.0.0", "name": "n", "prevResult": world.server.result()}
    reply = world.daemon.cni("add", env, body)
    assert reply["ok"] is False
    assert reply["code"] in (4, 8)
    assert path in reply["msg"]
    assert records(world.daemon) == []


def test_an_interface_that_is_not_there_is_refused(world: World) -> None:
    env = environment(world.server.pod, "net7")
    reply = world.daemon.cni("add", env, {"cniVersion": "1.0.0", "name": "n", "prevResult": {}})
    assert reply["code"] == 4
    assert "net7" in reply["msg"]
    assert records(world.daemon) == []


# --- guard -----------------------------------------------------------------------------------------------


def test_a_guard_shuts_the_interface_until_its_add(world: World) -> None:
    pod = world.lab.pod("guarded")
    world.daemon.apply("guarded", objects.pod("guarded"))
    world.daemon.wait_synced()
    must(add_guard(world.daemon, pod, "net1"))
    guarded = world.lab.attach(pod)
    pod.prober.serve(PORT)
    probe = [
        Target("tcp", guarded.ipv4, PORT),
        Target("tcp", guarded.ipv6, PORT),
        Target("icmp", guarded.ipv4),
    ]
    client = world.attachments["a"].pod.prober
    assert client.mismatches(dict.fromkeys(probe, False)) == []
    must(add(world.daemon, guarded))
    assert client.mismatches(dict.fromkeys(probe, True)) == []
    assert len(records(world.daemon)) == 1


def test_a_guard_whose_add_never_came_goes_with_its_del(world: World) -> None:
    pod = world.lab.pod("guarded")
    must(add_guard(world.daemon, pod, "net1"))
    assert "net1" in world.ruleset(pod)
    must(delete(world.daemon, pod, "net1"))
    eventually(lambda: world.ruleset(pod) == "")
    assert records(world.daemon) == []


# --- DEL -------------------------------------------------------------------------------------------------


def test_del_leaves_the_restriction_while_the_interface_lives(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    must(delete(world.daemon, world.server.pod, "net1"))
    must(delete(world.daemon, world.server.pod, "net1"))
    world.daemon.wait_synced()
    world.assert_blocked("b")
    world.lab.detach(world.server)
    eventually(lambda: "ingress-net1" not in world.ruleset(world.server.pod), 1.0)
    eventually(lambda: len(records(world.daemon)) == 2)


def test_del_takes_the_addresses_out_of_the_peers_at_once(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    world.assert_open("a")
    must(delete(world.daemon, world.attachments["a"].pod, "net1"))
    world.daemon.wait_synced()
    world.assert_blocked("a")


def test_del_of_what_was_never_added_succeeds(world: World) -> None:
    must(delete(world.daemon, world.lab.pod("never"), "net1"))


def test_a_netns_that_is_gone_is_forgotten(world: World) -> None:
    world.enroll_all()
    world.server.pod.end()
    eventually(lambda: len(records(world.daemon)) == 2, 1.5)
    assert "server" not in world.states()


def test_a_netns_replaced_at_the_same_path_is_noticed(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    again = world.lab.replace_namespace(world.server.pod)
    eventually(lambda: "server" not in world.states(), 1.5)
    assert world.ruleset(again) == ""
    attachment = world.lab.attach(again)
    must(add(world.daemon, attachment))
    assert "ingress-net1" in world.ruleset(again)


def test_a_pod_whose_object_is_gone_keeps_its_labels_even_over_a_restart(world: World) -> None:
    """A11."""
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    world.daemon.apply("pods", [world.object("a"), world.object("b")])
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")
    world.daemon.restart()
    world.assert_open("a")
    world.assert_blocked("b")


# --- CHECK, STATUS, GC -----------------------------------------------------------------------------------


def test_check_tells_when_rules_are_not_as_programmed(world: World) -> None:
    """Each way to tamper, one after the other: ADD again repairs what the watch has not."""
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    told = 0
    for script in world.view.tampered:
        poll(lambda: check(world.daemon, world.server)["ok"], bool, 30.0)
        known = world.found
        world.tamper(script)
        before = world.ruleset(world.server.pod)
        reply = check(world.daemon, world.server)
        after = world.ruleset(world.server.pod)
        if world.found == known:
            assert reply["ok"] is False, script
            assert reply["code"] != 0
            assert after == before, f"CHECK changes nothing after: {script}"
            told += 1
        must(add(world.daemon, world.server))
        world.assert_open("a")
        world.assert_blocked("b")
    assert told >= len(world.view.tampered) // 2


def test_check_lives_with_others_changing_their_own_tables(world: World) -> None:
    world.enroll_all()
    for script in world.view.foreign:
        world.tamper(script)
    must(check(world.daemon, world.server))


def test_check_without_an_add_fails(world: World) -> None:
    assert check(world.daemon, world.server)["ok"] is False


def test_gc_never_touches_a_live_netns(world: World) -> None:
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.enroll_all()
    body = {"cniVersion": "1.1.0", "name": "n", "cni.dev/valid-attachments": []}
    must(world.daemon.cni("gc", {}, body))
    world.daemon.wait_synced()
    world.assert_blocked("b")
    assert len(records(world.daemon)) == 3


def test_check_after_del_fails(world: World) -> None:
    world.enroll_all()
    must(delete(world.daemon, world.server.pod, "net1"))
    reply = check(world.daemon, world.server)
    assert reply["ok"] is False
    assert "DEL" in reply["msg"]
