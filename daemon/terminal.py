"""What both commands owe whoever runs them: no traceback for Ctrl-C, a full disk or a pager that was closed.

In: what a command does. Out: SystemExit with an exit code where it could not be done to the end.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

FAILED, INTERRUPTED = 1, 130
"""130: as a shell has it for SIGINT."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C ends this without a word."""
    try:
        yield
    except KeyboardInterrupt:
        _silence_stdout()
        raise SystemExit(INTERRUPTED) from None


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """What is printed in here has been written at its end. name: of the command, for a message.

    No OSError may come out of here but that of printing.
    """
    try:
        try:
            yield
        finally:
            # What is buffered can fail as well, and at exit nobody could say so.
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, a pager) has had enough.
        _silence_stdout()
        raise SystemExit(0) from None
    except OSError as error:
        _silence_stdout()
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{name}: the output can't be written: {error.strerror or error}\n")
        raise SystemExit(FAILED) from None


def _silence_stdout() -> None:
    """Python must not complain at exit about what is left in its buffer."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def add_version(parser: argparse.ArgumentParser) -> None:
    """`--version`."""
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show the program's version, and exit", dest="version"
    )


class _Version(argparse.Action):
    """Reads the version when it is asked for: to look it up takes longer than mnpctl needs otherwise."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"{parser.prog} {version('multi-networkpolicy')}\n")
        parser.exit()
