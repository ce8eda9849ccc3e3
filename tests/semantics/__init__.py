"""What policies mean, as tables: for the compiler, for the oracle, and for real packets."""

from tests.semantics.case import FAMILIES, Case, Interface, Plan, Pod, Probe
from tests.semantics.peers import CASES as PEER_CASES
from tests.semantics.rules import CASES as RULE_CASES
from tests.semantics.strange import CASES as STRANGE_CASES
from tests.semantics.upstream import CASES as UPSTREAM_CASES

CASES: tuple[Case, ...] = (*UPSTREAM_CASES, *RULE_CASES, *PEER_CASES, *STRANGE_CASES)

__all__ = ["CASES", "FAMILIES", "Case", "Interface", "Plan", "Pod", "Probe"]
