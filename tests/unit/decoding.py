"""Policies as the tests of decoding write them."""

from typing import Any

from daemon.decode import decode_object
from daemon.model import Operator, Policy, Requirement, Selector

POLICY_FOR = "k8s.v1.cni.cncf.io/policy-for"
ALL = Selector()
GOOD_PEER: dict[str, Any] = {"podSelector": {}}


def policy(spec: Any = None, policy_for: Any = "net1") -> Policy:
    metadata = {"name": "p", "namespace": "ns", "annotations": {POLICY_FOR: policy_for}}
    found = decode_object(
        {
            "apiVersion": "k8s.cni.cncf.io/v1beta2",
            "kind": "MultiNetworkPolicy",
            "metadata": metadata,
            "spec": spec,
        }
    )
    assert isinstance(found, Policy)
    return found


def fields(found: Policy) -> list[str]:
    return [problem.field for problem in found.problems]


def selector(*requirements: Requirement) -> Selector:
    return Selector(requirements)


def needs(key: str, operator: Operator, *values: str) -> Requirement:
    return Requirement(key, operator, values)


A_IS_1 = needs("a", Operator.IN, "1")
