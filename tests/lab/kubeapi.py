"""A small client of the API server for tests, independent of the daemon's own.

In: objects as plain maps. Out: what the server says; an answer that is no success is an ApiRefusal.
"""

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests

from tests.lab.objects import Object
from tests.lab.polling import poll

TIMEOUT = 30.0
_PLURALS = {
    "Namespace": ("api/v1", "namespaces", False),
    "Pod": ("api/v1", "pods", True),
    "Event": ("api/v1", "events", True),
    "ServiceAccount": ("api/v1", "serviceaccounts", True),
    "ClusterRole": ("apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "CustomResourceDefinition": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
    "NetworkAttachmentDefinition": ("apis/k8s.cni.cncf.io/v1", "network-attachment-definitions", True),
    "MultiNetworkPolicy": ("apis/k8s.cni.cncf.io/v1beta1", "multi-networkpolicies", True),
}
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiRefusal(Exception):  # noqa: N818 - named for what the server did
    """An answer that is no success. status: the HTTP code; body: the Status object."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body.get('message', '') if isinstance(body, dict) else body}")
        self.status = status
        self.body = body

    @property
    def causes(self) -> list[tuple[str, str]]:
        """(field, message) of each cause."""
        causes = self.body.get("details", {}).get("causes", []) if isinstance(self.body, dict) else []
        return [(cause.get("field", ""), cause.get("message", "")) for cause in causes]


class KubeApi:
    """Requests under one token; each thread has a session of its own."""

    def __init__(self, url: str, token: str, ca_file: Path) -> None:
        """Connect to nothing yet."""
        self._url = url
        self._token = token
        self._ca = str(ca_file)
        self._local = threading.local()

    def ready(self) -> bool:
        """Whether the server says that it is ready."""
        return self._send("GET", "readyz").status_code == 200

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        **query: str,
    ) -> Any:
        """One request; the decoded answer, or ApiRefusal."""
        headers = {"Content-Type": content_type, "Accept": accept}
        answer = self._send(method, path, json=body, headers=headers, params=query)
        decoded = answer.json() if "json" in answer.headers.get("Content-Type", "") else answer.text
        if not answer.ok:
            raise ApiRefusal(answer.status_code, decoded)
        return decoded

    # --- objects -----------------------------------------------------------------------------------------

    def create(self, raw: Mapping[str, Any], **query: str) -> Object:
        """Create one; a pod's status follows through its subresource."""
        made: Object = self.request("POST", collection_path(raw), dict(raw), **query)
        if raw["kind"] == "Pod" and "status" in raw and not query:
            made = self.set_status(made, raw["status"])
        return made

    def apply(self, raw: Mapping[str, Any]) -> Object:
        """Create it, or replace what has its name."""
        try:
            return self.create(raw)
        except ApiRefusal as error:
            if error.status != 409:
                raise
            found = self.get(raw["kind"], raw["metadata"].get("namespace", ""), raw["metadata"]["name"])
            version = found["metadata"]["resourceVersion"]
            metadata = {**raw["metadata"], "resourceVersion": version}
            replaced: Object = self.request("PUT", object_path(raw), {**raw, "metadata": metadata})
            return replaced

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read one."""
        found: Object = self.request("GET", _path(kind, namespace, name))
        return found

    def list(self, kind: str, namespace: str = "", **query: str) -> list[Object]:
        """Read all, or those of a namespace."""
        items: list[Object] = self.request("GET", _path(kind, namespace), **query)["items"]
        return items

    def patch(
        self, kind: str, namespace: str, name: str, change: Mapping[str, Any], part: str = ""
    ) -> Object:
        """Merge a change into one; `part` is a subresource."""
        path = _path(kind, namespace, name) + (f"/{part}" if part else "")
        changed: Object = self.request("PATCH", path, dict(change), MERGE)
        return changed

    def set_status(self, raw: Mapping[str, Any], status: Mapping[str, Any]) -> Object:
        """Write an object's status as its controller does."""
        metadata = raw["metadata"]
        change = {"status": dict(status)}
        return self.patch(raw["kind"], metadata.get("namespace", ""), metadata["name"], change, "status")

    def annotate(self, kind: str, namespace: str, name: str, **annotations: str | None) -> Object:
        """Set annotations (None: remove); `__` in a key is written for a slash, `_` for a dot."""
        keys = {key.replace("__", "/").replace("_", "."): value for key, value in annotations.items()}
        return self.patch(kind, namespace, name, {"metadata": {"annotations": keys}})

    def delete(self, kind: str, namespace: str, name: str, grace: int = 0) -> None:
        """Delete one; one that is not there is fine."""
        try:
            self.request("DELETE", _path(kind, namespace, name), {"gracePeriodSeconds": grace})
        except ApiRefusal as error:
            if error.status != 404:
                raise

    def wait_established(self, crd: str, timeout: float = 30.0) -> None:
        """Wait until the kinds of a CustomResourceDefinition are served in all its versions."""
        found = self.get("CustomResourceDefinition", "", crd)
        group, plural = found["spec"]["group"], found["spec"]["names"]["plural"]
        for version in found["spec"]["versions"]:
            if version["served"]:
                self._wait_status(f"apis/{group}/{version['name']}/{plural}", 200, timeout)

    def wait_gone(self, kind: str, namespace: str, name: str, timeout: float = 30.0) -> None:
        """Wait until one is no more."""
        self._wait_status(_path(kind, namespace, name), 404, timeout)

    def token(self, namespace: str, account: str, seconds: int) -> str:
        """A token by the TokenRequest API."""
        path = f"{_path('ServiceAccount', namespace, account)}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        token: str = self.request("POST", path, body)["status"]["token"]
        return token

    # --- inside ------------------------------------------------------------------------------------------

    def _wait_status(self, path: str, wanted: int, timeout: float) -> None:
        poll(lambda: self._send("GET", path).status_code, lambda code: code == wanted, timeout)

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self._token}", **options.pop("headers", {})}
        options.setdefault("timeout", TIMEOUT)
        return self._session.request(method, f"{self._url}/{path}", headers=headers, **options)

    @property
    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False
            session.verify = self._ca
        return session


def _path(kind: str, namespace: str = "", name: str = "") -> str:
    base, plural, namespaced = _PLURALS[kind]
    middle = f"/namespaces/{namespace}" if namespaced and namespace else ""
    return f"{base}{middle}/{plural}" + (f"/{name}" if name else "")


def collection_path(raw: Mapping[str, Any]) -> str:
    """Where an object of this kind, version and namespace is created."""
    _, plural, namespaced = _PLURALS[raw["kind"]]
    version = raw["apiVersion"]
    base = f"apis/{version}" if "/" in version else f"api/{version}"
    space = raw["metadata"].get("namespace", "default")
    return f"{base}/namespaces/{space}/{plural}" if namespaced else f"{base}/{plural}"


def object_path(raw: Mapping[str, Any]) -> str:
    """Where an object lives."""
    return f"{collection_path(raw)}/{raw['metadata']['name']}"


def now() -> str:
    """The time, as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
