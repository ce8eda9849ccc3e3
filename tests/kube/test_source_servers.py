"""What becomes of the server itself: it ends and comes back, older or with another CA, and with other kinds.

proves: A4, A11, E5
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from daemon.model import ObjectKey
from daemon.sources.base import Finding
from daemon.sources.kubernetes import departures
from tests.kube.conftest import install
from tests.kube.sourcing import Sourced, proxied_config, sourcing
from tests.kube.test_source import Place
from tests.lab.apiserver import ACCOUNT, ACCOUNT_NAMESPACE, CONF, ApiServer
from tests.lab.faults import FaultProxy
from tests.lab.kubeapi import ApiRefusal
from tests.lab.polling import poll

CRD = "multi-networkpolicies.k8s.cni.cncf.io"
NEVER_GRANTED = "limited"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of this module; each test leaves it running, with everything installed."""
    with ApiServer(tmp_path_factory.mktemp("other")) as made:
        install(made)
        yield made


@pytest.fixture
def place(other: ApiServer, request: pytest.FixtureRequest) -> Place:
    made = Place(other.admin, f"s{abs(hash(request.node.name)):x}"[:20])
    made.fill()
    return made


@pytest.fixture
def proxy(other: ApiServer, tmp_path: Path) -> Iterator[FaultProxy]:
    with FaultProxy(tmp_path, other.url, other.ca_file) as made:
        yield made


def test_a_server_that_is_killed_and_starts_again(other: ApiServer, place: Place) -> None:
    with sourcing(other.kubeconfig("killed"), other) as sourced:
        sourced.wait_complete()
        place.change()
        other.kill()
        other.start()
        place.change()
        sourced.sync()


def test_a_server_that_has_thrown_its_history_away(
    other: ApiServer, place: Place, proxy: FaultProxy, tmp_path: Path
) -> None:
    """What a watch would go on from is gone: 410 of a real server."""
    with sourcing(proxied_config(proxy, tmp_path, token=other.account_token()), other) as sourced:
        sourced.wait_complete()
        sourced.sync()
        proxy.refuse()
        for _ in range(3):
            place.change()
        other.kill()
        other.compact()
        other.start()
        place.change()
        proxy.forget_requests()
        proxy.listen()
        sourced.sync()
        again = {asked.plural for asked in proxy.requests(query={"sendInitialEvents": "true"})}
        assert "multi-networkpolicies" in again


def test_a_server_that_is_restored_from_a_backup(other: ApiServer, place: Place, tmp_path: Path) -> None:
    place.change()
    other.stop()
    other.stop_etcd()
    backup = tmp_path / "backup"
    shutil.copytree(other.store, backup)
    other.start_etcd()
    other.start()
    with sourcing(other.kubeconfig("restored"), other) as sourced:
        sourced.wait_complete()
        for _ in range(5):
            place.change()
        place.api.delete("MultiNetworkPolicy", place.space, "q")
        place.api.delete("Pod", place.space, "b")
        sourced.sync()
        other.kill()
        other.stop_etcd()
        other.start_etcd(backup)
        other.start()
        # At once, while the watches may not have noticed yet.
        sourced.sync()
        assert ObjectKey("MultiNetworkPolicy", place.space, "q") in sourced.model
        place.change()
        sourced.sync()


def test_another_authority(other: ApiServer, place: Place) -> None:
    with sourcing(other.kubeconfig("authority"), other) as sourced:
        sourced.wait_complete()
        other.kill()
        other.renew_certificates(trustme.CA(organization_name="another"))
        other.start()
        place.change()
        sourced.sync()


# --- the policies' kind ----------------------------------------------------------------------------------


def test_a_kind_that_is_removed_and_comes_back(
    other: ApiServer, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "KIND_SECONDS", 0.3)
    monkeypatch.setattr(departures, "REINSTALLED_SECONDS", 3.0)
    with sourcing(other.kubeconfig("removed"), other) as sourced:
        sourced.wait_complete()
        sourced.sync()
        held = policies(sourced)
        assert {key.name for key in held if key.namespace == place.space} == {"p", "q"}
        other.admin.delete("CustomResourceDefinition", "", CRD)
        text = "policies: its CustomResourceDefinition is not installed; it comes with conf/crd.yaml"
        poll(lambda: sourced.taken.last.refused, lambda refused: refused == (text,))
        assert text in sourced.taken.last.behind
        assert policies(sourced) == held
        other.install(crds=[CONF / "crd.yaml"])
        poll(lambda: sourced.taken.last.behind, lambda behind: not behind)
        assert policies(sourced) == held, "they get time to be created again"
        place.api.apply(place.policy("p", 99, selects=True))
        sourced.sync()
        assert [key.name for key in policies(sourced) if key.namespace == place.space] == ["p"]


def test_a_policy_that_is_deleted_goes_soon(other: ApiServer, place: Place) -> None:
    with sourcing(other.kubeconfig("deleted"), other) as sourced:
        sourced.wait_complete()
        place.api.delete("MultiNetworkPolicy", place.space, "q")
        key = ObjectKey("MultiNetworkPolicy", place.space, "q")
        poll(lambda: key in sourced.model, lambda known: not known, 2.0)


def test_a_server_with_the_old_version_alone(other: ApiServer, place: Place) -> None:
    """Upstream's definition serves no other; then it is replaced by ours, and v1beta1 goes on."""
    (ours,) = yaml.safe_load_all((CONF / "crd.yaml").read_text())
    serve(other, ours, {"v1beta1": True, "v1beta2": False})
    try:
        with sourcing(other.kubeconfig("old"), other) as sourced:
            sourced.wait_complete()
            sourced.sync()
            serve(other, ours, {"v1beta1": True, "v1beta2": True})
            place.change()
            sourced.sync()
            assert not sourced.taken.last.refused
    finally:
        serve(other, ours, {"v1beta1": True, "v1beta2": True})


def test_a_kind_that_comes_late(other: ApiServer, place: Place, request: pytest.FixtureRequest) -> None:
    other.admin.delete("CustomResourceDefinition", "", CRD)
    other.admin.wait_gone("CustomResourceDefinition", "", CRD)
    request.addfinalizer(lambda: other.install(crds=[CONF / "crd.yaml"]))
    with sourcing(other.kubeconfig("late"), other) as sourced:
        missing = "policies: its CustomResourceDefinition is not installed; it comes with conf/crd.yaml"
        poll(lambda: sourced.taken.last.because, lambda because: because == missing)
        count = len(sourced.taken.updates)
        # It looks again and again, and says nothing new.
        for _ in range(3):
            place.change_others()
            sourced.source.look_up(place.space, "nobody", "")
        poll(lambda: len(sourced.taken.found), lambda found: found == 3)
        assert all(update.changes or update.found for update in sourced.taken.updates[count:])
        other.install(crds=[CONF / "crd.yaml"])
        place.change()
        sourced.wait_complete()
        sourced.sync()


def policies(sourced: Sourced) -> Mapping[ObjectKey, object]:
    return {key: found for key, found in sourced.model.items() if key.kind == "MultiNetworkPolicy"}


def serve(server: ApiServer, crd: dict[str, Any], served: Mapping[str, bool]) -> None:
    """Let the policies' versions be served or not."""
    versions = [{**one, "served": served[one["name"]]} for one in crd["spec"]["versions"]]
    server.admin.apply({**crd, "spec": {**crd["spec"], "versions": versions}})
    for version, wanted in served.items():

        def is_served(version: str = version) -> bool:
            try:
                server.admin.request("GET", f"apis/k8s.cni.cncf.io/{version}/multi-networkpolicies")
            except ApiRefusal:
                return False
            return True

        poll(is_served, lambda found, wanted=wanted: found == wanted)  # type: ignore[misc]


# --- rights ----------------------------------------------------------------------------------------------

RIGHTS = {
    "own pods": ("", "pods"),
    "policies": ("k8s.cni.cncf.io", "multi-networkpolicies"),
    "net-attach-defs": ("k8s.cni.cncf.io", "network-attachment-definitions"),
    "namespaces": ("", "namespaces"),
}


@pytest.mark.parametrize("lacking", RIGHTS)
def test_a_right_that_is_missing_until_it_is_granted(lacking: str, other: ApiServer, place: Place) -> None:
    grant(other, [name for name in RIGHTS if name != lacking])
    config = other.kubeconfig("limited", token=other.admin.token(ACCOUNT_NAMESPACE, NEVER_GRANTED, 3600))
    with sourcing(config, other) as sourced:
        group, plural = RIGHTS[lacking]
        resource = f"{plural}.{group}" if group else plural
        text = f"{lacking}: watch on {resource} is not granted; conf/rbac.yaml grants it (403 "
        poll(
            lambda: sourced.taken.last.because,
            lambda because: because.startswith(text) and "not listed yet" not in because,
        )
        # Pods are two collections, if policies select some.
        assert "; ".join(sourced.taken.last.refused) == sourced.taken.last.because
        grant(other, list(RIGHTS))
        sourced.wait_complete()
        sourced.sync()
        # And what is taken away later: nothing is forgotten, all is behind.
        grant(other, [name for name in RIGHTS if name != lacking])
        other.kill()
        other.start()
        poll(lambda: sourced.taken.last.refused, lambda refused: len(refused) >= 1)
        assert "is not granted" in sourced.taken.last.behind
        place.change()
        grant(other, list(RIGHTS))
        sourced.sync()
        assert not sourced.taken.last.behind


def grant(server: ApiServer, names: list[str]) -> None:
    """A ClusterRole with these collections, for an account of its own."""
    rules = [
        {"apiGroups": [RIGHTS[name][0]], "resources": [RIGHTS[name][1]], "verbs": ["get", "list", "watch"]}
        for name in names
    ]
    metadata = {"name": NEVER_GRANTED}
    subject = {"kind": "ServiceAccount", "name": NEVER_GRANTED, "namespace": ACCOUNT_NAMESPACE}
    rbac = "rbac.authorization.k8s.io"
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ACCOUNT_NAMESPACE}}
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    if ACCOUNT_NAMESPACE not in [one["metadata"]["name"] for one in server.admin.list("Namespace")]:
        server.admin.apply(space)
    server.admin.apply({**account, "metadata": {**metadata, "namespace": ACCOUNT_NAMESPACE}})
    role = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}
    server.admin.apply(role)
    reference = {"apiGroup": rbac, "kind": "ClusterRole", "name": NEVER_GRANTED}
    binding = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": metadata}
    server.admin.apply({**binding, "roleRef": reference, "subjects": [subject]})


def test_tokens(other: ApiServer, place: Place, proxy: FaultProxy, tmp_path: Path) -> None:
    """One that is not accepted is waited for; one that is rotated is taken at the next request."""
    token = tmp_path / "token"
    token.write_text("expired")
    with sourcing(proxied_config(proxy, tmp_path, tokenFile=str(token)), other) as sourced:
        poll(lambda: sourced.taken.last.because, lambda because: because.count("401") == 4)
        assert sourced.taken.last.refused == ()
        token.write_text(first := other.account_token())
        sourced.wait_complete()
        sourced.sync()
        token.write_text(second := other.admin.token(ACCOUNT_NAMESPACE, ACCOUNT, 4000))
        assert first != second
        proxy.forget_requests()
        proxy.break_connections()
        place.change()
        sourced.sync()
        assert {asked.headers["Authorization"] for asked in proxy.requests()} == {f"Bearer {second}"}


# --- Events ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", [True, False])
def test_events_on_objects(events: bool, other: ApiServer, place: Place) -> None:
    key = ObjectKey("MultiNetworkPolicy", place.space, "q")
    with sourcing(other.kubeconfig("events"), other, events=events) as sourced:
        sourced.wait_complete()
        sourced.source.tell({key: (Finding("Malformed", "no"), Finding("Malformed", "never"))})
        if events:
            (found,) = poll(lambda: other.admin.list("Event", place.space), bool)
            assert (found["reason"], found["message"]) == ("Malformed", "no; never")
            assert found["involvedObject"]["name"] == "q"
        else:
            sourced.sync()
            assert other.admin.list("Event", place.space) == []
            assert "POST" not in sourced.source.cost()["requests"]
