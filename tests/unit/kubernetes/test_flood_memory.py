"""What a daemon keeps of one namespace's policies, however large and however many: a bound.

proves: F3
"""

import gc
import multiprocessing
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from daemon.model import AttachmentKey, CommonRules, Policy, Subject
from daemon.policy.budget import DEFAULT
from daemon.sources.kubernetes.allowance import NOT_KEPT, Allowance, most_bytes
from daemon.sources.kubernetes.client import PIECE, Connection
from daemon.sources.kubernetes.reflector import Reflector
from daemon.sources.kubernetes.timing import Timing
from daemon.sources.kubernetes.watched import POLICIES
from daemon.store import Store
from tests.unit.kubernetes.scripted import mark
from tests.unit.kubernetes.sized import event
from tests.unit.kubernetes.stated import Told

pytestmark = pytest.mark.unit

SPEC: dict[str, Any] = {"podSelector": {}}

PORTS = {**SPEC, "ingress": [{"ports": [{"port": 7000 + port} for port in range(9500)]}] * 7}
BLOCKS = {
    **SPEC,
    "ingress": [{"from": [{"ipBlock": {"cidr": f"1.{n >> 8}.{n & 255}.0"}} for n in range(28_000)]}],
}
WRONG = {**SPEC, "ingress": [{"from": [{}] * 100}]}
EMPTY = {**SPEC, "ingress": [{}] * 10_000}
FLOODS: list[tuple[str, Mapping[str, Any], int]] = [
    ("ports: 300 of 1 MB", PORTS, 300),
    ("blocks: 300 of 1 MB", BLOCKS, 300),
    ("rules: 2,000 of 40 KB", EMPTY, 2000),
    ("nothing: 100,000 of 0.3 KB", SPEC, 100_000),
    ("problems: 20,000 of 0.6 KB", WRONG, 20_000),
]
MOST_MIB = 200.0
"""Ten times the bytes that the server sends of them. Blocks come nearest."""


class Flood:
    """A connection on which the server streams so many policies, for a reflector."""

    def __init__(self, spec: Mapping[str, Any], count: int) -> None:
        self.reflector: Reflector | None = None
        self._spec = spec
        self._count = count

    @contextmanager
    def stream(self, *_: Any) -> Iterator[Iterator[bytes]]:
        yield self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        line = event("ADDED", "NAME", 0, 1, spec=self._spec)
        for number in range(self._count):
            named = line.replace(b"NAME", str(number).encode())
            yield from (named[at : at + PIECE] for at in range(0, len(named), PIECE))
        yield mark(self._count, ends=True)
        assert self.reflector is not None
        self.reflector.stop()

    def interrupt(self) -> None:
        """As Connection's."""

    close = interrupt


def grown(spec: Mapping[str, Any], count: int) -> tuple[int, float, float]:
    """(policies kept, MiB that they take in source and store, at the worst), in a process of its own."""
    told = Told().complete()
    gc.collect()
    before = _resident()
    flood = Flood(spec, count)
    allowance = Allowance(most_bytes(DEFAULT.rules, DEFAULT.elements))
    flood.reflector = Reflector(POLICIES, cast(Connection, flood), told.state, Timing(), allowance)
    flood.reflector.run()
    store = Store(CommonRules())
    store.attach(AttachmentKey("c1", "net1"), ("ns", "p"), "u", Subject("ns", {}, (), ("ns/a",)), ())
    while told.updates:
        store.apply(told.updates.pop(0).changes)
    assert store.ruleset(AttachmentKey("c1", "net1")).ingress is not None
    store.problems()
    gc.collect()
    after = _resident()
    peak = _resident("VmHWM")
    assert NOT_KEPT in told.names
    return sum(isinstance(one, Policy) for one in told.model.values()) - 1, after - before, peak - before


def _resident(which: str = "VmRSS") -> float:
    """MiB now, or at the most (VmHWM); getrusage() would tell of the process that this one was made by."""
    found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def run_apart(run: Callable[..., Any], *args: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, args)


@pytest.mark.parametrize(("name", "spec", "count"), FLOODS, ids=[flood[0] for flood in FLOODS])
def test_memory_is_bounded(
    name: str, spec: Mapping[str, Any], count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, after, peak = run_apart(grown, spec, count)
    with capsys.disabled():
        print(f"\n{name}: {kept} kept, {after:.0f} MiB; {peak:.0f} at the worst")  # noqa: T201
    assert kept < count
    assert max(after, peak) < MOST_MIB
