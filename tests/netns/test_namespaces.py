"""Entering namespaces: what is refused, what is noticed, and that the thread always comes back."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon import netns
from daemon.errors import NetnsError, NetnsGoneError, NoPodsNetnsError
from tests.lab import Lab


def here() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


@pytest.fixture
def at_home() -> int:
    return here()


PATHS: list[tuple[str, Callable[[Path], object], type[NetnsError], str]] = [
    ("missing", lambda path: path, NetnsGoneError, "does not exist"),
    ("plain file", lambda path: path.write_text("x"), NetnsError, "no network namespace"),
    ("folder", lambda path: path.mkdir(), NetnsError, "not a regular file"),
    ("pipe", os.mkfifo, NetnsError, "not a regular file"),
    ("device", lambda path: path.symlink_to("/dev/zero"), NetnsError, "not a regular file"),
    ("terminal", lambda path: path.symlink_to("/dev/tty"), NetnsError, ""),
    ("loop", lambda path: path.symlink_to(path), NetnsError, "can't be opened"),
    (
        "other kind",
        lambda path: path.symlink_to("/proc/self/ns/uts"),
        NoPodsNetnsError,
        "not a network namespace",
    ),
    ("the host's", lambda path: path.symlink_to("/proc/self/ns/net"), NoPodsNetnsError, "host's own"),
]


@pytest.mark.parametrize(
    ("make", "error", "words"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS]
)
def test_paths_that_lead_elsewhere(
    tmp_path: Path, at_home: int, make: Callable[[Path], object], error: type[NetnsError], words: str
) -> None:
    path = tmp_path / "netns"
    make(path)
    for attempt in (netns.identify, lambda p: netns.entered(p, None).__enter__()):
        with pytest.raises(error) as refused:
            attempt(str(path))
        assert type(refused.value) is error
        assert words in str(refused.value)
        assert str(path) in str(refused.value)
    assert here() == at_home


def test_enters_and_comes_back(lab: Lab, at_home: int) -> None:
    path = lab.pod("one").netns
    identity = netns.identify(str(path))
    assert identity.inode == path.stat().st_ino
    assert identity.cookie is not None
    with netns.entered(str(path), identity) as found:
        assert here() == identity.inode != at_home
        assert found == identity
    assert here() == at_home
    with pytest.raises(ZeroDivisionError), netns.entered(str(path), identity):
        raise ZeroDivisionError
    assert here() == at_home


def test_descriptors_are_closed(lab: Lab) -> None:
    """One that stays open would keep the pod's namespace, and its addresses answering, alive."""
    path = str(lab.pod("one").netns)
    netns.identify(path)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with netns.entered(path, netns.identify(path)):
            netns.link("lo")
        with pytest.raises(NetnsError):
            netns.identify("/etc/hostname")
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_another_namespace_at_the_path_is_noticed(lab: Lab, at_home: int) -> None:
    """Inodes are reused at once; the cookie is not."""
    pod = lab.pod("one")
    identity = netns.identify(str(pod.netns))
    new = lab.replace_namespace(pod)
    assert new.netns == pod.netns
    with pytest.raises(NetnsGoneError, match="another"), netns.entered(str(pod.netns), identity):
        pytest.fail("entered another namespace")
    assert here() == at_home
    other = netns.identify(str(new.netns))
    assert other.token != identity.token
    assert not other.same(identity)


def test_one_namespace_by_two_paths(lab: Lab) -> None:
    pod = lab.pod("one")
    child = pod.prober.pid
    by_process = netns.identify(f"/proc/{child}/ns/net")
    assert by_process.token == netns.identify(str(pod.netns)).token


def test_identity_without_a_cookie() -> None:
    old = netns.NetnsIdentity("/p", 4, 77, None)
    assert old.same(netns.NetnsIdentity("/q", 4, 77, 9))
    assert not old.same(netns.NetnsIdentity("/p", 4, 78, None))
    assert old.token != netns.NetnsIdentity("/p", 4, 78, None).token


def test_links(lab: Lab) -> None:
    made = lab.attach(lab.pod("one"))
    with netns.entered(str(made.pod.netns), None):
        found = netns.link("net1")
        assert found is not None
        assert (found.ifname, found.ifindex, found.mac) == ("net1", made.ifindex, made.mac)
        assert netns.link_by_index(made.ifindex) == found
        assert netns.link("net2") is None
        assert netns.link_by_index(4711) is None
        assert netns.link("lo") == netns.Link("lo", 1, "00:00:00:00:00:00")
        shown = subprocess.run(
            ["ip", "-br", "link", "show", "net1"], capture_output=True, text=True, check=True
        )
        assert made.mac in shown.stdout


def test_scratch_namespaces_are_others_and_end(at_home: int) -> None:
    assert netns.in_scratch(here) != at_home
    assert here() == at_home
    with pytest.raises(ZeroDivisionError):
        netns.in_scratch(lambda: 1 // 0)


def test_no_way_back_ends_the_process(lab: Lab) -> None:
    """A thread left in a pod's namespace would program that pod for all others."""
    path = str(lab.pod("one").netns)
    code = (
        "import os, sys\n"
        "from daemon import netns\n"
        f"with netns.entered({path!r}, None):\n"
        "    os.close(netns._host().fd)\n"
        "print('still alive')\n"
    )
    import sys

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == netns.EXIT_LOST
    assert "can't return" in ran.stderr
    assert ran.stdout == ""
