"""Our plugin's entry in a net-attach-def: the keys that it may have, and what each may be.

In: the entry. Out: problems for the net-attach-def's author. The plugin checks the same at each ADD, which
then fails: that shows only once a pod does not start.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from daemon.decode.fields import MAX_WORD, Problems, is_name, is_namespace, shown

MAX_SOCKET_PATH = 107
MIN_TIMEOUT, MAX_TIMEOUT = 1, 600


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_network(value: object) -> bool:
    namespace, slash, name = value.partition("/") if isinstance(value, str) else ("", "", "")
    return bool(slash) and is_namespace(namespace) and is_name(name)


def _is_on_unready(value: object) -> bool:
    return value in ("fail", "deny")


def _is_socket_path(value: object) -> bool:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        return False
    try:
        return len(value.encode()) <= MAX_SOCKET_PATH
    except UnicodeEncodeError:
        return False


def _is_timeout(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and MIN_TIMEOUT <= value <= MAX_TIMEOUT
    )


KEYS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "guard": (_is_flag, "true or false"),
    "netAttachDef": (_is_network, '"namespace/name" of a net-attach-def'),
    "onUnready": (_is_on_unready, '"fail" or "deny"'),
    "socketPath": (_is_socket_path, f"an absolute path of at most {MAX_SOCKET_PATH} bytes"),
    "timeoutSeconds": (_is_timeout, f"a number from {MIN_TIMEOUT} to {MAX_TIMEOUT}"),
    "trackConnections": (_is_flag, "true or false"),
}
_FOLDED = {key.lower(): key for key in KEYS}
OF_CNI = frozenset({"type", "args", "capabilities", "cniVersion", "dns", "ipam", "name", "prevResult"})
"""And other keys may mean something to others: only what looks like one of ours is told of."""


def check_entry(entry: Mapping[str, Any], field: str, problems: Problems) -> None:
    """Report what is wrong with an entry that stands at `field`."""
    for key, (is_legal, allowed) in KEYS.items():
        if key in entry and not is_legal(entry[key]):
            said = f"expected {allowed}, not {shown(entry[key])}: no pod with it starts"
            problems.add(f"{field}.{key}", said)
    for key in entry:
        if key not in KEYS and key not in OF_CNI and not problems.full:
            close = get_close_matches(key[:MAX_WORD].lower(), _FOLDED, 1, 0.85)
            if close:
                meant = _FOLDED[close[0]]
                problems.add(f"{field}.{shown(key)[1:-1]}", f"unknown key (did you mean {meant}?): ignored")
