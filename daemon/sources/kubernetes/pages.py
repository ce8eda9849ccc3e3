"""Lists by pages: what asks for one, and what it holds. Pure.

In: a collection, the body of an answer. Out: a query, a Page with its items still raw.
"""

from collections.abc import Mapping

import msgspec

from daemon.sources.kubernetes.errors import BadAnswerError
from daemon.sources.kubernetes.watched import Collection

PAGE_ITEMS = 500
FIRST_ITEMS = 25
"""Where whole objects are asked for, of which one may have 1.5 MiB in etcd."""
MOST_BYTES = 16 << 20
"""Of a page. The server counts objects alone: 500 of the largest would be 750 MiB, there and here."""


class ListMetadata(msgspec.Struct, rename={"version": "resourceVersion", "more": "continue"}):
    """more: what asks for the next page; "" on the last one."""

    version: str = ""
    more: str = ""


class Page(msgspec.Struct):
    """One page of a list, its items still raw."""

    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None


_PAGES = msgspec.json.Decoder(Page)


class PageSize:
    """How many objects to ask for, by what came: a continue token goes on with any number."""

    def __init__(self, first: int) -> None:
        self.items = first

    def came(self, size: int) -> None:
        """A page of so many bytes: twice as many objects would still be far from the most."""
        if size <= MOST_BYTES // 4:
            self.items = min(PAGE_ITEMS, 2 * self.items)

    def shrink(self) -> bool:
        """It was too long. False: it can't be shorter."""
        self.items, before = max(1, self.items // 2), self.items
        return before > 1


def page_query(collection: Collection, more: str, items: int) -> Mapping[str, str]:
    """The query of one page of a list; more: what the page before gave, "" for the first."""
    query = {"limit": str(items)}
    if collection.fields:
        query["fieldSelector"] = collection.fields
    return query | ({"continue": more} if more else {})


def decode_page(what: str, body: bytes) -> Page:
    """One page of a list. Raises BadAnswerError."""
    try:
        return _PAGES.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswerError(what, f"no list: {error}") from error
