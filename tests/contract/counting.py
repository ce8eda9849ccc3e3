"""Which parts of a plan, and which kinds of values in them, the executed scenarios had.

In: plans, as backends got them. Out: the classes of values that were met, and those that were not. Each field
of each type that a plan is made of has its classes here; a field without any is reported, so that one that is
added later can't go untested.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import msgspec

from daemon.model import Direction
from daemon.planner import (
    ChainKey,
    ChainSpec,
    ChainWrite,
    Dispatch,
    Gate,
    PartSpec,
    Plan,
    PortSpec,
    Program,
    RuleSpec,
    SetChange,
    SetKind,
    SetSpec,
)
from daemon.policy.ruleset import SET_PROTOCOLS
from daemon.program import Carrier

Test: TypeAlias = Callable[[Any], bool]
"""Of the whole object whose field it is: some classes are about two fields."""

Classes: TypeAlias = Mapping[type[msgspec.Struct], Mapping[str, Mapping[str, Test]]]

_LONGEST_IFNAME = 15
_LONGEST_COMMENT = 127
_LAST_PORT = 65535
_SCTP = 132
_WITH_PORTS = (6, 17, _SCTP)


def _always(_: object) -> bool:
    return True


def _size(field: str) -> dict[str, Test]:
    return {
        "none": lambda one: len(getattr(one, field)) == 0,
        "one": lambda one: len(getattr(one, field)) == 1,
        "many": lambda one: len(getattr(one, field)) > 1,
    }


def _flag(field: str) -> dict[str, Test]:
    return {
        "true": lambda one: getattr(one, field) is True,
        "false": lambda one: getattr(one, field) is False,
    }


def _given(field: str) -> dict[str, Test]:
    return {
        "none": lambda one: getattr(one, field) is None,
        "some": lambda one: getattr(one, field) is not None,
    }


def _named(field: str) -> dict[str, Test]:
    return {
        "none": lambda one: getattr(one, field) == "",
        "some": lambda one: getattr(one, field) != "",
    }


def _equal(*wanted: tuple[str, object]) -> Test:
    """Each of these fields has its value."""
    return lambda one: all(getattr(one, field) == value for field, value in wanted)


def _both(first: Test, second: Test) -> Test:
    return lambda one: first(one) and second(one)


def _of_spec(test: Test) -> Test:
    return lambda one: test(one.spec)


def _kinds(field: str) -> dict[str, Test]:
    """Each kind of set in each family."""
    return {
        f"{kind} IPv{family}": _equal((field, kind), ("family", family))
        for kind in SetKind
        if kind is not SetKind.PORTS
        for family in (4, 6)
    }


def _sizes_of_kinds() -> dict[str, Test]:
    """Each kind of set, empty, with one element, with many."""
    return {
        f"{size} {kind}": _both(_equal(("kind", kind)), test)
        for kind in SetKind
        for size, test in _size("elements").items()
        # One port is compared.
        if kind is not SetKind.PORTS or size == "many"
    }


PORTS: dict[str, dict[str, Test]] = {
    "protocol": {
        "with ports": lambda ports: ports.protocol in _WITH_PORTS,
        "without ports": lambda ports: ports.protocol not in _WITH_PORTS,
    },
    "span": {
        "none": lambda ports: ports.span is None,
        "one port": lambda ports: ports.span is not None and ports.span[0] == ports.span[1],
        "a range": lambda ports: ports.span is not None and ports.span[0] < ports.span[1],
        "of SCTP": lambda ports: ports.span is not None and ports.protocol == _SCTP,
        "the last port": lambda ports: ports.span is not None and ports.span[1] == _LAST_PORT,
    },
    "set_name": {
        **_given("set_name"),
        **{
            f"of protocol {n}": _both(_equal(("protocol", n)), _given("set_name")["some"])
            for n in sorted(SET_PROTOCOLS)
        },
        "the whole protocol": _equal(("span", None), ("set_name", None)),
    },
}

IFNAMES: dict[str, Test] = {
    "plain": lambda one: one.ifname.isalnum(),
    "with a dot": lambda one: "." in one.ifname,
    "with a plus in it": lambda one: "+" in one.ifname[:-1],
    "with a plus at the end": lambda one: one.ifname.endswith("+"),
    "with an exclamation mark": lambda one: one.ifname.startswith("!"),
    "with quotes": lambda one: '"' in one.ifname,
    "as long as can be": lambda one: len(one.ifname.encode()) == _LONGEST_IFNAME,
}

CLASSES: Classes = {
    Plan: {
        "program": {f"in {n} commits": _equal(("commits", n)) for n in range(4)},
        "reset": _flag("reset"),
        "track": {**_flag("track"), "stays": lambda plan: plan.track is None},
        "imprints": {
            "stay": lambda plan: plan.imprints is None,
            "go": lambda plan: plan.imprints == (),
            "come": lambda plan: bool(plan.imprints),
        },
        **{
            field: _size(field)
            for field in (
                "new_sets",
                "set_changes",
                "new_parts",
                "chains",
                "dispatch_removed",
                "dispatch_added",
                "stale_chains",
                "stale_parts",
                "stale_sets",
            )
        },
    },
    Program: {
        "gates": _size("gates"),
        "sets": _size("sets"),
        "track": _flag("track"),
        "imprints": _size("imprints"),
        "parts": _size("parts"),
        # What is told of gates, which are closed as any other: backends don't look at it.
        "clashes": {"given": _always},
    },
    Gate: {
        "ifname": IFNAMES,
        "ifindex": _given("ifindex"),
        "owner": {"given": _always},
        "ingress": _given("ingress"),
        "egress": _given("egress"),
        "carriers": _size("carriers"),
        "names": _size("names"),
    },
    Carrier: {
        "ifindex": {"given": _always},
        "ifname": {"given": _always},
    },
    ChainSpec: {
        "isolated": _flag("isolated"),
        "rules": _size("rules"),
        "established": _flag("established"),
        "rest": _named("rest"),
    },
    PartSpec: {
        "name": {"given": _always},
        "owner": {"given": _always},
        "direction": {str(d): _equal(("direction", d)) for d in Direction},
        "ifname": {"given": _always},
        "rules": {"many": _size("rules")["many"]},
        "rest": _named("rest"),
    },
    RuleSpec: {
        "family": {
            "both": lambda rule: rule.family is None,
            **{f"IPv{n}": _equal(("family", n)) for n in (4, 6)},
        },
        "peer": _given("peer"),
        "peer_kind": {"anyone": lambda rule: rule.peer_kind is None, **_kinds("peer_kind")},
        "ports": _given("ports"),
        "comment": {
            "none": lambda rule: rule.comment == "",
            "plain": lambda rule: rule.comment.isascii() and rule.comment != "",
            "beyond ASCII": lambda rule: not rule.comment.isascii(),
            "as long as can be": lambda rule: len(rule.comment.encode()) == _LONGEST_COMMENT,
        },
    },
    PortSpec: PORTS,
    SetSpec: {
        "name": {"given": _always},
        "kind": {**_kinds("kind"), "ports": _equal(("kind", SetKind.PORTS), ("family", 0))},
        "family": {f"IPv{n}": _equal(("family", n)) for n in (4, 6)} | {"none": _equal(("family", 0))},
        "elements": {
            **_sizes_of_kinds(),
            "every IPv4 address": lambda spec: (0, 2**32 - 1) in spec.elements,
            "every IPv6 address": lambda spec: (0, 2**128 - 1) in spec.elements,
            "spans that are no CIDR": lambda spec: (
                spec.kind is SetKind.SPANS and any((b - a + 1) & (b - a) for a, b in spec.elements)
            ),
        },
        "comment": {"given": _always},
        "digest": {"given": _always},
        "room": {"for all": _equal(("room", 0)), "for more": lambda spec: spec.room > len(spec.elements)},
    },
    SetChange: {
        "spec": {
            # Sets of ports are named by what they hold: none ever changes.
            **{
                f"of {kind}": _of_spec(_equal(("kind", kind)))
                for kind in SetKind
                if kind is not SetKind.PORTS
            },
            "to nothing": lambda one: not one.spec.elements,
            "from nothing": lambda one: one.spec.elements == one.added,
        },
        "removed": {
            "alone": lambda one: one.removed and not one.added,
            "and added": lambda one: one.removed and one.added,
        },
        "added": {"alone": lambda one: one.added and not one.removed},
    },
    ChainWrite: {
        "key": {"given": _always},
        "owner": {"given": _always},
        "spec": {
            "open": lambda one: not one.spec.isolated,
            "isolated": lambda one: one.spec.isolated,
        },
        "exists": _flag("exists"),
        "replaced": _flag("replaced"),
    },
    ChainKey: {
        "ifname": IFNAMES,
        "direction": {str(d): _equal(("direction", d)) for d in Direction},
    },
    Dispatch: {
        "key": {"given": _always},
        "ifindex": {
            "by name": lambda one: one.ifindex == 0,
            "by index": lambda one: one.ifindex > 0,
        },
        "name": {
            "its own": lambda one: one.name == "",
            "another device's, by index": lambda one: one.name != "" and one.ifindex > 0,
            "another one": lambda one: one.name != "" and one.ifindex == 0,
        },
    },
}


def unclassified(classes: Classes = CLASSES) -> list[str]:
    """Fields that have no classes."""
    return [
        f"{struct.__name__}.{field}"
        for struct, fields in classes.items()
        for field in struct.__struct_fields__
        if not fields.get(field)
    ]


def wanted(classes: Classes = CLASSES) -> set[str]:
    """All classes by name."""
    return {
        f"{struct.__name__}.{field}: {name}"
        for struct, fields in classes.items()
        for field, tests in fields.items()
        for name in tests
    }


def met(plans: Iterable[Plan], classes: Classes = CLASSES) -> set[str]:
    """The classes that these plans have. KeyError: a type that is not classified."""
    return {
        f"{type(part).__name__}.{field}: {name}"
        for plan in plans
        for part in _parts(plan)
        for field, tests in classes[type(part)].items()
        for name, test in tests.items()
        if test(part)
    }


def _parts(value: Any) -> Iterator[msgspec.Struct]:
    """All structs that a plan is made of, itself first."""
    if isinstance(value, msgspec.Struct):
        yield value
        for field in value.__struct_fields__:
            yield from _parts(getattr(value, field))
    elif isinstance(value, tuple):
        for one in value:
            yield from _parts(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _parts(one)
