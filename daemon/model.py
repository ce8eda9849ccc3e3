"""The words of the domain as frozen types: what the sources give, what policies mean, what an attachment is.

In: nothing. Out: types. No I/O, no clock, no raw dicts: decode.py is the last place that sees those.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias

import msgspec

Address: TypeAlias = bytes
"""A packed IP address in network order: 4 bytes (IPv4) or 16 (IPv6)."""

Span: TypeAlias = tuple[int, int]
"""An inclusive range of addresses (or ports) as integers, (first, last)."""

Network: TypeAlias = str
"""A net-attach-def by name, "namespace/name"; matched by name alone (A3)."""

EVERYWHERE: Network = "*"
"""In place of a name: every network, and none too. No policy-for can say it."""

ALL_PORTS: Span = (0, 65535)
"""A whole protocol. Port 0 is legal on the wire although no policy can name it (C8, D2)."""


_V4_MAPPED = bytes(10) + b"\xff\xff"


def is_pod_address(address: Address) -> bool:
    """Whether a packet can have it as source: unicast, and neither loopback nor unspecified.

    Nor IPv4 in IPv6's form: no such packet is on any wire, and Linux drops it.
    """
    if len(address) == 4:
        return address[0] not in (0, 127) and address[0] < 224
    return address[0] != 0xFF and int.from_bytes(address, "big") > 1 and not address.startswith(_V4_MAPPED)


class Direction(StrEnum):
    """As the subject sees it: what comes in, what goes out."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Problem(msgspec.Struct, frozen=True):
    """Something in an object that is reported and does not stop the rest of it (A2, A3, B1, C7, C8, D3).

    field: path in the object, such as `spec.ingress[0].from[1].ipBlock.cidr`.
    hint: it may well be meant; it is told to who asks and to the author, and alarms nobody.
    """

    field: str
    message: str
    hint: bool = False


class ObjectKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Which object: kind is one of Namespace, Pod, NetworkAttachmentDefinition, MultiNetworkPolicy."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


# --- selectors -------------------------------------------------------------------------------------------

# A tenant may write tens of thousands of the types with gc=False. They hold nothing that could lead back to
# them, so the garbage collector, which stops all threads, need not look at them.


class Operator(StrEnum):
    """Label selector operators; NotIn and DoesNotExist match what lacks the key (A4)."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(msgspec.Struct, gc=False, frozen=True, order=True):
    """One condition of a selector. values: sorted, without duplicates; empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


class Selector(msgspec.Struct, gc=False, frozen=True, cache_hash=True):
    """A label selector: all requirements hold (A4). Sorted, so that equal selectors are equal values.

    `matchLabels` k=v is the requirement `k In (v)`. No requirement: selects all.
    """

    requirements: tuple[Requirement, ...] = ()


# --- policies --------------------------------------------------------------------------------------------


class Block(msgspec.Struct, gc=False, frozen=True, cache_hash=True, tag="block"):
    """An ipBlock: `cidr` minus its own `except` (C6), resolved once at decoding.

    text: as the author wrote it, for people. family: 4 or 6. spans: sorted, disjoint, not adjacent; may be
    empty (`except` covers all of it).
    """

    text: str
    family: int
    spans: tuple[Span, ...]


class PodPeer(msgspec.Struct, gc=False, frozen=True, cache_hash=True, tag="pods"):
    """A peer given by selectors (C2, C3).

    namespaces None: the policy's own namespace. pods: {} when absent.
    """

    namespaces: Selector | None
    pods: Selector


Peer: TypeAlias = Block | PodPeer


class Port(msgspec.Struct, gc=False, frozen=True):
    """One well-formed item of `ports`.

    protocol: IP protocol number. name: a container port's name (D4), then `span` is None.
    span: inclusive ports; None with name None: the whole protocol (D2).
    """

    protocol: int
    span: Span | None = None
    name: str | None = None


class Rule(msgspec.Struct, frozen=True):
    """One item of ingress or egress.

    peers None: anyone (C1). Empty: nobody (all of them malformed, C8).
    ports None: everything (D1). Empty: nothing (all of them malformed, C8, D3).
    """

    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None


class Policy(msgspec.Struct, frozen=True):
    """A MultiNetworkPolicy, whatever its API version (A10).

    networks: what `policy-for` names (A1), sorted; empty governs nothing (A2). EVERYWHERE in a closure (F3).
    pod_selector None: malformed, governs nothing (A4).
    ingress, egress None: this policy does not isolate that direction (B1); else its rules, maybe none (B4).
    """

    namespace: str
    name: str
    networks: tuple[Network, ...]
    pod_selector: Selector | None
    ingress: tuple[Rule, ...] | None
    egress: tuple[Rule, ...] | None
    problems: tuple[Problem, ...] = ()

    @property
    def key(self) -> ObjectKey:
        """The object that this policy was decoded from."""
        return ObjectKey("MultiNetworkPolicy", self.namespace, self.name)

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """The rules of a direction; None where this policy does not isolate it."""
        return self.ingress if direction is Direction.INGRESS else self.egress


class CommonRules(msgspec.Struct, frozen=True):
    """The operator's allow rules (E6), for isolated attachments only.

    Peers are blocks, or None for anyone.
    """

    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()


# --- cluster objects -------------------------------------------------------------------------------------


class Namespace(msgspec.Struct, frozen=True):
    """A namespace with its labels; always carries `kubernetes.io/metadata.name`.

    terminating: it is being deleted, and all that is in it.
    """

    name: str
    labels: Mapping[str, str]
    terminating: bool = False


class ContainerPort(msgspec.Struct, frozen=True):
    """A named container port (D4); unnamed ones are not kept. protocol: IP protocol number."""

    name: str
    protocol: int
    port: int


class NetworkRequest(msgspec.Struct, frozen=True):
    """One entry of the pod's `k8s.v1.cni.cncf.io/networks`; interface None: Multus numbers it."""

    network: Network
    interface: str | None


class NetworkStatus(msgspec.Struct, frozen=True):
    """One entry of `k8s.v1.cni.cncf.io/network-status` whose name is a net-attach-def."""

    network: Network
    interface: str
    addresses: tuple[Address, ...]


class Pod(msgspec.Struct, frozen=True):
    """A pod as policies see it. finished: phase Succeeded or Failed (A7).

    config_hash: of a static pod (`kubernetes.io/config.hash`), which runtimes pass as its UID; else "".
    local: it may run on this node; false: it is known to be another node's, and by its metadata alone.
    node: its `spec.nodeName`; "": not said.
    """

    namespace: str
    name: str
    uid: str
    labels: Mapping[str, str]
    ports: tuple[ContainerPort, ...] = ()
    host_network: bool = False
    finished: bool = False
    requests: tuple[NetworkRequest, ...] = ()
    statuses: tuple[NetworkStatus, ...] = ()
    config_hash: str = ""
    local: bool = True
    node: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def ref(self) -> tuple[str, str]:
        """(namespace, name)."""
        return (self.namespace, self.name)

    def is_meant_by(self, uid: str) -> bool:
        """Whether a runtime's UID means this pod object (A12). An unknown UID, on either side, fits."""
        # A static pod's UID is the API server's; its runtime gets the hash of its configuration.
        return not uid or not self.uid or uid in (self.uid, self.config_hash)


def lives_here(pod: Pod | None) -> bool:
    """Whether it is one of this node, and not at its end."""
    return pod is not None and pod.local and not pod.finished


class NetAttachDef(msgspec.Struct, frozen=True):
    """A net-attach-def.

    config_name: the `name` in its config, or its own. chained: our plugin is in its list, and not only as a
    guard. fault: why policies do not govern its interfaces as they should, and what to do; "": they do, or
    on_disk: its config is a file on the nodes, of which nothing is known here.
    """

    namespace: str
    name: str
    config_name: str
    chained: bool
    problems: tuple[Problem, ...] = ()
    fault: str = ""
    on_disk: bool = False

    @property
    def network(self) -> Network:
        """The name as `policy-for` writes it: "namespace/name"."""
        return f"{self.namespace}/{self.name}"


ClusterObject: TypeAlias = Namespace | Pod | NetAttachDef | Policy


class Change(msgspec.Struct, frozen=True):
    """One object as a source now has it; object None: it is gone."""

    key: ObjectKey
    object: ClusterObject | None


# --- attachments -----------------------------------------------------------------------------------------


class AttachmentKey(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """(containerID, ifname): a CNI attachment's identity."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id[:13]}/{self.ifname}"


class Subject(msgspec.Struct, frozen=True):
    """What compile needs to know of an attachment.

    networks: candidate net-attach-defs; a policy that names any of them governs it (the union of
    restrictions).
    """

    namespace: str
    labels: Mapping[str, str]
    ports: tuple[ContainerPort, ...]
    networks: tuple[Network, ...]
