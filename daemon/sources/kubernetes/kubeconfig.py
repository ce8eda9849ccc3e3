"""Where the API server is and as whom to ask it: a kubeconfig file, or the environment of a pod.

In: the bytes of a kubeconfig, or environment variables. Out: Access, or ConfigError with every problem at
once. A field that we would have to ignore is an error, for it meant something to its author. Reads no other
file: that is login.py's.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from daemon.errors import ConfigError
from daemon.kubeyaml import YamlError, load_yaml

ACCOUNT_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where kubelet mounts a pod's token and the CA."""
EXEC_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")

_CLUSTER = frozenset(
    {
        "server",
        "tls-server-name",
        "certificate-authority",
        "certificate-authority-data",
        "disable-compression",
        "extensions",
    }
)
_USER = frozenset(
    {
        "client-certificate",
        "client-certificate-data",
        "client-key",
        "client-key-data",
        "token",
        "tokenFile",
        "exec",
        "extensions",
    }
)
_EXEC = frozenset(
    {"apiVersion", "command", "args", "env", "installHint", "provideClusterInfo", "interactiveMode"}
)
_HINTS = {
    "insecure-skip-tls-verify": "put the server's CA into certificate-authority-data instead",
    "proxy-url": "the API server is asked directly",
    "auth-provider": "kubectl dropped it too; use exec",
    "username": "API servers dropped it; use a token, a certificate or exec",
    "password": "API servers dropped it; use a token, a certificate or exec",
    "as": "impersonation: give the daemon an account of its own",
    "as-uid": "impersonation: give the daemon an account of its own",
    "as-groups": "impersonation: give the daemon an account of its own",
    "as-user-extra": "impersonation: give the daemon an account of its own",
}


class Material(msgspec.Struct, frozen=True):
    """Bytes that stand in the kubeconfig, or in a file that is read anew each time. Neither: not given."""

    content: bytes = b""
    path: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.content) or self.path is not None


class ExecPlugin(msgspec.Struct, frozen=True):
    """A program that prints credentials (client.authentication.k8s.io)."""

    version: str
    command: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    hint: str = ""
    cluster_wanted: bool = False


class Access(msgspec.Struct, frozen=True):
    """server: URL without a slash at its end. server_name: what its certificate must name; "": the host.

    authority: PEM; none: the system's. token: Material whose content is the token itself.
    """

    server: str
    server_name: str = ""
    authority: Material = Material()
    certificate: Material = Material()
    key: Material = Material()
    token: Material = Material()
    plugin: ExecPlugin | None = None


def in_cluster(env: Mapping[str, str]) -> Access:
    """The access of a pod. Raises ConfigError outside of one."""
    host, port = env.get("KUBERNETES_SERVICE_HOST", ""), env.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigError(
            ["--source kubernetes: give --kubeconfig FILE; without one the daemon must run in a pod"]
        )
    return Access(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        authority=Material(path=ACCOUNT_FOLDER / "ca.crt"),
        token=Material(path=ACCOUNT_FOLDER / "token"),
    )


def read_kubeconfig(content: bytes, path: Path) -> Access:
    """The access of a kubeconfig's current context; relative paths are below its folder.

    Raises ConfigError with a line for each problem.
    """
    return _Reader(path).read(content)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[str] = []

    def read(self, content: bytes) -> Access:
        config = self._load(content)
        context = self._chosen(config)
        cluster = self._named(config, "clusters", "cluster", context.get("cluster"))
        user = self._named(config, "users", "user", context.get("user")) if context.get("user") else {}
        self._check(context, frozenset({"cluster", "user", "namespace", "extensions"}), "context")
        self._check(cluster, _CLUSTER, "cluster")
        self._check(user, _USER, "user")
        access = Access(
            server=self._server(cluster),
            server_name=self._text(cluster, "tls-server-name", "cluster"),
            authority=self._material(cluster, "certificate-authority", "cluster"),
            certificate=self._material(user, "client-certificate", "user"),
            key=self._material(user, "client-key", "user"),
            token=self._token(user),
            plugin=self._plugin(user.get("exec")),
        )
        if bool(access.certificate) != bool(access.key):
            self._say("user", "client-certificate and client-key belong together")
        if self._problems:
            raise ConfigError(self._problems)
        return access

    def _say(self, field: str, message: str) -> None:
        self._problems.append(f"{self._path}: {field}: {message}")

    def _load(self, content: bytes) -> Mapping[str, Any]:
        try:
            documents = [document for document in load_yaml(content.decode()) if document is not None]
        except (YamlError, UnicodeDecodeError) as error:
            raise ConfigError([f"{self._path}: no YAML: {error}"]) from None
        if len(documents) != 1 or not isinstance(documents[0], dict):
            raise ConfigError([f"{self._path}: is no kubeconfig"])
        return documents[0]

    def _chosen(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        name = config.get("current-context")
        if not isinstance(name, str) or not name:
            raise ConfigError([f"{self._path}: current-context: missing; name one of contexts"])
        return self._named(config, "contexts", "context", name)

    def _named(self, config: Mapping[str, Any], group: str, kind: str, name: Any) -> Mapping[str, Any]:
        items = config.get(group)
        for item in items if isinstance(items, list) else []:
            if isinstance(item, dict) and item.get("name") == name and isinstance(item.get(kind), dict):
                found: Mapping[str, Any] = item[kind]
                return found
        raise ConfigError([*self._problems, f"{self._path}: {group}: has no {kind} named {name!r}"])

    def _check(self, found: Mapping[str, Any], known: frozenset[str], where: str) -> None:
        for key, value in found.items():
            # An absent thing may be written down as false, null or empty.
            if key not in known and value:
                self._say(f"{where}.{key}", f"not supported: {_HINTS.get(key, 'take it out')}")

    def _text(self, found: Mapping[str, Any], key: str, where: str) -> str:
        value = found.get(key)
        if value is None or isinstance(value, str):
            return value or ""
        self._say(f"{where}.{key}", "expected a string; put it in quotes")
        return ""

    def _server(self, cluster: Mapping[str, Any]) -> str:
        server = self._text(cluster, "server", "cluster").rstrip("/")
        if not _is_server(server):
            self._say("cluster.server", f"expected https://HOST[:PORT], not {server[:200]!r}")
        return server

    def _material(self, found: Mapping[str, Any], key: str, where: str) -> Material:
        encoded, path = self._text(found, f"{key}-data", where), self._text(found, key, where)
        if encoded:
            # kubectl: data overrides the file.
            try:
                # kubectl: line breaks don't count.
                return Material(content=base64.b64decode("".join(encoded.split()), validate=True))
            except (binascii.Error, ValueError):
                self._say(f"{where}.{key}-data", "is no base64")
        return Material(path=self._path.parent / path) if path and not encoded else Material()

    def _token(self, user: Mapping[str, Any]) -> Material:
        token, path = self._text(user, "token", "user"), self._text(user, "tokenFile", "user")
        # kubectl: the file is read anew and overrides the text.
        if path:
            return Material(path=self._path.parent / path)
        return Material(content=token.encode())

    def _plugin(self, raw: Any) -> ExecPlugin | None:
        if raw is None:
            return None
        if not isinstance(raw, dict):
            self._say("user.exec", "expected command, args, env")
            return None
        self._check(raw, _EXEC, "user.exec")
        version, command = self._text(raw, "apiVersion", "user.exec"), self._text(raw, "command", "user.exec")
        if version not in EXEC_VERSIONS:
            self._say("user.exec.apiVersion", f"expected one of {', '.join(EXEC_VERSIONS)}")
        if not command:
            self._say("user.exec.command", "missing")
        if raw.get("interactiveMode") == "Always":
            self._say("user.exec.interactiveMode", "Always: a daemon has no terminal")
        if not isinstance(raw.get("provideClusterInfo", False), bool | None):
            self._say("user.exec.provideClusterInfo", "expected true or false")
        if "/" in command and not command.startswith("/"):
            command = str(self._path.parent / command)
        return ExecPlugin(
            version=version,
            command=command,
            arguments=tuple(self._strings(raw.get("args"), "user.exec.args")),
            environment=self._environment(raw.get("env")),
            hint=self._text(raw, "installHint", "user.exec"),
            cluster_wanted=raw.get("provideClusterInfo") is True,
        )

    def _strings(self, raw: Any, field: str) -> list[str]:
        if raw is None:
            return []
        if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
            self._say(field, "expected a list of strings")
            return []
        return raw

    def _environment(self, raw: Any) -> tuple[tuple[str, str], ...]:
        items = raw if isinstance(raw, list) else []
        pairs = [(item.get("name"), item.get("value")) for item in items if isinstance(item, dict)]
        good = [(name, value) for name, value in pairs if isinstance(name, str) and isinstance(value, str)]
        if raw is not None and (not isinstance(raw, list) or len(good) != len(raw)):
            self._say("user.exec.env", "expected a list of name and value")
        return tuple(good)


def _is_server(url: str) -> bool:
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        # Brackets around what is no address, or a port beyond 65535.
        return False
    extra = parts.query or parts.fragment or parts.username is not None
    return parts.scheme == "https" and bool(parts.hostname) and port != 0 and not extra
