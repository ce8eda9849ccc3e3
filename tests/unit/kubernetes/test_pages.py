"""How many objects a page may have, and that a barrier's list finds its way like a reflector's."""

from typing import Any

import pytest

from daemon.sources.kubernetes import errands, pages
from daemon.sources.kubernetes.errands import Errands
from daemon.sources.kubernetes.errors import TooLongError
from daemon.sources.kubernetes.pages import MOST_BYTES, PageSize
from daemon.sources.kubernetes.watched import POLICIES
from tests.unit.kubernetes.scripted import Step, says, scripted, thing
from tests.unit.kubernetes.stated import Told

pytestmark = pytest.mark.unit


def test_pages_grow_while_they_are_small() -> None:
    size = PageSize(25)
    found = []
    for came in (1, MOST_BYTES // 4, MOST_BYTES // 4 + 1, MOST_BYTES, 0, 0, 0, 0):
        size.came(came)
        found.append(size.items)
    assert found == [50, 100, 100, 100, 200, 400, 500, 500]


def test_pages_shrink_down_to_one_object() -> None:
    size = PageSize(25)
    assert [(size.shrink(), size.items) for _ in range(6)] == [
        (True, 12),
        (True, 6),
        (True, 3),
        (True, 1),
        (False, 1),
        (False, 1),
    ]


def answer(*names: str, more: str = "", size: int = 10) -> Step:
    items: list[dict[str, Any]] = [thing(name, 4, annotations={"note": "x" * size}) for name in names]
    return says({"metadata": {"resourceVersion": "5", "continue": more}, "items": items})


def test_a_barrier_asks_for_less_where_a_page_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pages, errands):
        monkeypatch.setattr(module, "MOST_BYTES", 2000)
    steps = [answer("a", more="m"), answer("b", "c", size=3000), answer("b", more="n"), answer("c")]
    with scripted(*steps) as (script, client):
        made = Errands(Told().state, client.connect, lambda: [POLICIES], "n", lambda: None)
        found, version = made._list(POLICIES)
        assert ([key.name for key in found], version) == (["a", "b", "c"], "5")
        asked = [path.partition("limit=")[2].split("&continue=") for path in script.paths]
        assert asked == [["500"], ["500", "m"], ["250", "m"], ["250", "n"]]
        script.add(*[answer("a", size=3000)] * 9)
        with pytest.raises(TooLongError, match="more than 2000 bytes"):
            made._list(POLICIES)
