"""Label selectors, operator by operator.

proves: A4, C3
"""

from collections.abc import Mapping

import pytest

from daemon.model import Operator, Requirement, Selector
from daemon.policy.selectors import EVERYTHING, matches

pytestmark = pytest.mark.unit

FRONT = {"tier": "front", "env": "prod"}

CASES = [
    (Requirement("tier", Operator.IN, ("front", "side")), FRONT, True),
    (Requirement("tier", Operator.IN, ("back",)), FRONT, False),
    (Requirement("zone", Operator.IN, ("a",)), FRONT, False),
    (Requirement("tier", Operator.NOT_IN, ("front",)), FRONT, False),
    (Requirement("tier", Operator.NOT_IN, ("back",)), FRONT, True),
    (Requirement("zone", Operator.NOT_IN, ("a",)), FRONT, True),
    (Requirement("tier", Operator.EXISTS), FRONT, True),
    (Requirement("zone", Operator.EXISTS), FRONT, False),
    (Requirement("tier", Operator.EXISTS), {"tier": ""}, True),
    (Requirement("tier", Operator.DOES_NOT_EXIST), FRONT, False),
    (Requirement("tier", Operator.DOES_NOT_EXIST), {"tier": ""}, False),
    (Requirement("zone", Operator.DOES_NOT_EXIST), FRONT, True),
    (Requirement("tier", Operator.IN, ("",)), {"tier": ""}, True),
    (Requirement("tier", Operator.IN, ("",)), {}, False),
]


@pytest.mark.parametrize(("requirement", "labels", "want"), CASES)
def test_requirement(requirement: Requirement, labels: Mapping[str, str], want: bool) -> None:
    assert matches(Selector((requirement,)), labels) is want


def test_everything() -> None:
    assert matches(EVERYTHING, {})
    assert matches(EVERYTHING, FRONT)


def test_requirements_are_anded() -> None:
    tier = Requirement("tier", Operator.IN, ("front",))
    zone = Requirement("zone", Operator.EXISTS)
    assert not matches(Selector((tier, zone)), FRONT)
    assert matches(Selector((tier, zone)), {**FRONT, "zone": ""})
