"""Pods: labels, named ports, and what the networks annotations say.

In: the raw object. Out: Pod, with problems. What pod authors write in annotations is untrusted: bounded, and
a bad entry is left out and reported.
"""

from socket import AF_INET, AF_INET6, inet_pton
from typing import Any

import msgspec

from daemon.decode.fields import (
    CONFIG_HASH,
    NETWORK_STATUS,
    NETWORKS,
    PROTOCOLS,
    Problems,
    Raw,
    expect_flag,
    expect_object,
    expect_string,
    is_interface,
    is_name,
    is_namespace,
    kind_of,
    read_annotation,
    read_labels,
    shown,
)
from daemon.errors import DecodeError
from daemon.model import Address, ContainerPort, NetworkRequest, NetworkStatus, Pod, is_pod_address

MAX_CONTAINERS = 1000
MAX_PORTS = 10_000
MAX_ENTRIES = 1000
MAX_ADDRESSES = 64
MAX_ADDRESSES_OF_A_POD = 256


def decode_pod(namespace: str, name: str, raw: Raw) -> Pod:
    """A pod. Raises DecodeError for labels, spec or annotations of a wrong type."""
    problems = Problems()
    metadata = expect_object(raw.get("metadata"), "metadata")
    spec = expect_object(raw.get("spec"), "spec")
    status = expect_object(raw.get("status"), "status")
    return Pod(
        namespace=namespace,
        name=name,
        uid=expect_string(metadata.get("uid"), "metadata.uid"),
        labels=read_labels(metadata),
        ports=_read_ports(spec, problems),
        host_network=expect_flag(spec.get("hostNetwork"), "spec.hostNetwork"),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        requests=_read_requests(read_annotation(metadata, NETWORKS), namespace, problems),
        statuses=_read_statuses(read_annotation(metadata, NETWORK_STATUS), problems),
        config_hash=read_annotation(metadata, CONFIG_HASH),
        node=expect_string(spec.get("nodeName"), "spec.nodeName"),
        problems=problems.found(),
    )


# --- named ports (D4) ------------------------------------------------------------------------------------


def _read_ports(spec: Raw, problems: Problems) -> tuple[ContainerPort, ...]:
    found: dict[ContainerPort, None] = {}
    for group in ("containers", "initContainers"):
        for index, container in enumerate(_read_list(spec.get(group), f"spec.{group}", MAX_CONTAINERS)):
            if not isinstance(container, dict):
                raise DecodeError(f"spec.{group}[{index}]", f"expected an object, not {kind_of(container)}")
            # Only init containers that stay (sidecars) have ports that anybody can reach.
            if group == "containers" or container.get("restartPolicy") == "Always":
                field = f"spec.{group}[{index}].ports"
                for at, item in enumerate(_read_list(container.get("ports"), field, MAX_PORTS)):
                    _read_port(item, f"{field}[{at}]", found, problems)
    return tuple(found)


def _read_list(raw: object, field: str, limit: int) -> list[Any]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise DecodeError(field, f"expected a list, not {kind_of(raw)}")
    if len(raw) > limit:
        raise DecodeError(field, f"{len(raw)} items; at most {limit} are read")
    return raw


def _read_port(item: object, field: str, found: dict[ContainerPort, None], problems: Problems) -> None:
    if not isinstance(item, dict):
        problems.add(field, f"expected a port, not {kind_of(item)}; ignored")
        return
    name, number, protocol = item.get("name"), item.get("containerPort"), item.get("protocol")
    if name is None or name == "":
        return
    known = (
        PROTOCOLS.get("TCP" if protocol is None else protocol) if isinstance(protocol, str | None) else None
    )
    if not isinstance(name, str) or type(number) is not int or not 1 <= number <= 65535 or known is None:
        problems.add(field, f"{shown(item)} is no container port; ignored")
        return
    found[ContainerPort(name, known, number)] = None


# --- networks and network-status ------------------------------------------------------------------------


def _read_requests(text: str, namespace: str, problems: Problems) -> tuple[NetworkRequest, ...]:
    """Both forms of the annotation, told apart as Multus does: by a bracket, brace or quote anywhere."""
    field = f"metadata.annotations[{NETWORKS}]"
    found = []
    if any(mark in text for mark in '[{"'):
        items: list[Any] = _read_json_list(text, field, problems)
        read = _read_element
    else:
        items = [item for item in (part.strip() for part in text.split(",")) if item]
        read = _read_short
    for index, item in enumerate(items[:MAX_ENTRIES]):
        try:
            found.append(read(item, namespace, f"{field}[{index}]"))
        except DecodeError as error:
            problems.add(error.field, f"{error.message}; ignored")
    if len(items) > MAX_ENTRIES:
        problems.add(field, f"{len(items)} entries; only the first {MAX_ENTRIES} are read")
    return tuple(found)


def _read_short(item: Any, namespace: str, field: str) -> NetworkRequest:
    """`name`, `namespace/name`, each with or without `@interface`."""
    network, at, interface = item.partition("@")
    space, slash, name = network.rpartition("/")
    space, name, interface = space.strip(), name.strip(), interface.strip()
    if at and not interface:
        raise DecodeError(field, f"{shown(item)} names no interface after @")
    if slash and not space:
        raise DecodeError(field, f"{shown(item)} names no namespace before /")
    return _request(space or namespace, name, interface or None, item, field)


def _read_element(item: object, namespace: str, field: str) -> NetworkRequest:
    """An item of the JSON list."""
    if not isinstance(item, dict):
        raise DecodeError(field, f"expected an object, not {kind_of(item)}")
    name = expect_string(item.get("name"), f"{field}.name")
    space = expect_string(item.get("namespace"), f"{field}.namespace")
    interface = expect_string(item.get("interface"), f"{field}.interface")
    # The name that Multus gave this field before 3.2, and still reads.
    older = expect_string(item.get("interfaceRequest"), f"{field}.interfaceRequest")
    return _request(space or namespace, name, interface or older or None, item, field)


def _request(space: str, name: str, interface: str | None, item: object, field: str) -> NetworkRequest:
    if not is_namespace(space) or not is_name(name):
        raise DecodeError(field, f"{shown(item)} names no net-attach-def")
    if interface is not None and not is_interface(interface):
        raise DecodeError(field, f"{shown(interface)} is no interface name")
    return NetworkRequest(f"{space}/{name}", interface)


def _read_json_list(text: str, field: str, problems: Problems) -> list[Any]:
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        problems.add(field, f"no JSON: {error}")
        return []
    if not isinstance(raw, list):
        problems.add(field, f"expected a JSON list, not {kind_of(raw)}")
        return []
    return raw


def _read_statuses(text: str, problems: Problems) -> tuple[NetworkStatus, ...]:
    field = f"metadata.annotations[{NETWORK_STATUS}]"
    items = _read_json_list(text, field, problems) if text.strip() else []
    if len(items) > MAX_ENTRIES:
        problems.add(field, f"{len(items)} entries; only the first {MAX_ENTRIES} are read")
    read = (_read_status(item, f"{field}[{i}]", problems) for i, item in enumerate(items[:MAX_ENTRIES]))
    return _bounded([status for status in read if status is not None], field, problems)


def _bounded(statuses: list[NetworkStatus], field: str, problems: Problems) -> tuple[NetworkStatus, ...]:
    """What one pod says costs others when it changes: so many addresses, and no more."""
    total = sum(len(status.addresses) for status in statuses)
    if total <= MAX_ADDRESSES_OF_A_POD:
        return tuple(statuses)
    problems.add(field, f"{total} addresses; only the first {MAX_ADDRESSES_OF_A_POD} are read")
    left, found = MAX_ADDRESSES_OF_A_POD, []
    for status in statuses:
        kept = status.addresses[:left]
        found.append(msgspec.structs.replace(status, addresses=kept))
        left -= len(kept)
    return tuple(found)


def _read_status(item: object, field: str, problems: Problems) -> NetworkStatus | None:
    network = item.get("name") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(network, str):
        problems.add(field, f"expected an object with a name, not {shown(item)}; ignored")
        return None
    # The cluster's default network, unless it is a net-attach-def too, has a name without a namespace (A8).
    space, slash, name = network.partition("/")
    if not slash:
        return None
    if not is_namespace(space) or not is_name(name):
        problems.add(f"{field}.name", f"{shown(network)} is no net-attach-def; ignored")
        return None
    interface = item.get("interface")
    addresses = _read_addresses(item.get("ips"), f"{field}.ips", problems)
    return NetworkStatus(network, interface if isinstance(interface, str) else "", addresses)


def _read_addresses(raw: object, field: str, problems: Problems) -> tuple[Address, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        problems.add(field, f"expected a list of addresses, not {kind_of(raw)}; ignored")
        return ()
    if len(raw) > MAX_ADDRESSES:
        problems.add(field, f"{len(raw)} addresses; only the first {MAX_ADDRESSES} are read")
    found: dict[Address, None] = {}
    for index, item in enumerate(raw[:MAX_ADDRESSES]):
        address = _read_address(item)
        if address is None:
            problems.add(f"{field}[{index}]", f"{shown(item)} is no address that a pod can have; ignored")
        else:
            found[address] = None
    return tuple(found)


def _read_address(item: object) -> Address | None:
    """A unicast address: whoever may update a pod may write this, so a group never becomes a peer (E3)."""
    if not isinstance(item, str):
        return None
    try:
        packed = inet_pton(AF_INET6 if ":" in item else AF_INET, item)
    except (OSError, ValueError):
        return None
    return packed if is_pod_address(packed) else None
