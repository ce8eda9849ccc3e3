"""What an API server does to a reflector, and what must come of it: a table."""

from dataclasses import dataclass, field
from typing import Any

from daemon.sources.kubernetes.watched import NAMESPACES, POLICIES, Collection, own_pods, peer_pods
from tests.unit.kubernetes.scripted import (
    Step,
    added,
    closes,
    event,
    failed,
    is_silent,
    listing,
    mark,
    page,
    refuses,
    says,
    stream,
)

BRISK: dict[str, Any] = {
    "watch": (60.0, 60.0),
    "silence": 2.0,
    "initial": 2.0,
    "steady": 0.0,
    "first_rest": 0.01,
    "most_rest": 0.05,
    "absent_rest": 0.02,
}
"""steady 0: no watch is too short."""
LONG: dict[str, Any] = {**BRISK, "first_rest": 60.0, "most_rest": 60.0, "absent_rest": 60.0}
PODS = own_pods("n")
NEW, OLD = "v1beta2 multi-networkpolicies", "v1beta1 multi-networkpolicies"
ONE = ("a", 1)


@dataclass(frozen=True)
class Case:
    """steps: what the server does. news, asked: what comes of it, at least as the beginning."""

    name: str
    steps: list[Step]
    news: list[str]
    asked: list[str]
    told: list[str] = field(default_factory=list)
    collection: Collection = PODS
    timing: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


PLAIN = ["watch pods initial"]
CASES = [
    Case(
        "a streaming list", [listing(ONE, ("b", 2), version=5)], ["listed a@1 b@2"], PLAIN, ["listed a@1 b@2"]
    ),
    Case("an empty one", [listing(version=5)], ["listed"], PLAIN),
    Case(
        "what comes after it in the same stream",
        [stream(added("a", 1), mark(5, ends=True) + added("b", 6), event("DELETED", "a", 7), hold=True)],
        ["listed a@1", "changed +b@6", "changed -a@7"],
        PLAIN,
    ),
    Case(
        "an object that goes while it is listed",
        [stream(added("a", 1), added("b", 2), event("DELETED", "a", 3), mark(4, ends=True), hold=True)],
        ["listed b@2"],
        PLAIN,
    ),
    Case(
        "a bookmark that ends nothing",
        [stream(mark(2), added("a", 1), mark(3), mark(4, ends=True), hold=True)],
        ["listed a@1"],
        PLAIN,
    ),
    Case(
        "kinds of events for newer clients",
        [stream(mark(4, ends=True), event("GLOWED", "b", 5), added("c", 6), hold=True)],
        ["listed", "changed +c@6"],
        PLAIN,
    ),
    *(
        Case(
            f"no streaming lists ({status})",
            [refuses(status), page(ONE, version=4), stream(added("b", 5), hold=True)],
            ["listed a@1", "changed +b@5"],
            [*PLAIN, "list pods", "watch pods 4"],
        )
        for status in (400, 422)
    ),
    Case(
        "pages",
        [refuses(422), page(ONE, version=4, more="m"), page(("b", 2), version=4), stream(hold=True)],
        ["listed a@1 b@2"],
        [*PLAIN, "list pods", "list pods after m", "watch pods 4"],
    ),
    Case(
        "the second page is gone",
        [refuses(422), page(ONE, version=4, more="m"), refuses(410), page(("b", 2), version=6)],
        ["listed b@2"],
        [*PLAIN, "list pods", "list pods after m", "list pods", "watch pods 6"],
    ),
    Case(
        "no field selector for the host's network",
        [refuses(400), refuses(400), page(version=4), stream(hold=True)],
        ["listed"],
        ["watch pods of no host initial", "list pods of no host", "list pods", "watch pods 4"],
        collection=peer_pods("n"),
    ),
    Case(
        "resumed where it was, after its time",
        [stream(mark(5, ends=True), added("b", 6)), page(version=6), stream(added("c", 8), hold=True)],
        ["listed", "changed +b@6", "changed +c@8"],
        # It did not last for its time, so the server may have stopped: has it still the same history?
        [*PLAIN, "head pods", "watch pods 6"],
    ),
    Case(
        "resumed after the time that was asked for",
        [stream(mark(5, ends=True)), stream(mark(9)), stream(hold=True)],
        ["listed"],
        [*PLAIN, "watch pods 5", "watch pods 9"],
        timing={"watch": (0.0, 0.0)},
    ),
    Case(
        "410 as a status",
        [stream(added("a", 1), mark(5, ends=True)), refuses(410), listing(("b", 7), version=8)],
        ["listed a@1", "listed b@7"],
        [*PLAIN, "watch pods 5", "watch pods initial"],
        ["listed a@1", "stands owes", "stands owes", "listed b@7"],
        timing={"watch": (0.0, 0.0)},
    ),
    Case(
        "410 as an event",
        [stream(added("a", 1), mark(5, ends=True), failed(410, "Expired")), listing(("b", 7), version=8)],
        ["listed a@1", "listed b@7"],
        [*PLAIN, "watch pods initial"],
        ["listed a@1", "stands owes", "stands owes", "listed b@7"],
    ),
    Case(
        "410 by its reason alone",
        [stream(mark(5, ends=True), failed(0, "Expired")), listing(version=8)],
        ["listed", "listed"],
        [*PLAIN, "watch pods initial"],
    ),
    Case(
        "another error as an event",
        [stream(mark(5, ends=True), added("a", 6), failed(500)), page(version=6), stream(hold=True)],
        ["listed", "changed +a@6"],
        [*PLAIN, "head pods", "watch pods 6"],
        ["listed", "changed +a@6", "stands", "stands live"],
        reason="watch pods: 500 made up",
    ),
    Case(
        "a line cut off",
        [stream(mark(5, ends=True), added("a", 6)[:20]), page(version=5), stream(added("a", 6), hold=True)],
        ["listed", "changed +a@6"],
        [*PLAIN, "head pods", "watch pods 5"],
        reason="watch pods: the stream broke off within an event",
    ),
    Case(
        "a stream cut off",
        [stream(mark(5, ends=True), breaks=True), page(version=5), stream(added("a", 6), hold=True)],
        ["listed", "changed +a@6"],
        [*PLAIN, "head pods", "watch pods 5"],
    ),
    Case(
        "a line that is no JSON",
        [
            stream(mark(5, ends=True), added("a", 6) + b"<html>\n" + added("b", 7)),
            page(version=6),
            stream(added("b", 7), hold=True),
        ],
        ["listed", "changed +a@6", "changed +b@7"],
        [*PLAIN, "head pods", "watch pods 6"],
    ),
    Case(
        "an object without a name among others",
        [
            stream(mark(5, ends=True), added("a", 6) + b'{"type":"ADDED","object":{"metadata":{}}}\n'),
            page(version=6),
            stream(hold=True),
        ],
        ["listed", "changed +a@6"],
        [*PLAIN, "head pods", "watch pods 6"],
    ),
    Case(
        "unreadable again and again: listed anew",
        [stream(mark(5, ends=True), b"?\n"), *[page(version=5), stream(b"?\n")] * 2, listing(ONE, version=9)],
        ["listed", "listed a@1"],
        [*PLAIN, *["head pods", "watch pods 5"] * 2, "watch pods initial"],
        reason="watch pods: no watch event: b'?': JSON is malformed: invalid character (byte 0)",
    ),
    Case(
        "in between something can be read: not listed anew",
        [
            stream(mark(5, ends=True), b"?\n"),
            *[page(version=99), stream(added("a", 6), b"?\n"), page(version=99), stream(b"?\n")],
            *[page(version=99), stream(hold=True)],
        ],
        ["listed", "changed +a@6"],
        [*PLAIN, "head pods", "watch pods 5", "head pods", "watch pods 6", "head pods", "watch pods 6"],
    ),
    *(
        Case(
            f"the watch is refused with {status} again and again: listed anew",
            [stream(mark(5, ends=True)), *[refuses(status)] * 3, listing(ONE, version=9)],
            ["listed", "listed a@1"],
            [*PLAIN, *["watch pods 5", "head pods"], "head pods", "watch pods initial"],
            timing={"watch": (0.0, 0.0)},
        )
        for status in (500, 400)
    ),
    Case(
        "the watch is refused with 503: the history is not forgotten",
        [stream(mark(5, ends=True)), *[refuses(503)] * 5, page(version=9), stream(added("a", 10), hold=True)],
        ["listed", "changed +a@10"],
        [*PLAIN, "watch pods 5", *["head pods"] * 5, "watch pods 5"],
        timing={"watch": (0.0, 0.0)},
    ),
    *(
        Case(
            f"an answer that is no list: {body[:20]!r}",
            [refuses(422), says(body), page(ONE, version=4), stream(hold=True)],
            ["listed a@1"],
            [*PLAIN, "list pods", "list pods", "watch pods 4"],
        )
        for body in (
            b"<html>",
            b"",
            b"{}",
            b'{"metadata":{},"items":[]}',
            b'{"metadata":{"resourceVersion":"',
        )
    ),
    Case(
        "a bookmark that ends the list without a version",
        [stream(added("a", 1), mark("", ends=True), hold=True), page(ONE, version=4), stream(hold=True)],
        ["listed a@1"],
        [*PLAIN, "list pods", "watch pods 4"],
    ),
    Case(
        "a streaming list that breaks off: the next by pages",
        [stream(added("a", 1), breaks=True), page(ONE, version=4), stream(hold=True)],
        ["listed a@1"],
        [*PLAIN, "list pods", "watch pods 4"],
    ),
    Case(
        "a streaming list that ends early",
        [stream(added("a", 1)), page(ONE, version=4), stream(hold=True)],
        ["listed a@1"],
        [*PLAIN, "list pods", "watch pods 4"],
        reason="watch pods: the list broke off",
    ),
    Case(
        "a streaming list that is silent",
        [stream(added("a", 1), hold=True), page(ONE, version=4), stream(hold=True)],
        ["listed a@1"],
        [*PLAIN, "list pods", "watch pods 4"],
        timing={"silence": 0.1},
    ),
    Case(
        "a streaming list that goes on for ever",
        [stream(*(added("a", n) for n in range(1, 50)), hold=True), page(ONE, version=4), stream(hold=True)],
        ["listed a@1"],
        [*PLAIN, "list pods", "watch pods 4"],
        timing={"initial": 0.0},
        reason="watch pods: no whole list in 0 s",
    ),
    Case(
        "a list by pages that breaks off: the next as a stream",
        [stream(breaks=True), closes, listing(ONE, version=4)],
        ["listed a@1"],
        [*PLAIN, "list pods", "watch pods initial"],
    ),
    Case(
        "half-open: silence ends it, and nothing is listed anew",
        [listing(version=5), page(version=5), stream(added("a", 6), hold=True)],
        ["listed", "changed +a@6"],
        [*PLAIN, "head pods", "watch pods 5"],
        timing={"silence": 0.1},
    ),
    Case(
        "no answer at all",
        [is_silent, listing(version=5)],
        ["listed"],
        [*PLAIN, "watch pods initial"],
        timing={"silence": 0.1},
    ),
    Case(
        "closed without an answer",
        [closes, closes, listing(version=5)],
        ["listed"],
        [*PLAIN, "watch pods initial", "watch pods initial"],
    ),
    Case(
        "an old event once more, out of another stream",
        [
            stream(mark(5, ends=True), added("a", 7)),
            stream(added("a", 6), added("a", 7), added("b", 8), hold=True),
        ],
        ["listed", "changed +a@7", "changed +b@8"],
        [*PLAIN, "watch pods 7"],
        timing={"watch": (0.0, 0.0)},
    ),
    Case(
        "an old bookmark",
        [stream(mark(5, ends=True), mark(9), mark(7)), stream(hold=True)],
        ["listed"],
        [*PLAIN, "watch pods 9"],
        timing={"watch": (0.0, 0.0)},
    ),
    Case(
        "401, and 403, until it is right",
        [refuses(401), refuses(403), listing(version=5)],
        ["listed"],
        [*PLAIN, "watch pods initial", "watch pods initial"],
        ["stands owes", "stands owes refused", "listed"],
        reason="watch on pods is not granted; conf/rbac.yaml grants it (403 made up)",
    ),
    Case(
        "a right that is taken away",
        [
            stream(mark(5, ends=True)),
            refuses(403),
            refuses(403),
            page(version=5),
            stream(added("a", 6), hold=True),
        ],
        ["listed", "changed +a@6"],
        [*PLAIN, "watch pods 5", "head pods", "head pods", "watch pods 5"],
        ["listed", "stands refused", "stands refused", "changed +a@6"],
        timing={"watch": (0.0, 0.0)},
        reason="list on pods is not granted; conf/rbac.yaml grants it (403 made up)",
    ),
    Case(
        "the older version of a kind",
        [refuses(404), listing(ONE, version=5)],
        ["listed a@1"],
        [f"watch {NEW} initial", f"watch {OLD} initial"],
        ["listed a@1"],
        POLICIES,
    ),
    Case(
        "a kind in no version, until it comes",
        [*[refuses(404)] * 6, listing(ONE, version=5)],
        ["listed a@1"],
        [*[f"watch {NEW} initial", f"watch {OLD} initial"] * 3, f"watch {NEW} initial"],
        # Nothing new is told while it is still missing.
        ["stands owes refused", "listed a@1"],
        POLICIES,
        reason="its CustomResourceDefinition is not installed; it comes with conf/crd.yaml",
    ),
    Case(
        "a kind that is removed, and comes back in another version",
        [stream(added("a", 1), mark(5, ends=True)), *[refuses(404)] * 3, listing(version=9)],
        ["listed a@1", "listed"],
        [f"watch {NEW} initial", f"watch {NEW} 5", *[f"watch {OLD} initial", f"watch {NEW} initial"] * 2][:5],
        ["listed a@1", "stands owes", "stands owes refused", "listed"],
        POLICIES,
        {"watch": (0.0, 0.0)},
    ),
    Case(
        "the server's history is an older one",
        [stream(added("a", 1), mark(50, ends=True)), page(version=30), listing(("b", 20), version=30)],
        ["listed a@1", "history", "listed b@20"],
        [*PLAIN, "head pods", "watch pods initial"],
    ),
    Case(
        "the same history",
        [stream(added("a", 1), mark(50, ends=True)), page(version=50), stream(hold=True)],
        ["listed a@1"],
        [*PLAIN, "head pods", "watch pods 50"],
    ),
    Case(
        "history can't be looked at yet",
        [stream(mark(50, ends=True)), refuses(503), closes, says(b"?"), page(version=60), stream(hold=True)],
        ["listed"],
        [*PLAIN, *["head pods"] * 4, "watch pods 50"],
    ),
    Case(
        "an object that is no UTF-8",
        [
            stream(
                mark(5, ends=True), added("a", 6).replace(b'{"name"', b'{"x": "\xff", "name"'), added("b", 7)
            )
        ],
        ["listed", "changed +a@6", "changed +b@7"],
        PLAIN,
    ),
    Case(
        "of namespaces, as metadata",
        [listing(ONE, version=3)],
        ["listed a@1"],
        ["watch namespaces initial"],
        collection=NAMESPACES,
    ),
]
