"""What a daemon that was started anew makes of files that broke, before it ended or meanwhile.

proves: A4
"""

import json
from pathlib import Path
from typing import Any

import pytest

from daemon.model import ObjectKey, Policy
from daemon.sources.catalog import Catalog
from tests.unit.keptpolicies import Clock, Life

BAD_SELECTOR = {"matchExpressions": [{"key": "a", "operator": "in", "values": ["b"]}]}


def policy(name: str = "p", selector: Any = None, port: int = 1, **changes: Any) -> str:
    annotations = {"k8s.v1.cni.cncf.io/policy-for": changes.pop("networks", "net1")}
    return json.dumps(
        {
            "apiVersion": "k8s.cni.cncf.io/v1beta1",
            "kind": "MultiNetworkPolicy",
            "metadata": {"name": name, "namespace": "ns", "annotations": annotations},
            "spec": {"podSelector": selector or {}, "ingress": [{"ports": [{"port": port}]}]},
            **changes,
        }
    )


def pod(name: str) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"}})


class Node:
    """A daemon's catalog and memory; all its policies govern something. restart(): the disk alone stays."""

    def __init__(self, directory: Path) -> None:
        self.clock = Clock()
        self.directory = directory
        self.files: dict[str, bytes] = {}
        self.start()

    def start(self) -> None:
        self.life = Life(self.directory, self.clock)
        self.catalog = Catalog(self.life.keeping)
        self.objects: dict[ObjectKey, Any] = {}
        for name, content in self.files.items():
            self.catalog.put_content(name, content)
        self.settle()

    def settle(self) -> None:
        for change in self.catalog.take_changes():
            self.objects[change.key] = change.object
        there = {name: True for name in "pqrst" if self.policy(name)}
        self.life.keeping.governs({("ns", name): True for name in there})
        self.life.work()

    def restart(self, **files: str | None) -> None:
        """files: what was done to them meanwhile, without their suffix; None: removed."""
        for name, text in files.items():
            self.files.pop(f"{name}.yaml", None)
            if text is not None:
                self.files[f"{name}.yaml"] = text.encode()
        self.files = dict(sorted(self.files.items()))
        self.start()

    def put(self, name: str, *documents: str) -> None:
        self.files[name] = "\n---\n".join(documents).encode()
        self.catalog.put_content(name, self.files[name])
        self.settle()

    def remove(self, name: str) -> None:
        del self.files[name]
        self.catalog.remove(name)
        self.settle()

    def policy(self, name: str) -> Policy | None:
        found = self.objects.get(ObjectKey("MultiNetworkPolicy", "ns", name))
        assert found is None or isinstance(found, Policy)
        return found

    def port(self, name: str = "p") -> int | None:
        """Which one a policy permits; None: it governs nothing."""
        found = self.policy(name)
        if found is None or found.pod_selector is None:
            return None
        assert found.ingress
        ports = found.ingress[0].ports
        assert ports
        assert ports[0].span
        return ports[0].span[0]

    def told(self) -> str:
        return "\n".join(
            f"{place}: {problem.field}: {problem.message}"
            for place, problems in self.catalog.problems().items()
            for problem in problems
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


BREACHES = {
    "a tab": policy(port=2) + "\n\tx",
    "a template": "{{ if x }}\n" + policy(port=2),
    "no UTF-8": "\udcff",
    "a list for policy-for": policy(port=2, networks=["net1"]),
    "a selector": policy(port=2, selector=BAD_SELECTOR),
    "an apiVersion": policy(port=2, apiVersion="k8s.cni.cncf.io/v2"),
    "a misspelt kind": policy(port=2, kind="MultiNetworkPolcy"),
    "no kind": policy(port=2, kind=""),
    "no readable name": policy(port=2, metadata={"name": ["p"], "namespace": "ns"}),
    "a spec that is a list": policy(port=2, spec=[]),
}


def write(node: Node, text: str) -> None:
    node.files["a.yaml"] = text.encode("utf-8", "surrogateescape")
    node.catalog.put_content("a.yaml", node.files["a.yaml"])
    node.settle()


@pytest.mark.parametrize("breach", BREACHES)
def test_what_broke_keeps_its_last_version_over_restarts(node: Node, breach: str) -> None:
    write(node, policy())
    write(node, BREACHES[breach])
    assert node.port() == 1
    for _ in range(3):
        node.restart()
        assert node.port() == 1
        assert "in force" in node.told() or any(
            "stays in force" in problem.message
            for problem in node.policy("p").problems  # type: ignore[union-attr]
        )
    # Broken otherwise; then mended; then gone.
    write(node, BREACHES[breach] + "\n# ")
    assert node.port() == 1
    write(node, policy(port=3))
    assert node.port() == 3
    assert node.told() == ""
    write(node, BREACHES[breach])
    assert node.port() == 3
    node.remove("a.yaml")
    assert node.port() is None
    node.restart()
    assert node.port() is None


@pytest.mark.parametrize("breach", BREACHES)
def test_what_breaks_while_no_daemon_runs(node: Node, breach: str) -> None:
    write(node, policy())
    node.files["a.yaml"] = BREACHES[breach].encode("utf-8", "surrogateescape")
    node.restart()
    assert node.port() == 1
    node.restart(a=policy(port=3))
    assert node.port() == 3


@pytest.mark.parametrize("breach", BREACHES)
def test_one_that_never_was_valid_governs_nothing(node: Node, breach: str) -> None:
    write(node, BREACHES[breach])
    assert node.port() is None
    node.restart()
    assert node.port() is None
    # Nor one that was made anew after its end.
    write(node, policy())
    node.remove("a.yaml")
    write(node, BREACHES[breach])
    assert node.port() is None
    node.restart()
    assert node.port() is None


@pytest.mark.parametrize("breach", BREACHES)
def test_one_that_was_deleted_while_no_daemon_ran(node: Node, breach: str) -> None:
    write(node, policy())
    node.restart(a=None)
    assert node.port() is None
    write(node, BREACHES[breach])
    assert node.port() is None
    node.restart()
    assert node.port() is None


def test_a_document_that_is_gone_from_a_file_that_is_fine(node: Node) -> None:
    node.put("a.yaml", policy("p"), policy("q"))
    node.restart(a=policy("q"))
    assert (node.port("p"), node.port("q")) == (None, 1)
    # One that can't be read is in another file.
    node.put("a.yaml", policy("p"), policy("q"))
    node.restart(a=policy("q"), b="\tx")
    assert (node.port("p"), node.port("q")) == (None, 1)


def test_all_that_a_broken_file_gave_stays_and_nothing_of_others(node: Node) -> None:
    node.put("a.yaml", policy("p"), policy("q"), pod("w"))
    node.put("b.yaml", policy("r"))
    node.put("a.yaml", policy("p", port=2), "\tx")
    assert (node.port("p"), node.port("q"), node.port("r")) == (1, 1, 1)
    node.restart(b=policy("s"))
    ports = {name: node.port(name) for name in "pqrs"}
    assert ports == {"p": 1, "q": 1, "r": None, "s": 1}
    assert "the last valid versions of its policies stay in force: ns/p, ns/q" in node.told()
    # What else stands in it is read as far as it can be, and then stays as it is until the file is mended.
    node.put("a.yaml", policy("p", port=3), policy("t"), "\tx")
    assert (node.port("p"), node.port("q"), node.port("t")) == (1, 1, None)
    node.put("a.yaml", policy("q", port=4))
    assert (node.port("p"), node.port("q")) == (None, 4)


def test_a_file_that_can_not_be_read_at_all(node: Node) -> None:
    node.put("a.yaml", policy("p"))
    del node.files["a.yaml"]
    node.life = Life(node.directory, node.clock)
    node.catalog, node.objects = Catalog(node.life.keeping), {}
    node.catalog.put_error("a.yaml", "can't be read: Input/output error")
    node.settle()
    assert node.port() == 1
    assert "Input/output error; the last valid versions" in node.told()
    node.life.work(1000)
    node.put("a.yaml", "\tx")
    assert node.port() == 1
    node.put("a.yaml", policy("p", port=2))
    assert node.port() == 2
    assert node.told() == ""


def test_an_object_that_moved_to_another_file_and_broke(node: Node) -> None:
    node.put("a.yaml", policy("p"))
    node.restart(a=None, b=policy("p", port=2, networks=["net1"]))
    assert node.port() == 1
    node.restart()
    assert node.port() == 1


def test_a_broken_copy_does_not_hide_one_that_is_fine(node: Node) -> None:
    node.put("b.yaml", policy("p"))
    broken = policy("p", networks=["net1"])
    node.put("a.yaml", broken)
    assert node.port() == 1
    node.restart(b=policy("p", port=2))
    assert node.port() == 2
    node.put("b.yaml", policy("p", port=3))
    assert node.port() == 3
    node.restart()
    assert node.port() == 3


def test_the_first_file_keeps_its_last_version_before_another(node: Node) -> None:
    node.put("a.yaml", policy("p", port=1))
    node.put("b.yaml", policy("p", port=2))
    node.put("a.yaml", policy("p", networks=["net1"]))
    assert node.port() == 1
    node.restart()
    assert node.port() == 1
    node.remove("a.yaml")
    assert node.port() == 2


def test_names_that_are_missing_in_several_documents(node: Node) -> None:
    nameless = policy("p", metadata={"namespace": "ns"})
    node.put("a.yaml", policy("p"), policy("q"), policy("r"))
    node.put("a.yaml", nameless, nameless, policy("r", port=2))
    for _ in range(2):
        assert (node.port("p"), node.port("q"), node.port("r")) == (1, 1, 2)
        node.restart()
    node.put("a.yaml", nameless, policy("r", port=3))
    assert (node.port("p"), node.port("q"), node.port("r")) == (1, 1, 3)
    node.put("a.yaml", policy("r", port=4))
    assert (node.port("p"), node.port("q"), node.port("r")) == (None, None, 4)


def test_names_of_files_that_are_no_text(node: Node) -> None:
    name = b"\xff\xfe.yaml".decode("utf-8", "surrogateescape")
    node.put(name, policy("p"))
    node.put(name, "\tx")
    node.restart()
    assert node.port() == 1


def test_what_is_broken_is_kept_though_it_governs_nothing_any_more(node: Node) -> None:
    node.put("a.yaml", policy("p"))
    node.put("a.yaml", "\tx")
    node.life.keeping.governs({("ns", "p"): False})
    node.life.work(1000)
    node.restart()
    assert node.port() == 1
    # Mended, it is one like others.
    node.put("a.yaml", policy("p"))
    node.life.keeping.governs({("ns", "p"): False})
    node.life.work(1000)
    assert node.life.kept("p") == []


def test_a_damaged_file_is_told_and_the_policy_counts_as_absent(node: Node) -> None:
    node.put("a.yaml", policy("p"))
    for path in node.directory.glob("*.json"):
        path.write_bytes(path.read_bytes()[:-1])
    node.restart(a="\tx")
    assert node.port() is None
    node.life.work(1000)
    (note,) = node.life.keeping.notes()
    assert "set aside, no last valid version: damaged" in note
    node.put("a.yaml", policy("p"))
    assert node.life.keeping.notes() == []
