"""The built plugin as a process, and what it left behind.

In: stdin and the variables of one call. Out: exit code, stdout, stderr, seconds. It fails a test whose
plugin is not built.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cni.bad_input import ENV, config

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN = REPOSITORY / "dist/cni/bin/multi-networkpolicy"
LIMIT = 60.0
# What a call may take on top of what it waits for, on a machine that runs other tests too.
SLACK = 3.0

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
# What makes a GC ask the daemon.
GC_EMPTY: dict[str, Any] = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}


@dataclass(frozen=True)
class Done:
    """One call that ended."""

    code: int
    out: bytes
    err: bytes
    seconds: float

    def error(self) -> dict[str, Any]:
        """Return the CNI error; asserts that there is exactly one, alone on stdout, and exit code 1."""
        assert self.code == 1, self
        found: dict[str, Any] = json.loads(self.out)
        assert set(found) <= {"cniVersion", "code", "msg", "details"}, found
        assert isinstance(found["code"], int)
        assert isinstance(found["msg"], str)
        assert found["msg"]
        assert self.err == b"", self
        return found

    def words(self) -> str:
        """Return msg and details of the error in one string."""
        found = self.error()
        return f"{found['msg']} {found.get('details', '')}"


def environment(changes: Mapping[str, str | bytes | None]) -> dict[bytes, bytes]:
    """Return the good variables with changes, None taking one away. Nothing of the caller's own is in it."""
    merged = {**ENV, **changes}
    return {os.fsencode(name): os.fsencode(value) for name, value in merged.items() if value is not None}


def run_plugin(
    stdin: bytes,
    changes: Mapping[str, str | bytes | None] | None = None,
    command: Sequence[str | Path] = (PLUGIN,),
    **options: Any,
) -> Done:
    """Run the plugin once. command: what starts it. options: subprocess.run's."""
    assert PLUGIN.exists(), f"{PLUGIN} is not there: run ./build.sh plugin"
    begun = time.monotonic()
    done = subprocess.run(
        command,
        input=stdin,
        env=environment(changes or {}),
        capture_output=True,
        timeout=LIMIT,
        check=False,
        **options,
    )
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - begun)


def call(
    command: str, path: Path, env: Mapping[str, str | bytes | None] | None = None, **changes: Any
) -> Done:
    """Run one command on the good configuration, with the daemon's socket at path and some keys changed."""
    return run_plugin(config(socketPath=str(path), **changes), {"CNI_COMMAND": command, **(env or {})})
