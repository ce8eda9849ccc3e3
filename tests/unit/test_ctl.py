"""mnpctl against a scripted daemon over a real socket: exit codes and words, for people and programs."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import ctl
from daemon.server import Request, Server

STATUS = {
    "version": "0.1.0",
    "ready": False,
    "notReadyBecause": "the source has not been read yet",
    "behind": "own pods: the history is gone",
    "refused": ["policies: list is not granted"],
    "setAside": ["record x.json"],
    "readyz": ["the source has not been read yet"],
    "source": "kubernetes",
    "sourceCost": {
        "requests": {"GET": 4, "WATCH": 5},
        "requestsPerSecond": 0.25,
        "errors": 1,
        "bytes": 3_400_000,
        "watches": 5,
        "bytesAtStart": 2_100_000,
    },
    "backend": "nftables",
    "backendBecause": "it was used before and works",
    "uptimeSeconds": 3.0,
    "attachments": {"applied": 2, "guard": 1},
    "policies": 4,
    "waitingAdds": 1,
    "pending": ["/run/netns/x"],
    "problems": ["web.yaml: broken"],
}
ATTACHMENT = {
    "pod": "default/web",
    "interface": "net1",
    "addresses": ["10.0.0.5"],
    "networks": ["default/net-a"],
    "state": "applied",
    "isolated": ["ingress"],
    "policies": ["default/only-a"],
    "error": "it hangs",
    "notes": ["network-status differs"],
}
POLICY = {
    "namespace": "default",
    "name": "only-a",
    "policyFor": ["default/net-a"],
    "policyTypes": ["Ingress"],
    "governs": ["default/web net1"],
    "problems": [{"field": "spec.ingress[0]", "message": "an empty peer matches nothing"}],
    "hints": [{"field": "spec.podSelector", "message": "perhaps not meant so"}],
}
REPLIES: dict[str, Any] = {
    "statusReport": STATUS,
    "attachments": [ATTACHMENT],
    "policies": [POLICY],
    "render": {"text": "table inet multi-networkpolicy {\n}\n"},
    "wait": {"synced": True, "waitingFor": [], "notes": ["web.yaml: broken"]},
}


class Scripted:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[dict[str, Any]] = []
        self.replies = dict(REPLIES)
        self.listed: list[dict[str, Any]] | None = None  # what there is, none of it of the name asked for
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._server = Server(self.path, self._dispatch)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.stop()
            self._thread.join(10)

    def _dispatch(self, request: Request) -> None:
        self.asked.append(request.body)
        reply = self.replies[request.op]
        if self.listed is not None:
            reply = [] if request.body.keys() & {"pod", "policy"} else self.listed
        request.reply(reply if "ok" in reply else {"ok": True, "result": reply})


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    made = Scripted(tmp_path / "daemon.sock")
    yield made
    made.stop()


def run(scripted: Scripted, *arguments: str) -> int:
    return ctl.main(["--socket", str(scripted.path), *arguments])


COST = ["5 watches", "0.25 requests/s", "2.1 MB at the start", "behind", "lacks: policies: list"]
SHOWN = [
    (["status"], ["not ready: the source", "nftables", "2 applied", "problem: web.yaml: broken", *COST]),
    (["attachments"], ["default/web", "10.0.0.5", "default/net-a", "ingress", "default/only-a"]),
    (
        ["attachments"],
        ["\ndefault/web net1: it hangs\n", "\nnote: default/web net1: network-status differs\n"],
    ),
    (["policies"], ["default/only-a", "Ingress", "spec.ingress[0]: an empty peer matches nothing"]),
    (["policies", "only-a"], ["hint: default/only-a: spec.podSelector: perhaps not meant so"]),
    (["render", "web"], ["table inet multi-networkpolicy"]),
]


@pytest.mark.parametrize(("arguments", "words"), SHOWN, ids=[row[1][-1].strip() for row in SHOWN])
def test_tables_for_people(
    arguments: list[str], words: list[str], scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.start()
    assert run(scripted, *arguments) == ctl.DONE
    shown = capsys.readouterr().out
    assert [word for word in words if word not in shown] == []


READ = {**STATUS, "ready": True, "notReadyBecause": ""}
READINESS = [
    ({**READ, "readyz": [], "refused": [], "setAside": []}, ", ready"),
    (
        {**READ, "readyz": ["a", "b"], "refused": ["a"], "setAside": ["b"]},
        ", not ready, though ADDs go on: 2 below to be mended (lacks, set aside)",
    ),
    (
        {**READ, "readyz": ["b"], "refused": [], "setAside": ["b"]},
        ", not ready, though ADDs go on: 1 below to be mended (set aside)",
    ),
    (STATUS, ", not ready: the source has not been read yet"),
]


@pytest.mark.parametrize(("status", "words"), READINESS)
def test_status_is_ready_when_readyz_is(
    status: dict[str, Any], words: str, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.replies["statusReport"] = status
    scripted.start()
    assert run(scripted, "status") == ctl.DONE
    assert capsys.readouterr().out.splitlines()[0].endswith(words)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("command", ["status", "attachments", "policies", "render"])
def test_json_for_programs(
    command: str, place: str, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.start()
    words = [command] + (["web"] if command == "render" else [])
    line = ["-o", "json", *words] if place == "before" else [*words, "-o", "json"]
    assert run(scripted, *line) == ctl.DONE
    operation = {"status": "statusReport"}.get(command, command)
    assert json.loads(capsys.readouterr().out) == REPLIES[operation]


def test_the_socket_may_be_named_after_the_subcommand(scripted: Scripted) -> None:
    scripted.start()
    assert ctl.main(["status", "--socket", str(scripted.path)]) == ctl.DONE


def test_names_are_asked_as_they_are_written(scripted: Scripted) -> None:
    """What a name without namespace means the daemon says: it knows which there are."""
    scripted.start()
    run(scripted, "render", "web", "net2")
    run(scripted, "attachments", "prod/web")
    run(scripted, "policies", "only-a")
    asked = [(r.get("pod"), r.get("interface"), r.get("policy")) for r in scripted.asked]
    assert asked == [("web", "net2", None), ("prod/web", None, None), (None, None, "only-a")]


def other(pod: str) -> dict[str, Any]:
    return {**ATTACHMENT, "pod": pod}


def named(namespace: str, name: str) -> dict[str, Any]:
    return {**POLICY, "namespace": namespace, "name": name}


# Arguments, what there is, and what is said of what there is not.
NOTHING: list[tuple[list[str], list[dict[str, Any]], str]] = [
    (["attachments", "srv"], [], "no attachment of pod srv on this node; there are none"),
    (["attachments", "srv"], [other(""), other("shop/web")], "no attachment of pod srv on this node"),
    (["attachments", "default/srv"], [other("shop/srv")], "on this node; with that name: shop/srv"),
    (
        ["attachments", "a/srv"],
        [other(f"s{n}/srv") for n in range(7)],
        "on this node; with that name: s0/srv, s1/srv, s2/srv, s3/srv, s4/srv and 2 more",
    ),
    (
        ["attachments", "serv"],
        [other("shop/srv")],
        "no attachment of pod serv on this node; did you mean shop/srv?",
    ),
    (["attachments", "shopp/srv1"], [other("shop/srv1")], "; with that name: shop/srv1"),
    (["policies", "deny"], [], "no policy deny; there are none"),
    (["policies", "a/deny"], [named("b", "deny")], "no policy a/deny; with that name: b/deny"),
    (["policies", "denyall"], [named("b", "deny-all")], "no policy denyall; did you mean b/deny-all?"),
]


@pytest.mark.parametrize(("arguments", "there", "said"), NOTHING)
@pytest.mark.parametrize("output", ["table", "json"])
def test_a_name_that_nothing_has_ends_with_1_and_says_what_there_is(
    output: str,
    arguments: list[str],
    there: list[dict[str, Any]],
    said: str,
    scripted: Scripted,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scripted.listed = there
    scripted.start()
    assert run(scripted, "-o", output, *arguments) == ctl.NOT_REACHED
    shown = capsys.readouterr()
    assert shown.out == ("[]\n" if output == "json" else "")
    assert shown.err.startswith("mnpctl: no ")
    assert shown.err.endswith(f"{said}\n")


@pytest.mark.parametrize("command", ["attachments", "policies"])
def test_a_node_without_any_is_no_failure(
    command: str, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.listed = []
    scripted.start()
    assert run(scripted, "-o", "json", command) == ctl.DONE
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize("name", ["a/b/c", "/web", "shop/", "/", ""])
@pytest.mark.parametrize("command", ["attachments", "policies", "render"])
def test_what_is_no_name_is_usage(
    command: str, name: str, scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(scripted, command, name)
    assert caught.value.code == ctl.USAGE
    assert f"{name!r} is neither a name nor namespace/name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["wait"], ["render"], ["wait", "--synced", "--timeout", "x"]]
)
def test_bad_usage_ends_with_2(arguments: list[str], scripted: Scripted) -> None:
    with pytest.raises(SystemExit) as caught:
        run(scripted, *arguments)
    assert caught.value.code == ctl.USAGE


@pytest.mark.parametrize("arguments", [["status"], ["wait", "--synced", "--timeout", "0.2"]])
def test_no_daemon_ends_with_3_and_says_what_to_do(
    arguments: list[str], scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(scripted, *arguments) == ctl.UNREACHABLE
    told = capsys.readouterr().err
    assert str(scripted.path) in told
    assert "--socket" in told


def test_wait_is_reached_although_there_are_problems(
    scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.start()
    assert run(scripted, "wait", "--synced") == ctl.DONE
    assert "web.yaml: broken" in capsys.readouterr().err


def test_wait_that_is_not_reached_ends_with_1_and_names_what_is_missing(
    scripted: Scripted, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted.replies["wait"] = {"synced": False, "waitingFor": ["default/web net1"], "notes": []}
    scripted.start()
    assert run(scripted, "wait", "--synced", "--timeout", "1") == ctl.NOT_REACHED
    assert "default/web net1" in capsys.readouterr().err


def test_wait_waits_for_a_daemon_that_is_about_to_start(scripted: Scripted) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(scripted.path))
    later = threading.Timer(0.3, scripted.start)
    later.start()
    assert run(scripted, "wait", "--synced", "--timeout", "10") == ctl.DONE
    later.join()


def test_an_error_of_the_daemon_is_passed_on(scripted: Scripted, capsys: pytest.CaptureFixture[str]) -> None:
    scripted.replies["render"] = {"ok": False, "code": 7, "msg": "2 attachments fit", "details": ""}
    scripted.start()
    assert run(scripted, "render", "web") == ctl.NOT_REACHED
    assert "2 attachments fit" in capsys.readouterr().err


def test_a_daemon_that_hangs_is_unreachable(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ctl, "ANSWER_SECONDS", 0.2)
    keep: list[Request] = []
    monkeypatch.setattr(scripted, "_dispatch", keep.append)
    scripted.start()
    started = time.monotonic()
    assert run(scripted, "status") == ctl.UNREACHABLE
    assert time.monotonic() - started < 5
    assert "did not answer in time" in capsys.readouterr().err
