"""What a misspelt word was meant to be, and that asking for it costs little whatever the words are."""

import time

import pytest

from daemon.spelling import MAX_KNOWN, MAX_WORD, did_you_mean

ALIKE = [
    ("multi-network-policy", "multi-networkpolicy"),
    ("MultiNetworkPolicy", "multi-networkpolicy"),
    ("multi_networkpolicy", "multi-networkpolicy"),
    ("multi-networkpolicies", "multi-networkpolicy"),
    ("multi-netwrokpolicy", "multi-networkpolicy"),
    ("mutli-networkpolicy", "multi-networkpolicy"),
    ("neta", "net-a"),
    ("fornt", "front"),
    ("frnt", "front"),
    ("frontt", "front"),
    ("monitorng", "monitoring"),
    ("production", "productions"),
]
DIFFERENT = [
    ("net-a", "net-b"),
    ("net1", "net2"),
    ("vlan-100", "vlan-200"),
    ("team-a", "team-b"),
    ("tuning", "multi-networkpolicy"),
    ("multus", "multi-networkpolicy"),
    ("front", "store"),
    ("a", "b"),
    ("", "net"),
]


@pytest.mark.parametrize(("word", "known"), ALIKE)
def test_what_is_alike(word: str, known: str) -> None:
    assert did_you_mean(word, ["something-else", known]) == known


@pytest.mark.parametrize(("word", "known"), DIFFERENT)
def test_what_is_another_word(word: str, known: str) -> None:
    assert did_you_mean(word, [known]) == ""


def test_the_closest_counts() -> None:
    assert did_you_mean("network", ["netwoooork", "networks", "net-work"]) == "net-work"


def test_what_it_costs_is_bounded() -> None:
    known = [f"{'ab' * 40}{number:05d}{'ba' * 7}" for number in range(100_000)]
    started = time.process_time()
    assert did_you_mean("ab" * 40 + "x" * 6 + "ba" * 7, iter(known)) == ""
    assert did_you_mean("a" * 1_000_000, known) == ""
    assert time.process_time() - started < 0.1
    assert did_you_mean("w" * (MAX_WORD + 1), ["w" * (MAX_WORD + 2)]) == ""
    assert did_you_mean("front", [*["x"] * MAX_KNOWN, "front"]) == ""
