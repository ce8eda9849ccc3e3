"""Edits of policies that a failing kernel interrupts, and what an attachment may be left with then.

In: objects of a source, before and after. Out: EDITS, and the states that are as strict as one of others.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from daemon.model import (
    Block,
    Change,
    ClusterObject,
    Direction,
    Operator,
    Pod,
    PodPeer,
    Policy,
    Port,
    Requirement,
    Rule,
    Selector,
)
from daemon.planner import DENIED, ChainSpec, Program
from tests.contract.readers import State
from tests.contract.words import FAMILIES, FRIEND, NOBODY, STRANGER, TCP, UDP, address, number
from tests.unit.policy.stored import NET1, change, gone, key_of, status

FRIENDS = PodPeer(None, Selector((Requirement("role", Operator.IN, ("friend",)),)))
ODD = tuple(
    Block(f"IPv{family}", family, ((number(family, NOBODY), number(family, NOBODY + 2)),))
    for family in FAMILIES
)
WEB, TLS, DNS = (Port(p, (n, n)) for p, n in ((TCP, 80), (TCP, 443), (UDP, 53)))


Objects: TypeAlias = tuple[ClusterObject, ...]


@dataclass(frozen=True)
class Edit:
    """before None: there is no attachment yet. guarded: what stands there before is a guard."""

    name: str
    before: Objects | None
    after: Objects
    guarded: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def changes(self) -> list[Change]:
        """What the source says for the edit."""
        kept = {key_of(one) for one in self.after}
        left = [one for one in self.before or () if key_of(one) not in kept]
        return [*map(gone, left), *map(change, self.after)]


def friend(*hosts: int) -> Objects:
    """Pods of the role that rules name, each with both addresses of a host."""
    return tuple(
        Pod(
            "ns",
            f"pod-{host}",
            f"uid-{host}",
            {"role": "friend"},
            statuses=status(*(address(family, host) for family in FAMILIES)),
        )
        for host in hosts
    )


def policy(*ingress: Rule, egress: tuple[Rule, ...] | None = None) -> Policy:
    """The policy that governs the subject."""
    return Policy("ns", "p", (NET1,), Selector(), ingress, egress)


WEB_OF_FRIENDS = Rule((FRIENDS,), (WEB,))
SIMPLE: Objects = (*friend(FRIEND), policy(WEB_OF_FRIENDS))
WIDE: Objects = (*friend(FRIEND), policy(WEB_OF_FRIENDS, Rule(None, (DNS,))))
OTHER: Objects = (
    *friend(STRANGER),
    policy(Rule((FRIENDS, *ODD), (TLS,)), Rule(ODD, None), egress=(Rule((FRIENDS,), None),)),
)

BOTH_WAYS, ONE_OTHER = (
    (*friend(FRIEND), policy(rule, egress=(Rule((FRIENDS,), None),)))
    for rule in (WEB_OF_FRIENDS, Rule((FRIENDS, *ODD), (WEB,)))
)

ONE_DIRECTION = Edit("one direction of two", BOTH_WAYS, ONE_OTHER)

EDITS = (
    ONE_DIRECTION,
    Edit("first program", None, OTHER),
    Edit("rules and members", SIMPLE, OTHER),
    Edit("members only", SIMPLE, (*friend(STRANGER), policy(WEB_OF_FRIENDS))),
    Edit("a member more", SIMPLE, (*friend(FRIEND, STRANGER), policy(WEB_OF_FRIENDS))),
    Edit("guard to final", SIMPLE, SIMPLE, guarded=True),
    Edit("tightening", WIDE, SIMPLE),
    Edit("loosening", SIMPLE, WIDE),
    Edit("first policy", friend(FRIEND), SIMPLE),
    Edit("last policy goes", SIMPLE, friend(FRIEND)),
)


# --- as strict as ----------------------------------------------------------------------------------------


def closed(program: Program) -> list[Program]:
    """The program with its isolated directions denied: keeping connections that were allowed, or not."""
    return [
        Program(
            {
                name: msgspec.structs.replace(gate, **{d: _closed(gate.chain(d), denied) for d in Direction})
                for name, gate in program.gates.items()
            },
            {},
            program.track,
        )
        for denied in (ChainSpec(True), DENIED)
    ]


def _closed(chain: ChainSpec | None, denied: ChainSpec) -> ChainSpec | None:
    return denied if chain is not None and chain.isolated else chain


def laxer(now: State, allowed: Sequence[State]) -> list[str]:
    """Chains that are none of those of the allowed states, or look up sets that hold more than there."""
    names: set[str] = set().union(now.chains, *(one.chains for one in allowed))
    return [
        f"{name}: {now.chains.get(name)}"
        for name in sorted(names)
        if not any(_as_strict(name, now, one) for one in allowed)
    ]


def _as_strict(chain: str, now: State, than: State) -> bool:
    rules = now.chains.get(chain)
    return rules == than.chains.get(chain) and all(
        now.sets.get(name, frozenset()) <= than.sets.get(name, frozenset())
        for name in named(now, rules or ())
    )


def named(state: State, rules: Iterable[str] | None = None) -> list[str]:
    """The sets that rules look up, by default all of a state."""
    chosen = rules if rules is not None else [rule for some in state.chains.values() for rule in some]
    text = "\n".join(chosen)
    return [name for name in state.sets if re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]


def without(state: State, names: set[str]) -> State:
    """A state without some of its sets."""
    sets = {name: elements for name, elements in state.sets.items() if name not in names}
    rest = tuple(line for line in state.rest if not any(f" {name} " in line for name in names))
    return State(state.chains, sets, rest)
