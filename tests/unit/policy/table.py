"""A case of the truth tables as the daemon sees it.

In: a Case and a family. Out: the oracle's World, a Store that holds the same, and the two packets of a probe.
"""

from ipaddress import ip_address

from daemon.decode import decode_common_rules, decode_object, read_key
from daemon.model import (
    AttachmentKey,
    Change,
    CommonRules,
    Direction,
    Namespace,
    NetAttachDef,
    ObjectKey,
    Policy,
    Subject,
)
from daemon.model import Pod as ModelPod
from daemon.policy.evaluate import Located, Packet, World
from daemon.store import Store
from tests.semantics import Case, Pod, Probe

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
ICMP = {4: (1, 8), 6: (58, 128)}


def changes(case: Case, family: int) -> list[Change]:
    """All objects of a case, as a source gives them."""
    found = []
    for raw in case.objects(family):
        key = read_key(raw)
        assert isinstance(key, ObjectKey)
        found.append(Change(key, decode_object(raw)))
    return found


def common_rules(case: Case) -> CommonRules:
    """The operator's rules of a case."""
    common, problems = decode_common_rules(case.common, "commonRules")
    assert not problems
    return common


def attachment_key(pod: Pod, index: int) -> AttachmentKey:
    """The key under which `make_store` attaches an interface."""
    return AttachmentKey(pod.key, f"net{index + 1}")


def make_store(case: Case, family: int, *, attached: bool = True) -> Store:
    """A store with the objects; `attached`: with every interface as an attachment of this node, too."""
    store = Store(common_rules(case))
    store.apply(changes(case, family))
    for pod in case.pods:
        for index, interface in enumerate(pod.interfaces):
            subject = Subject(pod.namespace, {}, (), (interface.network,))
            if attached and pod.listed:
                addresses = tuple(ip_address(text).packed for text in case.addresses(interface))
                key = attachment_key(pod, index)
                store.attach(key, (pod.namespace, pod.name), "", subject, addresses)
    return store


def make_world(case: Case, family: int) -> World:
    """The same for the oracle, with the addresses from the case and not from the store."""
    found = [change.object for change in changes(case, family)]
    pods = {(pod.namespace, pod.name): pod for pod in found if isinstance(pod, ModelPod)}
    located = []
    for pod in case.pods:
        if pod.listed:
            by_network: dict[str, tuple[bytes, ...]] = {}
            for interface in pod.interfaces:
                texts = case.addresses(interface)
                before = by_network.get(interface.network, ())
                by_network[interface.network] = (*before, *(ip_address(text).packed for text in texts))
            located.append(Located(pods[pod.namespace, pod.name], by_network))
    return World(
        tuple(one for one in found if isinstance(one, Policy)),
        tuple(located),
        {one.name: one.labels for one in found if isinstance(one, Namespace)},
        common_rules(case),
    )


def networks_of(case: Case, family: int) -> list[str]:
    """The net-attach-defs of a case."""
    return [one.object.network for one in changes(case, family) if isinstance(one.object, NetAttachDef)]


def packet_of(probe: Probe, direction: Direction) -> Packet:
    """What a probe sends, as its source (egress) or its destination (ingress) sees it."""
    ends = ip_address(probe.source_address), ip_address(probe.address)
    source, destination = ends[0].packed, ends[1].packed
    peer, own = (destination, source) if direction is Direction.EGRESS else (source, destination)
    if probe.protocol == "ICMP":
        protocol, kind = ICMP[ends[0].version]
        return Packet(peer, own, protocol, icmp_type=kind)
    return Packet(peer, own, PROTOCOLS[probe.protocol], probe.port)


def ends_of(case: Case, probe: Probe) -> list[tuple[Pod, int, Direction]]:
    """The two interfaces that a probe passes, each with its direction."""
    return [
        (probe.source, _index(case, probe.source, probe.source_address), Direction.EGRESS),
        (probe.destination, _index(case, probe.destination, probe.address), Direction.INGRESS),
    ]


def _index(case: Case, pod: Pod, address: str) -> int:
    return next(i for i, one in enumerate(pod.interfaces) if address in case.addresses(one))
