"""What a fault proxy takes: which requests, and what goes wrong with them. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

_STATUS = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}


@dataclass(frozen=True)
class Asked:
    """One request that came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]

    @property
    def plural(self) -> str:
        """`pods` of /api/v1/namespaces/a/pods; of an object's path, its name."""
        return self.path.rstrip("/").rpartition("/")[2]

    @property
    def watches(self) -> bool:
        """Whether it asks for a stream."""
        return self.query.get("watch") in ("1", "true")


@dataclass(frozen=True)
class Answer:
    """What is said instead of the server's own answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong. The first group is for all requests, the second for watches alone.

    delay: seconds before the answer. answer: instead of the server's. close: the connection, without an
    answer. hold: no answer, the connection stays.

    no_bookmarks: none is let through. after: so many events are. Then: insert, a line; replay: the first
    event that ever passed on this path, once more; end: "line", the connection breaks within the next one;
    "close", after a whole one; "stream", an orderly end; "hold", nothing comes any more.
    """

    delay: float = 0.0
    answer: Answer | None = None
    close: bool = False
    hold: bool = False

    no_bookmarks: bool = False
    after: int = 0
    insert: bytes = b""
    replay: bool = False
    end: Literal["", "line", "close", "stream", "hold"] = ""


@dataclass(kw_only=True, eq=False)
class Rule:
    """To which requests a fault happens: all that is given must hold. times: so often; None: always.

    path: a part of it. query: keys with their values, or None for any. watch: None, whether or not.
    """

    fault: Fault
    method: str = ""
    path: str = ""
    plural: str = ""
    query: Mapping[str, str | None] = field(default_factory=dict)
    watch: bool | None = None
    times: int | None = None
    hits: int = 0

    def takes(self, asked: Asked) -> bool:
        """Whether this request is one of those."""
        return (
            (self.times is None or self.hits < self.times)
            and self.method in ("", asked.method)
            and self.path in asked.path
            and self.plural in ("", asked.plural)
            and self.watch in (None, asked.watches)
            and all(
                key in asked.query and value in (None, asked.query[key]) for key, value in self.query.items()
            )
        )


def status(code: int, message: str = "made up", reason: str = "", **headers: str) -> Answer:
    """A Status object, as API servers refuse; header names with underscores."""
    body = {**_STATUS, "code": code, "message": message, "reason": reason}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(code, json.dumps(body).encode(), {"Content-Type": "application/json", **given})


def error_event(code: int = 410, reason: str = "Expired", message: str = "too old") -> bytes:
    """The line by which a server ends a watch."""
    body = {**_STATUS, "code": code, "message": message, "reason": reason}
    return json.dumps({"type": "ERROR", "object": body}).encode() + b"\n"
