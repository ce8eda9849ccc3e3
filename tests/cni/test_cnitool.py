"""The built plugin under the real cnitool, between the real reference plugins, with the real daemon.

proves: A6
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.cni.node import (
    DENIED,
    TIDY_SECONDS,
    Node,
    addresses_of,
    at_once,
    links,
    plain,
    variables,
)
from tests.cni.run_plugin import GC_EMPTY, PLUGIN, VERSIONS, run_plugin
from tests.lab import CnitoolRun, Lab, Pod
from tests.lab.kernelview import NFTABLES
from tests.lab.lab import PLUGIN_FOLDER, tools_folder
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.lab.prober import BLOCKED_TIMEOUT

CHECKED = ("0.4.0", "1.0.0", "1.1.0")
# The wait for iptables' lock has an end of 2 s; a busy machine gets more.
LOCKED_SECONDS = 10.0
TUNING: dict[str, Any] = {"type": "tuning", "sysctl": {"net.ipv4.conf.net1.arp_filter": "1"}}


def make_chain(kind: str, version: str, node: Node) -> dict[str, Any]:
    """static; host-local; tuning between macvlan and us; the guard in front; all of it."""
    return node.chain(
        version,
        guard=kind in ("guard", "all"),
        between=({**TUNING, "dataDir": str(node.lab.folder)},) if kind in ("tuning", "all") else (),
        ipam=node.host_local() if kind in ("host-local", "all") else None,
    )


def taken(node: Node) -> set[str]:
    """The addresses that host-local has handed out."""
    noted = node.ipam_folder / "net1"
    return {name.replace("_", ":") for name in os.listdir(noted)} if noted.exists() else set()


# --- every chain in every version ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["static", "host-local", "tuning", "guard", "all"])
def test_add_check_del(kind: str, node: Node) -> None:
    """Seven pods at the same time: one for each version."""
    chains = {version: make_chain(kind, version, node) for version in VERSIONS}
    pods = {version: node.pod() for version in VERSIONS}

    def run(command: str, versions: Sequence[str] = VERSIONS) -> dict[str, CnitoolRun]:
        runs = at_once(lambda v: node.lab.cnitool(command, chains[v], pods[v]), versions)
        assert [run for run in runs if run.code != 0] == []
        return dict(zip(versions, runs, strict=True))

    results = {version: run.result for version, run in run("add").items()}
    assert {version: result["cniVersion"] for version, result in results.items()} == {v: v for v in VERSIONS}
    addresses = [address for result in results.values() for address in addresses_of(result)]
    assert len(set(addresses)) == 2 * len(VERSIONS)
    node.assert_governed(addresses)
    run("check", CHECKED)
    assert (set(addresses) <= taken(node)) == (kind in ("host-local", "all"))
    run("del")
    for pod in pods.values():
        node.assert_nothing_left(pod)
    assert not set(addresses) & taken(node)


def test_without_the_plugin_the_same_chain_is_open(node: Node) -> None:
    """The positive control of this module."""
    pod, chain = node.pod(), node.chain()
    del chain["plugins"][-1]
    node.assert_open(node.add(pod, chain))
    assert node.ruleset(pod) == ""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_result_is_that_of_the_chain_without_it(version: str, node: Node) -> None:
    pod = node.pod()
    chain = node.chain(version, guard=True)
    # macvlan's MAC is random otherwise.
    chain["plugins"][1]["mac"] = "02:00:00:00:77:01"
    without = {**chain, "plugins": chain["plugins"][1:2]}
    bare = node.lab.cnitool("add", without, pod)
    node.delete(pod, without)
    chained = node.lab.cnitool("add", chain, pod)
    node.delete(pod, chain)
    assert (bare.code, chained.code) == (0, 0), chained
    assert chained.stdout == bare.stdout
    assert addresses_of(chained.result)


def test_the_next_plugin_gets_what_the_previous_one_printed(node: Node) -> None:
    """tuning behind us works on the interface that macvlan reported, and reports its MAC."""
    pod, chain = node.pod(), node.chain()
    chain["plugins"].append({"type": "tuning", "mac": "02:00:00:00:77:02", "dataDir": str(node.lab.folder)})
    run = node.lab.cnitool("add", chain, pod)
    assert run.code == 0, run
    (interface,) = [item for item in run.result["interfaces"] if item["name"] == "net1"]
    assert interface["mac"] == "02:00:00:00:77:02"
    node.assert_governed(addresses_of(run.result))
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


def test_two_interfaces_of_a_pod(node: Node) -> None:
    pod, first, second = node.pod(), node.chain(), node.chain()
    addresses = node.add(pod, first)
    run = node.lab.cnitool("add", second, pod, ifname="net2")
    assert run.code == 0, run
    assert len(node.records(pod)) == 2
    node.assert_governed(addresses)
    node.delete(pod, first)
    assert "net2" in links(pod)
    assert node.ruleset(pod)
    assert node.lab.cnitool("del", second, pod, ifname="net2").code == 0
    node.assert_nothing_left(pod)


# --- repeated, and in the wrong order --------------------------------------------------------------------


def test_a_second_add_is_refused_by_macvlan_and_the_first_stays_governed(node: Node) -> None:
    pod, chain = node.pod(), node.chain()
    addresses = node.add(pod, chain)
    assert "exists" in node.refused("add", chain, pod).stderr
    node.assert_governed(addresses)
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


def test_a_second_add_behind_a_guard_opens_nothing_and_is_mended_by_del_and_add(node: Node) -> None:
    pod, chain = node.pod(), node.chain(guard=True)
    addresses = node.add(pod, chain)
    assert "exists" in node.refused("add", chain, pod).stderr
    assert sorted(node.unreached(addresses, DENIED, BLOCKED_TIMEOUT)) == sorted(addresses)
    node.delete(pod, chain)
    node.assert_governed(node.add(pod, chain))
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


def test_a_second_add_of_the_plugin_alone_changes_nothing(node: Node) -> None:
    attachment = node.attached()
    assert node.plugin("ADD", attachment).code == 0
    before = node.ruleset(attachment.pod)
    assert before
    done = node.plugin("ADD", attachment)
    assert (done.code, json.loads(done.out)) == (0, attachment.result())
    assert node.ruleset(attachment.pod) == before
    assert len(node.records(attachment.pod)) == 1
    node.assert_governed(plain(attachment))


def test_a_second_del_succeeds(node: Node) -> None:
    pod, chain = node.pod(), node.chain(guard=True)
    node.add(pod, chain)
    node.delete(pod, chain)
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


def test_del_without_add_succeeds(node: Node) -> None:
    pod = node.pod()
    node.delete(pod, node.chain(guard=True, ipam=node.host_local()))
    node.assert_nothing_left(pod)


def test_del_after_the_netns_is_gone(node: Node) -> None:
    pod, chain = node.pod(), node.chain(ipam=node.host_local())
    addresses = node.add(pod, chain)
    assert set(addresses) <= taken(node)
    pod.end()
    node.delete(pod, chain)
    assert not set(addresses) & taken(node)
    poll(lambda: node.records(pod), lambda found: not found, TIDY_SECONDS)


# /run with nothing but the daemon's socket, at its default place; all others keep their /run.
DEFAULT_SOCKET = (
    "mount -t tmpfs tmpfs /run && mkdir /run/multi-networkpolicy && "
    'mount --bind "$1" /run/multi-networkpolicy && exec "$0"'
)


def test_del_without_our_keys_asks_at_the_default_socket(node: Node) -> None:
    """Older Multus gives a DEL nothing but name and version."""
    attachment = node.attached()
    assert node.plugin("ADD", attachment).code == 0
    bare = json.dumps({"cniVersion": "1.0.0", "name": "net1", "type": "multi-networkpolicy"}).encode()
    line = ["unshare", "-m", "/bin/sh", "-c", DEFAULT_SOCKET, str(PLUGIN), str(node.daemon.socket.parent)]
    env = {**variables("DEL", attachment), "PATH": os.environ["PATH"]}
    done = run_plugin(bare, env, command=line)
    assert (done.code, done.out, done.err) == (0, b"", b"")
    (state,) = [
        item["state"]
        for item in node.daemon.ctl("attachments")
        if item["containerID"] == attachment.pod.container_id
    ]
    assert state == "deleted"
    # The link lives on, and with it the restriction.
    node.assert_governed(plain(attachment))
    node.lab.detach(attachment)
    node.assert_nothing_left(attachment.pod)


def test_a_del_that_reached_nobody(node: Node) -> None:
    """No daemon at the default socket: the DEL succeeds, and ours finds out by itself."""
    attachment = node.attached()
    assert node.plugin("ADD", attachment).code == 0
    assert node.plugin("DEL", attachment, socketPath="/run/mnpt-nobody/daemon.sock").code == 0
    attachment.pod.end()
    poll(lambda: node.records(attachment.pod), lambda found: not found, TIDY_SECONDS)


def test_add_again_after_del(node: Node) -> None:
    """As hot-plug does: the same container and the same name of an interface."""
    pod, chain = node.pod(), node.chain(guard=True)
    for _ in range(3):
        node.assert_governed(node.add(pod, chain))
        node.delete(pod, chain)
    node.assert_nothing_left(pod)


def test_an_add_that_fails_behind_the_guard_leaves_nothing_after_its_del(node: Node) -> None:
    pod, chain = node.pod(), node.chain(guard=True)
    chain["plugins"][1]["master"] = "no-such-link"
    assert "Link not found" in node.refused("add", chain, pod).stderr
    assert node.ruleset(pod)
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


@contextlib.contextmanager
def table_of_another_owner(pod: Pod) -> Iterator[str]:
    """While this lasts, the kernel refuses every batch of nftables' in the pod; gives the words for it."""
    with inside(pod.netns):
        nft = subprocess.Popen(["nft", "-i"], stdin=-1, stdout=subprocess.DEVNULL)
    assert nft.stdin is not None
    nft.stdin.write(b"add table inet multi-networkpolicy { flags owner; }\n")
    nft.stdin.flush()
    try:
        poll(lambda: NFTABLES.listing(pod.netns), bool)
        yield "not permitted"
    finally:
        nft.stdin.close()
        nft.wait()


@contextlib.contextmanager
def lock_of_somebody_else(node: Node) -> Iterator[str]:
    """While this lasts, an iptables that hangs holds the lock that all take; gives the words for it."""
    path = node.daemon.xtables_lock
    holder = subprocess.Popen(["flock", str(path), "sh", "-c", "echo held; exec cat"], stdin=-1, stdout=-1)
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        yield f"{path} is held by another process"
    finally:
        holder.communicate()


def test_what_the_kernel_refuses_fails_the_add(node: Node) -> None:
    """No success before the rules are in the kernel, and no trace of the attempt."""
    pod, chain = node.pod(), node.chain()
    by_backend = {"nftables": table_of_another_owner(pod), "iptables": lock_of_somebody_else(node)}
    with by_backend[node.view.name] as words:
        begun = time.monotonic()
        assert words in node.refused("add", chain, pod).stderr
        assert time.monotonic() - begun < LOCKED_SECONDS
        assert node.records(pod) == []
        node.delete(pod, chain)
    node.assert_governed(node.add(pod, chain))
    node.delete(pod, chain)
    node.assert_nothing_left(pod)


# --- CHECK, STATUS, GC -----------------------------------------------------------------------------------


def test_check_fails_when_the_rules_are_gone(node: Node) -> None:
    pod, chain = node.pod(), node.chain()
    node.add(pod, chain)
    assert node.lab.cnitool("check", chain, pod).code == 0
    node.view.run(pod.netns, node.view.emptied, node.daemon.xtables_lock)
    run = node.lab.cnitool("check", chain, pod)
    # A daemon that has repaired it by then is right to be content.
    assert run.code == 1 or "ingress-net1" in node.ruleset(pod), run
    node.delete(pod, chain)


def test_check_without_add_fails(node: Node) -> None:
    attachment = node.attached()
    done = node.plugin("CHECK", attachment)
    assert "no ADD" in done.words()
    assert node.records(attachment.pod) == []
    assert node.ruleset(attachment.pod) == ""


def test_status_of_a_ready_daemon(node: Node) -> None:
    run = node.lab.cnitool("status", node.chain("1.1.0"), node.pod())
    assert (run.code, run.stderr) == (0, "")


def test_gc_of_cnitool_deletes_what_it_knows(backend: str) -> None:
    """cnitool calls no attachment valid: a DEL for each of the network's, then a GC for each plugin."""
    with Lab() as lab:
        other = Node(lab, backend)
        pod, chain = other.pod(), other.chain("1.1.0", guard=True, keys={"netAttachDef": "default/net1"})
        # cnitool remembers all attachments of this machine by their network's name.
        chain["name"] = lab.tag
        other.assert_governed(other.add(pod, chain))
        run = lab.cnitool("gc", chain, pod)
        assert run.code == 0, run
        other.assert_nothing_left(pod)


def test_gc_of_the_plugin_spares_what_lives(node: Node) -> None:
    attachment = node.attached()
    assert node.plugin("ADD", attachment).code == 0
    gone = node.attached()
    assert node.plugin("ADD", gone).code == 0
    gone.pod.end()
    done = node.plugin("GC", attachment, **GC_EMPTY)
    assert (done.code, done.out) == (0, b"")
    assert node.records(gone.pod) == []
    assert len(node.records(attachment.pod)) == 1
    node.assert_governed(plain(attachment))


# --- as Multus runs it -----------------------------------------------------------------------------------

CHROOT = """
import os, sys
root, line = sys.argv[1], sys.argv[2:]
os.chroot(root)
os.execve(line[0], line, os.environ)
"""
SEAL = (
    'mount --rbind / "$1" && mount --bind /tmp "$1/tmp" && mount -o remount,bind,ro "$1/tmp" && '
    'cd /usr && ! touch "$1/tmp/x" 2>/dev/null && exec "$0" -I -S -c "$2" "$1" "$3" "$4" "$5" "$6"'
)


@contextlib.contextmanager
def empty_folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix=f"mnpt-{os.getpid()}-", dir="/run") as made:
        yield made


def cnitool_in_chroot(command: str, chain: Mapping[str, Any], pod: Pod, node: Node) -> None:
    """Multus' daemon sees the node below a folder, and calls chroot without chdir before it runs a plugin."""
    tools = tools_folder()
    configs = node.lab.folder / "chroot-configs"
    configs.mkdir(exist_ok=True)
    (configs / "net1.conflist").write_text(json.dumps(chain))
    env: dict[str, str | bytes | None] = {
        "NETCONFPATH": str(configs),
        "CNI_PATH": f"{PLUGIN_FOLDER}:{tools}",
        "CNI_IFNAME": "net1",
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in pod.cni_args.items()),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "CNI_COMMAND": None,
    }
    tool = [str(tools / "cnitool"), command, "net1", str(pod.netns)]
    with empty_folder() as root, inside(node.lab.node):
        line = ["unshare", "-m", "/bin/sh", "-c", SEAL, sys.executable, root, CHROOT, *tool]
        done = run_plugin(b"", env, command=line)
    assert done.code == 0, done


def test_in_a_chroot_of_the_whole_node(node: Node) -> None:
    pod, chain = node.pod(), node.chain(guard=True)
    cnitool_in_chroot("add", chain, pod, node)
    node.assert_governed([ip["address"].split("/")[0] for ip in chain["plugins"][1]["ipam"]["addresses"]])
    cnitool_in_chroot("check", chain, pod, node)
    cnitool_in_chroot("del", chain, pod, node)
    node.assert_nothing_left(pod)
