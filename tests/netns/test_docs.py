"""docs/backends.md shows what stands in the kernel for its worked policy: here it is asked."""

import re
import subprocess

import pytest
import yaml

from tests.lab import Daemon, Lab, Pod, namespaces, objects
from tests.lab.lab import REPOSITORY
from tests.netns.enroll import add, must

DOC = (REPOSITORY / "docs/backends.md").read_text()
SHOWN_ID = "7f3a9c21b0de"
"""The container's ID in the documentation."""


def block_behind(words: str) -> str:
    """The first block behind these words."""
    found = re.search(r"```\w*\n(.*?)```", DOC[DOC.index(words) :], re.DOTALL)
    assert found is not None
    return found[1]


def shown(words: str) -> list[str]:
    """The lines of that block, without their indentation."""
    return lines_of(block_behind(words))


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.fixture
def web(lab: Lab) -> Pod:
    return lab.pod("web")


@pytest.fixture
def daemon(lab: Lab, web: Pod, backend: str) -> Daemon:
    """The documentation's policy is in force on the pod `web`."""
    shown_policy = yaml.safe_load(block_behind("## One policy, both ways"))
    policy = {"apiVersion": "k8s.cni.cncf.io/v1beta1", **shown_policy}
    daemon = lab.daemon(backend=backend)
    attachment = lab.attach(web)
    status = [objects.status_entry("default/net1", "net1", ["10.1.0.2", "fd00:1::2"])]
    pods = [
        objects.pod("web", labels={"app": "web"}, networks="net1"),
        objects.pod("api", labels={"app": "api"}, networks="net1", status=status),
    ]
    daemon.apply("all.json", [objects.network("net1"), policy, *pods])
    daemon.wait_synced()
    must(add(daemon, attachment))
    return daemon


def listed(pod: Pod, *command: str) -> list[str]:
    """What a program lists in the pod, with the documentation's container ID."""
    with namespaces.inside(pod.netns):
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = re.sub(r'"[^"/ ]+/net1"', f'"{SHOWN_ID}/net1"', text)
    # Of the lines about the attachment, whose words differ each time, the first stands for all.
    return lines_of(re.sub(r'"net1 1/\d+ [^"]*"', '"net1 1/3 …"', re.sub(r'.*"net1 [2-9]/.*\n', "", text)))


def sets_of(lines: list[str]) -> dict[str, set[str]]:
    """ipset's sets by name; the order of members and their size in memory are the kernel's affair."""
    found: dict[str, set[str]] = {}
    for line in lines:
        if line.startswith("Name: "):
            found[line] = set()
        elif not line.startswith("Size in memory"):
            found[next(reversed(found))].add(line)
    return found


@pytest.mark.parametrize("backend", ["nftables"])
def test_nftables_as_shown(daemon: Daemon, web: Pod) -> None:
    assert listed(web, "nft", "-s", "list", "ruleset") == shown("### nftables:")


@pytest.mark.parametrize("backend", ["iptables"])
def test_iptables_as_shown(daemon: Daemon, web: Pod) -> None:
    ours = ("-t", "mangle", "-S")
    rules = listed(web, "iptables-legacy", *ours)
    assert rules == shown("### iptables:")
    assert [line for line in listed(web, "ip6tables-legacy", *ours) if line not in rules] == shown(
        "`ip6tables-legacy -t mangle -S` lists the same"
    )
    sets = sets_of(listed(web, "ipset", "list"))
    assert len(sets) == 4
    assert sets == sets_of(shown("`ipset list`:"))
