"""The event recorder on a scripted server, by a clock of the test: what it sends, when, and when not."""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from daemon.model import ObjectKey
from daemon.sources.base import HINT, Finding
from daemon.sources.kubernetes import events
from daemon.sources.kubernetes.events import EventRecorder, Objects
from daemon.sources.kubernetes.kubeconfig import Access
from tests.lab.polling import poll
from tests.unit.kubernetes.scripted import CA, CERTIFICATE, LIMITS
from tests.unit.kubernetes.serving import Exchange, make_client, pem, serve

POLICY = ObjectKey("MultiNetworkPolicy", "shop", "web")
POD = ObjectKey("Pod", "shop", "cart")
SPACE = ObjectKey("Namespace", "", "shop")
BAD = Finding("Malformed", "spec.ingress[0]: no")
EVENTS = "/api/v1/namespaces/shop/events"


class Recording:
    """What the server was sent, a recorder, its clock; answers: statuses by method and path."""

    def __init__(self, url: str) -> None:
        self.now = 1000.0
        self.sent: list[tuple[str, str, dict[str, Any]]] = []
        self.types: list[str] = []
        self.answers: dict[tuple[str, str], int] = {}
        self.status = 201
        self.uids: dict[ObjectKey, str] = {POLICY: "u-web", POD: "u-cart", SPACE: "u-shop"}
        self.strangers: set[ObjectKey] = set()
        self.undecodable: dict[ObjectKey, Finding] = {}
        objects = Objects(
            lambda key: self.uids.get(key, ""),
            lambda key: key not in self.strangers,
            lambda: dict(self.undecodable),
        )
        self.connection = make_client(Access(url, authority=pem(CA)), LIMITS).connect()
        self.recorder = EventRecorder(self.connection, "node", objects, lambda: self.now)

    def answer(self, exchange: Exchange) -> None:
        self.sent.append((exchange.command, exchange.path, json.loads(exchange.body)))
        self.types.append(exchange.headers["Content-Type"])
        status = self.answers.get((exchange.command, exchange.path), self.status)
        exchange.reply(status, {"kind": "Status", "message": "made up"} if status >= 400 else {})

    def tell(self, findings: Mapping[ObjectKey, tuple[Finding, ...]], seconds: float = 0.0) -> float | None:
        """Let so much time pass, and do at once what the thread would do; how long it would then wait."""
        self.now += seconds
        self.recorder.tell(findings)
        return self.recorder._send_due({**findings, **self.recorder._undecodable()})

    @property
    def messages(self) -> list[str]:
        return [body["message"] for method, _, body in self.sent if method == "POST"]


@pytest.fixture
def recording() -> Iterator[Recording]:
    with serve(CERTIFICATE) as server:
        made = Recording(server.url)
        server.answer = lambda exchange: made.answer(exchange)
        yield made
        made.connection.close()


class Logged(logging.Handler):
    """Why Events were not sent, as warnings say it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        assert record.getMessage() == "event-not-sent"
        self.reasons.append(vars(record)["fields"]["reason"])


@pytest.fixture
def logged() -> Iterator[Logged]:
    # Not caplog: a test of the logs themselves may have taken them away from the root.
    logger, made = logging.getLogger(events.__name__), Logged()
    logger.addHandler(made)
    yield made
    logger.removeHandler(made)


def several(count: int, kind: str = "MultiNetworkPolicy") -> dict[ObjectKey, tuple[Finding, ...]]:
    return {ObjectKey(kind, "shop", f"p{n}"): (BAD,) for n in range(count)}


# --- what an Event says ----------------------------------------------------------------------------------


def test_an_event(recording: Recording) -> None:
    recording.tell({POLICY: (BAD,)})
    ((method, path, body),) = recording.sent
    assert (method, path, recording.types) == ("POST", EVENTS, ["application/json"])
    name = body["metadata"].pop("name")
    assert name.startswith("web.")
    assert len(name.removeprefix("web.")) == 16
    assert len({body.pop("firstTimestamp"), body.pop("lastTimestamp")}) == 1
    assert body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "shop"},
        "involvedObject": {
            "apiVersion": "k8s.cni.cncf.io/v1beta1",
            "kind": "MultiNetworkPolicy",
            "namespace": "shop",
            "name": "web",
            "uid": "u-web",
        },
        "reason": "Malformed",
        "message": "spec.ingress[0]: no",
        "type": "Warning",
        "source": {"component": "multi-networkpolicy", "host": "node"},
        "reportingComponent": "multi-networkpolicy",
        "reportingInstance": "node",
        "count": 1,
    }


def test_findings_are_aggregated_by_reason(recording: Recording) -> None:
    other = Finding(HINT, "sctp")
    recording.tell({POLICY: (BAD, other, Finding("Malformed", "spec.egress: no"))})
    assert recording.messages == ["spec.ingress[0]: no; spec.egress: no", "sctp"]
    assert [body["type"] for _, _, body in recording.sent] == ["Warning", "Normal"]


def test_names_follow_from_what_is_said(recording: Recording) -> None:
    def name(key: ObjectKey, uid: str, finding: Finding) -> str:
        recording.uids[key] = uid
        recording.sent.clear()
        recording.tell({})
        recording.tell({key: (finding,)})
        ((_, _, body),) = recording.sent
        found: str = body["metadata"]["name"]
        return found

    first = name(POLICY, "u1", BAD)
    assert name(POLICY, "u1", BAD) == first
    assert name(POLICY, "u2", BAD) != first
    assert name(POLICY, "u1", Finding("Malformed", "another")) != first
    assert name(POLICY, "u1", Finding("Other", BAD.message)) != first


@pytest.mark.parametrize("name", ["a" * 253, "a" * 229 + "-" * 3 + "b" * 10, "a" * 229 + ".b" * 10, "x"])
def test_names_are_names(recording: Recording, name: str) -> None:
    key = ObjectKey("Pod", "shop", name)
    recording.uids[key] = "u"
    recording.tell({key: (BAD,)})
    made = recording.sent[0][2]["metadata"]["name"]
    assert len(made) <= 253
    for label in made.split("."):
        assert label
        assert label[0].isalnum()
        assert label[-1].isalnum()


def test_what_has_no_namespace(recording: Recording) -> None:
    recording.tell({SPACE: (BAD,)})
    _, path, body = recording.sent[0]
    assert path == "/api/v1/namespaces/default/events"
    assert body["metadata"]["namespace"] == "default"
    assert body["involvedObject"]["namespace"] == ""


@pytest.mark.parametrize(
    ("messages", "want"),
    [
        (["a", "b"], "a; b"),
        (["x" * 1024], "x" * 1024),
        (["x" * 1025], "x" * 1021 + "…"),
        (["ä" * 600], "ä" * 510 + "…"),
        (["x" * 1000, "y" * 30], "x" * 1000 + "; and 1 more"),
        (["x" * 1020, "y"], "x" * 1020 + "; y"),
        (["x" * 1022, "y"], "x" * 1021 + "…"),
        (["net1 is a port of br\udcff"], "net1 is a port of br\\udcff"),
    ],
)
def test_messages_are_bounded(recording: Recording, messages: list[str], want: str) -> None:
    recording.tell({POLICY: tuple(Finding("Malformed", message) for message in messages)})
    (message,) = recording.messages
    assert message == want
    assert len(message.encode()) <= 1024


def test_very_many_findings_of_one_reason(recording: Recording) -> None:
    recording.tell({POLICY: tuple(Finding("Malformed", f"no {n}") for n in range(20_000))})
    (message,) = recording.messages
    assert message.startswith("no 0; no 1; ")
    assert message.endswith(f"; and {20_000 - message.count('; no ') - 1} more")


# --- when ------------------------------------------------------------------------------------------------


def test_the_same_is_said_again_when_the_server_has_forgotten_it(recording: Recording) -> None:
    assert recording.tell({POLICY: (BAD,)}) == events.REPEAT_SECONDS
    assert recording.tell({POLICY: (BAD,)}, events.REPEAT_SECONDS - 1.0) == 1.0
    assert len(recording.sent) == 1
    recording.tell({POLICY: (BAD,)}, 1.0)
    assert len(recording.sent) == 2


def test_another_message_waits_a_minute(recording: Recording) -> None:
    recording.tell({POLICY: (BAD,)})
    for number in range(10):
        assert recording.tell({POLICY: (Finding("Malformed", f"{number}"),)}, 5.0) == pytest.approx(
            55.0 - 5.0 * number
        )
    assert len(recording.sent) == 1
    recording.tell({POLICY: (Finding("Malformed", "last"),)}, 10.0)
    assert recording.messages == [BAD.message, "last"]


def test_another_reason_does_not_wait(recording: Recording) -> None:
    recording.tell({POLICY: (BAD,)})
    recording.tell({POLICY: (BAD, Finding("Unsupported", "sctp"))}, 1.0)
    assert recording.messages == [BAD.message, "sctp"]


def test_what_is_over_and_comes_back_is_said_again(recording: Recording) -> None:
    recording.tell({POLICY: (BAD,)})
    assert recording.tell({}, 1.0) is None
    recording.tell({POLICY: (BAD,)}, 1.0)
    assert len(recording.sent) == 2


def test_a_new_object_of_that_name(recording: Recording) -> None:
    recording.tell({POD: (BAD,)})
    recording.uids[POD] = "u-2"
    recording.tell({POD: (BAD,)}, 60.0)
    assert [body["involvedObject"]["uid"] for _, _, body in recording.sent] == ["u-cart", "u-2"]


def test_never_a_storm(recording: Recording) -> None:
    found = several(200)
    recording.uids |= dict.fromkeys(found, "u")
    wait = recording.tell(found)
    assert len(recording.sent) == events.BURST
    assert wait == pytest.approx(events.REFILL_SECONDS)
    recording.tell(found, 4.9)
    assert len(recording.sent) == events.BURST
    for number in range(1, 11):
        recording.tell(found, events.REFILL_SECONDS)
        assert len(recording.sent) == events.BURST + number
    # Time without any lets no more than a burst pass.
    recording.tell(found, 2000.0)
    assert len(recording.sent) == 2 * events.BURST + 10


def test_others_leave_it_for_a_while(recording: Recording) -> None:
    """To the nodes that have a pod in the policy's namespace."""
    found = several(25)
    recording.uids |= dict.fromkeys(found, "u")
    recording.strangers |= set(found)
    first, last = events.OTHERS_SECONDS
    assert first <= (recording.tell(found) or 0.0) <= last
    recording.tell(found, first - 0.1)
    assert recording.sent == []
    recording.tell(found, (last - first) / 2)
    early = len(recording.sent)
    recording.tell(found, (last - first) / 2 + 0.2)
    assert len(recording.sent) == 25
    assert 0 < early < 25


def test_an_unknown_object_has_no_event(recording: Recording) -> None:
    del recording.uids[POLICY]
    for _ in range(50):
        assert recording.tell({POLICY: (BAD,)}, 1.0) == events.OBJECT_SECONDS
    assert recording.sent == []
    recording.uids[POLICY] = "u"
    recording.tell({POLICY: (BAD,)})
    assert len(recording.sent) == 1, "and it has not used up what others may send"


# --- answers ---------------------------------------------------------------------------------------------


def test_one_that_is_there_is_counted_for_pods_alone(recording: Recording) -> None:
    recording.status = 409
    recording.tell({POLICY: (BAD,), POD: (BAD,)})
    methods = [(method, path.rpartition("/")[2].partition(".")[0]) for method, path, _ in recording.sent]
    assert methods == [("POST", "events"), ("POST", "events"), ("PATCH", "cart")]
    assert recording.types[2] == "application/merge-patch+json"


def test_a_pods_event_is_counted(recording: Recording) -> None:
    recording.tell({POD: (BAD,)})
    (_, _, first), name = recording.sent[0], recording.sent[0][2]["metadata"]["name"]
    recording.answers["POST", EVENTS] = 409
    for times in (2, 3):
        recording.tell({POD: (BAD,)}, events.REPEAT_SECONDS)
        method, path, body = recording.sent[-1]
        assert (method, path) == ("PATCH", f"{EVENTS}/{name}")
        assert body == {"count": times, "lastTimestamp": body["lastTimestamp"]}
    assert first["count"] == 1


def test_a_missing_right_pauses(recording: Recording, logged: Logged) -> None:
    recording.status = 403
    found = several(30)
    recording.uids |= dict.fromkeys(found, "u")
    for _ in range(59):
        recording.tell(found, 10.0)
    assert len(recording.sent) == 1
    assert logged.reasons == ["create on events is not granted; conf/rbac.yaml grants it"]
    recording.status = 201
    recording.tell(found, 21.0)
    assert len(recording.sent) > 10


def test_a_missing_right_to_patch_is_named(recording: Recording, logged: Logged) -> None:
    recording.status = 403
    recording.answers["POST", EVENTS] = 409
    recording.tell({POD: (BAD,)})
    assert logged.reasons == ["patch on events is not granted; conf/rbac.yaml grants it"]


def test_a_namespace_that_ends_stops_no_other(recording: Recording) -> None:
    """There, too, the server says 403."""
    other = ObjectKey("Pod", "bar", "x")
    recording.uids[other] = "u"
    recording.answers["POST", EVENTS] = 403
    recording.tell({POD: (BAD,), POLICY: (BAD,), other: (BAD,)})
    assert [path for _, path, _ in recording.sent] == [EVENTS, "/api/v1/namespaces/bar/events"]


@pytest.mark.parametrize("status", [401, 404, 429, 500])
def test_other_failures_wait_a_minute(recording: Recording, status: int) -> None:
    recording.status = status
    for _ in range(6):
        recording.tell({POLICY: (BAD,)}, 10.0)
    assert len(recording.sent) == 1
    recording.status = 201
    recording.tell({POLICY: (BAD,)}, 10.0)
    assert len(recording.sent) == 2


# --- the thread ------------------------------------------------------------------------------------------


@contextmanager
def running(recording: Recording) -> Iterator[None]:
    thread = threading.Thread(target=recording.recorder.run)
    thread.start()
    try:
        yield
    finally:
        recording.recorder.stop()
        thread.join(3.0)
        assert not thread.is_alive()


def test_the_thread_sends_what_it_is_told_and_what_cannot_be_decoded(recording: Recording) -> None:
    with running(recording):
        recording.recorder.tell({POLICY: (BAD,)})
        poll(lambda: recording.messages, lambda messages: messages == [BAD.message])
        recording.undecodable[POD] = Finding("Undecodable", "spec: no")
        # Nobody else has noticed: the findings are the same.
        recording.recorder.tell({POLICY: (BAD,)})
        poll(lambda: recording.messages, lambda messages: messages[1:] == ["spec: no"])


def test_the_thread_goes_on_by_itself(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "OTHERS_SECONDS", (0.05, 0.06))
    recording.strangers.add(POLICY)

    def later() -> list[str]:
        recording.now += 0.1
        return recording.messages

    with running(recording):
        recording.recorder.tell({POLICY: (BAD,)})
        poll(later, bool, 2.0)


@pytest.mark.parametrize("busy", [False, True])
def test_the_thread_stops_while_it_waits_and_while_it_sends(recording: Recording, busy: bool) -> None:
    began = threading.Event()

    def hang(exchange: Exchange) -> None:
        began.set()
        exchange.idle()

    if busy:
        recording.answer = hang  # type: ignore[method-assign]
    with running(recording):
        if busy:
            recording.recorder.tell({POLICY: (BAD,)})
