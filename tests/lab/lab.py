"""One node: networks that are parent links in a namespace of their own, and pods attached to them by macvlan.

In: names, addresses, CNI configurations. Out: live links and the exit codes and words of the real cnitool.
All of it is gone when the `with` block ends, also by Ctrl-C, SIGTERM or an exception.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import IPRoute

from tests.lab import namespaces
from tests.lab.daemon import Daemon
from tests.lab.namespaces import inside
from tests.lab.prober import Prober

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGIN_FOLDER = REPOSITORY / "dist/cni/bin"
CNITOOL_CACHE = Path("/var/lib/cni/results")
CNITOOL_TIMEOUT = 120.0

_IFA_F_NODAD = 0x02
_NUD_PERMANENT = 0x80

DaemonType = TypeVar("DaemonType", bound=Daemon)

_lab_numbers = itertools.count(1)


def cache_folder() -> Path:
    """Return the folder where `./build.sh` keeps what many clones share."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "multi-networkpolicy"


def tools_folder(module: str = "cni") -> Path:
    """Return the folder where `./build.sh` puts the tools of a Go module of tests/tools."""
    folder = REPOSITORY / "tests/tools" / module
    digest = hashlib.sha256((folder / "go.mod").read_bytes() + (folder / "go.sum").read_bytes()).hexdigest()
    return cache_folder() / digest


def container_id(netns: Path) -> str:
    """Return the ID that cnitool makes up from the path of a namespace."""
    return f"cnitool-{hashlib.sha512(str(netns).encode()).digest()[:10].hex()}"


@dataclass(frozen=True)
class Network:
    """A link in the node's namespace that pods' macvlans sit on; `name` is the link's name too."""

    name: str
    number: int
    parent: int  # interface index in the node's namespace


@dataclass(frozen=True)
class Attachment:
    """One interface of one pod, as `Lab.attach` left it."""

    pod: "Pod"
    network: Network
    ifname: str
    ifindex: int
    mac: str
    addresses: tuple[str, ...]  # with prefix lengths

    @property
    def ipv4(self) -> str:
        """The first IPv4 address, without its prefix length."""
        return next(a for a in self.addresses if ":" not in a).split("/")[0]

    @property
    def ipv6(self) -> str:
        """The first IPv6 address, without its prefix length."""
        return next(a for a in self.addresses if ":" in a).split("/")[0]

    def result(self, version: str = "1.0.0") -> dict[str, Any]:
        """Return the CNI result that the macvlan plugin prints for it, for versions from 0.3.0 on."""
        ips: list[dict[str, Any]] = [{"address": a, "interface": 0} for a in self.addresses]
        if version.startswith("0."):
            ips = [ip | {"version": "6" if ":" in ip["address"] else "4"} for ip in ips]
        interface = {"name": self.ifname, "mac": self.mac, "sandbox": str(self.pod.netns)}
        return {"cniVersion": version, "interfaces": [interface], "ips": ips, "dns": {}}


@dataclass
class Pod:
    """A network namespace with a pod's name on it."""

    name: str
    namespace: str
    netns: Path
    attachments: list[Attachment] = field(default_factory=list)
    _prober: Prober | None = None

    @property
    def container_id(self) -> str:
        """The pod's sandbox, as cnitool calls it."""
        return container_id(self.netns)

    @property
    def cni_args(self) -> dict[str, str]:
        """What a runtime tells the plugins about the pod."""
        return {"IgnoreUnknown": "true", "K8S_POD_NAMESPACE": self.namespace, "K8S_POD_NAME": self.name}

    @property
    def prober(self) -> Prober:
        """The prober in the pod, started at the first use."""
        if self._prober is None:
            self._prober = Prober(self.netns)
        return self._prober

    def set_neighbour(self, ifname: str, address: str, mac: str) -> None:
        """Enter a permanent neighbour, so that the first packets wait for no ARP or discovery."""
        self.set_neighbours(ifname, [address], mac)

    def set_neighbours(self, ifname: str, addresses: Iterable[str], mac: str) -> None:
        """The same for many addresses behind one MAC."""
        with inside(self.netns), IPRoute() as links:
            index = links.link_lookup(ifname=ifname)[0]
            for address in addresses:
                links.neigh("replace", dst=address, lladdr=mac, ifindex=index, state=_NUD_PERMANENT)

    def end(self) -> None:
        """Kill the prober and remove the namespace, as a runtime does with a sandbox; twice is fine."""
        if self._prober is not None:
            self._prober.close()
        namespaces.remove_namespace(self.netns)


@dataclass(frozen=True)
class CnitoolRun:
    """How one run of cnitool ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The CNI result that it printed."""
        parsed: dict[str, Any] = json.loads(self.stdout)
        return parsed


class Lab:
    """The node; use it in a `with` block, from one thread (cnitool alone may run in several)."""

    def __init__(self, networks: Sequence[str] = ("net1",)) -> None:
        """Only remember the names of the networks: the parts are made on entry."""
        self.tag = f"{namespaces.PREFIX}{os.getpid()}-{next(_lab_numbers)}"
        self.networks: dict[str, Network] = {}
        self.pods: list[Pod] = []
        self.daemons: list[Daemon] = []
        self._wanted = tuple(networks)
        self._signals: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Make the node and its networks, after removing what a killed run left behind."""
        _remove_leftovers()
        self._catch_sigterm()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.tag}-"))
        try:
            # The node's own IPv6 would only chatter on the parent links.
            self.node = namespaces.create_namespace(f"{self.tag}.node", ipv6__conf__default__disable_ipv6="1")
            for name in self._wanted:
                self.network(name)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take everything down; a second Ctrl-C does not stop that."""
        self._end()

    def network(self, name: str) -> Network:
        """Add a network: a veth pair whose ends are called `name` (the parent) and, short of it, the wire."""
        with inside(self.node), IPRoute() as links:
            wire = _wire(name)
            links.link("add", ifname=name, kind="veth", peer=wire)
            parent = links.link_lookup(ifname=name)[0]
            links.link("set", index=parent, state="up")
            links.link("set", index=links.link_lookup(ifname=wire)[0], state="up")
        self.networks[name] = Network(name, len(self.networks) + 1, parent)
        return self.networks[name]

    def pod(self, name: str, namespace: str = "default", suffix: str = "") -> Pod:
        """Make a pod without interfaces; `suffix` tells apart two pods of one name."""
        netns = namespaces.create_namespace(f"{self.tag}.{namespace}.{name}{suffix}")
        return self._add_pod(Pod(name, namespace, netns))

    def attach(
        self,
        pod: Pod,
        network: str = "net1",
        ifname: str = "net1",
        addresses: Sequence[str] | None = None,
        mac: str | None = None,
    ) -> Attachment:
        """Give the pod a macvlan (bridge mode), up and with its addresses, as the macvlan plugin would.

        `addresses` carry prefix lengths; without them the network's next IPv4 and IPv6 addresses are taken.
        """
        parent = self.networks[network]
        extra = {"address": mac} if mac else {}
        with pod.netns.open("rb") as target, inside(self.node), IPRoute() as links:
            links.link(
                "add",
                ifname=ifname,
                kind="macvlan",
                macvlan_mode="bridge",
                link=parent.parent,
                net_ns_fd=target.fileno(),
                **extra,
            )
        return self._bring_up(pod, parent, ifname, addresses)

    def outside(self, network: str, addresses: Sequence[str] | None = None) -> Attachment:
        """Give the far end of a network's wire to a new pod `outside-<network>`: a host without macvlan."""
        pod = self.pod(f"outside-{network}", "outside")
        with pod.netns.open("rb") as target, inside(self.node), IPRoute() as links:
            index = links.link_lookup(ifname=_wire(network))[0]
            links.link("set", index=index, net_ns_fd=target.fileno(), ifname="eth0")
        return self._bring_up(pod, self.networks[network], "eth0", addresses)

    def detach(self, attachment: Attachment) -> None:
        """Delete the interface, as the macvlan plugin's DEL does."""
        with inside(attachment.pod.netns), IPRoute() as links:
            links.link("del", index=attachment.ifindex)
        attachment.pod.attachments.remove(attachment)

    def replace_namespace(self, pod: Pod) -> Pod:
        """End the pod's namespace and mount an empty one at its path; returns the pod that is there now."""
        pod.end()
        self.pods.remove(pod)
        return self._add_pod(Pod(pod.name, pod.namespace, namespaces.create_namespace(pod.netns.name)))

    def cnitool(
        self,
        command: str,
        conflist: Mapping[str, Any],
        pod: Pod,
        ifname: str = "net1",
        args: Mapping[str, str] | None = None,
        capabilities: Mapping[str, Any] | None = None,
        plugins: Sequence[Path] = (),
    ) -> CnitoolRun:
        """Run the real cnitool in the node's namespace; threads may call it.

        `args` default to the pod's identity; `plugins` are further folders of plugins.
        """
        tools = tools_folder()
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            Path(folder, "network.conflist").write_text(json.dumps(conflist))
            env = {
                "PATH": os.environ.get("PATH", os.defpath),
                "NETCONFPATH": folder,
                "CNI_PATH": ":".join(map(str, (PLUGIN_FOLDER, tools, *plugins))),
                "CNI_IFNAME": ifname,
                "CNI_ARGS": ";".join(f"{k}={v}" for k, v in (pod.cni_args if args is None else args).items()),
            }
            if capabilities is not None:
                env["CAP_ARGS"] = json.dumps(capabilities)
            line = [str(tools / "cnitool"), command, str(conflist["name"]), str(pod.netns)]
            with inside(self.node):
                run = subprocess.Popen(
                    line, env=env, stdin=subprocess.DEVNULL, stdout=-1, stderr=-1, text=True, process_group=0
                )
            return _finish(run)

    def daemon(self, **options: Any) -> Daemon:
        """Start a daemon with a private socket, state and manifests directory; it ends with the lab."""
        # Other labs on this machine have daemons of their own.
        own = f"--netns-paths={namespaces.ROOT}/{self.tag}.*"
        flags = [own, *options.pop("options", ())]
        daemon = self.adopt(Daemon(self.daemon_folder(), options=flags, **options))
        daemon.start()
        return daemon

    def daemon_folder(self) -> Path:
        """A folder for one more daemon."""
        return self.folder / f"daemon-{len(self.daemons) + 1}"

    def adopt(self, daemon: DaemonType) -> DaemonType:
        """Let a daemon end with the lab."""
        self.daemons.append(daemon)
        return daemon

    def _add_pod(self, pod: Pod) -> Pod:
        self.pods.append(pod)
        with inside(pod.netns), IPRoute() as links:
            links.link("set", index=1, state="up")  # lo
        return pod

    def _remove_namespaces(self) -> None:
        # By their names: an interrupt may have come between the making of one and its place among the pods.
        for path in namespaces.ROOT.glob(f"{self.tag}.*"):
            namespaces.remove_namespace(path)

    def _bring_up(
        self, pod: Pod, network: Network, ifname: str, addresses: Sequence[str] | None
    ) -> Attachment:
        taken = _next_addresses(self.pods, network) if addresses is None else tuple(addresses)
        with inside(pod.netns), IPRoute() as links:
            index = links.link_lookup(ifname=ifname)[0]
            for address in taken:
                # nodad, for address detection would keep it unusable for a second.
                flags = {"flags": _IFA_F_NODAD} if ":" in address else {}
                links.addr("add", index=index, address=address, **flags)
            links.link("set", index=index, state="up")
            mac = links.get_links(index)[0].get_attr("IFLA_ADDRESS")
        attachment = Attachment(pod, network, ifname, index, mac, taken)
        pod.attachments.append(attachment)
        return attachment

    def _catch_sigterm(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._signals[number] = signal.signal(number, _exit_by_signal)

    def _end(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
        with contextlib.ExitStack() as steps:  # runs all of them, last first, whichever fails
            if main:
                steps.callback(signal.signal, signal.SIGINT, interrupt)
            for number, before in self._signals.items():
                steps.callback(signal.signal, number, before)
            steps.callback(shutil.rmtree, self.folder, ignore_errors=True)
            steps.callback(self._remove_namespaces)
            for pod in self.pods:
                steps.callback(_forget_results, pod.netns)
                steps.callback(pod.end)
            for daemon in self.daemons:
                steps.callback(daemon.stop)


def _wire(network: str) -> str:
    # An interface's name has 15 characters at most.
    return f"{network[:10]}-wire"


def _next_addresses(pods: Sequence[Pod], network: Network) -> tuple[str, str]:
    taken = sum(1 for pod in pods for a in pod.attachments if a.network.name == network.name) + 1
    return (f"10.{network.number}.{taken >> 8}.{taken & 255}/16", f"fd00:{network.number:x}::{taken:x}/64")


def _forget_results(netns: Path) -> None:
    for path in CNITOOL_CACHE.glob(f"*-{container_id(netns)}-*"):
        path.unlink(missing_ok=True)


def _remove_leftovers() -> None:
    for netns in namespaces.remove_leftovers():
        _forget_results(netns)
        for folder in Path(tempfile.gettempdir()).glob(f"{netns.name.partition('.')[0]}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def _exit_by_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _finish(run: "subprocess.Popen[str]") -> CnitoolRun:
    try:
        out, err = run.communicate(timeout=CNITOOL_TIMEOUT)
    except BaseException:
        # The plugins that it started belong to its group, and would go on.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.communicate()
        raise
    return CnitoolRun(run.returncode, out, err)
