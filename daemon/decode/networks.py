"""Net-attach-defs: under which name their config runs, and whether it chains our plugin as it should.

In: the raw object. Out: NetAttachDef, with problems. Of a CNI configuration no more is checked
than that, and our own entry.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from daemon.decode.entry import check_entry
from daemon.decode.fields import (
    MAX_TEXT,
    Problems,
    Raw,
    expect_object,
    expect_string,
    kind_of,
    report_unknown,
    shown,
)
from daemon.model import NetAttachDef, Network
from daemon.spelling import did_you_mean

PLUGIN_TYPE = "multi-networkpolicy"

# They leave the interface and its addresses as they are, so they may run after ours; of all others nobody
# knows. vrf is not among them: packets then come in by another device than the one that ADD saw.
HARMLESS_AFTER = frozenset({"bandwidth", "firewall", "portmap", "route-override", "sbr", "tuning"})

UNGOVERNED = "so its interfaces are not governed (those that are already stay so)"

Plugin: TypeAlias = Mapping[str, Any]


def decode_net_attach_def(namespace: str, name: str, raw: Raw) -> NetAttachDef:
    """A net-attach-def, any version of its group. Raises DecodeError for a spec or config of a wrong type."""
    problems = Problems()
    spec = expect_object(raw.get("spec"), "spec")
    report_unknown(spec, frozenset({"config"}), "spec", problems, "ignored")
    text = expect_string(spec.get("config"), "spec.config")
    config = _read_config(text, problems)
    own_name = config.get("name")
    # Multus passes the net-attach-def's name where the config has none.
    config_name = own_name if isinstance(own_name, str) and own_name else name
    on_disk = not text.strip()
    network = f"{namespace}/{name}"
    fault = "" if on_disk else _fault(network, config_name, config)
    if fault and _names_ours(config):
        problems.add("spec.config", fault)
    for index, entry in enumerate(_plugins(config)):
        if entry.get("type") == PLUGIN_TYPE:
            check_entry(entry, f"spec.config: plugins[{index}]", problems)
    return NetAttachDef(
        namespace=namespace,
        name=name,
        config_name=config_name,
        chained=any(not _is_guard(item) for item in _ours(_plugins(config))),
        problems=problems.found(),
        fault=fault or _other_network(network, config),
        on_disk=on_disk,
    )


def _read_config(text: str, problems: Problems) -> Mapping[str, Any]:
    """The CNI config; {} when empty (Multus then reads a file of that name on the node) or broken."""
    if not text.strip():
        return {}
    if len(text) > MAX_TEXT:
        problems.add("spec.config", f"{len(text)} characters long; at most {MAX_TEXT} are read")
        return {}
    try:
        config = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        problems.add("spec.config", f"no JSON: {error}")
        return {}
    if not isinstance(config, dict):
        problems.add("spec.config", f"expected a JSON object, not {kind_of(config)}")
        return {}
    return config


def _plugins(config: Mapping[str, Any]) -> list[Plugin]:
    plugins = config.get("plugins")
    return [item for item in plugins if isinstance(item, dict)] if isinstance(plugins, list) else []


def _ours(plugins: Iterable[Plugin]) -> list[Plugin]:
    return [item for item in plugins if item.get("type") == PLUGIN_TYPE]


def _is_guard(item: Plugin) -> bool:
    return item.get("guard") is True


def _misspelt(plugins: Iterable[Plugin]) -> str:
    """A type that was most likely meant to be ours; "" where there is none."""
    types = (item.get("type") for item in plugins)
    return next((t for t in types if isinstance(t, str) and did_you_mean(t, [PLUGIN_TYPE])), "")


def _names_ours(config: Mapping[str, Any]) -> bool:
    """Whether its author means interfaces of it to be governed, also when no policy names it."""
    plugins = [config, *_plugins(config)]
    return bool(_ours(plugins) or _misspelt(plugins))


# --- what is wrong, and what to do -----------------------------------------------------------------------


def _fault(network: Network, config_name: str, config: Mapping[str, Any]) -> str:
    """Why policies do not govern its interfaces as they should, and what to do; "" where they do."""
    entry = f'{{"type": "{PLUGIN_TYPE}", "netAttachDef": "{network}"}}'
    if not config:
        return f"its spec.config can't be read, so whether it chains {PLUGIN_TYPE} is not known; correct it"
    if not isinstance(config.get("plugins"), list):
        return _fault_of_one(config_name, config, entry)
    plugins = _plugins(config)
    ours = _ours(plugins)
    if not ours:
        return _fault_without_ours(plugins, entry)
    if all(_is_guard(item) for item in ours):
        return (
            f'it chains {PLUGIN_TYPE} as a guard only ("guard": true), so nothing passes on its interfaces; '
            f"{_add(entry)}"
        )
    return _fault_of_order(plugins, ours)


def _fault_of_one(config_name: str, config: Mapping[str, Any], entry: str) -> str:
    """Of a config without a list of plugins."""
    kind = config.get("type")
    if kind == PLUGIN_TYPE:
        return (
            f"{PLUGIN_TYPE} stands alone in it, so no pod with it starts: it makes no interface; write "
            f"`plugins`, a list of the plugin that makes one and then {entry}"
        )
    what = f"is a single plugin ({shown(kind)})" if isinstance(kind, str) else "has no list `plugins`"
    name = config_name if len(config_name) <= 80 else "..."
    return (
        f"it {what}, {UNGOVERNED}; make it a list: "
        f'{{"cniVersion": {_version(config)}, "name": {json.dumps(name)}, "plugins": '
        f"[{{its present config}}, {entry}]}}"
    )


def _version(config: Mapping[str, Any]) -> str:
    version = config.get("cniVersion")
    short = isinstance(version, str) and 0 < len(version) <= 20
    return json.dumps(version if short else "1.0.0")


def _fault_without_ours(plugins: Iterable[Plugin], entry: str) -> str:
    wrong = _misspelt(plugins)
    if wrong:
        return (
            f"it chains {shown(wrong)}, and not {PLUGIN_TYPE}, {UNGOVERNED}; did you mean {PLUGIN_TYPE}? "
            f"Its entry is {entry}"
        )
    return f"it does not chain {PLUGIN_TYPE}, {UNGOVERNED}; {_add(entry)}"


def _add(entry: str) -> str:
    return f"add {entry} as the last of its plugins"


def _fault_of_order(plugins: Sequence[Plugin], ours: Sequence[Plugin]) -> str:
    """Of a list that chains ours."""
    places = [
        index for index, item in enumerate(plugins) if item.get("type") == PLUGIN_TYPE and not _is_guard(item)
    ]
    if len(_ours(plugins[: places[0]])) == places[0]:
        remedy = 'list it last; only an entry with "guard": true may also stand first'
        return f"{PLUGIN_TYPE} stands before what makes the interface, so no pod with it starts; {remedy}"
    if any(_is_guard(item) for item in ours if item is not plugins[0]):
        return 'its entry with "guard": true does not stand first, so no pod with it starts; list it first'
    after = [item for item in plugins[places[-1] + 1 :] if not _is_harmless(item)]
    if after:
        types = ", ".join(shown(item.get("type")) for item in after[:3])
        return (
            f"{types} after {PLUGIN_TYPE} in its list may change the interface unseen, so that a policy does "
            f"not hold; list {PLUGIN_TYPE} last"
        )
    return ""


def _other_network(network: Network, config: Mapping[str, Any]) -> str:
    """That policies for another net-attach-def govern its interfaces, as its author may well want."""
    entries = [item.get("netAttachDef") for item in _ours(_plugins(config)) if not _is_guard(item)]
    other = next((entry for entry in entries if entry not in (None, network)), None)
    if other is None:
        return ""
    return (
        f'its plugin says "netAttachDef": {shown(other)}, so policies for that one govern its interfaces, '
        f"and those for this one may not; write {network}"
    )


def _is_harmless(item: Plugin) -> bool:
    """Whether it leaves the interface as our ADD saw it. `tuning` can change the MAC address."""
    capabilities = item.get("capabilities")
    sets_mac = "mac" in item or (isinstance(capabilities, dict) and bool(capabilities.get("mac")))
    return item.get("type") in HARMLESS_AFTER and not sets_mac
