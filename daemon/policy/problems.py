"""What can only be reported with the whole cluster in view.

In: policies, the net-attach-defs that there are, pods as peers. Out: problems by object. Changes no verdict:
an unknown network is matched by name all the same (A3), an address of two pods counts for both (C5).
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from ipaddress import ip_address

from daemon.model import Address, Network, ObjectKey, Policy, Problem
from daemon.policy.peersets import PeerPod, PodRef

POLICY_FOR = "metadata.annotations[k8s.v1.cni.cncf.io/policy-for]"

# A network that is misconfigured as a whole would name every pod; a few tell what is wrong.
MAX_REPORTED_ADDRESSES = 8


def cluster_problems(
    policies: Iterable[Policy], networks: Container[Network], pods: Mapping[PodRef, PeerPod]
) -> dict[ObjectKey, tuple[Problem, ...]]:
    """Networks that do not exist, and addresses that are not unique over the networks of one policy."""
    shared: dict[tuple[Network, ...], tuple[Problem, ...]] = {}
    found: dict[ObjectKey, tuple[Problem, ...]] = {}
    for policy in policies:
        if policy.networks not in shared:
            shared[policy.networks] = (
                *_unknown(policy.networks, networks),
                *_ambiguous(policy.networks, pods),
            )
        if shared[policy.networks]:
            found[policy.key] = shared[policy.networks]
    return found


def _unknown(named: Iterable[Network], known: Container[Network]) -> Iterator[Problem]:
    for network in named:
        if network not in known:
            yield Problem(
                POLICY_FOR, f"net-attach-def {network} does not exist; create it or correct the name"
            )


def _ambiguous(networks: tuple[Network, ...], pods: Mapping[PodRef, PeerPod]) -> Iterator[Problem]:
    owners: dict[Address, set[PodRef]] = {}
    for ref, pod in pods.items():
        for network in networks:
            for address in pod.addresses.get(network, ()):
                owners.setdefault(address, set()).add(ref)
    ambiguous = sorted(address for address, refs in owners.items() if len(refs) > 1)
    for address in ambiguous[:MAX_REPORTED_ADDRESSES]:
        names = ", ".join(f"{namespace}/{name}" for namespace, name in sorted(owners[address]))
        yield Problem(
            POLICY_FOR, f"{ip_address(address)} is not unique: pods {names} have it on these networks"
        )
    if len(ambiguous) > MAX_REPORTED_ADDRESSES:
        yield Problem(POLICY_FOR, f"{len(ambiguous) - MAX_REPORTED_ADDRESSES} more addresses are not unique")
