"""Lists by pages: what asks for one, and what it holds. Pure.

In: a collection, the body of an answer. Out: a query, a Page with its items still raw.
"""

from collections.abc import Mapping

import msgspec

from daemon.sources.kubernetes.errors import BadAnswerError
from daemon.sources.kubernetes.watched import Collection

PAGE_ITEMS = 500


class ListMetadata(msgspec.Struct, rename={"version": "resourceVersion", "more": "continue"}):
    """more: what asks for the next page; "" on the last one."""

    version: str = ""
    more: str = ""


class Page(msgspec.Struct):
    """One page of a list, its items still raw."""

    metadata: ListMetadata
    items: list[msgspec.Raw] | None = None


_PAGES = msgspec.json.Decoder(Page)


def page_query(collection: Collection, more: str) -> Mapping[str, str]:
    """The query of one page of a list; more: what the page before gave, "" for the first."""
    query = {"limit": str(PAGE_ITEMS)}
    if collection.fields:
        query["fieldSelector"] = collection.fields
    return query | ({"continue": more} if more else {})


def decode_page(what: str, body: bytes) -> Page:
    """One page of a list. Raises BadAnswerError."""
    try:
        return _PAGES.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadAnswerError(what, f"no list: {error}") from error
