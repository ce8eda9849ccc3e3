"""The demo, as a newcomer runs it: it ends well, its picture stands by itself, and nothing stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from tests.lab import namespaces
from tests.lab.lab import REPOSITORY
from tests.lab.polling import poll

LINE = [sys.executable, "-m", "tests.demo"]


def left_behind(pid: int) -> list[str]:
    return [path.name for path in namespaces.ROOT.glob(f"{namespaces.PREFIX}{pid}-*")]


def test_it_tells_the_whole_story_and_draws_it(tmp_path: Path) -> None:
    picture = tmp_path / "demo.svg"
    with subprocess.Popen([*LINE, "--svg", str(picture)], cwd=REPOSITORY, stdout=-1, text=True) as demo:
        told, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, told
    assert "6. The end" in told
    assert "api:8080 on front" in told
    # Before the edit web reaches api, and guest does not; after it, the other way round.
    rows = [line.split() for line in told.splitlines() if line.startswith("api:8080 on front")]
    assert [row[3:] for row in rows] == [
        ["yes", "·", "·", "yes", "yes"],
        ["yes", "·", "·", "no", "no"],
        ["no", "·", "·", "no", "yes"],
    ]
    assert left_behind(demo.pid) == []
    drawn = picture.read_text()
    assert ElementTree.fromstring(drawn).tag.endswith("svg")  # noqa: S314 (our own)
    assert "url(http" not in drawn


def test_ctrl_c_leaves_nothing_behind() -> None:
    with subprocess.Popen(LINE, cwd=REPOSITORY, stdout=subprocess.DEVNULL, process_group=0) as demo:
        poll(lambda: len(left_behind(demo.pid)), lambda count: count > 3)
        os.killpg(demo.pid, signal.SIGINT)
        assert demo.wait(30) == 130
    assert left_behind(demo.pid) == []
