"""What can only be reported with the whole cluster in view.

In: policies, the net-attach-defs that there are, pods as peers. Out: problems by object. Changes no verdict:
an unknown network is matched by name all the same (A3), an address of two pods counts for both (C5).
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from ipaddress import ip_address
from itertools import combinations

from daemon.model import Address, Network, ObjectKey, Policy, Problem
from daemon.policy.peerset import PeerPod, PodRef

POLICY_FOR = "metadata.annotations[k8s.v1.cni.cncf.io/policy-for]"

# A network that is misconfigured as a whole would name every pod; a few tell what is wrong.
MAX_REPORTED_ADDRESSES = 8


def cluster_problems(
    policies: Iterable[Policy], networks: Container[Network], pods: Mapping[PodRef, PeerPod]
) -> dict[ObjectKey, tuple[Problem, ...]]:
    """Networks that do not exist, and addresses that are not unique over the networks of one policy."""
    owners = _owners(pods)
    shared: dict[tuple[Network, ...], tuple[Problem, ...]] = {}
    found: dict[ObjectKey, tuple[Problem, ...]] = {}
    for policy in policies:
        if policy.networks not in shared:
            shared[policy.networks] = (
                *_unknown(policy.networks, networks),
                *_ambiguous([owners[network] for network in policy.networks if network in owners]),
            )
        if shared[policy.networks]:
            found[policy.key] = shared[policy.networks]
    return found


Owners = dict[Address, list[PodRef]]


def _owners(pods: Mapping[PodRef, PeerPod]) -> dict[Network, Owners]:
    """Who has which address, by network: one pass over the pods, however many policies there are."""
    owners: dict[Network, Owners] = {}
    for ref, pod in pods.items():
        for network, addresses in pod.addresses.items():
            on_network = owners.setdefault(network, {})
            for address in addresses:
                on_network.setdefault(address, []).append(ref)
    return owners


def _unknown(named: Iterable[Network], known: Container[Network]) -> Iterator[Problem]:
    for network in named:
        if network not in known:
            yield Problem(
                POLICY_FOR, f"net-attach-def {network} does not exist; create it or correct the name"
            )


def _ambiguous(networks: list[Owners]) -> Iterator[Problem]:
    """Addresses with several owners on one network, or on several of them."""
    candidates = {address for owners in networks for address, refs in owners.items() if len(refs) > 1}
    for first, second in combinations(networks, 2):
        candidates |= first.keys() & second.keys()
    owned_by = {a: {ref for owners in networks for ref in owners.get(a, ())} for a in candidates}
    ambiguous = sorted(address for address, refs in owned_by.items() if len(refs) > 1)
    for address in ambiguous[:MAX_REPORTED_ADDRESSES]:
        names = ", ".join(f"{namespace}/{name}" for namespace, name in sorted(owned_by[address]))
        yield Problem(
            POLICY_FOR, f"{ip_address(address)} is not unique: pods {names} have it on these networks"
        )
    if len(ambiguous) > MAX_REPORTED_ADDRESSES:
        yield Problem(POLICY_FOR, f"{len(ambiguous) - MAX_REPORTED_ADDRESSES} more addresses are not unique")
