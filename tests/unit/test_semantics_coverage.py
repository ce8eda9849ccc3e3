"""Every numbered rule of docs/semantics.md is named by at least one test file as one that it proves.

A test file names numbers on lines that begin with `proves:` (in a docstring) or `# proves:`, as a comma
list; the cases of tests/semantics name theirs in a field.
"""

import re
from pathlib import Path

import pytest

from tests.semantics import CASES

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
RULE = re.compile(r"^\| ([A-Z]\d+) \|", re.MULTILINE)
PROVES = re.compile(r"^[ \t]*(?:# |\"\"\")?proves: (.+?)[.\"]*$", re.MULTILINE)
NUMBER = re.compile(r"[A-Z]\d+")


def numbered_rules() -> list[str]:
    return RULE.findall((ROOT / "docs/semantics.md").read_text())


def named_by_tests() -> dict[str, set[str]]:
    """Rule number to the files that name it."""
    named: dict[str, set[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for line in PROVES.findall(path.read_text()):
            for number in NUMBER.findall(line):
                named.setdefault(number, set()).add(path.name)
    for case in CASES:
        for number in NUMBER.findall(case.proves):
            named.setdefault(number, set()).add(str(case))
    return named


def test_the_rules_are_numbered_without_gaps() -> None:
    found = numbered_rules()
    for letter in "ABCDEF":
        numbers = [int(rule[1:]) for rule in found if rule[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))
        assert numbers


@pytest.mark.parametrize("rule", numbered_rules())
def test_a_test_names_it(rule: str) -> None:
    assert named_by_tests().get(rule), f"no test says `proves: {rule}`"


def test_no_test_names_a_rule_that_is_none() -> None:
    unknown = {number: files for number, files in named_by_tests().items() if number not in numbered_rules()}
    assert unknown == {}
