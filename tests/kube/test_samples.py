"""conf/samples: a real API server takes all of it, and each policy does what its comment says, by packets.

The pods, networks and policies are the files' own. Two things are added to the networks' configurations: the
socket of this test's daemon, and a folder for host-local. SCTP and ipvlan depend on the kernel: the rules are
read for the first, and macvlan stands in for the second.

proves: A1, A4, A5, A10, B1, B2, B3, B4, C1, C2, C3, C5, C6, C9, D1, D2, D3, D4, D5
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cni_plugin.wire import OP_POLICIES, OP_WAIT, WIRE_VERSION
from daemon.decode import decode_object
from tests.kube.multus import Multus, Sandbox, requests
from tests.kube.sample_table import BESIDE, TABLE, Probe, probes
from tests.lab import Attachment, Daemon, Lab, Target, objects
from tests.lab.apiserver import CONF, ApiServer
from tests.lab.kubeapi import APPLY, KubeApi, object_path
from tests.lab.kubedaemon import NODE, KubeDaemon
from tests.lab.objects import PLUGIN, Object
from tests.lab.prober import BLOCKED_TIMEOUT, OPEN_TIMEOUT, is_blocked, probe_all

SAMPLES = CONF / "samples"
BASE = ("namespaces", "networks", "networks-ipvlan", "pods")
PARENTS = {"front": "eth1", "store": "eth2"}
HOSTS = {"host100": 100, "host200": 200, "host201": 201}
SYNC_MS = 60_000


def stem(path: Path) -> str:
    return str(path.relative_to(SAMPLES).with_suffix(""))


def read(name: str) -> list[Object]:
    return list(yaml.safe_load_all((SAMPLES / f"{name}.yaml").read_text()))


FILES = [stem(path) for path in sorted(SAMPLES.rglob("*.yaml"))]
POLICIES = [name for name in FILES if name not in BASE]
DOCUMENTS = [(name, raw) for name in FILES for raw in read(name)]
POLICY_DOCUMENTS = [raw for name, raw in DOCUMENTS if name in POLICIES]
NETWORKS = [raw for _, raw in DOCUMENTS if raw["kind"] == "NetworkAttachmentDefinition"]


def document_id(value: Any) -> str:
    return value if isinstance(value, str) else f"{value['kind']}-{value['metadata']['name']}"


def plugins_of(network: Object) -> list[Object]:
    found: list[Object] = json.loads(network["spec"]["config"])["plugins"]
    return found


# --- the shop in a cluster -------------------------------------------------------------------------------


class Shop:
    """The samples' pods, alive on this node, `stranger`, and three hosts that are no pods on each network."""

    def __init__(self, lab: Lab, server: ApiServer) -> None:
        self.api: KubeApi = server.admin
        self._lab = lab
        self.daemon = lab.adopt(KubeDaemon(lab.daemon_folder(), server))
        self.daemon.start()
        self._runtime = Multus(lab, self.api)
        stranger = objects.pod("stranger", "ops", {"app": "stranger"}, "shop/front@net1")
        pods = [self.placed(raw) for raw in [*read("pods"), stranger]]
        networks = [self._runnable(raw) for raw in NETWORKS]
        self.daemon.apply("base", [*read("namespaces"), *networks, *pods])
        self.attachments: dict[tuple[str, str], Attachment] = {}
        for raw in pods:
            sandbox = self.start(raw)
            for request in requests(raw):
                made = sandbox[request["interface"]]
                self.attachments[raw["metadata"]["name"], request["name"]] = made
        for network, parent in PARENTS.items():
            addresses = [f"{self._host(network, 4, number)}/24" for number in HOSTS.values()]
            if network == "store":
                addresses += [f"{self._host(network, 6, number)}/64" for number in HOSTS.values()]
            outside = lab.outside(parent, addresses)
            self.attachments |= {(name, network): outside for name in HOSTS}
        self._serve()

    def start(self, raw: Object) -> Sandbox:
        return self._runtime.start(raw["metadata"]["namespace"], raw["metadata"]["name"])

    def stop(self, sandbox: Sandbox) -> None:
        self._runtime.stop(sandbox)

    def close(self) -> None:
        """Leave the server as it was but for the namespaces, which only a controller can remove."""
        self.daemon.apply("policies", [])
        self.daemon.apply("base", [])

    def placed(self, raw: Object) -> Object:
        """A pod as the scheduler leaves it."""
        metadata = {key: value for key, value in raw["metadata"].items() if key != "uid"}
        return {**raw, "metadata": metadata, "spec": {**raw["spec"], "nodeName": NODE}}

    def sync(self) -> None:
        reply = self.daemon.rpc({"v": WIRE_VERSION, "op": OP_WAIT, "timeoutMs": SYNC_MS}, SYNC_MS / 1000 + 10)
        assert reply["result"]["synced"], (reply, self.daemon.log[-4000:])

    def apply(self, *names: str) -> None:
        """Let these files of policies be in force, and no others."""
        self.daemon.apply("policies", [raw for name in names for raw in read(name)])
        self.sync()

    def report(self) -> list[Object]:
        """What `mnpctl policies` shows, without its start."""
        found: list[Object] = self.daemon.rpc({"v": WIRE_VERSION, "op": OP_POLICIES})["result"]
        return found

    def wrong(self, tried: Iterable[Probe], control: bool = False) -> list[str]:
        """Probe all at once; what came otherwise. control: all of them shall pass."""
        asked: dict[Any, list[tuple[Probe, Target]]] = defaultdict(list)
        for probe in tried:
            attachment = self.attachments[probe.client, probe.network]
            source = self._address(probe.client, probe) if probe.client in HOSTS else ""
            wait = OPEN_TIMEOUT if control or probe.passes else BLOCKED_TIMEOUT
            target = Target(
                probe.protocol, self._address(probe.server, probe), probe.port, wait, source=source
            )
            asked[attachment.pod.prober].append((probe, target))
        verdicts = probe_all({who: [target for _, target in rows] for who, rows in asked.items()})
        return [
            f"{probe}: {verdict}"
            for who, rows in asked.items()
            for (probe, _), verdict in zip(rows, verdicts[who], strict=True)
            if (verdict != "open" if control or probe.passes else not is_blocked(verdict))
        ]

    def _address(self, name: str, probe: Probe) -> str:
        if name in HOSTS:
            return self._host(probe.network, probe.family, HOSTS[name])
        attachment = self.attachments[name, probe.network]
        return attachment.ipv4 if probe.family == 4 else attachment.ipv6

    def _host(self, network: str, family: int, number: int) -> str:
        lan = {"front": 10, "store": 20}[network]
        return f"192.168.{lan}.{number}" if family == 4 else f"fd00:{lan}::{number:x}"

    def _serve(self) -> None:
        wanted: dict[Any, set[tuple[str, int]]] = defaultdict(set)
        for probe in (one for lines in TABLE.values() for one in probes(lines) if one.port):
            wanted[self.attachments[probe.server, probe.network].pod.prober].add((probe.protocol, probe.port))
        for prober, ports in wanted.items():
            prober.serve(**{kind: [port for p, port in ports if p == kind] for kind in ("tcp", "udp")})

    def _runnable(self, raw: Object) -> Object:
        """A net-attach-def that runs here; what differs from the file is all in this function."""
        config = json.loads(raw["spec"]["config"])
        for plugin in config["plugins"]:
            if plugin["type"] == PLUGIN:
                plugin.update(self.daemon.plugin_keys)
            else:
                plugin["ipam"]["dataDir"] = str(self._lab.folder / "ipam")
            if plugin["type"] == "ipvlan":
                plugin.update(type="macvlan", mode="bridge")
        return {**raw, "spec": {"config": json.dumps(config)}}


@pytest.fixture(scope="module")
def shop(server: ApiServer) -> Iterator[Shop]:
    with Lab(tuple(PARENTS.values())) as lab:
        made = Shop(lab, server)
        yield made
        made.close()


# --- the server takes them -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(server: ApiServer) -> KubeApi:
    """The server, with the samples' namespaces."""
    for raw in read("namespaces"):
        server.admin.apply(raw)
    return server.admin


@pytest.mark.parametrize(("name", "raw"), DOCUMENTS, ids=document_id)
def test_the_server_takes_it(api: KubeApi, name: str, raw: Object) -> None:
    """As `kubectl apply --server-side --validate=strict --dry-run=server` asks."""
    query = {"fieldManager": "test", "force": "true", "fieldValidation": "Strict", "dryRun": "All"}
    taken = api.request("PATCH", object_path(raw), raw, APPLY, **query)
    assert taken["apiVersion"] == raw["apiVersion"]
    assert taken["metadata"]["name"] == raw["metadata"]["name"]


@pytest.mark.parametrize(("name", "raw"), DOCUMENTS, ids=document_id)
def test_the_daemon_has_nothing_to_report(name: str, raw: Object) -> None:
    # A Namespace can have none.
    assert getattr(decode_object(raw), "problems", ()) == ()


def test_the_folder_is_a_source_without_problems(lab: Lab) -> None:
    """As README.md runs it."""
    daemon = lab.adopt(Daemon(lab.daemon_folder(), options=[f"--source=manifests:{SAMPLES}"]))
    daemon.start()
    status = daemon.ctl("status")
    assert status["source"] == f"manifests:{SAMPLES}"
    assert (status["ready"], status["problems"]) == (True, [])
    assert status["policies"] == len([name for name in POLICIES if "/" not in name])


def test_the_cookbook_beside_it_has_none_either(lab: Lab) -> None:
    daemon = lab.daemon()
    for name in FILES:
        daemon.apply(name.replace("/", "-"), (SAMPLES / f"{name}.yaml").read_text())
    daemon.wait_synced()
    assert daemon.ctl("status")["problems"] == []
    found = daemon.ctl("policies")
    assert len(found) == len(POLICY_DOCUMENTS)
    assert [policy for policy in found if policy["problems"]] == []


# --- they say all that can be said -----------------------------------------------------------------------


def said(raw: Object) -> Iterator[str]:
    """Each thing that a policy says."""
    spec = raw["spec"]
    yield raw["apiVersion"].rpartition("/")[2]
    networks = raw["metadata"]["annotations"][objects.POLICY_FOR].split(",")
    yield "several networks" if len(networks) > 1 else "one network"
    yield from ("network of another namespace" for network in networks if "/" in network)
    yield "types " + "+".join(spec.get("policyTypes", ["absent"]))
    yield from said_of_selector(spec["podSelector"])
    for direction, ends in (("ingress", "from"), ("egress", "to")):
        rules = spec.get(direction, [])
        if direction.title() in spec.get("policyTypes", ()) and not rules:
            yield f"{direction}: nothing"
        for rule in rules:
            yield f"{direction}: rule" if rule else f"{direction}: everything"
            peers, ports = rule.get(ends, []), rule.get("ports", [])
            yield from (f"{direction}: {part}" for part in said_of_rule(peers, ports))
            for peer in peers:
                yield from said_of_peer(peer)
            for port in ports:
                yield from (f"{direction}: {part}" for part in said_of_port(port))


def said_of_rule(peers: list[Object], ports: list[Object]) -> Iterator[str]:
    if peers and ports:
        yield "peers and ports"
    if len(peers) > 1:
        yield "several peers"
    if len({":" in peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer}) == 2:
        yield "both families in one rule"


def said_of_peer(peer: Object) -> Iterator[str]:
    yield "peer " + "+".join(sorted(peer))
    for key in ("podSelector", "namespaceSelector"):
        yield from said_of_selector(peer.get(key, {"absent": {}}))
    if block := peer.get("ipBlock"):
        yield "IPv6" if ":" in block["cidr"] else "IPv4"
        if "except" in block:
            yield "IPv6 except" if ":" in block["cidr"] else "IPv4 except"


def said_of_selector(selector: Object) -> Iterator[str]:
    if not selector:
        yield "empty selector"
    if "matchLabels" in selector:
        yield "matchLabels"
    yield from (each["operator"] for each in selector.get("matchExpressions", ()))


def said_of_port(port: Object) -> Iterator[str]:
    yield port.get("protocol", "protocol absent")
    if "endPort" in port:
        yield "endPort"
    elif "port" not in port:
        yield "protocol only"
    else:
        yield "named port" if isinstance(port["port"], str) else "numbered port"


WANTED = {
    *("v1beta1", "v1beta2", "one network", "several networks", "network of another namespace"),
    *("types Ingress", "types Egress", "types Ingress+Egress", "types absent"),
    *("ingress: nothing", "egress: nothing", "ingress: everything", "egress: everything"),
    *("empty selector", "matchLabels", "In", "NotIn", "Exists", "DoesNotExist"),
    *("peer podSelector", "peer namespaceSelector", "peer namespaceSelector+podSelector", "peer ipBlock"),
    *("ingress: several peers", "egress: both families in one rule"),
    *("IPv4", "IPv6", "IPv4 except", "IPv6 except"),
    *("ingress: peers and ports", "egress: peers and ports", "ingress: protocol only", "ingress: endPort"),
    *("ingress: numbered port", "egress: numbered port", "ingress: named port", "egress: named port"),
    *("ingress: TCP", "ingress: UDP", "ingress: SCTP", "ingress: protocol absent", "egress: TCP"),
}


def test_each_thing_that_a_policy_can_say_is_said() -> None:
    found = {thing for raw in POLICY_DOCUMENTS for thing in said(raw)}
    assert WANTED - found == set()


def test_networks_are_chained_in_each_way() -> None:
    found = set()
    for raw in NETWORKS:
        first, *_, last = plugins = plugins_of(raw)
        device = next(plugin for plugin in plugins if plugin["type"] != PLUGIN)
        name = f"{raw['metadata']['namespace']}/{raw['metadata']['name']}"
        ours = [plugin for plugin in plugins if plugin["type"] == PLUGIN]
        assert last == {"type": PLUGIN, "netAttachDef": name}
        assert ours in ([last], [{**last, "guard": True}, last])
        assert json.loads(raw["spec"]["config"])["name"] == raw["metadata"]["name"]
        assert device["master"]
        found.add((device["type"], device["mode"], first["type"] == PLUGIN))
    assert found == {
        ("macvlan", "bridge", False),
        ("macvlan", "bridge", True),
        ("ipvlan", "l2", True),
        ("ipvlan", "l3", False),
    }


@pytest.mark.parametrize("name", ["networks", "networks-ipvlan", *POLICIES])
def test_each_document_is_commented(name: str) -> None:
    assert all(text.startswith("# ") for text in (SAMPLES / f"{name}.yaml").read_text().split("---\n"))


def test_the_table_of_contents_is_whole() -> None:
    text = (SAMPLES / "README.md").read_text()
    links = set(re.findall(r"\]\(([\w/.-]+\.yaml)\)", text))
    assert links == {f"{name}.yaml" for name in FILES}


# --- they do what they say -------------------------------------------------------------------------------


def test_every_policy_is_in_the_table() -> None:
    assert sorted(TABLE) == sorted(POLICIES)
    for name, lines in TABLE.items():
        assert {probe.passes for probe in probes(lines)} == {True, False}, name


@pytest.mark.parametrize("name", POLICIES)
def test_it_is_enforced(shop: Shop, name: str) -> None:
    tried = list(probes(TABLE[name]))
    shop.apply()
    assert shop.wrong(tried, control=True) == []
    shop.apply(name, *BESIDE.get(name, ()))
    assert shop.wrong(tried) == []
    for item in shop.report():
        assert (bool(item["governs"]), item["problems"]) == (True, []), item


def test_sctp_is_in_the_rules(shop: Shop) -> None:
    shop.apply("policies/port-sctp")
    text = shop.daemon.run_ctl("render", "shop/api", "net1").stdout
    rule = re.search(r"ip saddr @([\w-]+) sctp dport 38412 (counter )?return", text)
    assert rule, text
    address = shop.attachments["web", "front"].ipv4
    assert re.search(rf"set {rule[1]} {{[^}}]*elements = {{ {re.escape(address)} }}", text), text
    assert set(re.findall(r"\w+ dport \S+", text)) == {"sctp dport 38412"}, text
    shop.apply()
    assert "sctp" not in shop.daemon.run_ctl("render", "shop/api", "net1").stdout


@pytest.mark.parametrize("name", ["front-ipvlan", "routed-ipvlan"])
def test_networks_of_no_sample_pod_make_governed_interfaces(shop: Shop, name: str) -> None:
    raw = shop.placed(objects.pod(name, "shop", {"app": "web"}, f"{name}@net1"))
    shop.api.create(raw)
    sandbox = shop.start(raw)
    (found,) = shop.daemon.ctl("attachments", f"shop/{name}")
    shop.stop(sandbox)
    shop.api.delete("Pod", "shop", name)
    assert (found["networks"], found["evidence"]) == ([f"shop/{name}"], "config")
    assert found["addresses"] == [address.split("/")[0] for address in sandbox["net1"].addresses]
