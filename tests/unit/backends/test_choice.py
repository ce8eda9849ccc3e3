"""Which backend is chosen, and why in words: what is asked for × what works × what was used before."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from daemon.backends.choice import choose
from daemon.backends.fake import FakeBackend
from daemon.errors import BackendUnavailableError

NAMES = ("nftables", "iptables")
ALL, NONE = frozenset(NAMES), frozenset[str]()
PREFERRED = "it works here, and is preferred"
BEFORE = "it was used before and works"


class Named(FakeBackend):
    """A fake under a name; its lack names it too."""

    def __init__(self, name: str, works: bool) -> None:
        super().__init__()
        self.name = name
        self.works = works

    def probe(self) -> None:
        self.asked["probe"] += 1
        if not self.works:
            raise BackendUnavailableError(lack(self.name))


def lack(name: str) -> str:
    return f"{name} is not here: install it"


@dataclass(frozen=True)
class Case:
    """recorded None: there is no record. because None: none is chosen."""

    wanted: str
    recorded: str | None
    works: frozenset[str]
    chosen: str
    because: str | None

    def __str__(self) -> str:
        works = "+".join(name for name in NAMES if name in self.works) or "nothing"
        return f"{self.wanted}, recorded {self.recorded}, works {works}"


CASES = [
    # By name: what was recorded says nothing.
    *(
        Case(name, recorded, works, name, f"--backend {name}")
        for name in NAMES
        for recorded in (None, *NAMES)
        for works in (ALL, frozenset({name}))
    ),
    *(Case(name, recorded, NONE, "", None) for name in NAMES for recorded in (None, *NAMES)),
    *(Case(name, name, ALL - {name}, "", None) for name in NAMES),
    # By itself.
    Case("auto", None, ALL, "nftables", PREFERRED),
    Case("auto", None, frozenset({"nftables"}), "nftables", PREFERRED),
    Case("auto", None, frozenset({"iptables"}), "iptables", lack("nftables")),
    Case("auto", None, NONE, "", None),
    Case("auto", "nftables", ALL, "nftables", BEFORE),
    Case("auto", "nftables", frozenset({"iptables"}), "iptables", lack("nftables")),
    Case("auto", "nftables", NONE, "", None),
    Case("auto", "iptables", ALL, "iptables", BEFORE),
    Case("auto", "iptables", frozenset({"iptables"}), "iptables", BEFORE),
    Case("auto", "iptables", frozenset({"nftables"}), "nftables", lack("iptables")),
    Case("auto", "iptables", NONE, "", None),
    # A record that names none of them is as good as none.
    *(
        Case("auto", odd, ALL, "nftables", PREFERRED)
        for odd in ("", "ebpf", "nftables iptables", "\x00" * 99)
    ),
]


def written(case: Case, folder: Path) -> Path:
    record = folder / "backend"
    if case.recorded is not None:
        record.write_text(f"{case.recorded}\n")
    return record


@pytest.mark.parametrize("case", CASES, ids=str)
def test_chosen(case: Case, tmp_path: Path) -> None:
    record = written(case, tmp_path)
    backends = [Named(name, name in case.works) for name in NAMES]
    before = record.read_bytes() if record.exists() else None
    if case.because is None:
        with pytest.raises(BackendUnavailableError) as refused:
            choose(case.wanted, backends, record)
        asked = NAMES if case.wanted == "auto" else (case.wanted,)
        assert all(lack(name) in str(refused.value) for name in asked)
        assert (record.read_bytes() if record.exists() else None) == before
        return
    choice = choose(case.wanted, backends, record)
    assert (choice.backend.name, choice.because) == (case.chosen, case.because)
    assert [rival.name for rival in choice.rivals] == [name for name in NAMES if name != case.chosen]
    assert record.read_text() == f"{case.chosen}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["backend"]


def test_no_more_is_tried_than_needed(tmp_path: Path) -> None:
    """A probe costs a namespace, and loads modules."""
    backends = [Named(name, works=True) for name in NAMES]
    choose("auto", backends, tmp_path / "backend")
    choose("nftables", backends, tmp_path / "backend")
    assert [backend.asked["probe"] for backend in backends] == [2, 0]


def test_a_record_of_that_name_is_not_written_again(tmp_path: Path) -> None:
    record = tmp_path / "backend"
    backends = [Named(name, works=True) for name in NAMES]
    choose("auto", backends, record)
    before = record.stat()
    choose("auto", backends, record)
    assert (record.stat().st_ino, record.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
