"""A node and its pods out of real parts: what the packet tests, the demo and the benchmarks stand on.

In: names and addresses. Out: network namespaces, macvlan links, probers inside them, cnitool runs and
daemons, all of which end with the `Lab` that made them. Nothing here touches a link in the host's own
namespace.
"""

from tests.lab.daemon import Daemon, DaemonError
from tests.lab.lab import Attachment, CnitoolRun, Lab, Network, Pod
from tests.lab.prober import Prober, ProberError, Target, is_blocked

__all__ = [
    "Attachment",
    "CnitoolRun",
    "Daemon",
    "DaemonError",
    "Lab",
    "Network",
    "Pod",
    "Prober",
    "ProberError",
    "Target",
    "is_blocked",
]
