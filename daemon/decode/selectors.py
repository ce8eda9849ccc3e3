"""Label selectors (A4): checked as the API server checks them, sorted so that equal ones are equal values.

In: a raw LabelSelector. Out: Selector, or DecodeError with the path of the first thing wrong in it.
"""

import re
from typing import Any

from daemon.decode.fields import (
    Problems,
    Raw,
    expect_known,
    expect_object,
    is_name,
    kind_of,
    report_unknown,
    shown,
)
from daemon.errors import DecodeError
from daemon.model import Operator, Requirement, Selector

MAX_REQUIREMENTS = 1000
MAX_VALUES = 10_000

EVERYTHING = Selector()

_FIELDS = frozenset({"matchLabels", "matchExpressions"})
_EXPRESSION_FIELDS = frozenset({"key", "operator", "values"})
_WORD = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def decode_selector(raw: object, field: str, problems: Problems) -> Selector:
    """A LabelSelector. Raises DecodeError when any part is malformed or unknown: it means all of its parts.

    problems: nothing is added to them here.
    """
    if raw == {}:
        return EVERYTHING
    if not isinstance(raw, dict):
        raise DecodeError(field, f"expected a label selector, not {kind_of(raw)}")
    expect_known(raw, _FIELDS, field, problems)
    found = _read_labels(raw.get("matchLabels"), f"{field}.matchLabels")
    found += _read_expressions(raw.get("matchExpressions"), f"{field}.matchExpressions", problems)
    if len(found) > MAX_REQUIREMENTS:
        raise DecodeError(field, f"{len(found)} requirements; at most {MAX_REQUIREMENTS} are read")
    return Selector(tuple(sorted(set(found))))


def without_unknown(raw: object, field: str, problems: Problems, outcome: str) -> tuple[Any, bool]:
    """(a selector without its unknown parts, whether there were any); reported with the outcome.

    All parts of a selector have to hold, so that what is left selects all that was meant, and maybe more.
    """
    if not isinstance(raw, dict):
        return raw, False
    strange = report_unknown(raw, _FIELDS, field, problems, outcome)
    known = {key: value for key, value in raw.items() if key in _FIELDS}
    expressions = known.get("matchExpressions")
    if isinstance(expressions, list):
        at = f"{field}.matchExpressions"
        kept = [
            item
            for index, item in enumerate(expressions)
            if not isinstance(item, dict)
            or not report_unknown(item, _EXPRESSION_FIELDS, f"{at}[{index}]", problems, outcome)
        ]
        strange = strange or len(kept) < len(expressions)
        known["matchExpressions"] = kept
    return known, strange


def _read_labels(raw: object, field: str) -> list[Requirement]:
    return [
        Requirement(_label_key(key, field), Operator.IN, (_label_value(value, f"{field}[{key}]"),))
        for key, value in expect_object(raw, field).items()
    ]


def _read_expressions(raw: object, field: str, problems: Problems) -> list[Requirement]:
    if raw is None:
        return []
    if not isinstance(raw, list):
        raise DecodeError(field, f"expected a list, not {kind_of(raw)}")
    return [_read_expression(item, f"{field}[{index}]", problems) for index, item in enumerate(raw)]


def _read_expression(item: object, field: str, problems: Problems) -> Requirement:
    if not isinstance(item, dict):
        raise DecodeError(field, f"expected an object, not {kind_of(item)}")
    expect_known(item, _EXPRESSION_FIELDS, field, problems)
    key = _label_key(item.get("key"), f"{field}.key")
    operator = _read_operator(item, field)
    return Requirement(key, operator, _read_values(item, operator, f"{field}.values"))


def _read_operator(item: Raw, field: str) -> Operator:
    word = item.get("operator")
    try:
        return Operator(word)  # type: ignore[arg-type]  # anything else than a member's value is refused
    except ValueError:
        known = ", ".join(Operator)
        raise DecodeError(f"{field}.operator", f"{shown(word)} is none of {known}") from None


def _read_values(item: Raw, operator: Operator, field: str) -> tuple[str, ...]:
    raw: Any = item.get("values")
    values = [] if raw is None else raw
    if not isinstance(values, list):
        raise DecodeError(field, f"expected a list, not {kind_of(values)}")
    if len(values) > MAX_VALUES:
        raise DecodeError(field, f"{len(values)} values; at most {MAX_VALUES} are read")
    wanted = operator in (Operator.IN, Operator.NOT_IN)
    if wanted != bool(values):
        raise DecodeError(field, f"{operator} needs {'at least one value' if wanted else 'no values'}")
    return tuple(sorted({_label_value(value, f"{field}[{index}]") for index, value in enumerate(values)}))


def _label_key(key: object, field: str) -> str:
    if not isinstance(key, str):
        raise DecodeError(field, f"the key is {kind_of(key)}, not a string")
    prefix, slash, name = key.rpartition("/")
    if _WORD.fullmatch(name) is None or (bool(slash) and not is_name(prefix)):
        raise DecodeError(field, f"{shown(key)} is no label key")
    return key


def _label_value(value: object, field: str) -> str:
    if not isinstance(value, str):
        hint = "" if value is None else ": put it in quotes"
        raise DecodeError(field, f"a label's value is a string, not {kind_of(value)} ({shown(value)}){hint}")
    if value and _WORD.fullmatch(value) is None:
        raise DecodeError(field, f"{shown(value)} is no label value")
    return value
