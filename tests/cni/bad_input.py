"""Input that every command must refuse, with the code and the words that tell what is wrong.

In: nothing. Out: ROWS. The plugin refuses each of them by itself, so the table holds with any daemon, or
none.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20
# Stands for "without this key".
ABSENT: Any = object()

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "0a1b2c3d",
    # Not there: the plugin leaves it to the daemon, so no row can be refused for it by mistake.
    "CNI_NETNS": "/run/netns/mnpt-no-such-netns",
    "CNI_IFNAME": "net1",
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-a",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "net-a",
    "type": "multi-networkpolicy",
    "prevResult": {
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "net1", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/mnpt-no-such-netns"}
        ],
        "ips": [{"address": "192.0.2.10/24", "interface": 0}],
    },
}


def config(**changes: Any) -> bytes:
    """Return a good configuration with some keys changed; ABSENT takes one away."""
    merged = {**CONFIG, **changes}
    return json.dumps({key: value for key, value in merged.items() if value is not ABSENT}).encode()


@dataclass(frozen=True)
class BadInput:
    """One row. env: changes to ENV, None takes a variable away. says: part of msg or details."""

    name: str
    code: int
    says: str
    stdin: bytes = field(default_factory=config)
    env: Mapping[str, str | bytes | None] = field(default_factory=dict)


def missing(*names: str, command: str = "ADD") -> BadInput:
    env: dict[str, str | bytes | None] = {"CNI_COMMAND": command, **dict.fromkeys(names)}
    return BadInput(f"{command} without {' '.join(names)}", 4, f"[{','.join(names)}]", env=env)


def variable(name: str, value: str | bytes, why: str, says: str = "") -> BadInput:
    return BadInput(f"{name} {why}", 4, says or name, env={name: value})


def stdin(name: str, code: int, says: str, text: bytes, command: str = "ADD") -> BadInput:
    return BadInput(name, code, says, stdin=text, env={"CNI_COMMAND": command})


def key(name: str, value: Any, why: str, code: int = 7, says: str = "") -> BadInput:
    return BadInput(f"{name} {why}", code, says or name, stdin=config(**{name: value}))


def version(value: str, command: str) -> BadInput:
    text = config(cniVersion=value)
    return stdin(f"{command} in version {value or 'absent'}", 1, command, text, command)


def prev(why: str, says: str, value: Any) -> BadInput:
    return BadInput(f"prevResult {why}", 7, says, stdin=config(prevResult=value))


GOOD = config()
EMPTY: dict[str, str | bytes | None] = {"CNI_CONTAINERID": "", "CNI_NETNS": "", "CNI_IFNAME": ""}

NOT_SOCKET_PATHS: list[Any] = ["", "run/d.sock", 7, None, ["/d"], "/a\0b", "/\ud800"]
NOT_BOOLEANS: list[Any] = ["true", 1, 0, None, [], {}]
NOT_TIMEOUTS: list[Any] = ["30", 0, 0.99, 600.5, -1, True, None, [30]]
NOT_ON_UNREADY: list[Any] = ["open", "Deny", "", True, None, ["deny"]]
NOT_NET_ATTACH_DEFS: list[Any] = [
    *(
        "",
        "net-a",
        "a/b/c",
        "/net-a",
        "ns/",
        "NS/net",
        "ns/-net",
        "n.s/net",
        "ns/net_a",
        "ns/net-a ",
        7,
        None,
        {},
    )
]

ENVIRONMENT_ROWS = [
    BadInput("unknown command", 4, "CNI_COMMAND", env={"CNI_COMMAND": "UPDATE"}),
    BadInput("command in small letters", 4, "CNI_COMMAND", env={"CNI_COMMAND": "add"}),
    BadInput("command with a space", 4, "CNI_COMMAND", env={"CNI_COMMAND": "ADD "}),
    BadInput("command that is not UTF-8", 4, "CNI_COMMAND", env={"CNI_COMMAND": b"AD\xff"}),
    BadInput("command of 100 kB", 4, "CNI_COMMAND", env={"CNI_COMMAND": "A" * 100_000}),
    missing("CNI_CONTAINERID"),
    missing("CNI_NETNS"),
    missing("CNI_IFNAME"),
    missing("CNI_PATH"),
    missing("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    missing("CNI_NETNS", "CNI_PATH", command="CHECK"),
    missing("CNI_CONTAINERID", "CNI_IFNAME", command="DEL"),
    missing("CNI_PATH", command="GC"),
    missing("CNI_PATH", command="STATUS"),
    BadInput("empty variables are missing ones", 4, "[CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME]", env=EMPTY),
    BadInput("environment before stdin", 4, "[CNI_IFNAME]", stdin=b"{", env={"CNI_IFNAME": None}),
    variable("CNI_CONTAINERID", "../../etc", "that climbs"),
    variable("CNI_CONTAINERID", "a/b", "with a slash"),
    variable("CNI_CONTAINERID", "a b", "with a space"),
    variable("CNI_CONTAINERID", "-a", "that starts with a dash"),
    variable("CNI_CONTAINERID", ".a", "that starts with a dot"),
    variable("CNI_CONTAINERID", "a\nb", "with a line feed"),
    variable("CNI_CONTAINERID", "ä", "with a letter beyond ASCII"),
    variable("CNI_CONTAINERID", b"a\xff", "that is not UTF-8"),
    variable("CNI_CONTAINERID", "a" * 100_000, "of 100 kB"),
    variable("CNI_IFNAME", "a" * 16, "of 16 bytes"),
    variable("CNI_IFNAME", "ü" * 8, "of 8 letters and 16 bytes"),
    variable("CNI_IFNAME", ".", "that is a dot"),
    variable("CNI_IFNAME", "..", "that is two dots"),
    variable("CNI_IFNAME", "a/b", "with a slash"),
    variable("CNI_IFNAME", "a:b", "with a colon"),
    variable("CNI_IFNAME", "a b", "with a space"),
    variable("CNI_IFNAME", "a\tb", "with a tab"),
    variable("CNI_IFNAME", "a\n", "with a line feed"),
    variable("CNI_IFNAME", "a\x01", "with a control character"),
    variable("CNI_IFNAME", b"net\xe9", "that is not UTF-8"),
    variable("CNI_NETNS", "netns/a", "that is relative"),
    variable("CNI_NETNS", b"/run/netns/\xff", "that is not UTF-8"),
    variable("CNI_NETNS", "/" * 9000, "of 9000 bytes"),
    variable("CNI_ARGS", b"K8S_POD_NAME=\xff", "that are not UTF-8"),
    variable("CNI_ARGS", "A=" + "b" * 100_000, "of 100 kB"),
    BadInput("the plugin's own netns", 8, "CNI_NETNS", env={"CNI_NETNS": "/proc/self/ns/net"}),
    BadInput(
        "CHECK in the plugin's own netns",
        8,
        "CNI_NETNS",
        env={"CNI_COMMAND": "CHECK", "CNI_NETNS": "/proc/thread-self/ns/net"},
    ),
    BadInput(
        "an override that says no",
        8,
        "CNI_NETNS_OVERRIDE",
        env={"CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": "0"},
    ),
]

STDIN_ROWS = [
    stdin("empty stdin", 6, "empty", b""),
    stdin("white space alone", 6, "empty", b" \n\t "),
    stdin("cut in a key", 6, "JSON", GOOD[:8]),
    stdin("cut in prevResult", 6, "JSON", GOOD[: len(GOOD) // 2]),
    stdin("cut before the last brace", 6, "JSON", GOOD[:-1]),
    stdin("cut after a key's colon", 6, "JSON", b'{"name":'),
    stdin("cut in an escape", 6, "JSON", b'{"name": "a\\u00'),
    stdin("text after the object", 6, "more text", GOOD + b"{}"),
    stdin("two objects", 6, "more text", GOOD + b"\n" + GOOD),
    stdin("comma before the brace", 6, "JSON", GOOD[:-1] + b",}"),
    stdin("no comma", 6, "JSON", b'{"name": "a" "type": "b"}'),
    stdin("quotes of Python", 6, "JSON", b"{'name': 'a'}"),
    stdin("key that is a number", 6, "JSON", b"{1: 2}"),
    stdin("control character in a string", 6, "JSON", b'{"name": "a\x01"}'),
    stdin("zero byte", 6, "JSON", b'{"name": \x00}'),
    stdin("list", 6, "JSON object", b"[]"),
    stdin("string", 6, "JSON object", b'"net-a"'),
    stdin("number", 6, "JSON object", b"7"),
    stdin("null", 6, "JSON object", b"null"),
    stdin("byte order mark", 6, "JSON object", b"\xef\xbb\xbf" + GOOD),
    stdin("UTF-16", 6, "UTF-8", GOOD.decode().encode("utf-16")),
    stdin("not UTF-8 in a string", 6, "UTF-8", GOOD.replace(b"net-a", b"net-\xff")),
    stdin("encoded surrogate", 6, "UTF-8", GOOD.replace(b"net-a", b"net-\xed\xa0\x80")),
    stdin("an executable", 6, "UTF-8", bytes(range(256)) * 64),
    stdin("YAML", 6, "JSON", b"name: net-a\ncniVersion: 1.0.0\n"),
    stdin("NaN", 6, "NaN", GOOD[:-1] + b', "x": NaN}'),
    stdin("Infinity deep inside", 6, "Infinity", GOOD[:-1] + b', "x": [{"y": -Infinity}]}'),
    stdin("number with a leading zero", 6, "JSON", b'{"name": 012}'),
    stdin("100,000 open lists", 6, "nested too deep", b'{"name": "a", "x": ' + b"[" * 100_000),
    stdin("100,000 objects", 6, "nested too deep", b'{"name": "a", "x": ' + b'{"x":' * 100_000),
    stdin("10 MiB of configuration", 7, "too large", config(x="y" * 10 * MIB)),
    stdin("10 MiB of zeros", 7, "too large", bytes(10 * MIB)),
    stdin("10 MiB of open lists", 7, "too large", b"[" * (10 * MIB)),
    stdin("DEL without JSON", 6, "JSON", b"{", "DEL"),
    stdin("DEL with a list", 6, "JSON object", b"[]", "DEL"),
    stdin("DEL without name", 7, "name", config(name=ABSENT), "DEL"),
    stdin("DEL in an unknown version", 1, "9.9.9", config(cniVersion="9.9.9"), "DEL"),
    stdin("GC without JSON", 6, "JSON", b"", "GC"),
    stdin("STATUS without JSON", 6, "JSON", b"", "STATUS"),
]

NAME_AND_VERSION_ROWS = [
    key("name", ABSENT, "absent"),
    key("name", None, "null"),
    key("name", "", "empty"),
    key("name", 7, "a number"),
    key("name", ["a"], "a list"),
    key("name", "a/b", "with a slash"),
    key("name", "-a", "that starts with a dash"),
    key("name", "a\u0000", "with a zero"),
    key("name", "\ud800", "a lone surrogate"),
    key("name", "x" * 5000 + "/", "of 5000 characters"),
    BadInput("the last of two names counts", 7, "a/b", stdin=b'{"name": "a", "name": "a/b"}'),
    key("cniVersion", "9.9.9", "unknown", 1),
    key("cniVersion", "1.0", "of two parts", 1),
    key("cniVersion", " 1.0.0", "with a space", 1),
    key("cniVersion", "v1.0.0", "with a letter", 1),
    key("cniVersion", 1.0, "a number", 1),
    key("cniVersion", ["1.0.0"], "a list", 1),
    key("cniVersion", True, "a boolean", 1),
    *[version(value, "CHECK") for value in ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "")],
    *[version(value, command) for command in ("GC", "STATUS") for value in ("0.4.0", "1.0.0", "")],
    BadInput("name before version", 7, "name", stdin=config(name=ABSENT, cniVersion="9.9.9")),
    BadInput("version before own keys", 1, "9.9.9", stdin=config(cniVersion="9.9.9", guard=1)),
]

OWN_KEY_ROWS = [
    *[key("guard", value, f"= {value!r}") for value in NOT_BOOLEANS],
    *[key("trackConnections", value, f"= {value!r}") for value in NOT_BOOLEANS],
    *[key("onUnready", value, f"= {value!r}") for value in NOT_ON_UNREADY],
    *[key("timeoutSeconds", value, f"= {value!r}") for value in NOT_TIMEOUTS],
    BadInput("timeoutSeconds = 1e400", 7, "timeoutSeconds", stdin=GOOD[:-1] + b', "timeoutSeconds": 1e400}'),
    BadInput(
        "timeoutSeconds of 5000 digits",
        7,
        "timeoutSeconds",
        stdin=GOOD[:-1] + b', "timeoutSeconds": ' + b"9" * 5000 + b"}",
    ),
    *[key("socketPath", value, f"= {value!r}") for value in NOT_SOCKET_PATHS],
    key("socketPath", "@abstract", "abstract"),
    key("socketPath", "/" + "d" * 107, "of 108 bytes"),
    *[key("netAttachDef", value, f"= {value!r}") for value in NOT_NET_ATTACH_DEFS],
    key("netAttachDef", "n" * 64 + "/net", "with a namespace of 64 letters"),
    BadInput(
        "the last of two guards counts", 7, "guard", stdin=GOOD[:-1] + b', "guard": false, "guard": "yes"}'
    ),
    BadInput("own keys before prevResult", 7, "onUnready", stdin=config(onUnready="open", prevResult=[])),
    stdin("CHECK with a bad key", 7, "onUnready", config(onUnready="open"), "CHECK"),
    stdin("STATUS with a bad key", 7, "guard", config(cniVersion="1.1.0", guard=1), "STATUS"),
]

PREV_RESULT_ROWS = [
    prev("absent", "missing prevResult", ABSENT),
    prev("null", "missing prevResult", None),
    prev("a list", "prevResult", []),
    prev("a string", "prevResult", "{}"),
    prev("a number", "prevResult", 0),
    prev("a boolean", "prevResult", False),
    prev("with interfaces in an object", "prevResult.interfaces", {"interfaces": {}}),
    prev("with interfaces that are names", "prevResult.interfaces", {"interfaces": ["net1"]}),
    prev("with ips in a string", "prevResult.ips", {"ips": "192.0.2.1/24"}),
    prev("with null among its ips", "prevResult.ips", {"ips": [None]}),
    BadInput("the last of two prevResults counts", 7, "prevResult", stdin=GOOD[:-1] + b', "prevResult": 7}'),
    BadInput(
        "prevResult before the netns",
        7,
        "prevResult",
        config(prevResult=1),
        {"CNI_NETNS": "/proc/self/ns/net"},
    ),
    stdin("CHECK without prevResult", 7, "prevResult", config(prevResult=ABSENT), "CHECK"),
    BadInput("guard that is not the first", 7, "guard", stdin=config(guard=True)),
]

GC_KEYS: list[tuple[str, str, str, Any]] = [
    ("attachments in an object", "cni.dev/valid-attachments", "cni.dev/valid-attachments", {}),
    ("attachments that are names", "cni.dev/attachments", "cni.dev/attachments", ["a"]),
    ("an attachment without ifname", "ifname", "cni.dev/valid-attachments", [{"containerID": "a"}]),
    (
        "a containerID that is a number",
        "containerID",
        "cni.dev/attachments",
        [{"containerID": 1, "ifname": "a"}],
    ),
]
GC_ROWS = [
    stdin(f"GC with {why}", 7, says, config(cniVersion="1.1.0", **{name: value}), "GC")
    for why, says, name, value in GC_KEYS
]

ROWS = ENVIRONMENT_ROWS + STDIN_ROWS + NAME_AND_VERSION_ROWS + OWN_KEY_ROWS + PREV_RESULT_ROWS + GC_ROWS
