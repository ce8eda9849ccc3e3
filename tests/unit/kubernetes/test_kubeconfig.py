"""Kubeconfigs: what each field means, and that what is not supported is an error that says so."""

import base64
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.errors import ConfigError
from daemon.sources.kubernetes.kubeconfig import (
    ACCOUNT_FOLDER,
    EXEC_VERSIONS,
    Access,
    ExecPlugin,
    Material,
    in_cluster,
    read_kubeconfig,
)

FOLDER = Path("/etc/mnp")
PATH = FOLDER / "kubeconfig"
URL = "https://api.example:6443"
BASE64 = base64.b64encode(b"pem").decode()
FILE = Material(path=FOLDER / "f.pem")
V1, V1BETA1 = EXEC_VERSIONS


def config(cluster: Any = None, user: Any = None, **top: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "b",
        "contexts": [
            {"name": "a", "context": {"cluster": "other", "user": "other"}},
            {"name": "b", "context": {"cluster": "c", "user": "u", "namespace": "x"}},
        ],
        "clusters": [
            {"name": "other", "cluster": {"server": "https://other", "proxy-url": "not looked at"}},
            {"name": "c", "cluster": {"server": URL, **(cluster or {})}},
        ],
        "users": [{"name": "other", "user": {"token": "other"}}, {"name": "u", "user": user or {}}],
        **top,
    }


def read(raw: Any) -> Access:
    content = raw if isinstance(raw, bytes) else yaml.safe_dump(raw).encode()
    return read_kubeconfig(content, PATH)


def problems(raw: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(raw)
    assert all(problem.startswith(f"{PATH}: ") for problem in caught.value.problems)
    return [problem.removeprefix(f"{PATH}: ") for problem in caught.value.problems]


def plugin(**fields: Any) -> dict[str, Any]:
    return {"exec": {"apiVersion": V1, "command": "login", **fields}}


# --- what is supported -----------------------------------------------------------------------------------

CLUSTERS: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "server", URL),
    ({"server": "https://[fd00::1]:6443"}, "server", "https://[fd00::1]:6443"),
    (
        {"server": "https://rancher.example/k8s/clusters/c-1/"},
        "server",
        "https://rancher.example/k8s/clusters/c-1",
    ),
    ({"tls-server-name": "name"}, "server_name", "name"),
    ({}, "authority", Material()),
    ({"certificate-authority": "f.pem"}, "authority", FILE),
    ({"certificate-authority": "/abs/f.pem"}, "authority", Material(path=Path("/abs/f.pem"))),
    ({"certificate-authority-data": BASE64}, "authority", Material(b"pem")),
    ({"certificate-authority-data": f"{BASE64[:2]}\n{BASE64[2:]}\n"}, "authority", Material(b"pem")),
    ({"certificate-authority-data": BASE64, "certificate-authority": "f.pem"}, "authority", Material(b"pem")),
    ({"certificate-authority-data": "", "certificate-authority": "f.pem"}, "authority", FILE),
    ({"disable-compression": True, "extensions": [{"name": "x"}]}, "server", URL),
    ({"insecure-skip-tls-verify": False, "proxy-url": ""}, "server", URL),
]
USERS: list[tuple[dict[str, Any], str, Any]] = [
    ({}, "token", Material()),
    ({"token": "t"}, "token", Material(b"t")),
    ({"tokenFile": "f.pem"}, "token", FILE),
    ({"token": "t", "tokenFile": "f.pem"}, "token", FILE),
    ({"client-certificate": "f.pem", "client-key-data": BASE64}, "certificate", FILE),
    ({"client-certificate": "f.pem", "client-key-data": BASE64}, "key", Material(b"pem")),
    ({"client-certificate-data": BASE64, "client-key": "f.pem"}, "key", FILE),
    ({"username": None, "as-groups": []}, "token", Material()),
]


@pytest.mark.parametrize(("fields", "name", "want"), CLUSTERS)
def test_each_field_of_a_cluster(fields: dict[str, Any], name: str, want: Any) -> None:
    assert getattr(read(config(fields)), name) == want


@pytest.mark.parametrize(("fields", "name", "want"), USERS)
def test_each_field_of_a_user(fields: dict[str, Any], name: str, want: Any) -> None:
    assert getattr(read(config(user=fields)), name) == want


PLUGINS: list[tuple[dict[str, Any], ExecPlugin]] = [
    ({}, ExecPlugin(V1, "login")),
    ({"apiVersion": V1BETA1}, ExecPlugin(V1BETA1, "login")),
    ({"command": "bin/login"}, ExecPlugin(V1, "/etc/mnp/bin/login")),
    ({"command": "./login"}, ExecPlugin(V1, "/etc/mnp/login")),
    ({"command": "/bin/login"}, ExecPlugin(V1, "/bin/login")),
    ({"args": ["get", "-o=json"]}, ExecPlugin(V1, "login", ("get", "-o=json"))),
    ({"args": None, "env": None}, ExecPlugin(V1, "login")),
    (
        {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": ""}]},
        ExecPlugin(V1, "login", environment=(("A", "1"), ("B", ""))),
    ),
    ({"installHint": "apt install login"}, ExecPlugin(V1, "login", hint="apt install login")),
    ({"provideClusterInfo": True}, ExecPlugin(V1, "login", cluster_wanted=True)),
    ({"provideClusterInfo": False, "interactiveMode": "Never"}, ExecPlugin(V1, "login")),
    ({"interactiveMode": "IfAvailable"}, ExecPlugin(V1, "login")),
]


@pytest.mark.parametrize(("fields", "want"), PLUGINS)
def test_exec_plugins(fields: dict[str, Any], want: ExecPlugin) -> None:
    assert read(config(user=plugin(**fields))).plugin == want


def test_a_context_may_name_no_user() -> None:
    raw = config(contexts=[{"name": "b", "context": {"cluster": "c"}}])
    assert read(raw) == Access(URL)


def test_json_is_yaml() -> None:
    assert read(yaml.safe_dump(config(user={"token": "t"}), default_flow_style=True).encode()).token


# --- what is not -----------------------------------------------------------------------------------------

BAD_CLUSTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"insecure-skip-tls-verify": True}, ["cluster.insecure-skip-tls-verify: not supported: ", "CA into"]),
    ({"proxy-url": "http://p"}, ["cluster.proxy-url: not supported: the API server is asked directly"]),
    ({"tls-server-nam": "x"}, ["cluster.tls-server-nam: not supported: take it out"]),
    ({"server": 5}, ["cluster.server: expected a string; put it in quotes"]),
    ({"tls-server-name": 5}, ["cluster.tls-server-name: expected a string; put it in quotes"]),
    ({"certificate-authority-data": "%%"}, ["cluster.certificate-authority-data: is no base64"]),
    ({"certificate-authority-data": "YQ"}, ["cluster.certificate-authority-data: is no base64"]),
    ({"certificate-authority-data": "é"}, ["cluster.certificate-authority-data: is no base64"]),
    *(
        ({"server": server}, ["cluster.server: expected https://HOST[:PORT]"])
        for server in (
            None,
            "",
            "api.example:6443",
            "http://api.example",
            "https://",
            "https://user:secret@host",
            "https://@host",
            "https://host?x=1",
            "https://host#x",
            "https://[::1",
            "https://host:99999",
            "https://host:0",
            "https://host:port",
            "https://ho st",
            "https://host\nx",
            "https://hôst",
        )
    ),
]
BAD_USERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"auth-provider": {"name": "gcp"}}, ["user.auth-provider: not supported: kubectl dropped it too"]),
    ({"username": "a"}, ["user.username: not supported: API servers dropped it"]),
    ({"password": "a"}, ["user.password: not supported: API servers dropped it"]),
    ({"as": "a"}, ["user.as: not supported: impersonation"]),
    ({"as-uid": "a"}, ["user.as-uid: not supported: impersonation"]),
    ({"as-groups": ["a"]}, ["user.as-groups: not supported: impersonation"]),
    ({"as-user-extra": {"a": ["b"]}}, ["user.as-user-extra: not supported: impersonation"]),
    ({"tokenfile": "a"}, ["user.tokenfile: not supported: take it out"]),
    ({"token": 1}, ["user.token: expected a string"]),
    ({"client-certificate": "f"}, ["user: client-certificate and client-key belong together"]),
    ({"client-key-data": BASE64}, ["user: client-certificate and client-key belong together"]),
    ({"client-key-data": "%", "client-certificate": "f"}, ["user.client-key-data: is no base64"]),
    ({"exec": "login"}, ["user.exec: expected command, args, env"]),
    (plugin(command=None), ["user.exec.command: missing"]),
    (plugin(apiVersion="client.authentication.k8s.io/v1alpha1"), ["user.exec.apiVersion: expected one of"]),
    (plugin(interactiveMode="Always"), ["user.exec.interactiveMode: Always: a daemon has no terminal"]),
    (plugin(provideClusterInfo="true"), ["user.exec.provideClusterInfo: expected true or false"]),
    (plugin(arguments=["a"]), ["user.exec.arguments: not supported"]),
    *((plugin(args=bad), ["user.exec.args: expected a list of strings"]) for bad in ("a", [1], {"a": "b"})),
    *(
        (plugin(env=bad), ["user.exec.env: expected a list of name and value"])
        for bad in (5, True, "A=1", {"A": "1"}, [{"name": "A"}], [{"name": 1, "value": "1"}], ["A=1"])
    ),
]


@pytest.mark.parametrize(("fields", "words"), BAD_CLUSTERS)
def test_each_bad_field_of_a_cluster(fields: dict[str, Any], words: list[str]) -> None:
    found = problems(config(fields))
    assert all(word in found[0] for word in words), found


@pytest.mark.parametrize(("fields", "words"), BAD_USERS)
def test_each_bad_field_of_a_user(fields: dict[str, Any], words: list[str]) -> None:
    found = problems(config(user=fields))
    assert all(word in found[0] for word in words), found


NO_KUBECONFIG: list[tuple[Any, str]] = [
    (b"a: [", "no YAML: line"),
    (b"\xff", "no YAML: "),
    (b"", "is no kubeconfig"),
    (b"- a", "is no kubeconfig"),
    (b"a: 1\n---\nb: 2", "is no kubeconfig"),
    (config(**{"current-context": None}), "current-context: missing; name one of contexts"),
    (config(**{"current-context": "z"}), "contexts: has no context named 'z'"),
    (config(contexts="b"), "contexts: has no context named 'b'"),
    (config(clusters=[]), "clusters: has no cluster named 'c'"),
    (config(clusters=[{"name": "c", "cluster": "x"}, "c"]), "clusters: has no cluster named 'c'"),
    (config(users=None), "users: has no user named 'u'"),
]


@pytest.mark.parametrize(("raw", "want"), NO_KUBECONFIG)
def test_what_is_no_kubeconfig(raw: Any, want: str) -> None:
    assert problems(raw)[0].startswith(want)


def test_every_problem_is_told_at_once() -> None:
    raw = deepcopy(
        config({"server": "http://x", "proxy-url": "p"}, {"as": "x", "username": "y", **plugin(env=5)})
    )
    raw["contexts"][1]["context"]["clutser"] = "x"
    fields = [problem.partition(": ")[0] for problem in problems(raw)]
    assert fields == [
        "context.clutser",
        "cluster.proxy-url",
        "user.as",
        "user.username",
        "cluster.server",
        "user.exec.env",
    ]


# --- in a pod --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "want"),
    [
        ("10.0.0.1", "443", "https://10.0.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("api.example", None, "https://api.example:443"),
    ],
)
def test_in_a_pod(host: str, port: str | None, want: str) -> None:
    env = {"KUBERNETES_SERVICE_HOST": host} | ({"KUBERNETES_SERVICE_PORT": port} if port else {})
    assert in_cluster(env) == Access(
        want,
        authority=Material(path=ACCOUNT_FOLDER / "ca.crt"),
        token=Material(path=ACCOUNT_FOLDER / "token"),
    )


def test_not_in_a_pod() -> None:
    with pytest.raises(ConfigError, match="give --kubeconfig FILE"):
        in_cluster({})
