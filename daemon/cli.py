"""The two commands: `multi-networkpolicyd` and `mnpctl`.

In: argv and the environment. Out: an exit code. Everything they do is in app.py and ctl.py.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from daemon import config, terminal
from daemon.errors import ConfigError, MultiNetworkPolicyError

FAILED, BAD_USAGE = 1, 2


def main_daemon() -> int:
    """`multi-networkpolicyd run …`; also `python -m daemon run …`."""
    with terminal.interruptible():
        return run_daemon(sys.argv[1:])


def main_ctl() -> int:
    """`mnpctl …`."""
    from daemon import ctl  # neither command pays for the other's imports

    return ctl.main(sys.argv[1:])


def run_daemon(argv: Sequence[str]) -> int:
    """Parse, check every setting, run.

    Returns the exit code: 0 after SIGTERM, 1 a failed start, 2 bad settings.
    """
    parser = argparse.ArgumentParser(
        prog="multi-networkpolicyd", description="The multi-networkpolicy daemon of one node."
    )
    terminal.add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run in the foreground until SIGTERM")
    config.add_arguments(run)
    with terminal.writing(parser.prog):
        flags = vars(parser.parse_args(argv))
    try:
        settings = config.load_settings(flags, os.environ, _read_bounded)
    except ConfigError as error:
        return _tell(error.problems, BAD_USAGE)
    from daemon import app  # after the settings are known to be good: a usage error need not wait for it

    try:
        return app.run(settings)
    except ConfigError as error:
        return _tell(error.problems, BAD_USAGE)
    except MultiNetworkPolicyError as error:
        return _tell([str(error)], FAILED)


def _read_bounded(path: str) -> bytes:
    """A file, or a byte too much of one that is too large: /dev/zero has no end."""
    with open(path, "rb") as file:
        return file.read(config.MAX_FILE + 1)


def _tell(problems: Sequence[str], code: int) -> int:
    for problem in problems:
        print(f"multi-networkpolicyd: {problem}", file=sys.stderr)
    return code
