"""Settings: where each value comes from, and every bad one reported together.

proves: E6
"""

import argparse
from pathlib import Path
from typing import Any

import pytest

from daemon.config import OPTIONS, Settings, add_arguments, load_settings
from daemon.errors import ConfigError
from daemon.model import Block, CommonRules, Port, Rule


def load(
    *flags: str, env: dict[str, str] | None = None, file: str | bytes | None = None, path: str = "c.yaml"
) -> Settings:
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def read_file(name: str) -> bytes:
        if file is None or name != path:
            raise FileNotFoundError(2, "No such file or directory", name)
        return file.encode() if isinstance(file, str) else file

    line = [*flags, *(["--config", path] if file is not None else [])]
    return load_settings(vars(parser.parse_args(line)), env or {}, read_file)


def problems(*flags: str, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(*flags, **more)
    return caught.value.problems


def test_defaults() -> None:
    found = load()
    assert found.socket == Path("/run/multi-networkpolicy/daemon.sock")
    assert found.state_dir == Path("/var/lib/multi-networkpolicy")
    assert found.multus_cache_dir == Path("/var/lib/cni/multus")
    assert (found.backend, found.log_format, found.log_level) == ("auto", "text", "info")
    assert found.track_connections is True
    assert found.common_rules == CommonRules()
    assert {origin for _, _, origin in found.origins()} == {"default"}


def origin(found: Settings, key: str) -> str:
    return {name: where for name, _, where in found.origins()}[key]


def test_flag_over_variable_over_file_over_default() -> None:
    file, env, flags = "logLevel: debug", {"MNP_LOG_LEVEL": "warning"}, ["--log-level", "error"]
    found = load()
    assert (found.log_level, origin(found, "logLevel")) == ("info", "default")
    found = load(file=file)
    assert (found.log_level, origin(found, "logLevel")) == ("debug", "c.yaml")
    found = load(env=env, file=file)
    assert (found.log_level, origin(found, "logLevel")) == ("warning", "MNP_LOG_LEVEL")
    found = load(*flags, env=env, file=file)
    assert (found.log_level, origin(found, "logLevel")) == ("error", "--log-level")


SETTERS: list[tuple[str, str, str, Any]] = [
    ("source", "source", "manifests:/etc/x", "manifests:/etc/x"),
    ("source", "source", "manifests:relative/is/fine", "manifests:relative/is/fine"),
    ("source", "source", "kubernetes", "kubernetes"),
    ("kubeconfig", "kubeconfig", "/etc/x", "/etc/x"),
    ("node-name", "node_name", "n1", "n1"),
    ("backend", "backend", "nftables", "nftables"),
    ("socket", "socket", "/tmp/s", Path("/tmp/s")),
    ("state-dir", "state_dir", "/tmp/d", Path("/tmp/d")),
    ("metrics-address", "metrics_address", "", ""),
    ("metrics-address", "metrics_address", ":80", ":80"),
    ("metrics-address", "metrics_address", "[::1]:80", "[::1]:80"),
    ("log-format", "log_format", "json", "json"),
    ("track-connections", "track_connections", "false", False),
    ("events", "events", "false", False),
    ("namespace-rules", "namespace_rules", "100", 100),
    ("namespace-elements", "namespace_elements", "1", 1),
    ("multus-cache-dir", "multus_cache_dir", "/tmp/m", Path("/tmp/m")),
]


@pytest.mark.parametrize(("name", "field", "text", "value"), SETTERS)
def test_each_way_to_set(name: str, field: str, text: str, value: Any) -> None:
    key = "".join(part.title() if index else part for index, part in enumerate(name.split("-")))
    written = text if isinstance(value, int) else f'"{text}"'
    assert getattr(load(f"--{name}={text}"), field) == value
    assert getattr(load(env={f"MNP_{field.upper()}": text}), field) == value
    assert getattr(load(file=f"{key}: {written}"), field) == value


def test_every_option_of_the_table_is_in_the_tables_here() -> None:
    here = {name for name, *_ in SETTERS}
    elsewhere = {
        "config",
        "log-level",
        "common-rules",
        "netns-paths",
        "accept-icmp",
        "accept-icmpv6",
        "allow-ipv6-src-prefixes",
        "allow-ipv6-dst-prefixes",
    }
    assert {option.flag[2:] for option in OPTIONS} == here | elsewhere


def test_a_switch_needs_no_value() -> None:
    assert load("--track-connections").track_connections is True
    assert load("--accept-icmp").common_rules.ingress == (Rule(None, (Port(1),)),)


def test_single_addresses_are_prefixes() -> None:
    rule = "{from: [{ipBlock: {cidr: 10.0.0.1}}]}"
    found = load("--allow-ipv6-src-prefixes=fe80::1", file=f"commonRules: {{ingress: [{rule}]}}")
    peers = [peer for rule in found.common_rules.ingress for peer in rule.peers or ()]
    assert [getattr(peer, "text", "") for peer in peers] == ["10.0.0.1/32", "fe80::1/128"]


BAD: list[tuple[list[str], dict[str, str], str | bytes | None, list[str]]] = [
    (["--backend=nft"], {}, None, ["--backend: backend: expected one of auto, nftables, iptables, not nft"]),
    ([], {"MNP_BACKEND": ""}, None, ["MNP_BACKEND: backend: expected one of"]),
    (["--source=dir:/x"], {}, None, ["--source: source: expected kubernetes or manifests:DIR"]),
    (["--source=manifests:"], {}, None, ["--source: source: expected kubernetes or manifests:DIR"]),
    (["--socket="], {}, None, ["--socket: socket: expected a path, not nothing"]),
    (["--socket=/" + "x" * 107], {}, None, ["at most 107 bytes"]),
    (["--state-dir=a\nb"], {}, None, ["control characters"]),
    (["--metrics-address=localhost"], {}, None, ["expected host:port"]),
    (["--metrics-address=::1:80"], {}, None, ["expected host:port"]),
    (["--metrics-address=x:0"], {}, None, ["from 1 to 65535"]),
    (["--metrics-address=x:99999"], {}, None, ["from 1 to 65535"]),
    (["--track-connections=maybe"], {}, None, ["--track-connections: expected true or false, not maybe"]),
    (["--allow-ipv6-src-prefixes=fe80::/10,x"], {}, None, ["--allow-ipv6-src-prefixes", "'x' is no CIDR"]),
    (
        ["--allow-ipv6-dst-prefixes=10.0.0.0/8"],
        {},
        None,
        ["allowIpv6DstPrefixes: 10.0.0.0/8 is no IPv6 prefix"],
    ),
    (["--allow-ipv6-dst-prefixes=10.0.0.1"], {}, None, ["10.0.0.1 is no IPv6 prefix"]),
    (["--allow-ipv6-src-prefixes=::ffff:a00:0/104"], {}, None, ["IPv4-mapped, and no packet is: write 10.0"]),
    ([], {}, "commonRules: {ingress: [{form: []}]}", ["ingress[0].form: unknown key (did you mean from?)"]),
    ([], {}, "commonRules: {ingres: []}", ["commonRules.ingres: unknown key (did you mean ingress?)"]),
    (
        [],
        {},
        "commonRules: {ingress: [{from: [{ipBlock: {cidr: '::/0', excepts: []}}]}]}",
        ["excepts: unknown key (did you mean except?)"],
    ),
    ([], {"MNP_TRACK_CONECTIONS": "no"}, None, ["did you mean MNP_TRACK_CONNECTIONS?"]),
    ([], {}, "logLevell: debug", ["c.yaml: logLevell: unknown key; did you mean logLevel?"]),
    ([], {}, "log-level: debug", ["unknown key; did you mean logLevel?"]),
    ([], {}, "zzz: 1", ["zzz: unknown key; known are source, "]),
    ([], {}, "config: other.yaml", ["config: unknown key"]),
    ([], {}, "trackConnections: 'yes'", ["c.yaml: trackConnections: expected true or false, not yes"]),
    ([], {}, "trackConnections: 1", ["expected true or false"]),
    ([], {}, "nodeName: 5", ["nodeName: expected a string (put it in quotes), not 5"]),
    ([], {}, "logLevel: debug\nlogLevel: info", ["c.yaml", "line 2", "twice"]),
    ([], {}, "a: [", ["--config c.yaml: line"]),
    ([], {}, "- a", ["expected one YAML document"]),
    ([], {}, "a: 1\n---\nb: 2", ["expected one YAML document"]),
    ([], {}, b"a: \xff", ["--config c.yaml: no text in UTF-8 (byte 4)"]),
    (["--namespace-rules=x"], {}, None, ["--namespace-rules: expected a number from 1 to 100000000, not x"]),
    ([], {"MNP_NAMESPACE_ELEMENTS": ""}, None, ["MNP_NAMESPACE_ELEMENTS: expected a number from 1 to"]),
    (["--namespace-rules=0"], {}, None, ["namespaceRules: expected a number from 1 to 100000000, not 0"]),
    (["--netns-paths=run/x,/y"], {}, None, ["netnsPaths: run/x is neither an absolute path nor auto"]),
    ([], {}, "netnsPaths: '/a,/b'", ["netnsPaths: expected a list of paths, as in [", "], not '/a,/b'"]),
    (
        [],
        {},
        "allowIpv6DstPrefixes: 'fe80::/10, fd00::/8'",
        ["as in [fe80::/10, fd00::/8], not 'fe80::/10, fd00::/8'"],
    ),
    ([], {}, "x" * 5_000_000, ["larger than"]),
    (["--config=missing.yaml"], {}, None, ["--config missing.yaml: No such file or directory"]),
    ([], {"MNP_CONFIG": "missing.yaml"}, None, ["MNP_CONFIG missing.yaml"]),
    ([], {}, "allowIpv6SrcPrefixes: fe80::/10", ["expected a list"]),
    ([], {}, "commonRules: []", ["c.yaml: commonRules: expected an object"]),
    (
        [],
        {},
        "commonRules: {ingress: [{from: [{podSelector: {}}]}]}",
        ["c.yaml: commonRules.ingress[0].from[0]: commonRules take only ipBlock"],
    ),
    ([], {}, "commonRules: {egress: [{ports: [{port: '80'}]}]}", ["commonRules.egress[0].ports[0].port"]),
]


@pytest.mark.parametrize(("flags", "env", "file", "words"), BAD)
def test_bad_values(
    flags: list[str], env: dict[str, str], file: str | bytes | None, words: list[str]
) -> None:
    (message,) = problems(*flags, env=env, file=file)
    for word in words:
        assert word in message
    assert len(message) < 600
    assert message.isprintable()
    for clumsy in ("Errno", "codec", "int()", "prefix, not", "auto, not"):
        assert clumsy not in message


def test_all_bad_values_are_reported_together() -> None:
    found = problems(
        "--backend=x",
        "--track-connections=x",
        env={"MNP_LOG_LEVEL": "loud"},
        file="stateDir: 5\nnope: 1\ncommonRules: {ingress: 7}",
    )
    assert len(found) == 6


def test_other_peoples_variables_are_left_alone() -> None:
    load(env={"MNP_SERVICE_HOST": "10.0.0.1", "MNP_PORT_80_TCP": "x", "PATH": "/bin"})


def test_a_key_without_a_value_counts_as_absent() -> None:
    assert load(file="logLevel:\n").log_level == "info"
    assert load(file="").log_level == "info"


def test_common_rules_and_switches_become_one() -> None:
    found = load(
        "--accept-icmpv6",
        "--allow-ipv6-src-prefixes=fe80::/10",
        env={"MNP_ACCEPT_ICMP": "true", "MNP_ALLOW_IPV6_DST_PREFIXES": "ff02::/16, fd00::/8"},
        file="commonRules: {ingress: [{ports: [{protocol: TCP, port: 9999}]}], egress: [{}]}",
    ).common_rules
    icmp = (Rule(None, (Port(1),)), Rule(None, (Port(58),)))
    assert found.ingress[:3] == (Rule(None, (Port(6, (9999, 9999)),)), *icmp)
    assert found.egress[:3] == (Rule(None, None), *icmp)
    (source,), (one, two) = found.ingress[3].peers or (), found.egress[3].peers or ()
    assert isinstance(source, Block)
    assert isinstance(one, Block)
    assert isinstance(two, Block)
    assert [peer.text for peer in (source, one, two)] == ["fe80::/10", "ff02::/16", "fd00::/8"]
    assert {peer.family for peer in (source, one, two)} == {6}
