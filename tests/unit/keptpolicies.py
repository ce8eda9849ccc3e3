"""What the tests of kept versions share: policies with some of everything, and a clock turned by hand.

In: names. Out: policies, a memory over a directory.
"""

from pathlib import Path
from typing import Any

from daemon.decode import decode_object
from daemon.model import ObjectKey, Policy
from daemon.sources.keeping import Keeping
from daemon.sources.keptfiles import KeptFiles, file_name

RULES: list[dict[str, Any]] = [
    {
        "from": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.9.9.9/32"]}},
            {"ipBlock": {"cidr": "2001:db8::/32", "except": ["2001:db8:ffff:ffff:ffff:ffff:ffff:ffff/128"]}},
            {"ipBlock": {"cidr": "::/0"}},
        ],
        "ports": [{"port": 80}, {"port": "web", "protocol": "UDP"}, {"port": 1, "endPort": 65535}],
    },
    {
        "from": [
            {
                "podSelector": {"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]},
                "namespaceSelector": {},
            },
            {"podSelector": {"matchLabels": {"role": "c"}}},
        ]
    },
    {"from": [{"ipBlock": {"cidr": "nonsense"}}], "ports": [{"port": 0}]},
    {},
]


def key_of(name: str) -> ObjectKey:
    return ObjectKey("MultiNetworkPolicy", "ns", name)


def make_policy(name: str = "p", rules: Any = None, selector: Any = None, networks: str = "net1") -> Policy:
    """Decoded, as a source has it."""
    found = decode_object(
        {
            "apiVersion": "k8s.cni.cncf.io/v1beta1",
            "kind": "MultiNetworkPolicy",
            "metadata": {
                "name": name,
                "namespace": "ns",
                "annotations": {"k8s.v1.cni.cncf.io/policy-for": networks},
            },
            "spec": {"podSelector": {} if selector is None else selector, "ingress": rules or []},
        }
    )
    assert isinstance(found, Policy)
    return found


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Life:
    """A memory over a directory, from a start to its end; work() lets its thread's work be done."""

    def __init__(self, directory: Path, clock: Clock, **bounds: int) -> None:
        self.clock = clock
        self.files = KeptFiles(directory, **bounds)
        self.keeping = Keeping(self.files, clock)

    def put(self, name: str, policy: Policy | None = None, *, last: bool = False, uid: str = "u") -> None:
        self.keeping.put(key_of(name), policy or make_policy(name), last=last, uid=uid)

    def void(self, name: str, uid: str = "u") -> None:
        self.keeping.put(key_of(name), None, last=True, uid=uid)

    def governs(self, **changes: bool) -> None:
        self.keeping.governs({("ns", name): yes for name, yes in changes.items()})

    def work(self, seconds: float = 5.0) -> int:
        """The number of steps that `seconds` have room for."""
        end, steps = self.clock.now + seconds, 0
        while True:
            patience = self.keeping.step()
            steps += 1
            if patience is None or self.clock.now + patience > end:
                self.clock.now = end
                return steps
            self.clock.now += patience

    def recalled(self, name: str, uid: str = "u") -> Policy | None:
        version = self.keeping.recall(key_of(name), uid)
        return version.shown if version is not None else None

    def kept(self, *names: str) -> list[str]:
        return [name for name in names if (self.files.directory / file_name(key_of(name))).exists()]
