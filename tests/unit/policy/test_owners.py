"""Who shares an address: the index against a plain look at all pods, over random histories.

proves: C5
"""

from hypothesis import given
from hypothesis import strategies as st

from daemon.model import Address, Network
from daemon.policy.owners import Owners
from daemon.policy.peerset import PeerPod, PodRef

NETWORKS = ["ns/a", "ns/b", "ns/c"]
ADDRESSES = [bytes([10, 0, 0, number]) for number in range(4)]
PODS = [("ns", name) for name in "pqr"]

where = st.dictionaries(
    st.sampled_from(NETWORKS), st.lists(st.sampled_from(ADDRESSES), max_size=3).map(tuple), max_size=3
)
steps = st.lists(st.tuples(st.sampled_from(PODS), st.none() | where), max_size=20)


def peer(addresses: dict[Network, tuple[Address, ...]] | None) -> PeerPod | None:
    return None if addresses is None else PeerPod("ns", {}, (), addresses)


def plainly(pods: dict[PodRef, PeerPod], networks: frozenset[Network]) -> dict[Address, set[PodRef]]:
    found: dict[Address, set[PodRef]] = {}
    for ref, pod in pods.items():
        for network in networks & set(pod.addresses):
            for address in pod.addresses[network]:
                found.setdefault(address, set()).add(ref)
    return {address: refs for address, refs in found.items() if len(refs) > 1}


@given(steps)
def test_it_always_says_what_a_look_at_all_would(
    history: list[tuple[PodRef, dict[Network, tuple[Address, ...]] | None]],
) -> None:
    owners, pods = Owners(), dict[PodRef, PeerPod]()
    for ref, addresses in history:
        before, after = pods.get(ref), peer(addresses)
        was = [plainly(pods, frozenset(some)) for some in (NETWORKS[:1], NETWORKS[:2], NETWORKS)]
        pods = {key: pod for key, pod in pods.items() if key != ref} | ({ref: after} if after else {})
        changed = owners.put(ref, before, after)
        now = [plainly(pods, frozenset(some)) for some in (NETWORKS[:1], NETWORKS[:2], NETWORKS)]
        assert [owners.shared(frozenset(some)) for some in (NETWORKS[:1], NETWORKS[:2], NETWORKS)] == now
        assert changed or now == was
    for ref, pod in pods.items():
        owners.put(ref, pod, None)
    assert (owners._only, owners._several) == ({}, {})
