"""A Program as `ipset save` and `iptables-save` show it, for people. Pure.

In: a Program. Out: text: our sets, then our chains of IPv4, then those of IPv6. A range of ports stands as
one, as `ipset restore` takes it, where `ipset save` lists each port.
"""

import re
from collections.abc import Iterator

from daemon.backends import ipset
from daemon.backends.iptrender import FAMILIES, HOOKS, Line, content, hook_line, set_name
from daemon.backends.shape import packed_text
from daemon.backends.xtsockopt import TABLE
from daemon.planner import Program, SetKind, SetSpec
from daemon.wording import clean, protocol_name

_COMMANDS = {4: "iptables", 6: "ip6tables"}
_FAMILY_WORDS = {4: "inet", 6: "inet6"}
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")


def text(program: Program) -> str:
    """The whole: what `ipset save` and `iptables -t mangle -S`, for both families, list of ours."""
    lines = ["# ipset save"]
    for spec in program.sets.values():
        lines += _set(spec)
    for family in FAMILIES:
        lines += ["", f"# {_COMMANDS[family]} -t {TABLE} -S", *rules_text(program, family)]
    return "\n".join([*lines, ""])


def rules_text(program: Program, family: int) -> Iterator[str]:
    """One family's part, a line each, as iptables words it."""
    chains = content(program, family)
    yield from (f"-N {chain}" for chain in chains)
    for hook in HOOKS:
        yield f"-A {hook}{_line(hook_line(hook))}"
    for chain, some in chains.items():
        for line in some:
            yield f"-A {chain}{_line(line)}"


def _line(line: Line) -> str:
    parts = [""]
    if line.in_interface:
        parts.append(f"-i {clean(line.in_interface)}")
    if line.out_interface:
        parts.append(f"-o {clean(line.out_interface)}")
    if line.protocol is not None:
        parts.append(f"-p {protocol_name(line.protocol)}")
    for match in line.matches:
        parts.append(f"-m {match.name}")
        for option, values in match.options:
            negated = "! " if values[0] == "!" else ""
            parts.append(f"{negated}--{option} {' '.join(value for value in values if value != '!')}")
    if line.comment:
        parts.append(f"-m comment --comment {_quoted(line.comment)}")
    return " ".join([*parts, f"-j {line.target}"])


def _quoted(comment: str) -> str:
    """As iptables quotes; `clean` has left neither double quotes nor backslashes."""
    if _PLAIN.fullmatch(comment):
        return comment
    escaped = comment.replace("'", "\\'")
    return f'"{escaped}"'


def _set(spec: SetSpec) -> Iterator[str]:
    name = set_name(spec.name)
    yield f"# {spec.comment}"
    yield f"create {name} {ipset.type_name(spec.kind)} {_room(spec)}"
    for entry in sorted(ipset.entries(spec.elements, spec.kind, spec.family)):
        yield f"add {name} {_entry(spec.kind, entry)}"


def _room(spec: SetSpec) -> str:
    return "range 0-65535" if spec.kind is SetKind.PORTS else f"family {_FAMILY_WORDS[spec.family]}"


def _entry(kind: SetKind, entry: ipset.Entry) -> str:
    if kind is SetKind.PORTS:
        return f"{entry[1]}" if entry[1] == entry[2] else f"{entry[1]}-{entry[2]}"
    address = packed_text(entry[0])
    if kind is SetKind.HOSTS:
        return address
    if kind is SetKind.ENDPOINTS:
        return f"{address},{protocol_name(entry[1])}:{entry[2]}"
    return address if entry[1] == 8 * len(entry[0]) else f"{address}/{entry[1]}"
