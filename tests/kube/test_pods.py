"""Pods of a cluster: from the API server through Multus' part and the real plugins to packets.

proves: A4, A7, A11, A12, C2, C3, D4
"""

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.kube.multus import MULTUS_BIN, DelegateError, RealMultus
from tests.kube.relay import Relay
from tests.kube.world import ELSEWHERE, KubeWorld, only
from tests.lab import Lab, Target, is_blocked, objects
from tests.lab.apiserver import ADMIN_TOKEN, ApiServer
from tests.lab.namespaces import inside
from tests.netns.enroll import environment

RUNTIMES = [
    pytest.param("part", id="multus-part"),
    pytest.param(
        "multus",
        marks=[
            pytest.mark.multus,
            pytest.mark.skipif(not MULTUS_BIN, reason="MULTUS_BIN names no Multus binary"),
        ],
    ),
]


@pytest.fixture(scope="module")
def world(server: ApiServer) -> Iterator[KubeWorld]:
    with Lab() as lab:
        yield KubeWorld(lab, server)


@pytest.fixture(scope="module", params=RUNTIMES)
def runtime_world(request: pytest.FixtureRequest, server: ApiServer) -> Iterator[KubeWorld]:
    with Lab() as lab:
        if request.param == "part":
            yield KubeWorld(lab, server)
            return
        relay = Relay(lab.node, server.port)
        config = server.kubeconfig("multus", token=ADMIN_TOKEN)
        yield KubeWorld(lab, server, runtime=RealMultus(lab, server.admin, config))
        relay.close()


@pytest.fixture(autouse=True)
def _without_policies(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in ("world", "runtime_world"):
        if name in request.fixturenames:
            made: KubeWorld = request.getfixturevalue(name)
            for raw in made.api.list("MultiNetworkPolicy", made.space):
                made.api.delete("MultiNetworkPolicy", made.space, raw["metadata"]["name"])
            made.sync()


# --- with Multus' part, and with Multus itself -----------------------------------------------------------


def test_policies_count_and_end(runtime_world: KubeWorld) -> None:
    world = runtime_world
    world.assert_open("a", "b")
    world.apply(world.policy(only("a")))
    world.assert_open("a")
    world.assert_blocked("b")
    world.apply(world.policy(only("b")))
    world.assert_open("b")
    world.assert_blocked("a")
    world.api.delete("MultiNetworkPolicy", world.space, "p")
    world.sync()
    world.assert_open("a", "b")


def test_a_pod_is_governed_when_its_add_returns(runtime_world: KubeWorld) -> None:
    """No sync: what the runtime has started is governed, and its address counts, when ADD returns."""
    world = runtime_world
    world.apply(world.policy(only("late"), name="p"))
    world.start("late")
    world.assert_open("late")
    world.start("other")
    world.assert_blocked("other")
    for name in ("late", "other"):
        world.stop(name)
        world.delete(name)


def test_network_status_agrees_with_what_was_found(runtime_world: KubeWorld) -> None:
    world = runtime_world
    world.sync()
    found = {item["pod"]: item for item in world.daemon.ctl("attachments")}
    mine = found[f"{world.space}/server"]
    assert mine["networks"] == [f"{world.space}/net1"]
    assert mine["notes"] == []
    entry = next(one for one in world.status_of("server") if one["name"] == f"{world.space}/net1")
    assert sorted(entry["ips"]) == sorted(mine["addresses"])


@pytest.mark.parametrize("evidence", ["config", "pod-networks", "net-attach-defs"])
def test_each_evidence_of_the_net_attach_def(evidence: str, runtime_world: KubeWorld) -> None:
    """The net-attach-def by the configuration, by the pod's request, by the only one that fits."""
    world = runtime_world
    name = f"by-{evidence}"
    world.api.apply(world.network(name, {} if evidence == "config" else {"netAttachDef": None}))
    asked = f"{name}@net7" if evidence == "pod-networks" else name
    world.apply(world.policy(only("a"), networks=name))
    world.sync()
    sandbox = world.start(f"pod-{evidence}", asked, labels={"role": "server"})
    made = next(iter(sandbox.attachments.values()))
    found = {item["pod"]: item for item in world.daemon.ctl("attachments")}
    item = found[f"{world.space}/pod-{evidence}"]
    assert item["networks"] == [f"{world.space}/{name}"]
    assert item["isolated"] == ["ingress"]
    if not isinstance(world.runtime, RealMultus):  # whose cache file says it before
        assert item["evidence"] == evidence
    made.pod.prober.serve(5555)
    probe = Target("tcp", made.ipv4, 5555)
    assert world.attachments["b"].pod.prober.probe(probe)[0] == "timeout"
    world.stop(f"pod-{evidence}")
    world.delete(f"pod-{evidence}")


# --- changes through the API -----------------------------------------------------------------------------


def test_labels_of_a_subject_and_of_a_peer(world: KubeWorld) -> None:
    world.apply(world.policy(only("friend")))
    world.assert_blocked("a", "b")
    world.label("a", role="friend")
    world.assert_open("a")
    world.assert_blocked("b")
    world.label("a", role="a")
    world.assert_blocked("a")
    world.label("server", role="free")
    world.assert_open("a", "b")
    world.label("server", role="server")
    world.assert_blocked("a", "b")


def test_labels_of_a_namespace(world: KubeWorld) -> None:
    team = {"namespaceSelector": {"matchLabels": {"team": "blue"}}}
    world.apply(world.policy({"ingress": [{"from": [team]}]}))
    world.assert_open("a", "b")
    world.api.patch("Namespace", "", world.space, {"metadata": {"labels": {"team": "red"}}})
    world.sync()
    world.assert_blocked("a", "b")
    world.api.patch("Namespace", "", world.space, {"metadata": {"labels": {"team": "blue"}}})
    world.sync()
    world.assert_open("a", "b")


def test_pods_of_another_node_come_and_go(world: KubeWorld) -> None:
    world.apply(world.policy(only("far")))
    world.elsewhere("far")
    world.sync()
    world.assert_open("far")
    world.assert_blocked("a")
    world.label("far", role="other")
    world.assert_blocked("far")
    world.label("far", role="far")
    world.assert_open("far")
    # Finished: its address may be another's by now (A7).
    far = world.api.get("Pod", world.space, "far")
    world.api.set_status(far, {"phase": "Succeeded"})
    world.sync()
    world.assert_blocked("far")
    world.delete("far")
    del world.attachments["far"]


def test_a_host_network_pod_of_another_node_is_no_peer(world: KubeWorld) -> None:
    world.apply(world.policy(only("host")))
    number = world.lab.networks["net1"].number
    status = [objects.status_entry(f"{world.space}/net1", "net1", [f"10.{number}.222.1"])]
    raw = world.pod("host", node=ELSEWHERE, status=status)
    raw["spec"]["hostNetwork"] = True
    world.api.create(raw)
    world.sync()
    shown = world.daemon.ctl("render", f"{world.space}/server")["text"]
    assert f"10.{number}.222.1" not in shown
    # The control: without hostNetwork it is one.
    world.delete("host")
    raw["spec"]["hostNetwork"] = False
    world.api.create(raw)
    world.sync()
    assert f"10.{number}.222.1" in world.daemon.ctl("render", f"{world.space}/server")["text"]
    world.delete("host")


def test_named_ports_of_destinations_on_other_nodes(world: KubeWorld) -> None:
    """Their ports are in no metadata: each such pod is read in full once (D4)."""
    for name, port in (("web-1", 8080), ("web-2", 9090), ("web-3", 8080)):
        ports = [{"name": "http" if name != "web-3" else "other", "containerPort": port}]
        made = world.elsewhere(name, ports=ports, labels={"role": "web"})
        made.pod.prober.serve(8080, 9090)
    spec = {
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"podSelector": {"matchLabels": {"role": "web"}}}], "ports": [{"port": "http"}]}],
    }
    before = world.daemon.ctl("status")["sourceCost"]["requests"]["GET"]
    world.apply(world.policy(spec))
    prober = world.server.pod.prober
    want = {
        Target("tcp", world.attachments[name].ipv4, port): (name, port) in {("web-1", 8080), ("web-2", 9090)}
        for name in ("web-1", "web-2", "web-3")
        for port in (8080, 9090)
    }
    assert prober.mismatches(want) == []
    assert world.daemon.ctl("status")["sourceCost"]["requests"]["GET"] >= before + 3
    for name in ("web-1", "web-2", "web-3"):
        world.delete(name)
        del world.attachments[name]


# --- identity --------------------------------------------------------------------------------------------


def test_a_pod_whose_object_is_gone_keeps_its_labels(world: KubeWorld) -> None:
    world.apply(world.policy(only("a"), name="p"), world.policy(only("nobody"), name="q"))
    world.start("brief", labels={"role": "server"})
    world.attachments["brief"].pod.prober.serve(5555)
    target = Target("tcp", world.attachments["brief"].ipv4, 5555, 2.0)
    assert world.attachments["a"].pod.prober.probe(target) == ["open"]
    world.delete("brief")
    world.sync()
    assert is_blocked(world.attachments["b"].pod.prober.probe(target)[0])
    assert world.attachments["a"].pod.prober.probe(target) == ["open"]
    world.stop("brief")


def test_a_pod_replaced_by_one_of_the_same_name_is_another(world: KubeWorld) -> None:
    """The old sandbox lives on: it keeps its labels, the new one has its own (A12)."""
    world.apply(world.policy(only("a")))
    world.start("twin", labels={"role": "free"})
    old = world.sandboxes["twin"]
    old["net1"].pod.prober.serve(5555)
    world.delete("twin")
    world.start("twin", labels={"role": "server"})
    new = world.sandboxes["twin"]
    new["net1"].pod.prober.serve(5555)
    b = world.attachments["b"].pod.prober
    assert is_blocked(b.probe(Target("tcp", new["net1"].ipv4, 5555))[0])
    assert b.probe(Target("tcp", old["net1"].ipv4, 5555, 2.0)) == ["open"]
    world.runtime.stop(old)
    world.stop("twin")
    world.delete("twin")


def test_an_add_for_the_pod_that_was_is_refused(world: KubeWorld) -> None:
    """A late ADD of the old sandbox: its UID is no longer the pod's."""
    world.api.create(world.pod("again"))
    first = world.api.get("Pod", world.space, "again")["metadata"]["uid"]
    world.delete("again")
    world.api.create(world.pod("again"))
    world.sync()
    made = world.lab.attach(world.lab.pod("again", world.space, "-late"))
    args = {**made.pod.cni_args, "K8S_POD_UID": first}
    body = {"cniVersion": "1.0.0", "name": "net1", "prevResult": made.result()}
    reply = world.daemon.cni("add", environment(made.pod, "net1", args), body)
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "another pod of this name" in reply["msg"]
    world.delete("again")


def test_an_address_that_another_pod_gets_is_no_peers_any_more(world: KubeWorld) -> None:
    world.apply(world.policy(only("far")))
    number = world.lab.networks["net1"].number
    address = f"10.{number}.210.1/16"
    made = world.lab.attach(
        world.lab.pod("reuse", world.space, "-1"), addresses=(address, f"fd00:{number:x}::d201/64")
    )
    status = [objects.status_entry(f"{world.space}/net1", "net1", [made.ipv4, made.ipv6])]
    world.api.create(world.pod("far-1", node=ELSEWHERE, labels={"role": "far"}, status=status))
    world.sync()
    world.attachments["reuse"] = made
    world.assert_open("reuse")
    # The pod ends; a pod of other labels gets its address, before or after the old object goes.
    world.api.create(world.pod("near-1", node=ELSEWHERE, labels={"role": "other"}, status=status))
    world.delete("far-1")
    world.sync()
    world.assert_blocked("reuse")
    world.delete("near-1")
    del world.attachments["reuse"]


# --- ADD when the pod is not known -----------------------------------------------------------------------


def test_a_pod_of_another_node_is_refused_with_the_reason(world: KubeWorld) -> None:
    world.api.create(world.pod("astray", node=ELSEWHERE))
    with pytest.raises(
        DelegateError, match="is on node elsewhere, and this daemon is node: check --node-name"
    ):
        world.run("astray")
    world.delete("astray")


def test_a_pod_that_the_server_has_not_is_refused_soon(world: KubeWorld) -> None:
    made = world.lab.attach(world.lab.pod("ghost", world.space))
    body = {"cniVersion": "1.0.0", "name": "net1", "prevResult": made.result()}
    begun = time.monotonic()
    reply = world.daemon.cni("add", environment(made.pod, "net1"), body)
    assert (reply["ok"], reply["code"]) == (False, 11)
    assert "the API server has no pod of that name" in reply["msg"]
    assert time.monotonic() - begun < 5.0


def test_network_status_that_names_another_network_restricts_and_is_told(world: KubeWorld) -> None:
    world.api.apply(world.network("net2"))
    world.start("told", labels={"role": "server"})
    world.attachments["told"].pod.prober.serve(5555)
    world.apply(world.policy(only("a"), networks="net2"))
    target = Target("tcp", world.attachments["told"].ipv4, 5555, 2.0)
    b = world.attachments["b"].pod.prober
    assert b.probe(target) == ["open"]
    status = world.status_of("told")
    status[1]["name"] = f"{world.space}/net2"
    change = {"metadata": {"annotations": {objects.STATUS: json.dumps(status)}}}
    world.api.patch("Pod", world.space, "told", change)
    world.sync()
    assert is_blocked(b.probe(Target("tcp", target.address, 5555))[0])
    message = world.told("told", "NetworkStatusDiffers")
    assert "network-status says that it is" in message
    world.stop("told")
    world.delete("told")


def test_what_somebody_changes_in_a_pod_is_told_as_an_event(world: KubeWorld) -> None:
    world.start("tampered", labels={"role": "server"})
    made = world.attachments["tampered"]
    world.apply(world.policy(only("a")))
    world.sync()
    with inside(made.pod.netns):
        flush = ["nft", "flush", "chain", "inet", "multi-networkpolicy", "prerouting"]
        subprocess.run(flush, check=True)
    message = world.told("tampered", "Tampered")
    assert "chain prerouting has 0 rules instead of 1" in message
    assert "it was restored" in message
    world.stop("tampered")
    world.delete("tampered")
