"""conf/crd.yaml knows the keys that the daemon knows, at each place, and lets no other in.

What a server makes of it is in tests/kube/test_crd.py.

proves: C12
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.decoding import policy

CRD = yaml.safe_load((Path(__file__).resolve().parents[2] / "conf/crd.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
PEER: dict[str, Any] = {"ipBlock": {"cidr": "10.0.0.0/8"}}


def objects(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object that has keys of its own, by its path."""
    if "properties" in schema:
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects(inner, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from objects(schema["items"], f"{path}[0]")


OBJECTS = dict(objects(SCHEMA))


def test_the_versions_share_one_schema() -> None:
    assert all(version["schema"]["openAPIV3Schema"] == SCHEMA for version in CRD["spec"]["versions"])
    assert len(OBJECTS) == 2 + 2 * (1 + 1 + 1 + 2 * 2 + 1) + 2


@pytest.mark.parametrize("path", [path for path in OBJECTS if path])
def test_each_object_lets_its_own_keys_in_and_no_others(path: str) -> None:
    schema = OBJECTS[path]
    keys, required = list(schema["properties"]), set(schema.get("required", ()))
    assert schema["x-kubernetes-preserve-unknown-fields"] is True
    told, *parts = schema["anyOf"]
    assert told == {"enum": [f"only the keys {', '.join(keys)}"]}
    chosen = [set(some) for count in range(len(keys) + 1) for some in combinations(keys, count)]
    wanted = [(some, len(some)) for some in chosen if required <= some]
    assert [(set(part.get("required", ())), part["maxProperties"]) for part in parts] == wanted


def wrap(path: str, value: Any) -> Any:
    """The spec that has a value at a path below `spec`."""
    for part in reversed(path.split(".")[1:]):
        name, bracket, _ = part.partition("[")
        value = {name: [value] if bracket else value}
    return value


@pytest.mark.parametrize("path", [path for path in OBJECTS if path])
def test_the_daemon_knows_the_same_keys(path: str) -> None:
    """It reports an unknown one there, and none of the definition's."""
    told = [problem.field for problem in policy(wrap(path, {"x": None})).problems]
    assert f"{path}.x" in told
    for key in OBJECTS[path]["properties"]:
        found = policy(wrap(path, {key: None})).problems
        assert not any("unknown key" in problem.message for problem in found)
