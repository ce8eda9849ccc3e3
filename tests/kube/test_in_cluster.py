"""As a pod of the cluster: no kubeconfig, but the environment and the mounted account; over IPv4 and IPv6."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube.conftest import install
from tests.kube.world import only
from tests.lab import Lab, objects
from tests.lab.apiserver import ApiServer
from tests.lab.kubedaemon import NODE, KubeDaemon
from tests.lab.polling import poll

# What kubelet mounts there lies in a mount namespace of the daemon's own.
SCRIPT = """
mount --make-rprivate / && mkdir -p /run/secrets && mount -t tmpfs account /run/secrets &&
mkdir -p /run/secrets/kubernetes.io && ln -s "$ACCOUNT" /run/secrets/kubernetes.io/serviceaccount && exec "$@"
"""


@pytest.fixture(scope="module")
def both_families(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    with ApiServer(tmp_path_factory.mktemp("both")) as server:
        install(server)
        server.stop()
        server.start("--bind-address=::")
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_account_of_the_pod(host: str, both_families: ApiServer, tmp_path: Path) -> None:
    server, secrets = both_families, Path("/run/secrets")
    (tmp_path / "token").write_text(server.account_token())
    (tmp_path / "ca.crt").write_bytes(server.ca_file.read_bytes())
    env = {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "HTTPS_PROXY": "http://127.0.0.1:1",  # looked at, it would be in the way
        "ACCOUNT": str(tmp_path),
    }
    there_before = secrets.exists()
    name = f"in-cluster-{host.count(':')}"
    try:
        with Lab(()) as lab:
            wrapper = ["unshare", "--mount", "sh", "-c", SCRIPT, "daemon"]
            options = ["--source=kubernetes", f"--node-name={NODE}"]
            daemon = lab.daemon(options=options, env=env, wrapper=wrapper)
            server.admin.apply(objects.namespace(name))
            server.admin.apply(objects.policy("p", only("a"), namespace=name))
            daemon.wait_synced()
            assert name in {item["namespace"] for item in daemon.ctl("policies")}
            assert daemon.ctl("status")["ready"] is True
            # kubelet rotates the token: the file is read anew.
            (tmp_path / "token").write_text("nonsense")
            server.admin.apply(objects.policy("q", only("a"), namespace=name))
            refused = daemon.run_ctl("wait", "--synced", "--timeout", "2")
            assert refused.returncode == 1, refused
            (tmp_path / "token").write_text(server.account_token())
            poll(
                lambda: daemon.run_ctl("wait", "--synced", "--timeout", "20").returncode,
                lambda code: code == 0,
            )
    finally:
        if not there_before and secrets.is_dir() and not any(secrets.iterdir()):
            os.rmdir(secrets)


def test_a_client_certificate(server: ApiServer) -> None:
    """Outside of a cluster: the kubeconfig of an administrator, by files."""
    certificate, key = server.client_certificate("admin", "system:masters", "client")
    user: dict[str, Any] = {"client-certificate": str(certificate), "client-key": str(key)}
    with Lab(()) as lab:
        config = server.kubeconfig("by-certificate", **user)
        daemon = lab.adopt(KubeDaemon(lab.daemon_folder(), server, config))
        daemon.start()
        assert daemon.ctl("status")["ready"] is True
