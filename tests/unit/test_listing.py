"""Answers about all objects: bounded, and what is left out is said."""

from daemon.listing import FEW, MOST_LINES, MOST_OF_ONE, Room, count_faults, lines_of_objects
from daemon.model import ObjectKey, Problem

BAD, HINT = Problem("spec", "bad"), Problem("spec", "perhaps", hint=True)


def test_all_is_said_where_there_is_room() -> None:
    room = Room(20)
    assert room.cut(["a", "b"]) == ["a", "b"]
    assert room.cut_problems(iter([BAD, HINT])) == [BAD, HINT]
    names = [str(n) for n in range(100)]
    assert room.cut(names) == [*names[:FEW], f"and {100 - FEW} more"]
    assert room.cut([]) == []
    (*some, last) = room.cut_problems([BAD] * 100)
    assert (some, last.message) == ([BAD] * FEW, f"{100 - FEW} more: ask for this policy alone")


def test_one_namespace_hides_no_other() -> None:
    flood = {ObjectKey("Pod", "shop", f"p{n}"): (BAD, HINT) for n in range(1000)}
    found = {"shop": flood, "other": {ObjectKey("Pod", "other", "p"): (HINT, BAD)}}
    lines = lines_of_objects(found, count_faults(found))
    assert len(lines) == MOST_OF_ONE + 2
    assert lines[-2] == f"{1000 - MOST_OF_ONE} more problems in namespace shop: see mnpctl policies"
    assert lines[-1] == "Pod other/p: spec: bad"


def test_there_is_an_end_to_it() -> None:
    found = {
        f"n{space}": {ObjectKey("Pod", f"n{space}", f"p{n}"): (BAD,) for n in range(200)}
        for space in range(99)
    }
    assert len(lines_of_objects(found, count_faults(found))) <= MOST_LINES + MOST_LINES // MOST_OF_ONE + 1
