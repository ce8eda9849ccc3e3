"""Why policies do not govern the interfaces of a net-attach-def as they should, and what its author hears."""

import json
from typing import Any

import pytest

from daemon.decode import decode_object
from daemon.decode.networks import HARMLESS_AFTER
from daemon.model import NetAttachDef
from tests.lab import objects

OURS = {"type": "multi-networkpolicy"}
GUARD = {**OURS, "guard": True}
MACVLAN = {"type": "macvlan", "master": "eth1"}
ENTRY = '{"type": "multi-networkpolicy", "netAttachDef": "shop/front"}'
MISSPELT = ["multi-network-policy", "multinetworkpolicy", "Multi-NetworkPolicy", "multi-networkpolcy"]


def decode(config: dict[str, Any] | str) -> NetAttachDef:
    made = objects.network("front", "shop")
    made["spec"]["config"] = config if isinstance(config, str) else json.dumps(config)
    found = decode_object(made)
    assert isinstance(found, NetAttachDef)
    return found


def listed(*plugins: object) -> dict[str, Any]:
    return {"cniVersion": "0.3.1", "name": "lan", "plugins": list(plugins)}


FINE = {
    "last": listed(MACVLAN, OURS),
    "first as a guard too": listed(GUARD, MACVLAN, OURS),
    "not a guard, in so many words": listed(MACVLAN, {**OURS, "guard": False}),
    "twice": listed(MACVLAN, OURS, OURS),
    "after further plugins": listed(MACVLAN, {"type": "tuning", "mac": "02:00:00:00:00:01"}, OURS),
    **{f"before {kind}": listed(MACVLAN, OURS, {"type": kind}) for kind in sorted(HARMLESS_AFTER)},
    "before several": listed(GUARD, MACVLAN, OURS, {"type": "sbr"}, {"type": "tuning", "promisc": True}),
}


@pytest.mark.parametrize("config", FINE.values(), ids=list(FINE))
def test_what_is_governed_is_not_reported(config: dict[str, Any]) -> None:
    found = decode(config)
    assert (found.chained, found.fault, found.problems, found.on_disk) == (True, "", (), False)


MADE_A_LIST = '{"cniVersion": "0.3.1", "name": "lan", "plugins": [{its present config}, ' + ENTRY + "]}"
UNGOVERNED = "not governed"
# The config, whether ADDs of ours come from it, whether its own author is told, words of the fault.
FAULTS: list[tuple[str, Any, bool, bool, list[str]]] = [
    (
        "single",
        {"cniVersion": "0.3.1", "name": "lan", **MACVLAN},
        False,
        False,
        ["macvlan", UNGOVERNED, MADE_A_LIST],
    ),
    ("single, without version and name", MACVLAN, False, False, ['"cniVersion": "1.0.0", "name": "front"']),
    ("ours alone", OURS, False, True, ["alone", "no pod with it starts", "`plugins`", ENTRY]),
    (
        "not ours",
        listed(MACVLAN),
        False,
        False,
        ["does not chain", UNGOVERNED, "already stay so", ENTRY, "last"],
    ),
    ("an empty list", listed(), False, False, ["does not chain", ENTRY]),
    ("no plugins", {"name": "lan"}, False, False, ["no list `plugins`", ENTRY]),
    ("plugins that are no list", {"plugins": {**OURS}}, False, False, ["no list `plugins`"]),
    ("guard only", listed(GUARD, MACVLAN), False, True, ["guard only", "nothing passes", ENTRY, "last"]),
    ("guard only, last", listed(MACVLAN, GUARD), False, True, ["guard only", ENTRY]),
    (
        "first without guard",
        listed(OURS, MACVLAN),
        True,
        True,
        ["no pod with it starts", "list it last", '"guard": true'],
    ),
    ("first and last without guard", listed(OURS, MACVLAN, OURS), True, True, ["no pod with it starts"]),
    ("nothing between", listed(GUARD, OURS, MACVLAN), True, True, ["before what makes the interface"]),
    ("guard not first", listed(MACVLAN, GUARD, OURS), True, True, ["does not stand first", "list it first"]),
    (
        "before vrf",
        listed(MACVLAN, OURS, {"type": "vrf"}),
        True,
        True,
        ["'vrf'", "list multi-networkpolicy last"],
    ),
    ("before an unknown one", listed(MACVLAN, OURS, {"type": "x"}), True, True, ["'x'", "unseen"]),
    ("before a nameless one", listed(MACVLAN, OURS, {}), True, True, ["null", "last"]),
    ("before a new MAC", listed(MACVLAN, OURS, {"type": "tuning", "mac": "02::"}), True, True, ["'tuning'"]),
    (
        "before a MAC that pods ask for",
        listed(MACVLAN, OURS, {"type": "tuning", "capabilities": {"mac": True}}),
        True,
        True,
        ["'tuning'"],
    ),
    ("no JSON", "{", False, True, ["can't be read"]),
    ("no object", "[]", False, True, ["can't be read"]),
    *[
        (
            f"{word}",
            listed(MACVLAN, {"type": word}),
            False,
            True,
            [repr(word), "did you mean multi-networkpolicy?", UNGOVERNED, ENTRY],
        )
        for word in MISSPELT
    ],
]


@pytest.mark.parametrize(
    ("config", "chained", "told", "words"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS]
)
def test_what_is_not_governed_says_why_and_what_to_do(
    config: Any, chained: bool, told: bool, words: list[str]
) -> None:
    found = decode(config)
    assert [word for word in words if word not in found.fault] == []
    assert (found.chained, bool(found.problems), found.on_disk) == (chained, told, False)


def test_an_entry_that_names_another_network_is_told_to_authors_of_policies() -> None:
    """It may be meant, so that policies for one net-attach-def govern the interfaces of several."""
    config = listed(GUARD, MACVLAN, {**OURS, "netAttachDef": "shop/store"})
    found = decode(config)
    assert "policies for that one govern" in found.fault
    assert (found.chained, found.problems) == (True, ())
    assert decode(listed(MACVLAN, {**OURS, "netAttachDef": "shop/front"})).fault == ""


def test_the_entry_that_is_told_is_json_that_mends_it() -> None:
    found = decode(listed(MACVLAN))
    start, end = found.fault.index("{"), found.fault.rindex("}") + 1
    assert decode(listed(MACVLAN, json.loads(found.fault[start:end]))).fault == ""


def test_a_single_plugin_is_told_a_whole_config() -> None:
    config = {"cniVersion": "0.4.0", "name": 'a"b', **MACVLAN}
    fault = decode(config).fault
    told = fault[fault.index("{") : fault.rindex("}") + 1].replace("{its present config}", json.dumps(config))
    mended = json.loads(told)
    assert (mended["cniVersion"], mended["name"]) == ("0.4.0", 'a"b')
    assert decode(mended).fault == ""


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_config_on_the_nodes_is_no_fault(text: str) -> None:
    found = decode(text)
    assert (found.chained, found.fault, found.problems, found.on_disk) == (False, "", (), True)


def test_what_is_told_is_plain_text_whatever_the_config() -> None:
    odd = "a\x9b31m\u202e\n"
    for config in ({"name": odd, "cniVersion": odd, "type": odd}, listed(MACVLAN, OURS, {"type": odd})):
        assert decode(config).fault.isprintable()


HUGE = [
    {"cniVersion": "9" * 10_000, "name": "n" * 10_000, "type": "t" * 10_000},
    listed(*[{"type": "multi-network-policy" + "y" * 1000}] * 100),
    listed(MACVLAN, OURS, *[{"type": "t" * 1000}] * 100),
]


@pytest.mark.parametrize("config", HUGE)
def test_what_is_told_is_short_whatever_the_config(config: dict[str, Any]) -> None:
    assert 0 < len(decode(config).fault) < 700
