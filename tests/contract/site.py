"""LANs on which scenarios are carried out by real packets, all at the same time.

In: scenarios, a backend. Out: for each scenario what passed otherwise than it wants. Every scenario has a pod
of its own as its subject; the friend and the stranger are the same two pods for all, and do all the probing,
so that the packets that should not pass cost one timeout together.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from daemon import netns
from daemon.backends.base import Backend
from daemon.planner import Program, make_plan
from tests.contract.rows import ALL, PORTS, Scenario, Wants
from tests.contract.words import FAMILIES, FRIEND, STRANGER, indexed, text
from tests.lab import Attachment, Lab, Prober, Target, is_blocked
from tests.lab.lab import Pod
from tests.lab.prober import BLOCKED_TIMEOUT, OPEN_TIMEOUT, probe_all
from tests.lab.programs import run

LANS = ("net1", "net2")
_PREFIX_LENGTHS = {4: 16, 6: 64}
_BESIDE = {4: "10.78.0.{}", 6: "fd78::{:x}"}
_FIRST_SUBJECT = 10
_FIRST_SOURCE_PORT = 20_000


def addresses(host: int) -> list[str]:
    """Both addresses of a host on the first LAN, as interfaces take them."""
    return [f"{text(family, host)}/{_PREFIX_LENGTHS[family]}" for family in FAMILIES]


def addresses_beside(host: int) -> list[str]:
    """The same on the second LAN."""
    return [f"{_BESIDE[family].format(host)}/{_PREFIX_LENGTHS[family]}" for family in FAMILIES]


@dataclass(frozen=True)
class Try:
    """One probe: who sends it, what for, to where, and whether it shall pass."""

    prober: Prober
    words: str
    target: Target
    want: bool


@dataclass
class Placed:
    """A scenario's subject: a pod with the interfaces that its programs name."""

    scenario: Scenario
    pod: Pod
    host: int
    indices: dict[str, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return str(self.pod.netns)

    def program(self, wanted: Program) -> Program:
        """A program of the scenario for the interfaces as they are."""
        return indexed(wanted, self.indices)


class Site:
    """Two LANs: on the first what is governed, on the second what stands beside it in the same pods."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._numbers = itertools.count(_FIRST_SUBJECT)
        self._ports = itertools.count(_FIRST_SOURCE_PORT)
        self.friend, self.stranger = (
            lab.attach(lab.pod(name), "net1", "net1", addresses(host))
            for name, host in (("friend", FRIEND), ("stranger", STRANGER))
        )
        lab.attach(self.stranger.pod, "net2", "net2", addresses_beside(STRANGER))
        self.friend.pod.prober.serve(*PORTS)

    def place(self, scenario: Scenario) -> Placed:
        """A pod for a scenario; nothing is programmed yet."""
        host = next(self._numbers)
        placed = Placed(scenario, self._lab.pod(f"subject-{host}"), host)
        before = scenario.before.gates if scenario.before else {}
        names = list({**before, **scenario.after.gates}) or ["net1"]
        for ifname in names:
            first = ifname == names[0]
            made = self._attach(placed, LANS[0 if first else 1], ifname, addresses(host) if first else [])
            placed.indices[ifname] = made.ifindex
        if scenario.bystander:
            self._attach(placed, LANS[1], scenario.bystander, addresses_beside(host))
        placed.pod.prober.serve(*PORTS)
        return placed

    def _attach(self, placed: Placed, lan: str, ifname: str, some: list[str]) -> Attachment:
        return self._lab.attach(placed.pod, lan, ifname, some)

    def tries(self, placed: Placed, *, control: bool) -> Iterator[Try]:
        """The probes of a scenario; control: all shall pass."""
        wants = (Wants(ALL, ALL, ALL),) * 2 if control else placed.scenario.wants
        for family, want in zip(FAMILIES, wants, strict=True):
            for who, from_, to, open_ in (
                ("friend", self.friend.pod.prober, placed.host, want.friend),
                ("stranger", self.stranger.pod.prober, placed.host, want.stranger),
                ("subject", placed.pod.prober, FRIEND, want.out),
            ):
                for name in ALL.split():
                    yield self._try(from_, who, name, text(family, to), name in open_.split())
            if placed.scenario.bystander:
                # The interface beside is as open as ever.
                to_beside = _BESIDE[family].format(placed.host)
                for name in ("tcp443", "udp53"):
                    yield self._try(self.stranger.pod.prober, "bystander", name, to_beside, True)

    def _try(self, prober: Prober, words: str, name: str, address: str, want: bool) -> Try:
        protocol = name.rstrip("0123456789")
        number = int(name.removeprefix(protocol) or 0)
        timeout = OPEN_TIMEOUT if want else BLOCKED_TIMEOUT
        # Ports are not used twice, so that nothing passes as the reply of an earlier round.
        target = Target(protocol, address, number, timeout, "", next(self._ports))
        return Try(prober, f"{words} {target}", target, want)

    def probe(self, some: list[Placed], *, control: bool = False) -> dict[str, list[str]]:
        """Do all probes of these scenarios at once; by scenario, what went otherwise than wanted.

        Those that should have been answered are done once more: what is blocked stays so, and a busy machine
        drops a packet now and then.
        """
        wrong = self._probe([(placed, one) for placed in some for one in self.tries(placed, control=control)])
        unanswered = [(placed, self._once_more(one)) for placed, one, _ in wrong if one.want]
        wrong = [row for row in wrong if not row[1].want] + self._probe(unanswered)
        found: dict[str, list[str]] = {placed.scenario.name: [] for placed in some}
        for placed, one, verdict in wrong:
            found[placed.scenario.name].append(f"{one.words}: {verdict}")
        return found

    def _once_more(self, one: Try) -> Try:
        return replace(one, target=replace(one.target, source_port=next(self._ports)))

    def _probe(self, rows: list[tuple[Placed, Try]]) -> list[tuple[Placed, Try, str]]:
        by_prober: dict[Prober, list[tuple[Placed, Try]]] = {}
        for placed, one in rows:
            by_prober.setdefault(one.prober, []).append((placed, one))
        verdicts = probe_all({prober: [one.target for _, one in mine] for prober, mine in by_prober.items()})
        return [
            (placed, one, verdict)
            for prober, mine in by_prober.items()
            for (placed, one), verdict in zip(mine, verdicts[prober], strict=True)
            if (verdict != "open" if one.want else not is_blocked(verdict))
        ]

    def forget_neighbours(self) -> None:
        """Who probes must ask for addresses anew, so that the answers count too (E3)."""
        for attachment in (self.friend, self.stranger):
            with netns.entered(str(attachment.pod.netns), None):
                run("ip", "neigh", "flush", "all")

    def program(self, placed: Placed, backend: Backend) -> None:
        """Lead a subject from nothing to the scenario's end."""
        scenario = placed.scenario
        with netns.entered(placed.path, None):
            before = None if scenario.before is None else placed.program(scenario.before)
            if before is not None:
                backend.apply(make_plan(before, None))
            backend.apply(make_plan(placed.program(scenario.after), None if scenario.reset else before))

    def end(self, placed: Placed) -> None:
        """The subject's pod goes."""
        placed.pod.end()
        self._lab.pods.remove(placed.pod)

    def clear(self, placed: Placed, backend: Backend) -> None:
        """Take all of ours away."""
        with netns.entered(placed.path, None):
            backend.remove()
