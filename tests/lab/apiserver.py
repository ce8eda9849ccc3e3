"""A real kube-apiserver on a real etcd, on loopback: what the daemon's source is tested against.

In: objects as plain maps. Out: what the server answers. Certificates, tokens and kubeconfigs are made here.
No controller, scheduler or kubelet runs: tests play the parts that they need.
"""

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests
import trustme
import yaml

from tests.lab.kubeapi import KubeApi
from tests.lab.lab import REPOSITORY, tools_folder

READY_TIMEOUT = 60.0
STOP_TIMEOUT = 4.0  # a stopping server waits a minute for its watches to end by themselves
HOST = "127.0.0.1"
# A server that lives for a test may hold more memory, and collect less of it: a quarter of its work.
_GO_ENVIRONMENT = {"GOGC": "400"}
ADMIN_TOKEN = "admin-token-of-a-test"  # noqa: S105 - this server lives for one test
ACCOUNT_NAMESPACE, ACCOUNT = "kube-system", "multi-networkpolicy"


class ApiServerError(Exception):
    """The server did not come up; the end of its log is in the message."""


class ApiServer:
    """etcd and kube-apiserver; use it in a `with` block. stop() and start() keep the data and the port."""

    def __init__(self, folder: Path) -> None:
        """Lay out certificates and ports; nothing runs yet."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._etcd_ports = (free_port(), free_port())
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._data = folder / "etcd-1"
        self.ca = trustme.CA(organization_name="test")
        self.ca_file = folder / "ca.crt"
        self._account_key = folder / "account.key"
        trustme.CA(key_type=trustme.KeyType.RSA).private_key_pem.write_to_path(str(self._account_key))
        (folder / "tokens.csv").write_text(f'{ADMIN_TOKEN},admin,admin,"system:masters"\n')
        self.renew_certificates(self.ca)

    def __enter__(self) -> Self:
        """Start both, ready to serve."""
        try:
            self.start_etcd()
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End both."""
        self._end()

    # --- certificates ------------------------------------------------------------------------------------

    def renew_certificates(self, ca: trustme.CA) -> None:
        """Issue the serving certificate by this authority; the server takes it at its next start."""
        self.ca = ca
        ca.cert_pem.write_to_path(str(self.ca_file))
        serving = ca.issue_cert(HOST, "::1", "localhost", "kubernetes.default.svc")
        serving.private_key_pem.write_to_path(str(self.folder / "serving.key"))
        chain = b"".join(blob.bytes() for blob in serving.cert_chain_pems)
        (self.folder / "serving.crt").write_bytes(chain)

    def client_certificate(self, user: str, group: str, name: str) -> tuple[Path, Path]:
        """A client certificate and its key, as files."""
        made = self.ca.issue_cert(f"{name}.test", common_name=user, organization_name=group)
        crt, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        crt.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
        return crt, key

    # --- processes ---------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"https://{HOST}:{self.port}"

    @property
    def admin(self) -> KubeApi:
        """A client that may do everything."""
        return KubeApi(self.url, ADMIN_TOKEN, self.ca_file)

    def start_etcd(self, data: Path | None = None) -> None:
        """Start etcd; `data` (a copy made earlier) takes the place of what it held."""
        self._data = data or self._data
        client, peer = (f"http://{HOST}:{port}" for port in self._etcd_ports)
        self._spawn(
            "etcd",
            "server",
            f"--data-dir={self._data}",
            "--unsafe-no-fsync",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--log-level=error",
        )

    def start(self, *flags: str) -> None:
        """Start the API server and wait until it is ready."""
        own = self.folder
        self._spawn(
            "kube-apiserver",
            "kube-apiserver",
            f"--etcd-servers=http://{HOST}:{self._etcd_ports[0]}",
            f"--bind-address={HOST}",
            f"--advertise-address={HOST}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={own / 'serving.crt'}",
            f"--tls-private-key-file={own / 'serving.key'}",
            f"--cert-dir={own / 'certs'}",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={own / 'tokens.csv'}",
            f"--service-account-key-file={self._account_key}",
            f"--service-account-signing-key-file={self._account_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--v=0",
            *flags,
        )
        self._wait_ready()

    def stop(self) -> None:
        """End the API server as a shutdown does; etcd and the data stay."""
        self._stop("kube-apiserver")

    def kill(self) -> None:
        """End the API server by SIGKILL: connections break without a word."""
        child = self._children.pop("kube-apiserver")
        child.kill()
        child.wait()

    def stop_etcd(self) -> None:
        """End etcd."""
        self._stop("etcd")

    @property
    def store(self) -> Path:
        """etcd's folder; a copy of it, made while etcd is stopped, is a backup."""
        return self._data

    def compact(self) -> None:
        """Throw away the history: a watch that resumes from before gets 410."""
        base = f"http://{HOST}:{self._etcd_ports[0]}/v3/kv"
        status = requests.post(f"{base}/range", json={"key": "AA=="}, timeout=10).json()
        body = {"revision": status["header"]["revision"], "physical": True}
        requests.post(f"{base}/compaction", json=body, timeout=10).raise_for_status()

    def log(self, name: str = "kube-apiserver") -> str:
        """What a process has printed."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- the daemon's account ----------------------------------------------------------------------------

    def install(self, *, crds: Sequence[Path] = (), rbac: Path | None = None) -> None:
        """Apply manifests of conf/, and wait until the kinds that they define are served."""
        for path in (*crds, *([rbac] if rbac else [])):
            for raw in yaml.safe_load_all(path.read_text()):
                self.admin.apply(raw)
                if raw["kind"] == "CustomResourceDefinition":
                    self.admin.wait_established(raw["metadata"]["name"])

    def account_token(self, seconds: int = 3600) -> str:
        """A token of the ServiceAccount that conf/rbac.yaml binds."""
        return self.admin.token(ACCOUNT_NAMESPACE, ACCOUNT, seconds)

    def kubeconfig(
        self, name: str = "daemon", url: str = "", ca_file: Path | None = None, **user: Any
    ) -> Path:
        """A kubeconfig file; `user` are the keys of its user, by default the account's token.

        url, ca_file: of a proxy in front of this server.
        """
        path = self.folder / f"{name}.kubeconfig"
        user = user or {"token": self.account_token()}
        cluster = {"server": url or self.url, "certificate-authority": str(ca_file or self.ca_file)}
        path.write_text(yaml.safe_dump(kubeconfig(cluster, user)))
        return path

    # --- inside ------------------------------------------------------------------------------------------

    def _spawn(self, name: str, program: str, *flags: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                [str(tools_folder("kube") / program), *flags],
                env=os.environ | _GO_ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_TIMEOUT
        while True:
            with contextlib.suppress(requests.RequestException):
                if self.admin.ready():
                    return
            child = self._children["kube-apiserver"]
            if child.poll() is not None or time.monotonic() > deadline:
                raise ApiServerError(f"not ready; exit {child.poll()}:\n{self.log()[-4000:]}")
            time.sleep(0.05)

    def _stop(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is None:
            return
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _end(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            child = self._children.pop(name, None)
            if child is not None:
                child.kill()  # nothing that it holds is needed any more
                child.wait()


def kubeconfig(cluster: Mapping[str, Any], user: Mapping[str, Any]) -> dict[str, Any]:
    """A kubeconfig of one context."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": dict(cluster)}],
        "users": [{"name": "test", "user": dict(user)}],
    }


def free_port() -> int:
    """A TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


CONF = REPOSITORY / "conf"
