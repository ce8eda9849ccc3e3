"""Whatever becomes of the API server: no forbidden packet passes, no allowed one is lost, and it converges.

A flood of the denied client and one of the allowed client run throughout each test (see Siege).

proves: A4, A11, A13, E5, E8
"""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.kube.conftest import install
from tests.kube.world import KubeWorld, only
from tests.lab import Lab
from tests.lab.apiserver import ACCOUNT, ACCOUNT_NAMESPACE, CONF, ApiServer
from tests.lab.polling import poll
from tests.netns.siege import Siege

OUTAGE_SECONDS = 60.0


class Besieged:
    """A world under siege, with a policy that lets the server be reached by `a` alone."""

    def __init__(self, lab: Lab, server: ApiServer, kubeconfig: Path | None = None) -> None:
        self.world = KubeWorld(lab, server, kubeconfig=kubeconfig)
        self.server = server
        self.siege = Siege(self.world)
        self.world.apply(self.world.policy(only("a")))

    def wait_log(self, *words: str) -> None:
        """Wait until the daemon has said it since the start of the test."""
        poll(lambda: self.world.daemon.log, lambda log: all(word in log for word in words), OUTAGE_SECONDS)

    def assert_follows(self) -> None:
        """What changes now counts: the watches work. The floods are not looked at meanwhile."""
        world = self.world
        world.start("late", labels={"role": "late"})
        world.apply(world.policy(only("late"), name="q"))
        world.assert_open("late")
        world.api.delete("MultiNetworkPolicy", world.space, "q")
        world.sync()
        world.assert_blocked("late")


@pytest.fixture
def besieged(own_server: ApiServer) -> Iterator[Besieged]:
    with Lab() as lab:
        made = Besieged(lab, own_server)
        yield made
        made.siege.end()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_server_is_away_for_a_while(end: str, besieged: Besieged) -> None:
    with besieged.siege.watched():
        getattr(besieged.server, end)()
        besieged.wait_log("not-watching")
        assert besieged.world.daemon.ctl("status")["ready"] is True
        besieged.server.start()
        besieged.world.sync()
    besieged.assert_follows()


def test_what_changed_while_the_daemon_could_not_see_it(besieged: Besieged) -> None:
    """Its history is compacted away meanwhile: 410, and everything is listed again."""
    world = besieged.world
    world.elsewhere("far")
    world.sync()
    world.assert_blocked("far")
    with besieged.siege.watched():
        os.kill(world.daemon.pid, signal.SIGSTOP)
        besieged.server.stop()
        besieged.server.start()
        for number in range(3):
            world.api.apply(world.policy(only("nobody"), name=f"extra-{number}"))
        world.api.apply(world.policy(only("friend"), name="p2"))
        world.api.patch("Pod", world.space, "far", {"metadata": {"labels": {"role": "friend"}}})
        besieged.server.compact()
        os.kill(world.daemon.pid, signal.SIGCONT)
        world.sync()
        assert "history-gone" in world.daemon.log
        names = {item["name"] for item in world.daemon.ctl("policies") if item["namespace"] == world.space}
        assert names == {"p", "p2", "extra-0", "extra-1", "extra-2"}
    world.assert_open("a", "far")
    world.assert_blocked("b")
    besieged.assert_follows()


def test_the_server_is_replaced_by_one_with_an_older_state(besieged: Besieged) -> None:
    """A restored backup: its versions begin below those that were seen, and it lacks what came since."""
    world, server = besieged.world, besieged.server
    backup = server.folder / "backup"
    server.stop()
    server.stop_etcd()
    shutil.copytree(server.store, backup)
    server.start_etcd()
    server.start()
    world.sync()
    with besieged.siege.watched():
        for number in range(200):
            world.api.annotate("Pod", world.space, "b", round=str(number))
        world.apply(world.policy(only("b"), name="forgotten", networks="other"))
        server.stop()
        server.stop_etcd()
        server.start_etcd(backup)
        server.start()
        world.sync()
        besieged.wait_log("history-changed")
        names = {item["name"] for item in world.daemon.ctl("policies") if item["namespace"] == world.space}
        assert names == {"p"}, world.daemon.log
    besieged.assert_follows()


def test_the_authority_is_rotated(besieged: Besieged) -> None:
    with besieged.siege.watched():
        besieged.server.stop()
        besieged.server.renew_certificates(trustme.CA(organization_name="another"))
        besieged.server.start()
        besieged.world.sync()
    besieged.assert_follows()


def test_a_token_is_rotated_and_expires(own_server: ApiServer) -> None:
    path = own_server.folder / "token"
    path.write_text(own_server.account_token())
    with Lab() as lab:
        besieged = Besieged(lab, own_server, own_server.kubeconfig("by-file", tokenFile=str(path)))
        api = own_server.admin
        with besieged.siege.watched():
            # The account anew: its old tokens are worth nothing.
            api.delete("ServiceAccount", ACCOUNT_NAMESPACE, ACCOUNT)
            own_server.install(rbac=CONF / "rbac.yaml")
            own_server.stop()
            own_server.start()
            besieged.wait_log("401")
            path.write_text(own_server.account_token())
            besieged.world.sync()
        besieged.assert_follows()
        besieged.siege.end()


def test_the_kind_is_removed_and_installed_again(besieged: Besieged) -> None:
    """Whoever deletes the kind deletes its policies; that opens nothing, and it is told."""
    world, api = besieged.world, besieged.world.api
    name = "multi-networkpolicies.k8s.cni.cncf.io"
    with besieged.siege.watched():
        api.delete("CustomResourceDefinition", "", name)
        api.wait_gone("CustomResourceDefinition", "", name)
        besieged.wait_log("kind-removed", "its CustomResourceDefinition is not installed")
        status = poll(lambda: world.daemon.ctl("status"), lambda now: now["refused"], OUTAGE_SECONDS)
        assert "conf/crd.yaml" in status["refused"][0]
        world.start("meanwhile", labels={"role": "server"})
        install(besieged.server)
        world.apply(world.policy(only("a")))
        assert world.daemon.ctl("status")["refused"] == []
    besieged.assert_follows()


def test_a_policy_that_is_just_deleted_goes_at_once(besieged: Besieged) -> None:
    """The control of the test above."""
    world = besieged.world
    world.assert_blocked("b")
    world.api.delete("MultiNetworkPolicy", world.space, "p")
    world.sync()
    world.assert_open("b")


def test_a_namespace_is_deleted_with_everything_in_it(besieged: Besieged) -> None:
    """Its policies go first, as the namespace controller has it, and its pods live on for their grace."""
    world, api = besieged.world, besieged.world.api
    sandboxes = [*world.sandboxes]
    with besieged.siege.watched():
        api.delete("Namespace", "", world.space)
        api.delete("MultiNetworkPolicy", world.space, "p")
        api.delete("NetworkAttachmentDefinition", world.space, "net1")
        world.sync()
        status = world.daemon.ctl("status")
        assert any("its namespace is being deleted" in problem for problem in status["problems"])
    with besieged.siege.watched():
        for name in sandboxes:
            world.delete(name)
        world.sync()
        finalize(world)
        world.sync()
    for name in sandboxes:
        if name != "server":
            world.stop(name)
    besieged.siege.end()
    world.stop("server")
    poll(lambda: world.daemon.ctl("attachments"), lambda found: found == [])
    poll(lambda: world.daemon.ctl("policies"), lambda found: found == [])


def finalize(world: KubeWorld) -> None:
    """End a namespace as its controller does when it is empty."""
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": world.space},
        "spec": {"finalizers": []},
    }
    world.api.request("PUT", f"api/v1/namespaces/{world.space}/finalize", body)
    world.api.wait_gone("Namespace", "", world.space)


def test_a_peer_that_comes_while_the_kind_is_missing_is_not_let_in_before_it_is_back(
    besieged: Besieged,
) -> None:
    """Behind, nothing relaxes: what would open waits, what tightens counts at once."""
    world, api = besieged.world, besieged.world.api
    with besieged.siege.watched():
        api.delete("CustomResourceDefinition", "", "multi-networkpolicies.k8s.cni.cncf.io")
        poll(lambda: world.daemon.ctl("status"), lambda now: now["behind"], OUTAGE_SECONDS)
        # Would open: b gets the label of a peer.
        api.patch("Pod", world.space, "b", {"metadata": {"labels": {"role": "a"}}})
        poll(
            lambda: world.daemon.ctl("attachments"),
            lambda found: _labels_seen(world, "b", "a"),
            OUTAGE_SECONDS,
        )
    world.assert_blocked("b")
    # Tightens: a loses it.
    api.patch("Pod", world.space, "a", {"metadata": {"labels": {"role": "other"}}})
    poll(lambda: blocked(world, "a"), bool, OUTAGE_SECONDS)
    install(besieged.server)
    world.apply(world.policy(only("a")))
    world.assert_open("b")
    world.assert_blocked("a")


def _labels_seen(world: KubeWorld, name: str, role: str) -> bool:
    """Whether the daemon has recorded the new label of a pod."""
    records = (world.daemon.state / "attachments").glob("*.json")
    texts = [path.read_text() for path in records]
    return any(f'"podName":"{name}"' in text and f'"role":"{role}"' in text for text in texts)


def blocked(world: KubeWorld, name: str) -> bool:
    return all(verdict == "timeout" for verdict in world.verdicts(name))
