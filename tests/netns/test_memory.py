"""What a daemon keeps of attachments that have come and gone: nothing that grows."""

import pytest

from tests.lab import Lab
from tests.netns.churn import Churn

TURNS = 20_000
MOST_MIB = 3.0
"""Over the second half; the first one fills what is remembered up to its bounds."""


def test_memory_is_flat_over_thousands_of_adds_and_dels(
    lab: Lab, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    churn = Churn(lab, backend)
    churn.run(TURNS // 2)
    before = churn.resident_mib()
    churn.run(TURNS // 2)
    after = churn.resident_mib()
    with capsys.disabled():
        told = f"{before:.1f} MiB after {TURNS // 2} ADDs and DELs, {after:.1f} after {TURNS}"
        print(f"\n{backend}: {told}")  # noqa: T201
    assert after - before <= MOST_MIB
