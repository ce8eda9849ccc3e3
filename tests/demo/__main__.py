"""`./build.sh demo [--svg FILE]`: the main job on real parts, in under a minute; cleans up, come what may."""

import argparse
import re
import sys
import time
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from tests.demo.shop import PARENTS, DemoError, Shop
from tests.demo.story import tell
from tests.lab import DaemonError, Lab, ProberError

WIDTH = 120
TITLE = "./build.sh demo"


def main() -> int:
    """Run the demo. Exit code: 0, 1 when a step failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="./build.sh demo", description=__doc__)
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write what is shown as a picture")
    arguments = parser.parse_args()
    console = Console(record=arguments.svg is not None, width=WIDTH, highlight=False)
    started = time.monotonic()
    try:
        with Lab(PARENTS) as lab:
            tell(console, Shop.open(lab))
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything that this made is gone.")
        return 130
    except (DemoError, DaemonError, ProberError) as error:
        console.print(f"\n[red]The demo failed:[/] {error}")
        return 1
    console.print(f"All of it took {time.monotonic() - started:.0f} s.")
    if arguments.svg is not None:
        arguments.svg.write_text(console.export_svg(title=TITLE, code_format=_offline(CONSOLE_SVG_FORMAT)))
    return 0


def _offline(svg_format: str) -> str:
    """The format without fonts from elsewhere: a picture in a README must load nothing."""
    return re.sub(r"@font-face \{\{.*?\}\}", "", svg_format, flags=re.DOTALL)


if __name__ == "__main__":
    sys.exit(main())
