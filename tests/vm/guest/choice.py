"""What `--backend auto` chooses, by the modules that the kernel has.

In: the daemon's log. Out: a result for each of CHOICES.
"""

import re

from tests.lab import Daemon, Lab
from tests.vm.cases import CHOICES, VmCase
from tests.vm.guest.results import Results

START_SECONDS = 120.0  # the imports alone take ten times as long as outside
_EVENT = re.compile(r" backend backend=(?P<backend>\S+) asked=auto because=(?P<because>\S.*)$", re.MULTILINE)
_REMEDIES = ("nf_tables", "iptable_filter")


def start(lab: Lab) -> Daemon:
    """Start a daemon that chooses by itself; it is not there yet."""
    daemon = lab.adopt(Daemon(lab.daemon_folder(), backend="auto"))
    daemon.start(wait=False)
    return daemon


def report_choice(daemon: Daemon, name: str, results: Results) -> None:
    """Wait until the daemon is there, and report which backend it has."""
    daemon.wait_listening(START_SECONDS)
    found = _EVENT.search(daemon.log)
    good = found is not None and found["backend"] == CHOICES[name]
    results.add(VmCase("auto", "modules", name), [] if good else [daemon.log])


def report_refusal(daemon: Daemon, name: str, results: Results) -> None:
    """Wait until the daemon has ended, which must be an error with both remedies."""
    code = daemon.wait_ended(START_SECONDS)
    missing = [word for word in _REMEDIES if word not in daemon.log]
    wrong = [] if code and not missing else [f"exit code {code}, {missing} missing in: {daemon.log}"]
    results.add(VmCase("auto", "modules", name), wrong)
