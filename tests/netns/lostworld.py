"""What tests of lost and damaged records share: a world without policies, its records, and what is told.

In: a daemon. Out: files, and what mnpctl says.
"""

import json
from pathlib import Path
from typing import Any

from tests.lab import Daemon, Lab
from tests.netns.lifeworld import World, records


def make_world(lab: Lab, backend: str) -> World:
    """All enrolled, and no policy: what comes later must count."""
    world = World(lab, backend)
    world.enroll_all()
    world.daemon.wait_synced()
    world.assert_open("a", "b")
    return world


def record_of(daemon: Daemon, pod: str, ifname: str = "net1") -> Path:
    """The file about an attachment."""
    for path in records(daemon):
        held = content(path)
        if (held["podName"], held["ifname"]) == (pod, ifname):
            return path
    raise AssertionError(f"no record of {pod}")


def content(path: Path) -> dict[str, Any]:
    """What a record says, without its sum."""
    return dict(json.loads(path.read_bytes().partition(b"\n")[0]))


def edit(path: Path, **changes: Any) -> None:
    """A record as a version that wrote no sums would have left it."""
    path.write_text(json.dumps({**content(path), **changes}))


def set_aside(daemon: Daemon) -> list[str]:
    return [str(line) for line in daemon.ctl("status")["setAside"]]


def listed(daemon: Daemon, pod: str) -> dict[str, Any]:
    (found,) = daemon.ctl("attachments", pod)
    return dict(found)
