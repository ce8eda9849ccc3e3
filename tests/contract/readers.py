"""What of ours, and what of others, a netns holds: by the eyes of nft, iptables-save and ipset.

In: the netns that the calling thread is in. Out: a State, comparable whatever order, number or count the
kernel gave its parts. It shares nothing with the daemon's own reading, but for the fake, which is a model.
"""

import json
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from daemon.backends.fake import FakeBackend, FakeTable
from daemon.program import chain_name
from tests.lab.programs import run

_TABLE = ("inet", "multi-networkpolicy")


@dataclass(frozen=True)
class State:
    """chains: rules as text, in order. sets: elements as text. rest: whatever else there is, sorted."""

    chains: Mapping[str, tuple[str, ...]]
    sets: Mapping[str, frozenset[str]]
    rest: tuple[str, ...]

    def differences(self, other: "State") -> list[str]:
        """Where two states differ, for a failed test."""
        chains = [
            f"chain {name}: {self.chains.get(name)} / {other.chains.get(name)}"
            for name in sorted(self.chains.keys() | other.chains.keys())
            if self.chains.get(name) != other.chains.get(name)
        ]
        sets = [
            f"set {name}: {sorted(left - right)} / {sorted(right - left)}"
            for name in sorted(self.sets.keys() | other.sets.keys())
            if (left := self.sets.get(name, frozenset())) != (right := other.sets.get(name, frozenset()))
        ]
        return [*chains, *sets, *(f"rest: {line}" for line in sorted(set(self.rest) ^ set(other.rest)))]


NOTHING = State({}, {}, ())


# --- the fake -------------------------------------------------------------------------------------------


def read_fake(backend: FakeBackend) -> State:
    """Its table; a dispatch entry is a rule of a base chain, as in the real ones."""
    table = backend.tables.get(backend.netns)
    if table is None or table == FakeTable():
        return NOTHING
    chains = {
        chain_name(key.direction, key.ifname): (owner, *map(repr, spec.rules), f"isolated {spec.isolated}",
                                                f"established {spec.established}", f"rest {spec.rest}")
        for key, (owner, spec) in table.chains.items()
    }  # fmt: skip
    chains |= {name: (repr(part),) for name, part in table.parts.items()}
    chains["dispatch"] = tuple(sorted(map(repr, table.dispatch)))
    sets = {name: frozenset(map(repr, elements)) for name, elements in table.sets.items()}
    return State(chains, sets, (f"track {table.track}",))


# --- nftables -------------------------------------------------------------------------------------------


def read_nftables() -> State:
    """Our table as `nft -j` lists it."""
    objects = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    ours = [item for item in objects if _owner(item) == _TABLE]
    chains: dict[str, list[str]] = {}
    sets: dict[str, frozenset[str]] = {}
    rest: list[str] = []
    for item in ours:
        ((kind, found),) = item.items()
        if kind == "rule":
            body = {"expr": found["expr"], "comment": found.get("comment")}
            chains.setdefault(found["chain"], []).append(json.dumps(_plain(body), sort_keys=True))
            continue
        if kind == "chain":
            chains.setdefault(found["name"], [])
        elif kind == "set":
            elements = found.pop("elem", [])
            sets[found["name"]] = frozenset(json.dumps(one, sort_keys=True) for one in elements)
        rest.append(json.dumps([kind, _plain(found)], sort_keys=True))
    return State({name: tuple(rules) for name, rules in chains.items()}, sets, tuple(sorted(rest)))


def _owner(item: dict[str, dict[str, Any]]) -> tuple[str, str]:
    ((kind, found),) = item.items()
    return found.get("family", ""), found.get("name" if kind == "table" else "table", "")


def _indices() -> dict[str, str]:
    return {name: str(index) for index, name in socket.if_nameindex()}


def _plain(node: Any) -> Any:
    """Without handles and counts; sets in order."""
    if isinstance(node, dict):
        if node.get("left") in ({"meta": {"key": "iif"}}, {"meta": {"key": "oif"}}):
            # Listed by name where there is such an interface in this netns.
            node = {**node, "right": _indices().get(node["right"], node["right"])}
        dropped = {"handle", "packets", "bytes"}
        return {
            key: sorted((_plain(one) for one in value), key=json.dumps)
            if key == "set" and isinstance(value, list)
            else _plain(value)
            for key, value in node.items()
            if key not in dropped
        }
    return [_plain(item) for item in node] if isinstance(node, list) else node


# --- iptables --------------------------------------------------------------------------------------------

_FILTER_TOOLS = {"IPv4": "iptables", "IPv6": "ip6tables"}
_OURS = "MNP-"
_SIZES = re.compile(r" (hashsize|maxelem|bucketsize|initval) \S+")


def read_iptables() -> State:
    """Our chains as `iptables-save` has them, with the place of our rule in each hook; our sets."""
    chains: dict[str, list[str]] = {}
    for family, tool in _FILTER_TOOLS.items():
        _read_chains(chains, family, tool)
    sets: dict[str, set[str]] = {}
    rest = []
    for line in _saved_sets():
        if _is_our_set(line):
            verb, name, what = line.split(" ", 2)
            sets.setdefault(name, set())
            if verb == "add":
                sets[name].add(what)
            else:
                rest.append(_SIZES.sub("", line))
    frozen = {name: frozenset(elements) for name, elements in sets.items()}
    return State({name: tuple(rules) for name, rules in chains.items()}, frozen, tuple(sorted(rest)))


def _read_chains(chains: dict[str, list[str]], family: str, tool: str) -> None:
    places: dict[str, int] = {}
    for line in _saved(tool):
        if line.startswith("*"):
            # Tables have hooks of the same names.
            places.clear()
        if line.startswith(f":{_OURS}"):
            chains.setdefault(f"{family} {line[1:].split()[0]}", [])
        if not line.startswith("-A "):
            continue
        _, chain, rule = line.split(" ", 2)
        places[chain] = places.get(chain, 0) + 1
        if chain.startswith(_OURS):
            chains[f"{family} {chain}"].append(rule)
        elif _is_ours(line):
            chains.setdefault(f"{family} {chain}", []).append(f"{places[chain]}. {rule}")


def _saved(tool: str) -> Iterator[str]:
    for line in run(f"{tool}-legacy-save").splitlines():
        if not line.startswith("#"):
            yield re.sub(r" \[\d+:\d+\]$", "", line)


def _saved_sets() -> list[str]:
    # Sorted here: ipset 7.17's own -sorted leaves out the port of an element in each few hundred.
    return sorted(run("ipset", "save").splitlines(), key=lambda line: (line.split()[1], line))


def _is_ours(line: str) -> bool:
    return re.search(rf"(^:| -j |^-A ){_OURS}", line) is not None


def _is_our_set(line: str) -> bool:
    return re.match(rf"(create|add) {_OURS}", line) is not None


# --- others' --------------------------------------------------------------------------------------------


FOREIGN_NFT = """
table ip someone {
  set s { type ipv4_addr; elements = { 192.0.2.7 }; }
  chain c { type filter hook input priority -5; ip saddr @s counter drop; }
}
table inet other {
  counter drop-ingress-net1 { }
  chain ingress-net1 { counter; }
  chain input { tcp dport 9; }
}
"""
FOREIGN_IPTABLES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:someone - [0:0]
-A INPUT -i eth9 -m comment --comment "multi-networkpolicy? no" -j someone
-A INPUT -p udp -m udp --dport 9 -j DROP
-A FORWARD -i net9 -o eth+ -j someone
-A OUTPUT -p tcp -m tcp --dport 9 -j REJECT --reject-with {reject}
-A someone -m set --match-set {set} src -j RETURN
-A someone -p tcp -m multiport --dports 7,8:9 -j ACCEPT
COMMIT
*mangle
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:someone - [0:0]
-A PREROUTING -i eth9 -m comment --comment "multi-networkpolicy? no" -j someone
-A PREROUTING -p udp -m udp --dport 9 -j DROP
-A POSTROUTING -o eth+ -j someone
-A POSTROUTING -p tcp -m tcp --dport 9 -j MARK --set-xmark 0x7/0xff
-A someone -m set --match-set {set} src -j RETURN
-A someone -p tcp -m multiport --dports 7,8:9 -j ACCEPT
COMMIT
"""
FOREIGN_IPSET = """create someone4 hash:ip family inet
add someone4 192.0.2.7
create someone6 hash:net family inet6
add someone6 2001:db8::/33
"""


def install_foreign() -> None:
    """Rules and sets of somebody else, of each kind, with names that resemble ours."""
    run("nft", "-f", "-", text=FOREIGN_NFT)
    run("ipset", "restore", text=FOREIGN_IPSET)
    for tool, reject, name in (
        ("iptables", "icmp-port-unreachable", "someone4"),
        ("ip6tables", "icmp6-port-unreachable", "someone6"),
    ):
        text = FOREIGN_IPTABLES.format(reject=reject, set=name)
        run(f"{tool}-legacy-restore", text=text)


def read_foreign() -> tuple[str, ...]:
    """All that is not ours, as it is listed, without counts."""
    rules = [line for tool in _FILTER_TOOLS.values() for line in _saved(tool) if not _is_ours(line)]
    tables = re.split(r"^(?=table )", run("nft", "-s", "list", "ruleset"), flags=re.MULTILINE)
    others = [text for text in tables if not text.startswith(f"table {' '.join(_TABLE)} ")]
    sets = [line for line in _saved_sets() if not _is_our_set(line)]
    return (*rules, *others, *sets)
