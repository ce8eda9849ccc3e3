"""conf/rbac.yaml: exactly the rights that are used, and what the daemon says where one is missing.

proves: D4
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.conftest import install
from tests.kube.world import KubeWorld, only
from tests.lab import Lab
from tests.lab.apiserver import CONF, ApiServer
from tests.lab.kubedaemon import KubeDaemon
from tests.lab.objects import Object
from tests.lab.polling import poll
from tests.netns.enroll import environment

ROLE = "multi-networkpolicy"
PATIENCE = 60.0
Right = tuple[str, str, str]  # group, resource, verb


def documents() -> list[Object]:
    return list(yaml.safe_load_all((CONF / "rbac.yaml").read_text()))


def granted() -> set[Right]:
    role = next(raw for raw in documents() if raw["kind"] == "ClusterRole")
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class Audited:
    """An API server that notes every request of the daemon's account."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "audit.log"
        policy = folder / "audit.yaml"
        rules = [
            {"level": "Metadata", "users": [f"system:serviceaccount:kube-system:{ROLE}"]},
            {"level": "None"},
        ]
        body = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"]}
        policy.write_text(json.dumps({**body, "rules": rules}))
        self.flags = (f"--audit-policy-file={policy}", f"--audit-log-path={self.log}")

    def used(self) -> set[Right]:
        """(group, resource, verb) of every request that was allowed."""
        found = set()
        for line in self.log.read_text().splitlines():
            event = json.loads(line)
            reference = event.get("objectRef")
            if reference and event.get("responseStatus", {}).get("code") != 403:
                found.add((reference.get("apiGroup", ""), reference["resource"], event["verb"]))
        return found


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiServer, Audited]]:
    folder = tmp_path_factory.mktemp("audited")
    audit = Audited(folder)
    with ApiServer(folder) as server:
        install(server)
        server.stop()
        server.start(*audit.flags)
        yield server, audit


def test_exactly_the_rights_that_are_used(audited: tuple[ApiServer, Audited]) -> None:
    """A run in which everything happens once; then each right has been used, and no other."""
    server, audit = audited
    with Lab() as lab:
        world = KubeWorld(lab, server)
        # A peer by selector, and a destination whose named port is in no metadata: list and watch, and get.
        world.elsewhere("web", ports=[{"name": "http", "containerPort": 8080}])
        spec = {
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {}}], "ports": [{"port": "http"}]}],
        }
        world.apply(world.policy(spec))
        # Two problems, one twice: the Event is created, and after a restart it is there and counted.
        world.apply(world.policy(only("a"), name="aimless", networks=""))
        broken = {"k8s.v1.cni.cncf.io/networks": "net1, a/b/c"}
        world.api.patch("Pod", world.space, "a", {"metadata": {"annotations": broken}})
        for _ in range(2):
            poll(
                lambda: reasons(world),
                lambda found: {"AnnotationProblem", "PolicyProblem"} <= found,
                PATIENCE,
            )
            world.daemon.restart()
        poll(lambda: audit.used() >= granted(), bool, PATIENCE)
    assert audit.used() == granted()


def reasons(world: KubeWorld) -> set[str]:
    return {event["reason"] for event in world.api.list("Event", world.space)}


# --- a right that is missing -----------------------------------------------------------------------------


def without(resource: str, verb: str) -> list[Object]:
    """conf/rbac.yaml, but for one right."""
    raws = documents()
    role = next(raw for raw in raws if raw["kind"] == "ClusterRole")
    rules = []
    for rule in role["rules"]:
        if resource in rule["resources"]:
            rest = [other for other in rule["resources"] if other != resource]
            verbs = [other for other in rule["verbs"] if other != verb]
            rules += [{**rule, "resources": rest}] if rest else []
            rules += [{**rule, "resources": [resource], "verbs": verbs}] if verbs else []
        else:
            rules.append(rule)
    role["rules"] = rules
    return raws


MISSING = [
    ("pods", "watch"),
    ("namespaces", "watch"),
    ("multi-networkpolicies", "watch"),
    ("network-attachment-definitions", "watch"),
]


@pytest.mark.parametrize(("resource", "verb"), MISSING)
def test_a_right_that_is_missing_at_the_start_is_named_and_waited_for(
    resource: str, verb: str, audited: tuple[ApiServer, Audited]
) -> None:
    server, _ = audited
    with Lab() as lab:
        for raw in without(resource, verb):
            server.admin.apply(raw)
        daemon = lab.adopt(KubeDaemon(lab.daemon_folder(), server))
        daemon.start(wait=False)
        daemon.wait_listening()
        status = poll(lambda: daemon.ctl("status"), lambda now: now["refused"], PATIENCE)
        assert status["ready"] is False
        line = status["refused"][0]
        assert f"{verb} on {resource}" in line
        assert "conf/rbac.yaml" in line
        assert line in status["notReadyBecause"] or resource in status["notReadyBecause"]
        made = lab.attach(lab.pod("p"))
        body = {"cniVersion": "1.0.0", "name": "net1", "prevResult": made.result()}
        reply = daemon.cni("add", environment(made.pod, "net1"), body, timeout=2.0)
        assert (reply["ok"], reply["code"]) == (False, 11)
        assert f"{verb} on {resource}" in reply["msg"]
        server.install(rbac=CONF / "rbac.yaml")
        daemon.wait_synced(PATIENCE)
        assert daemon.ctl("status")["refused"] == []


def test_a_right_that_is_taken_away_opens_nothing(audited: tuple[ApiServer, Audited]) -> None:
    server, _ = audited
    with Lab() as lab:
        world = KubeWorld(lab, server, options=["--metrics-address="])
        world.apply(world.policy(only("a")))
        world.assert_open("a")
        world.assert_blocked("b")
        try:
            for raw in without("multi-networkpolicies", "watch"):
                server.admin.apply(raw)
            server.stop()
            server.start()
            # In its first moments a server refuses everything: its own caches are cold.
            status: Any = poll(
                lambda: world.daemon.ctl("status"),
                lambda now: any("watch on multi-networkpolicies" in line for line in now["refused"]),
                PATIENCE,
            )
            assert status["ready"] is True
            world.assert_open("a")
            world.assert_blocked("b")
        finally:
            server.install(rbac=CONF / "rbac.yaml")
        world.sync()
        world.apply(world.policy(only("b")))
        world.assert_open("b")
        world.assert_blocked("a")


def test_events_can_be_switched_off(audited: tuple[ApiServer, Audited]) -> None:
    """Then the right is not needed either."""
    server, audit = audited
    with Lab() as lab:
        world = KubeWorld(lab, server, options=["--events=false"])
        before = sum("/events" in line for line in audit.log.read_text().splitlines())
        world.apply(world.policy(only("a"), name="aimless", networks=""))
        poll(lambda: world.daemon.ctl("status")["problems"], bool)
        world.sync()
        assert reasons(world) == set()
        assert sum("/events" in line for line in audit.log.read_text().splitlines()) == before


def test_the_command_line_says_what_is_missing(tmp_path: Path) -> None:
    """Neither a kubeconfig nor a pod: an error that names the remedy, before anything runs."""
    program = Path(sys.executable).parent / "multi-networkpolicyd"
    line = [str(program), "run", "--source=kubernetes", f"--state-dir={tmp_path}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False, env={})
    assert done.returncode == 2
    assert "--kubeconfig" in done.stderr
