"""What a start finds of packet filters on a node, and what it says where one is missing."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from daemon.backends.iptclib import one_thread
from tests.lab import DaemonError, Lab, objects, without_legacy_tables
from tests.lab.lab import REPOSITORY
from tests.netns.enroll import add, must

# A kernel without legacy tables, as far as its processes can tell.
NO_LEGACY_TABLES = (sys.executable, without_legacy_tables.__file__)
on_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="a filter of system calls by number")


def run_python(code: str, **env: str) -> str:
    """What a new interpreter prints."""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# --- python-iptables -------------------------------------------------------------------------------------

STARTING = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec", "os.spawn", "os.system"}
STARTS = f"""
import subprocess, sys
started = []
sys.addaudithook(lambda event, arguments: started.append(event) if event in {STARTING} else None)
from daemon.backends import iptclib
iptclib.load()
print("by loading:", started)
subprocess.run(["true"])
print("the control:", len(started) > 0)
"""


def test_loading_starts_no_process() -> None:
    """Left to itself it runs ldconfig, gcc and ld, a dozen times, where these are there."""
    assert run_python(STARTS).splitlines() == ["by loading: []", "the control: True"]


MISSING = """
import ctypes
real = ctypes.CDLL
class CDLL(real):
    def __init__(self, name, *rest, **more):
        if name and {library!r} in name:
            raise OSError(f"{{name}}: cannot open shared object file")
        super().__init__(name, *rest, **more)
ctypes.CDLL = CDLL
from daemon.backends import iptclib
from daemon.errors import BackendUnavailableError
try:
    iptclib.load()
    print("loaded")
except BackendUnavailableError as error:
    print(error)
"""


@pytest.mark.parametrize("library", ["libip4tc", "libip6tc", "libxtables"])
def test_a_missing_library_is_told_with_the_remedy(library: str) -> None:
    said = run_python(MISSING.format(library=library))
    assert "python-iptables can't be loaded" in said
    assert "apt-get install iptables" in said
    assert "--backend nftables" in said


def test_with_all_libraries_it_loads() -> None:
    """The control of the tests before."""
    assert run_python(MISSING.format(library="libnone")) == "loaded\n"


def test_two_threads_at_once_are_a_bug_that_is_told() -> None:
    outcomes: list[str] = []

    def use() -> None:
        try:
            with one_thread():
                outcomes.append("used")
        except RuntimeError as error:
            outcomes.append(str(error))

    def run() -> None:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()

    with one_thread():
        run()
    run()
    assert outcomes == ["python-iptables is used by two threads at once", "used"]


# --- the daemon ------------------------------------------------------------------------------------------

TELLS_WHAT_IT_STARTS = """
import atexit, subprocess, sys
def told(event, arguments):
    if event in {starting} and "modprobe" not in str(arguments):
        with open({path!r}, "a") as file:
            print(event, arguments[0], file=file)
sys.addaudithook(told)
atexit.register(subprocess.run, ["true"])
"""


def test_a_daemon_starts_no_process(lab: Lab, backend: str, tmp_path: Path) -> None:
    """No ldconfig, above all; modprobe, where the kernel has no legacy tables yet, is another matter."""
    path = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(TELLS_WHAT_IT_STARTS.format(starting=STARTING, path=str(path)))
    daemon = lab.daemon(backend=backend, env={"PYTHONPATH": str(tmp_path)})
    pod = lab.pod("web")
    daemon.apply(
        "net",
        [
            objects.network("net1"),
            objects.pod("web", networks="net1"),
            objects.policy("p", {"podSelector": {}}),
        ],
    )
    daemon.wait_synced()
    must(add(daemon, lab.attach(pod)))
    assert daemon.rpc({"v": 1, "op": "render", "pod": "default/web"})["ok"]
    assert daemon.stop() == 0
    assert path.read_text() == "subprocess.Popen true\n", "but the control"


@on_x86_64
def test_iptables_without_legacy_tables_is_refused_with_the_remedy(lab: Lab) -> None:
    with pytest.raises(DaemonError, match=r"(?s)ended with 1;.*modprobe -a iptable_mangle ip6table_mangle"):
        lab.daemon(backend="iptables", wrapper=NO_LEGACY_TABLES)
    assert "or --backend nftables" in lab.daemons[0].log


@on_x86_64
def test_auto_without_legacy_tables_is_nftables(lab: Lab) -> None:
    daemon = lab.daemon(backend="auto", wrapper=NO_LEGACY_TABLES)
    assert daemon.ctl("status")["backend"] == "nftables"


@on_x86_64
def test_auto_leaves_a_recorded_iptables_that_works_no_more(lab: Lab) -> None:
    """Another kernel after a reboot, say: it starts, and tells why it is not what was used before."""
    first = lab.daemon(backend="iptables")
    first.stop()
    second = lab.daemon(backend="auto", wrapper=NO_LEGACY_TABLES, options=[f"--state-dir={first.state}"])
    status = second.ctl("status")
    assert status["backend"] == "nftables"
    assert "modprobe" in status["backendBecause"]
    assert (first.state / "backend").read_text() == "nftables\n"


def test_without_the_extensions_iptables_is_refused_with_the_remedy(lab: Lab, tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match=r"(?s)ended with 1;.*iptables"):
        lab.daemon(backend="iptables", env={"XTABLES_LIBDIR": str(tmp_path)})
    log = lab.daemons[0].log
    assert "Traceback" not in log
    assert f"an extension in {tmp_path} can't be used" in log
    assert "apt-get install iptables" in log
