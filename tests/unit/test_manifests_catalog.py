"""All files together: whose object counts, what stays through errors, which namespaces exist, what is told.

proves: A3, A4
"""

import json
import time
from typing import Any

import pytest

from daemon.model import Change, Namespace, ObjectKey, Pod, Policy
from daemon.sources.catalog import Catalog, shown_name


def pod(name: str, **labels: Any) -> str:
    metadata = {"name": name, "namespace": "ns", "labels": labels}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})


def policy(selector: Any, *ports: int) -> str:
    annotations = {"k8s.v1.cni.cncf.io/policy-for": "net1"}
    rules = [{"ports": [{"port": port} for port in ports]}]
    return json.dumps(
        {
            "apiVersion": "k8s.cni.cncf.io/v1beta1",
            "kind": "MultiNetworkPolicy",
            "metadata": {"name": "p", "namespace": "ns", "annotations": annotations},
            "spec": {"podSelector": selector, "ingress": rules},
        }
    )


class Files:
    """A catalog and what it has said so far."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.objects: dict[ObjectKey, Any] = {}

    def put(self, name: str, *documents: str) -> tuple[Change, ...]:
        self.catalog.put_content(name, "\n---\n".join(documents).encode())
        return self.take()

    def remove(self, name: str) -> tuple[Change, ...]:
        self.catalog.remove(name)
        return self.take()

    def take(self) -> tuple[Change, ...]:
        changes = self.catalog.take_changes()
        for change in changes:
            if change.object is None:
                del self.objects[change.key]
            else:
                assert self.objects.get(change.key) != change.object
                self.objects[change.key] = change.object
        return changes

    def labels(self, name: str) -> dict[str, str] | None:
        found = self.objects.get(ObjectKey("Pod", "ns", name))
        assert found is None or isinstance(found, Pod)
        return dict(found.labels) if found else None

    def told(self) -> dict[str, list[str]]:
        return {
            place: [f"{problem.field}: {problem.message}" for problem in problems]
            for place, problems in self.catalog.problems().items()
        }


@pytest.fixture
def files() -> Files:
    return Files()


def test_an_object_comes_changes_and_goes(files: Files) -> None:
    changes = files.put("a.yaml", pod("a", x="1"))
    assert [str(change.key) for change in changes] == ["Pod ns/a", "Namespace ns"]
    assert files.put("a.yaml", pod("a", x="1")) == ()
    # Other bytes, the same meaning.
    assert files.put("a.yaml", " " + pod("a", x="1")) == ()
    (change,) = files.put("a.yaml", pod("a", x="2"))
    assert change.key == ObjectKey("Pod", "ns", "a")
    files.remove("a.yaml")
    assert files.objects == {}
    assert files.told() == {}


def test_the_first_file_name_counts(files: Files) -> None:
    files.put("b.yaml", pod("a", of="b"))
    assert files.told() == {}
    files.put("c.yaml", pod("a", of="c"))
    assert files.labels("a") == {"of": "b"}
    files.put("a.yaml", pod("a", of="a"))
    assert files.labels("a") == {"of": "a"}
    assert list(files.told()) == ["b.yaml", "c.yaml"]
    assert "Pod ns/a is in a.yaml too" in files.told()["b.yaml"][0]
    files.remove("a.yaml")
    assert files.labels("a") == {"of": "b"}
    files.put("b.yaml", pod("other"))
    assert files.labels("a") == {"of": "c"}
    assert files.told() == {}


def test_an_edit_of_the_second_file_changes_nothing_but_is_remembered(files: Files) -> None:
    files.put("a.yaml", pod("a", of="a"))
    files.put("b.yaml", pod("a", of="b"))
    assert files.put("b.yaml", pod("a", of="b2")) == ()
    files.remove("a.yaml")
    assert files.labels("a") == {"of": "b2"}


def test_twice_in_one_file_the_first_counts(files: Files) -> None:
    files.put("a.yaml", pod("a", of="1"), pod("a", of="2"))
    assert files.labels("a") == {"of": "1"}
    assert "twice" in files.told()["a.yaml#2"][0]


def test_a_syntax_error_keeps_the_files_last_content(files: Files) -> None:
    files.put("a.yaml", pod("a"), pod("b"))
    assert files.put("a.yaml", pod("a", x="1"), "a: [") == ()
    assert files.labels("a") == {}
    assert files.labels("b") == {}
    ((place, (message,)),) = files.told().items()
    assert place == "a.yaml#2"
    assert "last content stays" in message
    files.put("a.yaml", pod("a", x="1"))
    assert files.labels("a") == {"x": "1"}
    assert files.labels("b") is None
    assert files.told() == {}


def test_of_a_file_that_never_was_right_the_good_documents_count(files: Files) -> None:
    files.put("a.yaml", pod("a"), "a: [")
    assert files.labels("a") == {}
    files.put("a.yaml", pod("b"), "a: [")
    assert files.labels("b") == {}
    assert files.labels("a") is None
    assert list(files.told()) == ["a.yaml#2"]


def test_an_undecodable_object_keeps_its_last_version(files: Files) -> None:
    files.put("a.yaml", pod("a", x="1"), pod("b"))
    files.put("a.yaml", pod("a", x=True), pod("b", y="2"))
    assert files.labels("a") == {"x": "1"}
    assert files.labels("b") == {"y": "2"}
    ((place, (message,)),) = files.told().items()
    assert place == "a.yaml#1"
    assert message.startswith("metadata.labels[x]: Pod ns/a:")
    assert "last version stays" in message
    # And through a second broken version.
    files.put("a.yaml", pod("a", x=5), pod("b", y="2"))
    assert files.labels("a") == {"x": "1"}
    files.put("a.yaml", pod("b", y="2"))
    assert files.labels("a") is None


def test_an_object_that_never_was_right_is_absent(files: Files) -> None:
    files.put("a.yaml", pod("a", x=True))
    assert files.objects == {}
    assert "counts as absent" in files.told()["a.yaml#1"][0]


def test_an_object_that_lost_its_name_keeps_its_last_version(files: Files) -> None:
    files.put("a.yaml", pod("a", x="1"), pod("b"))
    files.put("a.yaml", pod("A_", x="2"), pod("b"))
    assert files.labels("a") == {"x": "1"}
    files.put("a.yaml", pod("B_"), pod("b"))
    assert files.labels("a") == {"x": "1"}
    # Named again elsewhere in the file: it is that one.
    files.put("a.yaml", pod("A_"), pod("a", x="3"))
    assert files.labels("a") == {"x": "3"}
    assert files.labels("b") is None


def test_a_file_that_can_not_be_read_keeps_its_content(files: Files) -> None:
    files.put("a.yaml", pod("a"))
    files.catalog.put_error("a.yaml", "can't be read: Permission denied")
    assert files.take() == ()
    assert files.told() == {"a.yaml": [": can't be read: Permission denied"]}
    assert files.put("a.yaml", pod("a")) == ()
    assert files.told() == {}


def test_a_malformed_pod_selector_leaves_the_last_valid_version(files: Files) -> None:
    key = ObjectKey("MultiNetworkPolicy", "ns", "p")
    files.put("a.yaml", policy({}, 80))
    valid = files.objects[key]
    files.put("a.yaml", policy({"matchLabels": {"a": 1}}, 90))
    kept = files.objects[key]
    assert isinstance(kept, Policy)
    assert (kept.pod_selector, kept.ingress) == (valid.pod_selector, valid.ingress)
    assert kept.problems
    files.remove("a.yaml")
    files.put("a.yaml", policy({"matchLabels": {"a": 1}}, 90))
    assert files.objects[key].pod_selector is None


def test_a_namespace_exists_while_something_is_in_it(files: Files) -> None:
    key = ObjectKey("Namespace", "", "ns")
    implied = Namespace("ns", {"kubernetes.io/metadata.name": "ns"})
    files.put("a.yaml", pod("a"))
    files.put("b.yaml", pod("b"))
    assert files.objects[key] == implied
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "labels": {"t": "1"}}}
    files.put("c.yaml", json.dumps(namespace))
    assert files.objects[key].labels["t"] == "1"
    files.remove("a.yaml")
    files.remove("c.yaml")
    assert files.objects[key] == implied
    files.remove("b.yaml")
    assert files.objects == {}
    files.put("c.yaml", json.dumps(namespace))
    assert list(files.objects) == [key]


def test_a_missing_namespace_is_default(files: Files) -> None:
    files.put("a.yaml", '{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}')
    assert ObjectKey("Pod", "default", "a") in files.objects
    assert ObjectKey("Namespace", "", "default") in files.objects


def test_kinds_without_meaning_are_told_once_a_file(files: Files) -> None:
    files.put("a.yaml", *['{"kind": "Service"}'] * 3, '{"kind": "Deployment"}', pod("a"))
    assert files.told() == {
        "a.yaml": [
            "kind: 1 of kind Deployment, which means nothing here: ignored",
            "kind: 3 of kind Service, which means nothing here: ignored",
        ]
    }


def misspelt(text: str) -> str:
    return text.replace("MultiNetworkPolicy", "MultiNetworkPolcy")


def test_a_misspelt_kind_names_the_object_and_keeps_its_last_version(files: Files) -> None:
    """An edit that spoils the kind must not take the policy out of force."""
    key = ObjectKey("MultiNetworkPolicy", "ns", "p")
    what = "kind: MultiNetworkPolicy ns/p: 'MultiNetworkPolcy' is not read; did you mean MultiNetworkPolicy?"
    files.put("a.yaml", pod("a"), misspelt(policy({}, 80)))
    assert key not in files.objects
    assert files.told() == {"a.yaml#2": [f"{what}; it counts as absent"]}
    files.put("a.yaml", pod("a"), policy({}, 80))
    good = files.objects[key]
    for _ in range(2):
        files.put("a.yaml", misspelt(policy({}, 80)), pod("a"), pod("b"))
        assert files.objects[key] == good
        assert files.told() == {"a.yaml#1": [f"{what}; its last version stays in force"]}
        files.put("a.yaml", misspelt(policy({}, 81)), pod("a"))
        assert files.objects[key] == good
    files.put("a.yaml", pod("a"))
    assert key not in files.objects


def test_a_misspelt_kind_beside_the_object_that_it_seems_to_be(files: Files) -> None:
    """As when a NetworkPolicy of the same name stands in the file: the good one counts."""
    other = policy({}, 81).replace("MultiNetworkPolicy", "NetworkPolicy")
    other = other.replace("k8s.cni.cncf.io/v1beta1", "networking.k8s.io/v1")
    files.put("a.yaml", other, policy({}, 80))
    for text in (policy({}, 80), policy({}, 82)):
        files.put("a.yaml", other, text)
        assert files.objects[ObjectKey("MultiNetworkPolicy", "ns", "p")].ingress[0].ports[0].span[0] in (
            80,
            82,
        )
        (line,) = files.told()["a.yaml#1"]
        assert line.endswith(
            "of networking.k8s.io, another API, is not read; did you mean MultiNetworkPolicy?"
        )
    assert files.objects[ObjectKey("MultiNetworkPolicy", "ns", "p")].ingress[0].ports[0].span == (82, 82)


def test_a_wrong_version_names_the_object(files: Files) -> None:
    files.put("a.yaml", policy({}, 80).replace("v1beta1", "v1beta3"))
    (line,) = files.told()["a.yaml#1"]
    assert line.startswith("apiVersion: MultiNetworkPolicy ns/p: 'k8s.cni.cncf.io/v1beta3' is not what")


def test_many_misspelt_kinds_cost_no_square_of_time(files: Files) -> None:
    count = 20_000
    lines = [misspelt(policy({})).replace('"name": "p"', f'"name": "p{index}"') for index in range(count)]
    begun = time.process_time()
    files.catalog.put_content("a.json", "\n".join(lines).encode())
    assert len(files.told()) == 1001
    assert time.process_time() - begun < 20


def test_places_are_bounded(files: Files) -> None:
    files.put("a.json", "5 " * 3000)
    assert len(files.told()) == 1001
    assert "2000 more" in files.told()["a.json (more)"][0]


NAMES = [("a.yaml", "a.yaml"), ("a\n.yaml", "a\\n.yaml"), ("\udcff.yaml", "\\xff.yaml"), ("ü", "ü")]


@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_names_are_printable(name: str, shown: str) -> None:
    assert shown_name(name) == shown
