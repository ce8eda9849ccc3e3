"""What an author meant and did not get, as a real daemon tells it: by mnpctl, in the log, as a number.

proves: A3, A6
"""

import urllib.request
from collections.abc import Mapping
from typing import Any

import pytest

from tests.lab import Daemon, Lab, objects
from tests.lab.apiserver import free_port
from tests.lab.polling import poll
from tests.netns.enroll import add, must
from tests.netns.lifeworld import DENY_ALL, ONLY_A, World

OURS = {"type": objects.PLUGIN}
ENTRY = '{"type": "multi-networkpolicy", "netAttachDef": "default/net1"}'
CHAINED = objects.conflist("net1", "net1")
MACVLAN = CHAINED["plugins"][0]
METRICS = free_port()
SPEC = {"podSelector": {}, "policyTypes": ["Ingress"]}


def listed(*plugins: Mapping[str, Any]) -> dict[str, Any]:
    return {**CHAINED, "plugins": list(plugins)}


# A net-attach-def's config, and the words about it that its policies' author reads.
UNGOVERNED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "single": ({"cniVersion": "1.0.0", "name": "net1", **MACVLAN}, ["single plugin ('macvlan')", ENTRY]),
    "not ours": (listed(MACVLAN), ["does not chain", f"add {ENTRY} as the last of its plugins"]),
    "misspelt": (listed(MACVLAN, {"type": "multi-network-policy"}), ["did you mean multi-networkpolicy?"]),
    "guard only": (listed({**OURS, "guard": True}, MACVLAN), ["as a guard only", ENTRY]),
    "first": (listed(OURS, MACVLAN), ["list it last"]),
    "not last": (listed(MACVLAN, OURS, {"type": "vrf", "vrfname": "red"}), ["'vrf' after", "last"]),
}


@pytest.fixture(scope="module")
def daemon() -> Any:
    with Lab() as lab:
        yield lab.daemon(options=[f"--metrics-address=127.0.0.1:{METRICS}"])


@pytest.fixture
def told(daemon: Daemon) -> Any:
    """A daemon that holds nothing but what a test gives it as `case`."""
    yield daemon
    daemon.remove("case")
    daemon.wait_synced()


def policies(daemon: Daemon) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in daemon.ctl("policies")}


def messages(daemon: Daemon, name: str = "p", kind: str = "problems") -> list[str]:
    return [problem["message"] for problem in policies(daemon)[name][kind]]


def logged(daemon: Daemon, event: str, text: str) -> int:
    """How often an event was logged with these words."""
    wanted = text.replace('"', '\\"')
    return sum(f" {event} " in line and wanted in line for line in daemon.log.splitlines())


def counted() -> float:
    """The metric of what is reported."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS}/metrics") as answer:
        text: str = answer.read().decode()
    return float(text.partition("\nmulti_networkpolicy_problems ")[2].partition("\n")[0])


@pytest.mark.parametrize("case", UNGOVERNED)
def test_a_net_attach_def_that_governs_nothing_is_told_everywhere(case: str, told: Daemon) -> None:
    config, words = UNGOVERNED[case]
    version = "v1beta2" if list(UNGOVERNED).index(case) % 2 else "v1beta1"
    both = objects.policy("p", SPEC, "net1, net2", version=version)
    told.apply("case", [both, objects.network("net1", config=config), objects.network("net2")])
    told.wait_synced()
    (message,) = messages(told)
    assert message.startswith("net-attach-def default/net1: ")
    assert [word for word in words if word not in message] == []
    place = "MultiNetworkPolicy default/p: metadata.annotations[k8s.v1.cni.cncf.io/policy-for]: "
    assert place + message in told.ctl("status")["problems"]
    assert f"problem: {place}{message}" in told.run_ctl("status").stdout
    assert message in told.run_ctl("policies").stdout
    assert counted() == len(told.ctl("status")["problems"])
    poll(lambda: logged(told, "object-problem", message), bool, 10.0)


def test_it_comes_and_goes_with_what_there_is(told: Daemon) -> None:
    """In whatever order things come; each is told once when it is there, and once when it is gone."""
    one = objects.policy("p", SPEC, "edge")
    chained, bare = (objects.network("edge", config=each) for each in (CHAINED, listed(MACVLAN)))
    told.apply("case", one)
    told.wait_synced()
    (missing,) = messages(told)
    assert missing == "net-attach-def default/edge does not exist; create it or correct the name"
    poll(lambda: logged(told, "object-problem", missing), bool, 10.0)
    told.apply("case", [one, bare])
    told.wait_synced()
    (wrong,) = messages(told)
    assert "does not chain" in wrong
    poll(lambda: logged(told, "object-problem-gone", missing), bool, 10.0)
    told.apply("case", [one, chained])
    told.wait_synced()
    assert messages(told) == []
    poll(lambda: logged(told, "object-problem-gone", wrong), bool, 10.0)
    assert [logged(told, "object-problem", text) for text in (missing, wrong)] == [1, 1]


def test_what_was_meant(told: Daemon) -> None:
    meant = [
        objects.policy("p", SPEC, "lan", namespace="shop"),
        objects.policy("q", SPEC, "defualt/lan", namespace="shop"),
        objects.policy("r", SPEC, "front, lann", namespace="store"),
    ]
    told.apply(
        "case",
        [*meant, objects.network("lan"), objects.network("lan", "store"), objects.network("front", "store")],
    )
    told.wait_synced()
    assert [messages(told, name) for name in "pqr"] == [
        ["net-attach-def shop/lan does not exist; did you mean default/lan or store/lan?"],
        [
            "net-attach-def defualt/lan does not exist, nor does the namespace defualt; "
            "did you mean default/lan or store/lan?"
        ],
        ["net-attach-def store/lann does not exist; did you mean store/lan?"],
    ]


def test_a_namespace_that_does_not_exist_is_a_hint(told: Daemon) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitorng"}}}
    one = objects.policy("p", {**SPEC, "ingress": [{"from": [peer]}]})
    others = [objects.network("net1"), objects.namespace("monitoring")]
    told.apply("case", [one, *others])
    told.wait_synced()
    message = "there is no namespace monitorng; did you mean monitoring?"
    assert (messages(told), messages(told, kind="hints")) == ([], [message])
    assert told.ctl("status")["problems"] == []
    assert (
        f"hint: default/p: spec.ingress[0].from[0].namespaceSelector: {message}"
        in told.run_ctl("policies").stdout
    )
    poll(lambda: logged(told, "object-hint", message), bool, 10.0)
    told.apply("case", [one, *others, objects.pod("x", "monitorng")])
    told.wait_synced()
    assert messages(told, kind="hints") == []


def test_a_config_on_the_nodes_is_no_problem(told: Daemon) -> None:
    on_disk = objects.network("net1")
    del on_disk["spec"]
    told.apply("case", [objects.policy("p", SPEC), on_disk])
    told.wait_synced()
    (message,) = messages(told, kind="hints")
    assert "is not known here" in message
    assert (messages(told), told.ctl("status")["problems"]) == ([], [])


# --- what is governed ------------------------------------------------------------------------------------


@pytest.fixture
def world(lab: Lab, backend: str) -> World:
    return World(lab, backend)


def test_interfaces_that_are_governed_stay_so_when_the_chain_goes(world: World) -> None:
    world.enroll_all()
    world.daemon.apply("policy", ONLY_A)
    world.daemon.wait_synced()
    world.assert_open("a")
    world.assert_blocked("b")
    world.daemon.apply("network", objects.network("net1", config=listed(MACVLAN)))
    world.daemon.wait_synced()
    (message,) = messages(world.daemon, "only-a")
    assert "those that are already stay so" in message
    world.assert_open("a")
    world.assert_blocked("b")
    world.daemon.apply("policy", DENY_ALL)
    world.daemon.wait_synced()
    world.assert_blocked("a", "b")


@pytest.mark.parametrize("others", [(), ("second",)], ids=["alone", "one of two"])
def test_those_that_only_their_chain_told_of_stay_governed_too(others: tuple[str, ...], world: World) -> None:
    """No key, no request of the pod: which net-attach-def it is follows from those that chain the plugin."""
    made = {name: objects.conflist("shared", "net1") for name in ("first", *others)}
    world.daemon.apply("network", [objects.network(name, config=each) for name, each in made.items()])
    world.daemon.wait_synced()
    for attachment in world.attachments.values():
        must(add(world.daemon, attachment, name="shared", netAttachDef=None))
    world.assert_open("a")
    world.daemon.apply("policy", objects.policy("p", SPEC, "first"))
    world.daemon.wait_synced()
    world.assert_blocked("a")
    made["first"]["plugins"].pop()
    world.daemon.apply("network", [objects.network(name, config=each) for name, each in made.items()])
    world.daemon.wait_synced()
    assert "those that are already stay so" in messages(world.daemon)[0]
    world.assert_blocked("a")


def test_asking_by_a_name(lab: Lab) -> None:
    daemon = lab.daemon()
    made = [
        lab.attach(lab.pod("srv", "shop")),
        lab.attach(lab.pod("web", "shop")),
        lab.attach(lab.pod("web")),
    ]
    daemon.apply("pods", [objects.pod(a.pod.name, a.pod.namespace) for a in made])
    daemon.apply("network", objects.network("net1"))
    daemon.wait_synced()
    for attachment in made:
        must(add(daemon, attachment))
    assert [item["pod"] for item in daemon.ctl("attachments", "srv")] == ["shop/srv"]
    assert [item["pod"] for item in daemon.ctl("attachments", "web")] == ["default/web", "shop/web"]
    assert daemon.ctl("render", "srv")["pod"] == "shop/srv"
    for words, said in [
        (
            ["attachments", "default/srv"],
            "no attachment of pod default/srv on this node; with that name: shop/srv",
        ),
        (
            ["attachments", "serv"],
            "no attachment of pod serv on this node; did you mean shop/srv?",
        ),
        (
            ["render", "default/srv"],
            "no attachment of pod default/srv on this node; with that name: shop/srv",
        ),
        (["render", "srv", "net9"], "no attachment net9 of pod srv on this node; it has net1"),
        (["render", "web"], "2 attachments fit; name the namespace: default/web"),
        (["policies", "deny"], "no policy deny; there are none"),
    ]:
        done = daemon.run_ctl(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"mnpctl: {said}" in done.stderr
