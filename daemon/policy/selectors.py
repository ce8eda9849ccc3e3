"""Whether a label selector selects.

In: a Selector and labels. Out: yes or no. A malformed selector never comes this far: decode.py reports it.
"""

from collections.abc import Mapping

from daemon.model import Operator, Requirement, Selector

EVERYTHING = Selector()
"""`{}`: no requirement, selects all (A4, C3)."""


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """All requirements hold (A4)."""
    return all(_holds(requirement, labels) for requirement in selector.requirements)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    # None is no label value, so a missing key is in no list: In fails and NotIn holds (A4).
    operator = requirement.operator
    if operator is Operator.IN:
        return labels.get(requirement.key) in requirement.values
    if operator is Operator.NOT_IN:
        return labels.get(requirement.key) not in requirement.values
    return (requirement.key in labels) is (operator is Operator.EXISTS)
