"""What the standings of all collections come to: how far what is known can be trusted, and what to tell.

In: standings, and which collections have been listed. Out: what of an Update follows from them. Pure.
"""

from collections.abc import Collection, Mapping

from daemon.model import Problem
from daemon.sources.base import Update
from daemon.sources.kubernetes.sink import Standing
from daemon.sources.kubernetes.watched import POLICIES

Standings = Mapping[str, Standing]


def summarize(standings: Standings, listed: Collection[str], complete: bool) -> Update:
    """complete, because, behind, policies_lag and refused. `listed` may name more than count now."""
    waiting = {name: standing for name, standing in standings.items() if name not in listed}
    stale = {n: s for n, s in standings.items() if n in listed and (s.owes_list or s.refused)}
    refused = {name: standing for name, standing in standings.items() if standing.refused}
    return Update(
        complete=complete,
        because="" if complete else "; ".join(_lines(waiting)),
        behind="; ".join(_lines(stale)) if complete else "",
        policies_lag=_policies_lag(standings) if complete else "",
        refused=_lines(refused),
    )


def standing_problems(standings: Standings, listed: Collection[str]) -> dict[str, tuple[Problem, ...]]:
    """What keeps collections from being watched, by collection."""
    found: dict[str, tuple[Problem, ...]] = {}
    for name, standing in standings.items():
        if standing.reason:
            kept = "; what was known stays in force" if name in listed else ""
            found[name] = (Problem("", f"{standing.reason}{kept}"),)
    return found


def _lines(standings: Standings) -> tuple[str, ...]:
    return tuple(f"{name}: {standing.reason}" for name, standing in standings.items())


def _policies_lag(standings: Standings) -> str:
    """Why there may be policies that the watch has not brought, although the server answers others."""
    own = standings[POLICIES.name]
    answers = any(s.live or s.refused for name, s in standings.items() if name != POLICIES.name)
    # Of a kind that is not installed there is nothing new.
    return f"{POLICIES.name}: {own.reason}" if answers and not own.live and not own.absent else ""
