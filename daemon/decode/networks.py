"""Net-attach-defs: under which name their config runs, and whether it chains our plugin.

In: the raw object. Out: NetAttachDef, with problems. No CNI configuration is checked beyond that.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.decode.fields import MAX_TEXT, Problems, Raw, expect_object, expect_string, kind_of
from daemon.model import NetAttachDef

PLUGIN_TYPE = "multi-networkpolicy"


def decode_net_attach_def(namespace: str, name: str, raw: Raw) -> NetAttachDef:
    """A net-attach-def, any version of its group. Raises DecodeError for a spec or config of a wrong type."""
    problems = Problems()
    spec = expect_object(raw.get("spec"), "spec")
    text = expect_string(spec.get("config"), "spec.config")
    config = _read_config(text, problems)
    own_name = config.get("name")
    return NetAttachDef(
        namespace=namespace,
        name=name,
        # Multus passes the net-attach-def's name where the config has none.
        config_name=own_name if isinstance(own_name, str) and own_name else name,
        chained=_is_chained(config.get("plugins")),
        problems=problems.found(),
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


def _is_chained(plugins: object) -> bool:
    """Whether our plugin stands in the list. A guard alone does not enforce policies."""
    if not isinstance(plugins, list):
        return False
    ours = (item for item in plugins if isinstance(item, dict) and item.get("type") == PLUGIN_TYPE)
    return any(item.get("guard") is not True for item in ours)
