"""What `--backend auto` chooses, by the modules that the kernel has, and how one that lacks some is refused.

In: the daemon's log. Out: a result for each of CHOICES and of WITHOUT.
"""

import re
from collections.abc import Sequence

from tests.lab import Daemon, Lab
from tests.vm.cases import CHOICES, WITHOUT, VmCase
from tests.vm.guest.results import Results

START_SECONDS = 120.0  # the imports alone take ten times as long as outside
_EVENT = re.compile(r" backend backend=(?P<backend>\S+) asked=auto because=(?P<because>\S.*)$", re.MULTILINE)
_REMEDIES = ("nf_tables", "iptable_mangle")


def start(lab: Lab, backend: str = "auto") -> Daemon:
    """Start a daemon, by default one that chooses by itself; it is not there yet."""
    daemon = lab.adopt(Daemon(lab.daemon_folder(), backend=backend))
    daemon.start(wait=False)
    return daemon


def report_choice(daemon: Daemon, name: str, results: Results) -> None:
    """Wait until the daemon is there, and report which backend it has."""
    daemon.wait_listening(START_SECONDS)
    found = _EVENT.search(daemon.log)
    good = found is not None and found["backend"] == CHOICES[name]
    results.add(VmCase("auto", "modules", name), [] if good else [daemon.log])


def report_neither(daemon: Daemon, name: str, results: Results) -> None:
    """Wait until the daemon has ended, which must be an error with both remedies."""
    results.add(VmCase("auto", "modules", name), _not_refused(daemon, _REMEDIES))


def report_refusal(lab: Lab, name: str, results: Results) -> None:
    """Ask for the backend that can't be; the daemon must end with an error that names the remedy."""
    backend, remedy = WITHOUT[name]
    wrong = _not_refused(start(lab, backend), (remedy,))
    results.add(VmCase(backend, "modules", f"refused {name}"), wrong)


def _not_refused(daemon: Daemon, remedies: Sequence[str]) -> list[str]:
    code = daemon.wait_ended(START_SECONDS)
    missing = [words for words in remedies if words not in daemon.log]
    return [] if code and not missing else [f"exit code {code}, {missing} missing in: {daemon.log}"]
