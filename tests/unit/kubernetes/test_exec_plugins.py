"""Credentials from exec plugins: real scripts, good and bad."""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme

from daemon.sources.kubernetes.errors import CredentialsError
from daemon.sources.kubernetes.kubeconfig import EXEC_VERSIONS, Access, ExecPlugin, Material
from daemon.sources.kubernetes.login import MAX_FILE, Login

URL = "https://api.example:6443"
V1, V1BETA1 = EXEC_VERSIONS
CA = trustme.CA()
PEM = CA.cert_pem.bytes()
LEAF, OTHER_LEAF = CA.issue_cert("client"), CA.issue_cert("other")
EPOCH = 1_700_000_000.0


def login(**fields: Any) -> Login:
    return Login(lambda: Access(URL, **fields))


def why(found: Login) -> str:
    with pytest.raises(CredentialsError) as caught:
        found.identity()
    return str(caught.value)


def credential(given: Any = None, version: str = V1, **status: Any) -> str:
    token = {"token": given} if given is not None else {}
    return json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": token | status})


class Script:
    """An exec plugin: a shell script that counts its runs."""

    def __init__(self, folder: Path) -> None:
        self.path, self.runs_path, self.answer_path = folder / "login", folder / "runs", folder / "answer"
        self.say(credential("t"))
        self.write(f"cat {self.answer_path}")

    def write(self, line: str) -> None:
        self.path.write_text(f"#!/bin/sh\necho >> {self.runs_path}\n{line}\n")
        self.path.chmod(0o755)

    def say(self, answer: str) -> None:
        self.answer_path.write_text(answer)

    @property
    def runs(self) -> int:
        return len(self.runs_path.read_text().splitlines()) if self.runs_path.exists() else 0

    def login(self, clock: Callable[[], float] = lambda: EPOCH, seconds: float = 5.0, **fields: Any) -> Login:
        access = Access(URL, plugin=ExecPlugin(V1, str(self.path), **fields), authority=Material(PEM))
        return Login(lambda: access, clock, seconds)


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def test_a_plugin_gives_a_token_once(script: Script) -> None:
    found = script.login()
    assert [found.identity().authorization for _ in range(3)] == ["Bearer t"] * 3
    assert script.runs == 1
    script.say(credential("u"))
    found.forget(found.identity())
    assert found.identity().authorization == "Bearer u"
    assert script.runs == 2


CERTIFICATES = [
    {"clientCertificateData": leaf.cert_chain_pems[0].bytes().decode()}
    | {"clientKeyData": leaf.private_key_pem.bytes().decode()}
    for leaf in (LEAF, OTHER_LEAF)
]


@pytest.mark.parametrize(
    ("first", "second"),
    [(credential("t"), credential("u")), tuple(credential(**pair) for pair in CERTIFICATES)],
    ids=["tokens", "certificates"],
)
def test_a_late_401_keeps_what_another_request_has_got_since(script: Script, first: str, second: str) -> None:
    found = script.login()
    script.say(first)
    old = found.identity()
    found.forget(old)
    script.say(second)
    new = found.identity()
    assert new.given != old.given
    found.forget(old)
    assert found.identity() == new
    assert script.runs == 2
    found.forget(new)
    found.identity()
    assert script.runs == 3


def test_a_plugin_gives_a_certificate(script: Script) -> None:
    script.say(credential(None, **CERTIFICATES[0], token=None, expirationTimestamp=None))
    found = script.login()
    assert found.identity().authorization == ""
    first = found.identity().context
    assert found.identity().context is first
    found.forget(found.identity())
    script.say(credential("both", **CERTIFICATES[1]))
    assert found.identity().authorization == "Bearer both"
    assert found.identity().context is not first


@pytest.mark.parametrize(
    ("life", "asked_again_after"),
    [(3600.0, 3540.0), (100.0, 80.0), (10.0, 8.0), (-5.0, 0.0)],
    ids=["long", "short", "shorter", "over already"],
)
def test_a_plugin_is_asked_before_its_credentials_expire(
    script: Script, life: float, asked_again_after: float
) -> None:
    now = EPOCH
    found = script.login(lambda: now)
    script.say(credential("t", expirationTimestamp=moment(EPOCH + life)))
    found.identity()
    now = EPOCH + asked_again_after - 1
    found.identity()
    assert script.runs == (1 if asked_again_after else 2)
    now = EPOCH + asked_again_after
    found.identity()
    assert script.runs == (2 if asked_again_after else 3)


def test_what_a_plugin_is_told(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FROM_OUTSIDE", "outside")
    said = script.path.parent / "said"
    script.write(
        f'printf "%s\\n" "$1" "$2" "$OWN" "$FROM_OUTSIDE" "$KUBERNETES_EXEC_INFO" > {said}\n'
        f"cat {script.answer_path}"
    )
    environment = (("OWN", "a b"),)
    script.login(arguments=("get", "a b"), environment=environment).identity()
    *words, told = said.read_text().splitlines()
    assert words == ["get", "a b", "a b", "outside"]
    assert json.loads(told) == {"apiVersion": V1, "kind": "ExecCredential", "spec": {"interactive": False}}


def test_a_plugin_may_want_to_know_the_cluster(script: Script) -> None:
    said = script.path.parent / "said"
    script.write(f'echo "$KUBERNETES_EXEC_INFO" > {said}\ncat {script.answer_path}')
    plugin = ExecPlugin(V1, str(script.path), cluster_wanted=True)
    access = Access(URL, server_name="name", authority=Material(PEM), plugin=plugin)
    Login(lambda: access).identity()
    cluster = json.loads(said.read_text())["spec"]["cluster"]
    encoded = json.loads(msgspec.json.encode(PEM))
    assert cluster == {
        "server": URL,
        "tls-server-name": "name",
        "certificate-authority-data": encoded,
    }


FAILURES = [
    ("echo not today >&2; exit 3", "ended with 3: not today"),
    ("kill -9 $$", "ended with -9"),
    ("head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2; exit 1", "xend"),
    ("echo hello", "printed no ExecCredential"),
    ("true", "printed no ExecCredential"),
    ("printf '\\377'", "printed no ExecCredential"),
    (f"echo '{credential('t', V1BETA1)}'", f"apiVersion {V1BETA1}, not {V1}"),
    (f"echo '{credential()}'", "neither a token nor a certificate with its key"),
    (f"echo '{credential(clientCertificateData='x')}'", "neither a token nor a certificate"),
    (f"echo '{credential('t', expirationTimestamp='tomorrow')}'", "printed no ExecCredential"),
    (f"echo '{credential(5)}'", "printed no ExecCredential"),
    (f"""echo '{{"apiVersion":"{V1}","kind":"ExecCredential"}}'""", "status"),
    ("head -c 3000000 /dev/zero", f"printed more than {MAX_FILE} bytes"),
    ("yes", f"printed more than {MAX_FILE} bytes"),
    (f"echo '{credential('a b')}'", "visible ASCII"),
    (f"echo '{credential(clientCertificateData='x', clientKeyData='y')}'", "can't be used"),
]


@pytest.mark.parametrize(("line", "word"), FAILURES, ids=[line[:40] for line, _ in FAILURES])
def test_a_plugin_that_fails(script: Script, line: str, word: str) -> None:
    script.write(line)
    found = script.login()
    reason = why(found)
    assert word in reason
    assert len(reason) < 900
    # And is right at the next try.
    script.write(f"cat {script.answer_path}")
    assert found.identity().authorization == "Bearer t"


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    plugin = ExecPlugin(V1, str(tmp_path / "absent"), hint="apt install login")
    reason = why(login(plugin=plugin))
    assert reason.endswith("absent: No such file or directory; apt install login")
    assert "null byte" in why(login(plugin=ExecPlugin(V1, "login", arguments=("a\0b",))))
    assert "environment" in why(login(plugin=ExecPlugin(V1, "true", environment=(("A=B", "1"),))))


@pytest.mark.parametrize("line", ["sleep 60", "sleep 60 & exit 0", "exec >&- 2>&-; sleep 60", "yes >&2"])
def test_a_plugin_has_its_time(script: Script, line: str) -> None:
    script.write(line)
    started = time.monotonic()
    assert "gave none in 0.3 s" in why(script.login(seconds=0.3))
    assert time.monotonic() - started < 2


def test_what_a_plugin_has_started_ends_with_it(script: Script) -> None:
    child = script.path.parent / "child"
    script.write(f"sleep 60 &\necho $! > {child}\nwait")
    why(script.login(seconds=0.3))
    pid = int(child.read_text())
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """A zombie that nobody waits for runs no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_another_plugin_is_asked_at_once(script: Script) -> None:
    plugin = ExecPlugin(V1, str(script.path))
    found = Login(lambda: Access(URL, plugin=plugin))
    found.identity()
    plugin = ExecPlugin(V1, str(script.path), ("other",))
    script.say(credential("u"))
    assert found.identity().authorization == "Bearer u"
