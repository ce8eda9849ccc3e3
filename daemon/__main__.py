"""`python -m daemon run …` is `multi-networkpolicyd run …`."""

import sys

from daemon.cli import main_daemon

if __name__ == "__main__":
    sys.exit(main_daemon())
