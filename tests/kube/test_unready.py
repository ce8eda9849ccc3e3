"""ADDs and restarts while the API server is away: denied or refused, never open, and right when it is back.

proves: A11, A13, E5, E8
"""

import json
from collections.abc import Iterator

import pytest

from tests.kube.world import KubeWorld, only
from tests.lab import Lab, Target, is_blocked, objects
from tests.lab.apiserver import ApiServer
from tests.lab.faultrules import Fault, status
from tests.lab.faults import FaultProxy
from tests.lab.kubedaemon import KubeDaemon
from tests.lab.polling import poll
from tests.netns.enroll import add, must

PORT = 5555


@pytest.fixture
def world(own_server: ApiServer) -> Iterator[KubeWorld]:
    with Lab() as lab:
        made = KubeWorld(lab, own_server)
        made.apply(made.policy(only("a")))
        yield made


def test_a_daemon_that_restarts_meanwhile_keeps_all_rules(world: KubeWorld) -> None:
    world.assert_open("a")
    world.assert_blocked("b")
    world.kube.kill()
    world.daemon.restart(wait=False)
    world.daemon.wait_listening()
    assert world.daemon.ctl("status")["ready"] is False
    world.assert_open("a")
    world.assert_blocked("b")
    world.kube.start()
    world.sync()
    world.assert_open("a")
    world.assert_blocked("b")


def test_an_add_meanwhile_is_refused_or_denies(world: KubeWorld) -> None:
    """The daemon has just started: it knows no pod. `onUnready` decides, and what denied converges."""
    world.api.create(world.pod("denied", labels={"role": "server"}))
    world.api.create(world.pod("refused", labels={"role": "server"}))
    world.sync()
    world.kube.kill()
    world.daemon.restart(wait=False)
    world.daemon.wait_listening()
    denied, refused = (
        world.lab.attach(world.lab.pod(name, world.space, "-late")) for name in ("denied", "refused")
    )
    network = f"{world.space}/net1"
    reply = add(world.daemon, refused, network, timeout=2.0)
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "not listed yet" in reply["msg"] or "refused" in reply["msg"], reply
    must(add(world.daemon, denied, network, timeout=2.0, onUnready="deny"))
    denied.pod.prober.serve(PORT)
    target = Target("tcp", denied.ipv4, PORT)
    for name in ("a", "b"):
        assert is_blocked(world.attachments[name].pod.prober.probe(target)[0])
    world.kube.start()
    world.sync()
    assert world.attachments["a"].pod.prober.probe(Target("tcp", denied.ipv4, PORT, 3.0)) == ["open"]
    assert is_blocked(world.attachments["b"].pod.prober.probe(target)[0])


def test_a_daemon_that_restarts_while_the_kind_is_missing_takes_nothing_away(world: KubeWorld) -> None:
    """What it would know of policies is nothing: so it waits, and the rules of the run before stay."""
    name = "multi-networkpolicies.k8s.cni.cncf.io"
    crd = world.api.get("CustomResourceDefinition", "", name)
    policy = world.api.get("MultiNetworkPolicy", world.space, "p")
    world.daemon.stop()
    world.api.delete("CustomResourceDefinition", "", name)
    world.api.wait_gone("CustomResourceDefinition", "", name)
    world.daemon.start(wait=False)
    world.daemon.wait_listening()
    world.assert_open("a")
    world.assert_blocked("b")
    world.api.create(_anew(crd))
    world.api.wait_established(name)
    # All is listed, and there is no policy: that is not believed for a while.
    poll(lambda: world.daemon.ctl("status")["ready"], bool, 30.0)
    world.assert_open("a")
    world.assert_blocked("b")
    world.api.create(_anew(policy))
    world.sync()
    world.assert_open("a")
    world.assert_blocked("b")
    assert world.daemon.ctl("status")["pending"] == []
    assert {item["state"] for item in world.daemon.ctl("attachments")} == {"applied"}


def _anew(raw: objects.Object) -> objects.Object:
    """An object as it was read, for another creation."""
    kept = ("name", "namespace", "annotations")
    metadata = {key: value for key, value in raw["metadata"].items() if key in kept}
    return {key: value for key, value in raw.items() if key != "status"} | {"metadata": metadata}


def test_a_daemon_that_restarts_while_a_namespace_ends(world: KubeWorld) -> None:
    """The policies are gone, the pods have their grace: only the run before knew what governed them."""
    world.api.delete("Namespace", "", world.space)
    world.api.delete("MultiNetworkPolicy", world.space, "p")
    world.sync()
    world.assert_blocked("b")
    world.daemon.restart()
    world.assert_open("a")
    world.assert_blocked("b")
    assert any(
        "its namespace is being deleted" in problem for problem in world.daemon.ctl("status")["problems"]
    )
    for name in [*world.sandboxes]:
        world.stop(name)
    poll(lambda: world.daemon.ctl("attachments"), lambda found: found == [])


@pytest.fixture
def proxied(server: ApiServer) -> Iterator[tuple[KubeWorld, FaultProxy]]:
    with Lab() as lab, FaultProxy(lab.folder / "proxy", server.url, server.ca_file) as proxy:
        config = server.kubeconfig("unready", proxy.url, proxy.ca_file)
        made = KubeWorld(lab, server, kubeconfig=config)
        made.apply(made.policy(only("a")))
        yield made, proxy


def test_a_namespace_that_ends_while_its_watch_says_nothing(proxied: tuple[KubeWorld, FaultProxy]) -> None:
    world, proxy = proxied
    proxy.add(Fault(answer=status(503)), plural="namespaces", watch=True)
    proxy.break_connections()
    world.api.delete("Namespace", "", world.space)
    world.api.delete("MultiNetworkPolicy", world.space, "p")
    told = "its namespace is being deleted"
    poll(
        lambda: world.daemon.ctl("status")["problems"],
        lambda lines: any(told in line for line in lines),
        30.0,
    )
    world.assert_open("a")
    world.assert_blocked("b")


def test_an_add_waits_for_policies_that_may_be_newer(proxied: tuple[KubeWorld, FaultProxy]) -> None:
    """The server answers for pods, and not for policies: a pod does not start by what was known of those."""
    world, proxy = proxied
    rule = proxy.add(Fault(answer=status(503)), plural="multi-networkpolicies")
    proxy.break_connections()
    poll(lambda: rule.hits, bool, 30.0)
    poll(lambda: world.daemon.ctl("status")["sourceCost"]["watches"], lambda count: count >= 4, 60.0)
    world.api.apply(world.policy({"policyTypes": ["Ingress"]}, name="newer"))
    world.api.create(world.pod("late", labels={"role": "late"}))
    deny = {"podSelector": {"matchLabels": {"role": "late"}}, "policyTypes": ["Ingress"]}
    world.api.apply(objects.policy("late", deny, namespace=world.space))
    made = world.lab.attach(world.lab.pod("late", world.space))
    reply = add(world.daemon, made, f"{world.space}/net1", timeout=3.0)
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "there may be newer policies" in reply["msg"]
    proxy.clear()
    must(add(world.daemon, made, f"{world.space}/net1", timeout=60.0))
    made.pod.prober.serve(PORT)
    assert is_blocked(world.attachments["a"].pod.prober.probe(Target("tcp", made.ipv4, PORT))[0])


def test_a_pod_that_the_watch_has_not_brought_is_asked_for(world: KubeWorld) -> None:
    """ADD directly after the pod's creation, many times: never refused, always governed."""
    for number in range(10):
        name = f"quick-{number}"
        world.api.create(world.pod(name, labels={"role": "server"}))
        made = world.lab.attach(world.lab.pod(name, world.space))
        must(add(world.daemon, made, f"{world.space}/net1"))
        made.pod.prober.serve(PORT)
        assert is_blocked(world.attachments["b"].pod.prober.probe(Target("tcp", made.ipv4, PORT))[0])


def test_two_daemons_of_two_nodes(world: KubeWorld) -> None:
    """Each knows its own pods in full, and the other's as peers."""
    other = world.lab.adopt(KubeDaemon(world.lab.daemon_folder(), world.kube, options=["--node-name=other"]))
    other.start()
    far = world.lab.attach(world.lab.pod("far", world.space))
    world.api.create(world.pod("far", node="other", labels={"role": "server"}))
    network = f"{world.space}/net1"
    must(add(other, far, network))
    status = [objects.status_entry(network, "net1", [far.ipv4, far.ipv6])]
    world.api.patch(
        "Pod", world.space, "far", {"metadata": {"annotations": {objects.STATUS: json.dumps(status)}}}
    )
    world.sync()
    other.wait_synced()
    far.pod.prober.serve(PORT)
    target = Target("tcp", far.ipv4, PORT, 3.0)
    assert world.attachments["a"].pod.prober.probe(target) == ["open"]
    assert is_blocked(world.attachments["b"].pod.prober.probe(target)[0])


def _text(status: list[objects.Object]) -> str:
    import json

    return json.dumps(status)
