"""Settings: default < file < environment < flag; each remembers where it came from.

In: flags, environment and a file's bytes. Out: Settings, or ConfigError with every bad value at once. One
table makes the flags, the variables, the file's keys and the checks. Reads nothing by itself.
"""

import argparse
import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from daemon.decode import decode_common_rules
from daemon.decode.fields import is_name, meant
from daemon.errors import ConfigError
from daemon.kubeyaml import YamlError, load_yaml
from daemon.log import FORMATS, LEVELS
from daemon.model import CommonRules
from daemon.policy.budget import DEFAULT
from daemon.values import explain, explain_file, parse_list, shown
from daemon.values import read_address as _address
from daemon.values import read_globs as _globs
from daemon.values import read_prefixes as _prefixes
from daemon.values import read_text as _text

BACKENDS = ("auto", "nftables", "iptables")
PREFIX = "MNP_"
MAX_FILE = 4 * 1024 * 1024
MOST_COUNTED = 100_000_000
COUNTED = f"expected a number from 1 to {MOST_COUNTED}"

ReadFile: TypeAlias = Callable[[str], bytes]

_ICMP_RULE = {"ports": [{"protocol": "ICMP"}]}
_ICMPV6_RULE = {"ports": [{"protocol": "ICMPv6"}]}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked. Paths are as they were given.

    source: "kubernetes" or "manifests:DIR". metrics_address: "host:port", or "" for none.
    common_rules: `commonRules` with the ICMP switches and IPv6 prefixes lowered into it (E6).
    """

    config: str
    source: str
    kubeconfig: str
    node_name: str
    backend: str
    socket: Path
    state_dir: Path
    netns_paths: list[str]
    metrics_address: str
    log_format: str
    log_level: str
    track_connections: bool
    common_rules: CommonRules
    multus_cache_dir: Path
    events: bool
    namespace_rules: int
    namespace_elements: int
    sources: tuple[tuple[str, str, str], ...]

    def origins(self) -> tuple[tuple[str, str, str], ...]:
        """(key as in the file, value as text, where it came from) of every setting, for the log."""
        return self.sources


class _Option(msgspec.Struct, frozen=True):
    """One setting. key: as in the file. read: checks a value of the file's type, raises ValueError.

    parse: a flag's or variable's text to what the file would hold; None: the file only.
    """

    key: str
    default: Any
    read: Callable[[Any], Any]
    help: str
    parse: Callable[[str], Any] | None
    metavar: str = ""

    @property
    def field(self) -> str:
        """`logFormat` as Settings and argparse have it: log_format."""
        return re.sub(r"([A-Z])", r"_\1", self.key).lower()

    @property
    def flag(self) -> str:
        return f"--{self.field.replace('_', '-')}"

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.field.upper()}"


# --- checks ----------------------------------------------------------------------------------------------


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return str(value)

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("expected true or false")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_COUNTED:
        raise ValueError(COUNTED)
    return value


def _path(value: Any) -> Path:
    if not _text(value):
        raise ValueError("expected a path")
    return Path(value)


def _socket(value: Any) -> Path:
    path = _path(value)
    # sockaddr_un's sun_path, with the zero that ends it.
    if len(str(path).encode()) > 107:
        raise ValueError("a Unix socket's path has at most 107 bytes")
    return path


def _source(value: Any) -> str:
    text = _text(value)
    kind, _, directory = text.partition(":")
    if text == "kubernetes" or (kind == "manifests" and directory):
        return text
    raise ValueError("expected kubernetes or manifests:DIR")


def _node(value: Any) -> str:
    text = _text(value)
    if text and not is_name(text):
        raise ValueError("expected a node's name: lower case letters, digits, dashes and dots")
    return text


def _anything(value: Any) -> Any:
    return value


def _parse_flag(text: str) -> bool:
    words = {"true": True, "false": False, "1": True, "0": False}
    if text.lower() not in words:
        raise ValueError("expected true or false")
    return words[text.lower()]


def _parse_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(COUNTED) from None


def _same(text: str) -> str:
    return text


OPTIONS: tuple[_Option, ...] = (
    _Option("config", "", _text, "YAML file with any of these settings, in camelCase", _same, "FILE"),
    _Option(
        "source",
        "manifests:/etc/multi-networkpolicy/manifests",
        _source,
        "where objects come from: kubernetes, or manifests:DIR",
        _same,
        "SOURCE",
    ),
    _Option(
        "kubeconfig",
        "",
        _text,
        "for --source kubernetes; without it: as a pod of the cluster",
        _same,
        "FILE",
    ),
    _Option("nodeName", "", _node, "this node's name in the cluster; without it: the host's", _same, "NAME"),
    _Option("backend", "auto", _one_of(*BACKENDS), "auto, nftables or iptables", _same, "NAME"),
    _Option(
        "socket",
        "/run/multi-networkpolicy/daemon.sock",
        _socket,
        "Unix socket that the plugin and mnpctl connect to",
        _same,
        "PATH",
    ),
    _Option("stateDir", "/var/lib/multi-networkpolicy", _path, "records of attachments", _same, "DIR"),
    _Option(
        "netnsPaths",
        ["auto"],
        _globs,
        "network namespaces that a start searches for rules whose records were lost, comma-separated; "
        "auto: the usual ones, and those beside known ones",
        parse_list,
        "GLOBS",
    ),
    _Option(
        "metricsAddress",
        "127.0.0.1:9476",
        _address,
        "host:port; :port is every IPv4 address of the node; empty: off",
        _same,
        "ADDRESS",
    ),
    _Option("logFormat", "text", _one_of(*FORMATS), "text or json", _same, "FORMAT"),
    _Option("logLevel", "info", _one_of(*LEVELS), f"one of {', '.join(LEVELS)}", _same, "LEVEL"),
    _Option(
        "trackConnections",
        True,
        _flag,
        "track connections on interfaces that no policy governs, so that they survive the first one",
        _parse_flag,
        "BOOL",
    ),
    _Option("commonRules", None, _anything, "", None),
    _Option("acceptIcmp", False, _flag, "allow all ICMP on isolated interfaces", _parse_flag, "BOOL"),
    _Option("acceptIcmpv6", False, _flag, "allow all ICMPv6 on isolated interfaces", _parse_flag, "BOOL"),
    _Option(
        "allowIpv6SrcPrefixes",
        [],
        _prefixes,
        "allow what comes in from these prefixes, comma-separated",
        parse_list,
        "LIST",
    ),
    _Option(
        "allowIpv6DstPrefixes",
        [],
        _prefixes,
        "allow what goes to these prefixes, comma-separated",
        parse_list,
        "LIST",
    ),
    _Option(
        "namespaceRules",
        DEFAULT.rules,
        _count,
        "rules that the policies of one namespace may come to; beyond that the largest permit nothing",
        _parse_number,
        "NUMBER",
    ),
    _Option(
        "namespaceElements",
        DEFAULT.elements,
        _count,
        "addresses, ports and selectors (ten each) of one namespace's policies, and pods in their sets",
        _parse_number,
        "NUMBER",
    ),
    _Option("events", True, _flag, "Events on policies and pods for what is reported", _parse_flag, "BOOL"),
    _Option("multusCacheDir", "/var/lib/cni/multus", _path, "where Multus notes its delegates", _same, "DIR"),
)

_KEYS = {option.key: option for option in OPTIONS if option.key != "config"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define a flag for every setting that has one. An absent flag is absent from the parsed result."""
    for option in OPTIONS:
        if option.parse is None:
            continue
        default = ",".join(option.default) if isinstance(option.default, list) else str(option.default)
        shown = f" (default: {default.lower() if option.read is _flag else default or 'none'})"
        is_flag = option.read is _flag
        parser.add_argument(
            option.flag,
            metavar=option.metavar,
            default=argparse.SUPPRESS,
            help=f"{option.help}{shown}".replace("%", "%%"),
            nargs="?" if is_flag else None,
            const="true" if is_flag else None,
        )


def load_settings(flags: Mapping[str, Any], env: Mapping[str, str], read_file: ReadFile) -> Settings:
    """Put all settings together and check every one. Raises ConfigError with a line for each bad value."""
    problems: list[str] = []
    values = {option.key: (option.default, "default") for option in OPTIONS}
    given = _read_texts(flags, env, problems)
    path, origin = given.get("config", ("", ""))
    if path:
        values.update(_read_config_file(path, origin, read_file, problems))
    values.update(given)
    checked: dict[str, Any] = {}
    for option in OPTIONS:
        value, origin = values[option.key]
        try:
            checked[option.key] = option.read(value)
        except ValueError as error:
            problems.append(f"{origin}: {option.key}: {explain(error, value)}")
    common = _lower(checked, values, problems)
    if problems:
        raise ConfigError(problems)
    fields = {option.field: checked[option.key] for option in OPTIONS}
    sources = tuple((key, shown(value), origin) for key, (value, origin) in values.items())
    wanted = set(Settings.__struct_fields__)
    fields = {name: value for name, value in fields.items() if name in wanted}
    return Settings(**{**fields, "common_rules": common, "sources": sources})


def _read_texts(
    flags: Mapping[str, Any], env: Mapping[str, str], problems: list[str]
) -> dict[str, tuple[Any, str]]:
    """What flags and variables say, as the file would have it."""
    found: dict[str, tuple[Any, str]] = {}
    for option in OPTIONS:
        if option.parse is None:
            continue
        text, origin = flags.get(option.field), option.flag
        if text is None:
            text, origin = env.get(option.variable), option.variable
        if text is None:
            continue
        try:
            found[option.key] = (option.parse(text), origin)
        except ValueError as error:
            problems.append(f"{origin}: {explain(error, text)}")
    problems.extend(_misspelt_variables(env))
    return found


def unknown_variables(env: Mapping[str, str]) -> list[str]:
    """Variables that begin like ours and name no setting: worth a word; service links make such."""
    known = {option.variable for option in OPTIONS if option.parse is not None}
    return sorted(name for name in env if name.startswith(PREFIX) and name not in known)


def _misspelt_variables(env: Mapping[str, str]) -> list[str]:
    """Those that look misspelt. Others that begin alike are left alone: service links make them."""
    known = [option.variable for option in OPTIONS if option.parse is not None]
    found = []
    for name in sorted(env):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.85)
            if close:
                found.append(f"{name}: unknown variable; did you mean {close[0]}?")
    return found


def _read_config_file(
    path: str, origin: str, read_file: ReadFile, problems: list[str]
) -> dict[str, tuple[Any, str]]:
    try:
        content = read_file(path)
        if len(content) > MAX_FILE:
            raise ValueError(f"larger than {MAX_FILE} bytes")
        documents = [document for document in load_yaml(content.decode()) if document is not None]
        if len(documents) > 1 or not all(isinstance(document, dict) for document in documents):
            raise ValueError("expected one YAML document of key: value")
    except (OSError, ValueError, YamlError) as error:
        problems.append(f"{origin} {path}: {explain_file(error)}")
        return {}
    found = {}
    for key, value in (documents[0] if documents else {}).items():
        if key in _KEYS:
            # A key without a value is as if it were not there.
            found.update({key: (value, path)} if value is not None else {})
        else:
            problems.append(f"{path}: {key[:80]}: unknown key; {meant(key, _KEYS)}")
    return found


def _lower(
    checked: Mapping[str, Any], values: Mapping[str, tuple[Any, str]], problems: list[str]
) -> CommonRules:
    """`commonRules`, the ICMP switches and the IPv6 prefixes as one set of common rules (E6)."""
    common, found = decode_common_rules(checked["commonRules"], "commonRules")
    problems.extend(f"{values['commonRules'][1]}: {item.field}: {item.message}" for item in found)
    icmp = [_ICMP_RULE] if checked.get("acceptIcmp") else []
    icmp += [_ICMPV6_RULE] if checked.get("acceptIcmpv6") else []
    more, _ = decode_common_rules(
        {
            "ingress": icmp + _prefix_rules("from", checked.get("allowIpv6SrcPrefixes")),
            "egress": icmp + _prefix_rules("to", checked.get("allowIpv6DstPrefixes")),
        },
        "",
    )
    return CommonRules(common.ingress + more.ingress, common.egress + more.egress)


def _prefix_rules(peers: str, prefixes: list[str] | None) -> list[dict[str, Any]]:
    return [{peers: [{"ipBlock": {"cidr": prefix}} for prefix in prefixes]}] if prefixes else []
