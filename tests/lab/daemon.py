"""A real daemon under test: its folders, its manifests, its life and its words.

In: manifests and options. Out: what it answers over the socket and by mnpctl, and its log. It must not know
what a policy means.
"""

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgpack

from tests.lab import objects

_SCRIPTS = Path(sys.executable).parent
READY_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
_MAX_REPLY = 64 << 20
_LOG_TAIL = 4000  # characters of the log in an error


class DaemonError(Exception):
    """The daemon, or mnpctl, did not do what was asked; its own words are in the message."""


class Daemon:
    """One multi-networkpolicyd on a directory of manifests."""

    def __init__(
        self,
        folder: Path,
        backend: str = "nftables",
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        """Lay out its folders below `folder`; `options` are further flags, `env` further variables.

        wrapper: a command that ends by executing what follows it.
        """
        self.folder = folder
        self.manifests = folder / "manifests"
        self.state = folder / "state"
        self.socket = folder / "run/daemon.sock"
        self.log_path = folder / "daemon.log"
        self.manifests.mkdir(parents=True)
        self._line = [
            *wrapper,
            str(_SCRIPTS / "multi-networkpolicyd"),
            "run",
            f"--source=manifests:{self.manifests}",
            f"--socket={self.socket}",
            f"--state-dir={self.state}",
            f"--backend={backend}",
            "--metrics-address=",
            "--netns-paths=",
            "--log-format=text",
            *options,
        ]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MNP_")}
        # Daemons of other tests and the machine's own iptables hold the usual lock now and then.
        self._env = clean | {"XTABLES_LOCKFILE": str(folder / "xtables.lock")} | dict(env or {})
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process ID of the running daemon."""
        assert self._child is not None, "the daemon was not started"
        return self._child.pid

    @property
    def xtables_lock(self) -> Path:
        """The file that it locks while it changes iptables' rules."""
        return Path(self._env["XTABLES_LOCKFILE"])

    @property
    def plugin_keys(self) -> dict[str, str]:
        """What the plugin's entry in a configuration needs, to ask this daemon (see `objects.conflist`)."""
        return {"socketPath": str(self.socket)}

    @property
    def log(self) -> str:
        """All that it has logged, over every start."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, wait: bool = True) -> None:
        """Start it, and wait until all manifests are in force."""
        with self.log_path.open("ab") as log:
            self._child = subprocess.Popen(
                self._line,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # a Ctrl-C is for the test alone, which then stops this
            )
        if wait:
            self.wait_listening()
            self.wait_synced()

    def stop(self) -> int | None:
        """Stop it by SIGTERM, as systemd does; returns its exit code. One that is not running is fine."""
        if self._child is None:
            return None
        if self._child.poll() is None:
            self._child.terminate()
        try:
            return self._child.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise self._error(f"did not end within {STOP_TIMEOUT:g} s of SIGTERM") from None

    def wait_ended(self, timeout: float = READY_TIMEOUT) -> int:
        """Wait until it has ended by itself; returns its exit code."""
        assert self._child is not None, "the daemon was not started"
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self._error(f"has not ended within {timeout:g} s") from None

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self._child is not None, "the daemon was not started"
        self._child.kill()
        self._child.wait()

    def restart(self, wait: bool = True) -> None:
        """Stop it and start it again on the same folders."""
        self.stop()
        self.start(wait)

    def choose_backend(self, backend: str) -> None:
        """What `--backend` says from the next start on."""
        self._line = [f"--backend={backend}" if w.startswith("--backend=") else w for w in self._line]

    def apply(self, name: str, content: str | Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Path:
        """Put a file into the manifests, atomically: YAML text, one object, or several.

        It is in force after `wait_synced`.
        """
        if isinstance(content, str):
            text = content
        else:
            items = [content] if isinstance(content, Mapping) else list(content)
            text = json.dumps(objects.list_of(items))
        path = self.manifests / (name if "." in name else f"{name}.yaml")
        part = path.with_name(f".{path.name}.part")
        part.write_text(text)
        part.replace(path)
        return path

    def remove(self, name: str) -> None:
        """Take a file out of the manifests."""
        (self.manifests / (name if "." in name else f"{name}.yaml")).unlink()

    def wait_listening(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until the socket takes connections; an early end is an error with the log."""
        start = time.monotonic()
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError), self._connect(1.0):
                return
            if self._child is None or self._child.poll() is not None:
                raise self._error(f"ended with {self._child and self._child.returncode}")
            waited = time.monotonic() - start
            if waited > timeout:
                raise self._error(f"does not listen on {self.socket} after {timeout:g} s")
            # The slower the machine, the less of it goes into asking.
            time.sleep(0.005 + waited / 50)

    def wait_synced(self, timeout: float = READY_TIMEOUT) -> None:
        """Wait until all that the manifests hold now is in the kernel, as `mnpctl wait --synced` does."""
        request = {"v": 1, "op": "wait", "timeoutMs": int(timeout * 1000)}
        try:
            reply = self.rpc(request, timeout + 10)
        except OSError as error:
            raise self._error(f"does not answer: {error}") from error
        if not (reply["ok"] and reply["result"]["synced"]):
            raise self._error(f"is not synced after {timeout:g} s: {reply}")

    def run_ctl(self, *arguments: str, timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """Run mnpctl against this daemon, as it is."""
        line = [str(_SCRIPTS / "mnpctl"), "--socket", str(self.socket), *arguments]
        return subprocess.run(
            line, env=self._env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def ctl(self, *arguments: str) -> Any:
        """Run mnpctl with `-o json` and return what it printed; an exit code but 0 is an error."""
        run = self.run_ctl("-o", "json", *arguments)
        if run.returncode != 0:
            raise self._error(
                f"mnpctl {' '.join(arguments)} ended with {run.returncode}: {run.stderr.strip()}"
            )
        return json.loads(run.stdout) if run.stdout.strip() else None

    def rpc(self, request: Mapping[str, Any], timeout: float = 60.0) -> dict[str, Any]:
        """Speak the wire: one request map, one reply map."""
        body = msgpack.packb(dict(request))
        with self._connect(timeout) as connection:
            connection.sendall(struct.pack(">I", len(body)) + body)
            (length,) = struct.unpack(">I", _receive(connection, 4))
            assert length <= _MAX_REPLY, f"the daemon announces a reply of {length} bytes"
            reply: dict[str, Any] = msgpack.unpackb(_receive(connection, length))
        return reply

    def cni(
        self,
        op: str,
        env: Mapping[str, str],
        config: Mapping[str, Any] | bytes,
        timeout: float = 30.0,
    ) -> dict[str, Any]:
        """Send what the plugin would send, with `timeout` seconds left."""
        body = config if isinstance(config, bytes) else json.dumps(config).encode()
        request = {"v": 1, "op": op, "env": dict(env), "config": body, "timeLeftMs": int(timeout * 1000)}
        return self.rpc(request, timeout + 5)

    def _connect(self, timeout: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(str(self.socket))
        except OSError:
            connection.close()
            raise
        return connection

    def _error(self, what: str) -> DaemonError:
        return DaemonError(f"the daemon {what}; the end of its log:\n{self.log[-_LOG_TAIL:]}")


def _receive(connection: socket.socket, length: int) -> bytes:
    received = bytearray()
    while len(received) < length:
        piece = connection.recv(min(length - len(received), 1 << 20))
        if not piece:
            raise DaemonError(f"the daemon closed after {len(received)} of {length} bytes")
        received += piece
    return bytes(received)
