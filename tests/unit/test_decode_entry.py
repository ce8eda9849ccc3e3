"""What is wrong with our plugin's entry in a net-attach-def is told before a pod fails for it."""

import json
from typing import Any

import pytest

from cni_plugin.errors import CniError
from cni_plugin.request import read_request
from daemon.decode import decode_object
from daemon.decode.entry import KEYS, OF_CNI
from daemon.model import NetAttachDef
from tests.cni.bad_input import ENV
from tests.lab import objects

pytestmark = pytest.mark.unit

TYPE = {"type": "multi-networkpolicy"}
VALUES: list[Any] = [
    None,
    True,
    "fail",
    "deny",
    "Deny",
    "",
    0,
    0.5,
    1,
    600,
    601,
    "30",
    [],
    "/run/x",
    "run/x",
    "/" + "x" * 106,
    "/" + "x" * 107,
    "/a\0",
    "a/b",
    "A/b",
    "a.b/c",
    "a/b.c",
    "a/b/c",
    "a/",
    "a-/b",
]


def problems(**keys: Any) -> list[str]:
    made = objects.network("front", "shop")
    plugins = [{"type": "macvlan", "onUnreadi": 1}, {**TYPE, **keys}]
    made["spec"]["config"] = json.dumps({"cniVersion": "1.0.0", "name": "lan", "plugins": plugins})
    found = decode_object(made)
    assert isinstance(found, NetAttachDef)
    told = [f"{problem.field}: {problem.message}" for problem in found.problems]
    # Whether such a list of plugins governs anything is another matter.
    return [line for line in told if line.startswith("spec.config: plugins")]


def plugin_takes(key: str, value: Any) -> bool:
    """What the plugin says at ADD."""
    guard = key == "guard" and value is True
    body = {"cniVersion": "1.0.0", "name": "lan", **TYPE, key: value}
    if not guard:
        body["prevResult"] = {"cniVersion": "1.0.0", "interfaces": [], "ips": []}
    try:
        read_request("ADD", dict(ENV), json.dumps(body).encode())
    except CniError as error:
        return key not in f"{error.msg} {error.details}"
    return True


@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("key", KEYS)
def test_values_are_judged_as_the_plugin_judges_them(key: str, value: Any) -> None:
    told = problems(**{key: value})
    assert (told == []) == plugin_takes(key, value)
    for line in told:
        assert line.startswith(f"spec.config: plugins[1].{key}: expected {KEYS[key][1]}, not ")
        assert line.endswith(": no pod with it starts")


@pytest.mark.parametrize(
    ("key", "meant"),
    [("onUnreadi", "onUnready"), ("timeoutSecond", "timeoutSeconds"), ("netattachdef", "netAttachDef")],
)
def test_a_key_that_looks_misspelt_is_told_of(key: str, meant: str) -> None:
    wanted = f"spec.config: plugins[1].{key}: unknown key (did you mean {meant}?): ignored"
    assert problems(**{key: "x"}) == [wanted]


def test_other_keys_are_others() -> None:
    assert problems(**dict.fromkeys([*OF_CNI - {"type"}, "logLevel", "x" * 1000], "x")) == []
