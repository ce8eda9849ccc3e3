"""The small readings that every kind shares: names, labels, annotations, and the list of problems.

In: parts of a raw object. Out: checked values, or DecodeError with the field's path..
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from daemon.errors import DecodeError
from daemon.model import Problem

Raw: TypeAlias = Mapping[str, Any]
"""An object as the API server or a file gives it; values are untrusted."""

NETWORKS = "k8s.v1.cni.cncf.io/networks"
NETWORK_STATUS = "k8s.v1.cni.cncf.io/network-status"
POLICY_FOR = "k8s.v1.cni.cncf.io/policy-for"
CONFIG_HASH = "kubernetes.io/config.hash"

# The API server allows 256 KiB for all annotations of an object together.
MAX_TEXT = 256 * 1024
MAX_PROBLEMS = 100
MAX_HINTS = 10
# Of a misspelt word, that is compared with the known ones: no known one is longer.
MAX_WORD = 40

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_INTERFACE = re.compile(r"[^\s/:\x00-\x1f\x7f]{1,15}")


class Problems:
    """Collects what is wrong but does not stop an object; bounded, since objects are untrusted."""

    def __init__(self) -> None:
        self._found: list[Problem] = []
        self._faults = 0
        self._hints = 0

    @property
    def full(self) -> bool:
        """Whether more faults are counted only: their words need not be made."""
        return self._faults >= MAX_PROBLEMS

    def add(self, field: str, message: str) -> None:
        """Report something at a field's path."""
        self._faults += 1
        if self._faults <= MAX_PROBLEMS:
            self._found.append(Problem(field, message))

    def hint(self, field: str, message: str) -> None:
        """Report what counts as it is, and could be written better. Many of them hide no fault."""
        self._hints += 1
        if self._hints <= MAX_HINTS:
            self._found.append(Problem(field, message, hint=True))

    def found(self) -> tuple[Problem, ...]:
        """All of them, in order; surplus ones as one line."""
        found = list(self._found)
        if self._faults > MAX_PROBLEMS:
            found.append(Problem("", f"{self._faults - MAX_PROBLEMS} more problems"))
        if self._hints > MAX_HINTS:
            found.append(Problem("", f"{self._hints - MAX_HINTS} more hints", hint=True))
        return tuple(found)

    def faults(self) -> tuple[Problem, ...]:
        """All but hints."""
        return tuple(problem for problem in self.found() if not problem.hint)


def shown(value: object) -> str:
    """A value for a message: bounded, control characters escaped."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else f"{value[:80]!r}…"
    # Python refuses to print integers of thousands of digits, and a list may be megabytes long.
    small = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 64)
    return repr(value) if small else kind_of(value)


def kind_of(value: object) -> str:
    """What a value is, in the words of JSON."""
    if value is None:
        return "null"
    words: dict[type, str] = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return words.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def expect_object(value: object, field: str) -> Raw:
    """A JSON object; null and absent read as {}."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise DecodeError(field, f"expected an object, not {kind_of(value)}")
    return value


def expect_string(value: object, field: str) -> str:
    """A string; null and absent read as ""."""
    if value is None:
        return ""
    if not isinstance(value, str):
        # YAML 1.1 reads yes, on, 1.0 and 2024-01-01 as something else than what they look like.
        kind, text = kind_of(value), shown(value)
        raise DecodeError(
            field, f"expected a string, not {kind}" + ("" if text == kind else f" ({text}): put it in quotes")
        )
    return value


def expect_flag(value: object, field: str) -> bool:
    """A boolean; null and absent read as false."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise DecodeError(field, f"expected true or false, not {shown(value)}")
    return value


def is_namespace(name: str) -> bool:
    """Whether a namespace may have this name (a DNS label)."""
    return _LABEL.fullmatch(name) is not None


def is_name(name: str) -> bool:
    """Whether a pod, policy or net-attach-def may have this name (a DNS subdomain)."""
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def is_interface(name: str) -> bool:
    """Whether the kernel takes this as an interface's name."""
    return name not in (".", "..") and _INTERFACE.fullmatch(name) is not None and len(name.encode()) <= 15


def read_labels(metadata: Raw) -> dict[str, str]:
    """`metadata.labels`; a value that is no string makes the object undecodable, as for the API server."""
    labels = expect_object(metadata.get("labels"), "metadata.labels")
    for key, value in labels.items():
        if not isinstance(key, str):
            raise DecodeError("metadata.labels", f"the key {shown(key)} is no string: put it in quotes")
        if not isinstance(value, str):
            expect_string("" if value is None else value, f"metadata.labels[{key[:100]}]")
    return {key: value or "" for key, value in labels.items()}


def read_annotation(metadata: Raw, key: str) -> str:
    """One annotation, "" when absent. Only those that mean something here are looked at."""
    annotations = expect_object(metadata.get("annotations"), "metadata.annotations")
    field = f"metadata.annotations[{key}]"
    text = expect_string(annotations.get(key), field)
    if len(text) > MAX_TEXT:
        raise DecodeError(field, f"{len(text)} characters long; at most {MAX_TEXT} are read")
    return text


def meant(word: str, known: Iterable[str]) -> str:
    """What a misspelt word was meant to be, else what there is. Case does not count; long ones are cut."""
    folded = {each.lower(): each for each in known}
    close = get_close_matches(word[:MAX_WORD].lower(), folded, 1)
    return f"did you mean {folded[close[0]]}?" if close else f"known are {', '.join(folded.values())}"


def find_unknown(raw: Raw, known: frozenset[str], field: str, problems: Problems) -> Problem | None:
    """The first key that means nothing here, and what it was meant to be; None: all are known (C12).

    problems: once they are full no hint is looked for, since untrusted objects may have 100,000 such keys.
    """
    if raw.keys() <= known:
        return None
    strange = [key for key in raw if key not in known]
    name = strange[0] if len(strange[0]) <= 80 and strange[0].isprintable() else shown(strange[0])
    hint = "" if problems.full else f" ({meant(strange[0], sorted(known))})"
    more = f", and {len(strange) - 1} more" if len(strange) > 1 else ""
    return Problem(f"{field}.{name}" if field else name, f"unknown key{hint}{more}")


def expect_known(raw: Raw, known: frozenset[str], field: str, problems: Problems) -> None:
    """Raise DecodeError for a key that means nothing here: what would it have narrowed? (C12)"""
    found = find_unknown(raw, known, field, problems)
    if found is not None:
        raise DecodeError(found.field, found.message)


def report_unknown(raw: Raw, known: frozenset[str], field: str, problems: Problems, outcome: str) -> bool:
    """Whether there are keys that mean nothing here; reported, with what follows from it."""
    found = find_unknown(raw, known, field, problems)
    if found is not None:
        problems.add(found.field, f"{found.message}: {outcome}")
    return found is not None
