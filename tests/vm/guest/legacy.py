"""Beside rules that others made with iptables-legacy in the pod: theirs hold and stay, and our verdict holds.

In: a lab and a daemon. Out: a result for each of LEGACY.
"""

import contextlib
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.lab import Daemon, Lab, is_blocked
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.netns.crowd import Crowd
from tests.semantics import Case
from tests.semantics.case import pod, policy, tcp
from tests.vm.cases import LEGACY, VmCase
from tests.vm.guest.lans import BLOCKED_TIMEOUT, OPEN_TIMEOUT, OUTSIDE, Lan
from tests.vm.guest.results import Results

DROPPED, ACCEPTED, ALLOWED = 7001, 7002, 7003
# What they redirect: the one that our policy allows to another port, and another one to what it allows.
DIALLED, SIDECAR, DETOUR = 7004, 7005, 7006
REDIRECTED = {DIALLED: SIDECAR, DETOUR: ALLOWED}
PROTOCOLS = ("tcp", "sctp")
_DROP = ("THEIRS", "-p", "tcp", "-m", "tcp", "--dport", str(DROPPED), "-j", "DROP")
_REDIRECTS = "\n".join(
    f"-A PREROUTING -p {protocol} -m {protocol} --dport {dialled} -j REDIRECT --to-ports {port}"
    for protocol in PROTOCOLS
    for dialled, port in REDIRECTED.items()
)
_RULES = f"""*filter
:THEIRS - [0:0]
-A INPUT -p tcp -m tcp --dport {ACCEPTED} -j ACCEPT
-A INPUT -j THEIRS
-A {" ".join(_DROP)}
-A OUTPUT -p udp -m udp --dport 9 -j REJECT
COMMIT
*mangle
-A PREROUTING -p udp -m udp --dport 9 -j MARK --set-xmark 0x7/0xffffffff
COMMIT
*nat
{_REDIRECTS}
COMMIT
"""
_TOOLS = ("iptables-legacy", "ip6tables-legacy")
_TABLES = ("filter", "mangle", "nat")
_OURS = "mnp"  # in the name of each chain of ours
TIDY_SECONDS = 30.0  # what is ours goes a second after the link, and this machine is slow
_SCTP = [{"protocol": "SCTP", "port": port} for port in (ALLOWED, DIALLED)]
# Our policy allows what they drop, and not what they accept.
_ROW = Case(
    "beside legacy rules",
    "B2",
    (pod("s", 10), pod("b", 12)),
    lambda _: [policy("p", {"ingress": [{"ports": [*tcp(DROPPED, ALLOWED, DIALLED), *_SCTP]}]})],
    "",
)


def run_legacy(lab: Lab, daemon: Daemon, backend: str, results: Results) -> None:
    """Their rules are there before ADD, and compared with what is there afterwards."""
    lan = Lan(lab, daemon, "ipvlan-l2", "legacy", pods=("s",))
    netns = lan.pods["s"].netns
    lan.pods["s"].prober.serve(tcp=[DROPPED, ACCEPTED, ALLOWED, SIDECAR], sctp=[ALLOWED, SIDECAR])
    for tool in _TOOLS:
        _run(netns, f"{tool}-restore", text=_RULES)
    before = _listing(netns)
    Crowd(daemon, [lan.place(lan.everyone)]).apply(4)
    _must_run(lan, "add")
    control = {port: _verdicts(lan, port, port != DROPPED) for port in (DROPPED, ACCEPTED, ALLOWED)}
    redirected_before = _redirected(lan, lambda _: True)
    Crowd(daemon, [lan.place(_ROW)]).apply(4)
    governed = {port: _verdicts(lan, port, port == ALLOWED) for port in (DROPPED, ACCEPTED, ALLOWED)}
    redirected = _redirected(lan, lambda port: port == DIALLED)
    meanwhile = _listing(netns)
    for tool in _TOOLS:
        _run(netns, tool, "-D", *_DROP)
    without_drop = _verdicts(lan, DROPPED, True)
    for tool in _TOOLS:
        _run(netns, tool, "-A", *_DROP)
    _must_run(lan, "del")
    with contextlib.suppress(AssertionError):  # what came instead is told below
        poll(lambda: _listing(netns), lambda found: found == before, TIDY_SECONDS)
    after = _listing(netns)
    drops = all(map(is_blocked, control[DROPPED] + governed[DROPPED])) and _is_open(without_drop)
    opens_nothing = _is_open(control[ACCEPTED]) and all(map(is_blocked, governed[ACCEPTED]))
    told = [f"{control} without a policy, {governed} with it, {without_drop} without their drop"]
    allowed = _is_open(control[ALLOWED] + governed[ALLOWED])
    same = before == after == [line for line in meanwhile if _OURS not in line.lower()]
    as_dialled = all(map(_is_open, redirected_before.values())) and all(
        _is_open(found) if port == DIALLED else all(map(is_blocked, found))
        for (_, port), found in redirected.items()
    )
    told_redirected = [f"{redirected_before} without a policy, {redirected} with it"]
    listings = [f"before: {before}", f"meanwhile: {meanwhile}", f"after: {after}"]
    for name, good, words in zip(
        LEGACY,
        (drops and allowed, opens_nothing and allowed, as_dialled, same),
        (told, told, told_redirected, listings),
        strict=True,
    ):
        results.add(VmCase(backend, "legacy-rules", name), [] if good else words)


def _must_run(lan: Lan, command: str) -> None:
    run = lan.cnitool(command, "s")
    if run.code != 0:
        raise RuntimeError(f"{command}: {run}")


def _is_open(verdicts: list[str]) -> bool:
    return all(one == "open" for one in verdicts)


def _verdicts(lan: Lan, port: int, open_: bool, protocol: str = "tcp") -> list[str]:
    return lan.probe_subject(OUTSIDE, port, OPEN_TIMEOUT if open_ else BLOCKED_TIMEOUT, protocol)


def _redirected(lan: Lan, opened: Callable[[int], bool]) -> dict[tuple[str, int], list[str]]:
    return {
        (protocol, port): _verdicts(lan, port, opened(port), protocol)
        for protocol in PROTOCOLS
        for port in (DIALLED, SIDECAR, DETOUR)
    }


def _listing(netns: Path) -> list[str]:
    listed = (_run(netns, tool, "-t", table, "-S") for tool in _TOOLS for table in _TABLES)
    return [line for text in listed for line in text.splitlines()]


def _run(netns: Path, *line: str, text: str = "") -> str:
    with inside(netns):
        return subprocess.run(line, input=text, capture_output=True, text=True, check=True).stdout
