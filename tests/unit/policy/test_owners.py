"""Who shares an address: the index against a plain look at all pods, over random histories.

proves: C5
"""

from hypothesis import given
from hypothesis import strategies as st

from daemon.model import Address, Network
from daemon.policy.owners import MOST_LOOKS, MOST_PODS, Owners
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
        touched = owners.put(ref, before, after)
        now = [plainly(pods, frozenset(some)) for some in (NETWORKS[:1], NETWORKS[:2], NETWORKS)]
        found = [owners.shared(some) for some in (NETWORKS[:1], NETWORKS[:2], NETWORKS)]
        assert [one.pods for one in found] == now
        assert all(one.whole for one in found)
        for some, old, new in zip((NETWORKS[:1], NETWORKS[:2], NETWORKS), was, now, strict=True):
            assert old == new or not touched.isdisjoint(some)
    for ref, pod in pods.items():
        owners.put(ref, pod, None)
    assert (owners._only, owners._several, owners._on) == ({}, {}, {})


def test_what_others_hold_is_found_by_network() -> None:
    owners, held = Owners(), frozenset({"ns/b"})
    one = PeerPod("ns", {}, (), {"ns/a": (ADDRESSES[0], ADDRESSES[1])}, {ADDRESSES[0]: held})
    assert owners.put(PODS[0], None, one) == {"ns/a"}
    assert owners.shared(["ns/a"]).pods == {}
    assert owners.shared(["ns/a", "ns/b"]).pods == {ADDRESSES[0]: {PODS[0]}}
    assert owners.shared(["ns/b"]).pods == {}
    assert owners.put(PODS[0], one, one) == set()
    assert owners.put(PODS[0], one, None) == {"ns/a"}
    assert owners._withheld_on == {}


def test_a_look_is_bounded_whatever_is_shared() -> None:
    """2,000 addresses of two pods each, one of 5,000 pods, and a policy for many networks."""
    owners = Owners()
    for number in range(2000):
        address = (number.to_bytes(4, "big"),)
        for name in "pq":
            owners.put((name, str(number)), None, peer({"ns/a": address, f"ns/{name}": address}))
    for number in range(5000):
        owners.put(("crowd", str(number)), None, peer({"ns/c": (ADDRESSES[0],)}))
    found = owners.shared(["ns/a"])
    assert not found.whole
    assert 100 < len(found.pods) <= MOST_LOOKS
    assert {address: len(refs) for address, refs in owners.shared(["ns/c"]).pods.items()} == {
        ADDRESSES[0]: MOST_PODS
    }
    # The same ones are told while others come and go.
    told = list(found.pods)
    owners.put(("r", "0"), None, peer({"ns/a": (bytes([9, 9, 9, 9]),)}))
    owners.put(("s", "0"), None, peer({"ns/a": (bytes([9, 9, 9, 9]),)}))
    assert list(owners.shared(["ns/a"]).pods) == told
