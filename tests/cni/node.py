"""A node whose runtime is the real cnitool: the daemon, one network, one client, and pods from a supply.

In: a lab. Out: chains of plugins, runs of them, and whether what they made is governed. Every pod of the
supply may be reached on one port and on no other, so that each probe has its positive control. Nobody listens
there: an answer that says so came through as well.
"""

import contextlib
import itertools
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tests.cni.run_plugin import PLUGIN, Done, environment, run_plugin
from tests.lab import Attachment, CnitoolRun, Lab, Pod, Target, is_blocked, objects
from tests.lab.kernelview import VIEWS
from tests.lab.namespaces import inside
from tests.lab.polling import poll
from tests.lab.prober import BLOCKED_TIMEOUT, OPEN_TIMEOUT

ALLOWED, DENIED = 5555, 5556
SUPPLY = 400
POLICY = objects.policy(
    "one-port",
    {
        "podSelector": {"matchLabels": {"role": "server"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": ALLOWED}]}],
    },
)
# What is ours goes within a second of the link's end; a busy machine gets more.
TIDY_SECONDS = 3.0

T = TypeVar("T")
R = TypeVar("R")


class Node:
    """client: an interface that is not enrolled. The daemon knows the pods that `pod()` will make."""

    def __init__(self, lab: Lab, backend: str) -> None:
        self.lab = lab
        self.view = VIEWS[backend]
        self.multus_cache = lab.folder / "multus"
        self.multus_cache.mkdir()
        self.daemon = lab.daemon(backend=backend, options=[f"--multus-cache-dir={self.multus_cache}"])
        self.client = lab.attach(lab.pod("client"))
        self.numbers = itertools.count(1)
        supply = [
            objects.pod(f"server-{n}", labels={"role": "server"}, networks="net1") for n in range(1, SUPPLY)
        ]
        self.daemon.apply("supply.json", supply)
        self.daemon.apply("network", [objects.network("net1"), POLICY])
        self.daemon.wait_synced()

    # --- pods and chains ---------------------------------------------------------------------------------

    def pod(self) -> Pod:
        """Make a pod without interfaces that the policy selects."""
        return self.lab.pod(f"server-{next(self.numbers)}")

    def attached(self) -> Attachment:
        """Make such a pod with an interface that nobody has enrolled yet."""
        return self.lab.attach(self.pod())

    def addresses(self) -> tuple[str, str]:
        """Two addresses, with prefix lengths, that nobody has."""
        number = next(self.numbers)
        return (f"10.1.{128 + (number >> 8)}.{number & 255}/16", f"fd00:1::8000:{number:x}/64")

    def chain(
        self,
        version: str = "1.0.0",
        guard: bool = False,
        between: tuple[dict[str, Any], ...] = (),
        ipam: Mapping[str, Any] | None = None,
        keys: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make a list of macvlan and our plugin.

        `between` are further plugins; `keys` go into our last entry.
        """
        own = {**self.daemon.plugin_keys, **(keys or {})}
        made = objects.conflist(
            "net1",
            "net1",
            self.addresses(),
            version,
            plugin=own,
            guard=self.daemon.plugin_keys if guard else None,
        )
        if ipam is not None:
            made["plugins"][-2]["ipam"] = dict(ipam)
        made["plugins"][-1:-1] = between
        return made

    def host_local(self) -> dict[str, Any]:
        """Make an IPAM that hands out addresses, and notes them below `ipam_folder`."""
        ranges = [
            [{"subnet": "10.1.0.0/16", "rangeStart": "10.1.200.1"}],
            [{"subnet": "fd00:1::/64", "rangeStart": "fd00:1::c000:1"}],
        ]
        return {"type": "host-local", "dataDir": str(self.ipam_folder), "ranges": ranges}

    @property
    def ipam_folder(self) -> Path:
        return self.lab.folder / "ipam"

    def wait_synced(self) -> None:
        """Wait until all manifests are in force."""
        self.daemon.wait_synced()

    # --- runs --------------------------------------------------------------------------------------------

    def add(self, pod: Pod, chain: Mapping[str, Any]) -> list[str]:
        """ADD by cnitool, which must succeed; returns the addresses that the interface got."""
        run = self.lab.cnitool("add", chain, pod)
        assert run.code == 0, run
        return addresses_of(run.result)

    def delete(self, pod: Pod, chain: Mapping[str, Any]) -> None:
        """DEL by cnitool, which must succeed."""
        run = self.lab.cnitool("del", chain, pod)
        assert run.code == 0, run

    def refused(self, command: str, chain: Mapping[str, Any], pod: Pod) -> CnitoolRun:
        """Run a command that must fail, with a reason."""
        run = self.lab.cnitool(command, chain, pod)
        assert run.code == 1, run
        assert run.stderr
        return run

    def plugin(
        self,
        command: str,
        attachment: Attachment,
        env: Mapping[str, str | bytes | None] | None = None,
        **keys: Any,
    ) -> Done:
        """Run the plugin alone, as the last of its chain."""
        with inside(self.lab.node):
            return run_plugin(
                self.stdin(attachment, **keys), {**variables(command, attachment), **(env or {})}
            )

    def start_plugin(self, attachment: Attachment, **keys: Any) -> "subprocess.Popen[bytes]":
        """Start an ADD of the plugin alone; `finish` waits for its end."""
        env = environment(variables("ADD", attachment))
        with inside(self.lab.node):
            child = subprocess.Popen([PLUGIN], env=env, stdin=-1, stdout=-1, stderr=-1)
        assert child.stdin is not None
        child.stdin.write(self.stdin(attachment, **keys))
        child.stdin.close()
        child.stdin = None
        return child

    def stdin(self, attachment: Attachment, **keys: Any) -> bytes:
        """Make the configuration of the last in a chain."""
        config = {
            "cniVersion": "1.0.0",
            "name": "net1",
            "type": "multi-networkpolicy",
            "prevResult": attachment.result(),
            **self.daemon.plugin_keys,
            **keys,
        }
        return json.dumps(config).encode()

    # --- what came of it ---------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many ADDs wait in the daemon."""
        count: int = self.daemon.rpc({"v": 1, "op": "statusReport"})["result"]["waitingAdds"]
        return count

    def unreached(self, addresses: Sequence[str], port: int, timeout: float = OPEN_TIMEOUT) -> dict[str, str]:
        """Probe a port of all addresses at once; returns those that gave no answer, with their verdict."""
        targets = [Target("tcp", address, port, timeout) for address in addresses]
        verdicts = dict(zip(addresses, self.client.pod.prober.probe(*targets), strict=True))
        return {address: v for address, v in verdicts.items() if v not in ("open", "refused")}

    def assert_governed(self, addresses: Sequence[str]) -> None:
        """All answer on the port that the policy allows, and none on the other."""
        assert addresses
        assert self.unreached(addresses, ALLOWED) == {}
        blocked = self.unreached(addresses, DENIED, BLOCKED_TIMEOUT)
        assert sorted(set(addresses) - set(blocked)) == [], "reached on the port that is not allowed"
        assert all(map(is_blocked, blocked.values())), blocked

    def assert_open(self, addresses: Sequence[str]) -> None:
        """All answer on both ports."""
        assert addresses
        for port in (ALLOWED, DENIED):
            assert self.unreached(addresses, port) == {}

    def records(self, pod: Pod) -> list[str]:
        """The daemon's records of a pod."""
        texts: dict[str, str] = {}
        for path in (self.daemon.state / "attachments").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # it may go while this looks
                texts[path.name] = path.read_text()
        return sorted(name for name, text in texts.items() if f'"{pod.netns}"' in text)

    def ruleset(self, pod: Pod) -> str:
        """What of ours is in the pod's kernel; "": nothing."""
        return self.view.listing(pod.netns)

    def assert_nothing_left(self, pod: Pod) -> None:
        """No interface, no rules, no records, as soon as the daemon has tidied up."""
        assert "net1" not in links(pod)
        poll(lambda: self.ruleset(pod), lambda found: not found, TIDY_SECONDS)
        poll(lambda: self.records(pod), lambda found: not found, TIDY_SECONDS)


def at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """A thread for each item; returns what came of each, in their order."""
    with ThreadPoolExecutor(len(items)) as threads:
        return list(threads.map(work, items))


def finish(child: "subprocess.Popen[bytes]", timeout: float = 60.0) -> Done:
    """Wait for a started plugin."""
    out, err = child.communicate(timeout=timeout)
    return Done(child.returncode, out, err, 0.0)


def variables(command: str, attachment: Attachment) -> dict[str, str | bytes | None]:
    """The environment of one command for an attachment."""
    pod = attachment.pod
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": pod.container_id,
        "CNI_NETNS": str(pod.netns),
        "CNI_IFNAME": attachment.ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in pod.cni_args.items()),
    }


def plain(attachment: Attachment) -> list[str]:
    """The addresses of an interface that the lab made, without prefix lengths."""
    return [attachment.ipv4, attachment.ipv6]


def addresses_of(result: Mapping[str, Any]) -> list[str]:
    """The addresses in a result of any version, without prefix lengths."""
    old = [result[family]["ip"] for family in ("ip4", "ip6") if family in result]
    return [text.split("/")[0] for text in old or [ip["address"] for ip in result["ips"]]]


def links(pod: Pod) -> list[str]:
    """The pod's interfaces."""
    with inside(pod.netns):
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return [line.split(":")[0].strip() for line in lines]
