"""A plugin's request, checked: environment, configuration and previous result to one frozen AddRequest.

In: the decoded wire map; all of it is untrusted. Out: AddRequest or AttachmentKey. Raises CniError with the
specification's code and a message that names the variable or field. Nothing is read from `args`: pod authors
write that.
"""

import ipaddress
import re
from typing import Any

import msgspec

from cni_plugin.errors import DECODING_FAILURE, INVALID_CONFIG, INVALID_ENVIRONMENT, CniError
from daemon.model import Address, AttachmentKey, Network, is_pod_address

MAX_ADDRESSES = 256
"""In one result. IPAM plugins give a few."""
MAX_PATH = 4096
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.\-]*[a-z0-9])?")
_UID = re.compile(r"[a-zA-Z0-9\-_.:]{0,128}")
_DEVICE_KEYS = ("deviceID", "pciBusID")
_IDENTITY = ("K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID")


class PodIdentity(msgspec.Struct, frozen=True):
    """The pod that CNI_ARGS name. uid: "" when the runtime gave none."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class AddRequest(msgspec.Struct, frozen=True):
    """ADD or CHECK. pod None: without identity, so no policy can select it.

    device: a PCI address, or a socket's path, that is said to be behind the interface; "": none is.
    """

    key: AttachmentKey
    netns: str
    pod: PodIdentity | None
    guard: bool
    network: Network | None
    config_name: str
    deny_unready: bool
    track: bool | None
    addresses: tuple[Address, ...]
    device: str


def parse_key(body: dict[str, Any]) -> AttachmentKey:
    """CNI_CONTAINERID and CNI_IFNAME, as DEL needs them. Raises CniError (code 4)."""
    env = _environment(body)
    container_id = env.get("CNI_CONTAINERID", "")
    if not _CONTAINER_ID.fullmatch(container_id) or len(container_id) > 1024:
        raise CniError(
            INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container_id[:80]!r} is not a legal container id"
        )
    ifname = env.get("CNI_IFNAME", "")
    if not 0 < len(ifname.encode()) <= 15 or ifname in (".", "..") or re.search(r"[/:\s\x00-\x1f]", ifname):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname[:80]!r} is not a legal interface name")
    return AttachmentKey(container_id, ifname)


def _check_governable(ifname: str) -> None:
    """Loopback is never touched (E7, C10). Raises CniError (code 4)."""
    if ifname == "lo":
        raise CniError(INVALID_ENVIRONMENT, "CNI_IFNAME lo: the loopback interface is never governed")


def parse_add(body: dict[str, Any]) -> AddRequest:
    """The whole request.

    Raises CniError: 4 for the environment, 6 for what is no JSON, 7 for the configuration.
    """
    env = _environment(body)
    key = parse_key(body)
    _check_governable(key.ifname)
    netns = env.get("CNI_NETNS", "")
    if not netns.startswith("/") or len(netns) > MAX_PATH or "\0" in netns:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS {netns[:80]!r} is not an absolute path")
    config = _configuration(body)
    guard = _boolean(config, "guard") or False
    result = config.get("prevResult")
    if result is None and not guard:
        raise CniError(INVALID_CONFIG, "prevResult is missing: chain this plugin after the one that makes it")
    return AddRequest(
        key=key,
        netns=netns,
        pod=parse_identity(env.get("CNI_ARGS", "")),
        guard=guard,
        network=_network(config),
        config_name=_text(config, "name") or "",
        deny_unready=_choice(config, "onUnready", ("fail", "deny")) == "deny",
        track=_boolean(config, "trackConnections"),
        addresses=() if guard or result is None else parse_result(result, key.ifname),
        device=_device(config, key.ifname),
    )


def parse_identity(arguments: str) -> PodIdentity | None:
    """CNI_ARGS to the pod's identity: any order, empty values and repetitions allowed, other keys ignored.

    Namespace and name count only together (Podman gives a name alone). Raises CniError (code 4) for a pair
    without `=`, for a repetition that contradicts, and for an illegal name.
    """
    found = dict.fromkeys(_IDENTITY, "")
    for pair in arguments.split(";"):
        name, equals, value = pair.partition("=")
        if not pair.strip():
            continue
        if not equals:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {pair[:80]!r} is not KEY=VALUE")
        name = name.strip()
        if name not in found or not value:
            continue
        # Multus appends the runtime's arguments to its own: the same again is usual, another value is not.
        if found[name] not in ("", value):
            raise CniError(
                INVALID_ENVIRONMENT, f"CNI_ARGS gives {name} twice: {found[name][:80]!r} and {value[:80]!r}"
            )
        found[name] = value
    namespace, name, uid = (found[part] for part in _IDENTITY)
    if not namespace or not name:
        return None
    for variable, value in (("K8S_POD_NAMESPACE", namespace), ("K8S_POD_NAME", name)):
        if not _DNS_NAME.fullmatch(value) or len(value) > 253:
            raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: {variable} {value[:80]!r} is not a legal name")
    if not _UID.fullmatch(uid):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_ARGS: K8S_POD_UID {uid[:80]!r} is not a legal UID")
    return PodIdentity(namespace, name, uid)


def parse_result(result: Any, ifname: str) -> tuple[Address, ...]:
    """The interface's addresses in a previous result of any CNI version, in its order, each once.

    Such as no peer can have (0.0.0.0, groups) are left out: pod authors may choose addresses.
    An address belongs to the interface of this ADD if it says so by its `interface`, or says nothing, or
    there are no `interfaces` that it could mean. Raises CniError (code 7).
    """
    if not isinstance(result, dict):
        raise CniError(INVALID_CONFIG, "prevResult is not an object")
    interfaces = _items(result, "interfaces")
    ours = _own_interfaces(interfaces, ifname)
    texts: list[tuple[str, Any]] = [
        (f"prevResult.{family}.ip", _member(result[family], f"prevResult.{family}", "ip"))
        for family in ("ip4", "ip6")
        if result.get(family) is not None
    ]
    for index, item in enumerate(_items(result, "ips")):
        interface = item.get("interface")
        if interface is not None and type(interface) is not int:
            raise CniError(INVALID_CONFIG, f"prevResult.ips[{index}].interface is not a number")
        # Before 0.4 the reference library wrote -1 for none.
        if interface is None or interface < 0 or interface in ours or not interfaces:
            texts.append((f"prevResult.ips[{index}].address", item.get("address")))
    if len(texts) > MAX_ADDRESSES:
        raise CniError(
            INVALID_CONFIG, f"prevResult.ips: {len(texts)} addresses; {MAX_ADDRESSES} are the most"
        )
    addresses = dict.fromkeys(_address(text, field) for field, text in texts)
    return tuple(address for address in addresses if is_pod_address(address))


def _own_interfaces(interfaces: list[dict[str, Any]], ifname: str) -> set[int]:
    """Those of that name in the pod: what has no `sandbox` is the host's, where any has one.

    Some plugins leave it out altogether, and then the name decides.
    """
    told = any(item.get("sandbox") for item in interfaces)
    return {
        index
        for index, item in enumerate(interfaces)
        if item.get("name") == ifname and (item.get("sandbox") or not told)
    }


def _device(config: dict[str, Any], ifname: str) -> str:
    """What is said of the device: by the result (since 1.1.0), or by Multus and device plugins."""
    result, runtime = config.get("prevResult"), config.get("runtimeConfig")
    interfaces = _items(result, "interfaces") if isinstance(result, dict) else []
    own = [item for item in interfaces if item.get("name") == ifname]
    told = [item.get(key) for item in own for key in ("pciID", "socketPath")]
    told += [part.get(key) for part in (runtime, config) if isinstance(part, dict) for key in _DEVICE_KEYS]
    return next((text for text in told if isinstance(text, str) and text), "")


def _items(result: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = result.get(name)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise CniError(INVALID_CONFIG, f"prevResult.{name} is not a list of objects")
    return items


def _member(value: Any, field: str, name: str) -> Any:
    if not isinstance(value, dict):
        raise CniError(INVALID_CONFIG, f"{field} is not an object")
    return value.get(name)


def _address(text: Any, field: str) -> Address:
    if not isinstance(text, str):
        raise CniError(INVALID_CONFIG, f"{field} is not a text such as 10.0.0.5/24")
    try:
        return ipaddress.ip_interface(text).ip.packed
    except ValueError as error:
        raise CniError(INVALID_CONFIG, f"{field}: {error}") from error


def _environment(body: dict[str, Any]) -> dict[str, str]:
    env = body.get("env")
    if not isinstance(env, dict) or not all(isinstance(v, str) for pair in env.items() for v in pair):
        raise CniError(INVALID_ENVIRONMENT, "the request's env is not a map of texts")
    return env


def _configuration(body: dict[str, Any]) -> dict[str, Any]:
    raw = body.get("config")
    if not isinstance(raw, bytes):
        raise CniError(DECODING_FAILURE, "the request carries no configuration")
    try:
        config = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CniError(DECODING_FAILURE, f"the configuration is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CniError(DECODING_FAILURE, "the configuration is not a JSON object")
    return config


def _network(config: dict[str, Any]) -> Network | None:
    text = _text(config, "netAttachDef")
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 2 or not all(_DNS_NAME.fullmatch(part) and len(part) <= 253 for part in parts):
        raise CniError(INVALID_CONFIG, f'netAttachDef {text[:80]!r} is not "namespace/name"')
    return text


def _text(config: dict[str, Any], name: str) -> str | None:
    value = config.get(name)
    if value is not None and not isinstance(value, str):
        raise CniError(INVALID_CONFIG, f"{name} is not a text")
    return value


def _boolean(config: dict[str, Any], name: str) -> bool | None:
    value = config.get(name)
    if value is not None and not isinstance(value, bool):
        raise CniError(INVALID_CONFIG, f"{name} is neither true nor false")
    return value


def _choice(config: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    value = _text(config, name)
    if value is not None and value not in allowed:
        raise CniError(INVALID_CONFIG, f"{name} {value[:80]!r} is none of {', '.join(allowed)}")
    return value or allowed[0]
