"""The lab's daemon: what it is given arrives, and its end and its words are seen."""

import pytest

from tests.lab import DaemonError, Lab, objects

POLICY = objects.policy("p", {"podSelector": {}, "ingress": []})
YAML = """
apiVersion: v1
kind: Namespace
metadata: {name: other}
---
apiVersion: v1
kind: Namespace
metadata: {name: third}
"""


def names(lab: Lab) -> list[str]:
    return sorted(f"{item['namespace']}/{item['name']}" for item in lab.daemons[0].ctl("policies"))


def test_manifests_come_and_go(lab: Lab) -> None:
    daemon = lab.daemon()
    assert names(lab) == []
    daemon.apply("text", YAML)
    daemon.apply("one", POLICY)
    daemon.apply("two.json", [objects.policy("q", {"podSelector": {}}, namespace="other")])
    daemon.wait_synced()
    assert names(lab) == ["default/p", "other/q"]
    daemon.remove("two.json")
    daemon.wait_synced()
    assert names(lab) == ["default/p"]


def test_mnpctl_waits_as_the_lab_does(lab: Lab) -> None:
    daemon = lab.daemon()
    daemon.apply("one", POLICY)
    assert daemon.ctl("wait", "--synced")["synced"] is True
    assert names(lab) == ["default/p"]
    daemon.kill()
    with pytest.raises(DaemonError, match="does not answer"):
        daemon.wait_synced()


def test_lives(lab: Lab) -> None:
    daemon = lab.daemon()
    first = daemon.pid
    assert daemon.rpc({"v": 1, "op": "statusReport"})["ok"] is True
    daemon.kill()
    assert daemon.run_ctl("status").returncode == 3
    with pytest.raises(DaemonError, match="mnpctl status ended with 3"):
        daemon.ctl("status")
    daemon.start()
    assert daemon.pid != first
    daemon.restart()
    assert daemon.stop() == 0
    assert daemon.stop() == 0


def test_an_early_end_is_told_with_the_log(lab: Lab) -> None:
    with pytest.raises(DaemonError, match=r"(?s)ended with 2;.*--no-such-option"):
        lab.daemon(options=["--no-such-option"])


def test_environment_does_not_leak_in(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNP_LOG_LEVEL", "nonsense")
    lab.daemon()
    with pytest.raises(DaemonError, match="nonsense"):
        lab.daemon(env={"MNP_LOG_LEVEL": "nonsense"})
