"""Cut a YAML `kind: List` document into its items without parsing it.

In: the bytes of one document. Out: the frame (the document with a marker for its items) and the bytes of
each item; None where the text does not prove that cutting it gives what parsing it whole would give. Pure.

Why it is right. Only block style with `items:` at the start of a line is cut, at lines that begin with the
dash of the first item. Such a line can be something else than the start of an item only while the scanner
is inside a scalar or a flow collection. A block or plain scalar ends at a line that is indented no deeper
than its parent, which a dash line is. A quoted scalar or a flow collection still open there makes the piece
before it no valid document, and the caller, who parses every piece by itself, then parses the whole. So by
induction every piece that parses alone ends where the next begins; the marker, found again as the only item
of the parsed frame, proves the start and the end. Aliases into other pieces do not parse alone either.
"""

import re

# Under 64 KiB the whole is parsed in a few milliseconds.
MIN_SIZE = 64 * 1024

MARKER = "the-items-were-here"

_ITEMS = re.compile(rb"^items:[ \t]*(?:#[^\r\n]*)?\r?\n", re.M)
_FIRST_DASH = re.compile(rb"(?:[ ]*(?:#[^\r\n]*)?\r?\n)*([ ]*)-[ \r\n]")
# A line break of YAML 1.1 that these patterns do not take for one.
_ODD_BREAK = re.compile(rb"\r(?!\n)|\xc2\x85|\xe2\x80[\xa8\xa9]")


def split_items(document: bytes, min_size: int = MIN_SIZE) -> tuple[bytes, list[bytes]] | None:
    """(frame, items) of a block-style list, or None."""
    head = _ITEMS.search(document) if len(document) >= min_size else None
    if head is None or _ODD_BREAK.search(document) or MARKER.encode() in document:
        return None
    first = _FIRST_DASH.match(document, head.end())
    if first is None:
        return None
    indent = len(first[1])
    end = _end_of_items(document, head.end(), indent)
    if end is None:
        return None
    dash = re.compile(rb"^ {%d}-(?=[ \r\n])" % indent, re.M)
    starts = [match.start() for match in dash.finditer(document, head.end(), end)]
    pieces = [document[a:b] for a, b in zip(starts, [*starts[1:], end], strict=True)]
    return document[: head.start()] + f"items: [{MARKER}]\n".encode() + document[end:], pieces


def _end_of_items(document: bytes, start: int, indent: int) -> int | None:
    """Where the list ends: at the first line that is indented no deeper than the dashes, and is none of them.

    None when that line is not one of the frame's own, which start at the first column.
    """
    other = re.compile(rb"^(?! {%d}-[ \r\n]) {0,%d}(?=[^ #\r\n])" % (indent, indent), re.M)
    line = other.search(document, start)
    if line is None:
        return len(document)
    if line.start() != line.end() or document[line.start() : line.start() + 1] in (b"\t", b"-", b"."):
        return None
    return line.start()
