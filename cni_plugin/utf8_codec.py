"""UTF-8 and no other codec: bundled as the interpreter's `encodings`, which it loads before our first line.

In: the name of a codec. Out: UTF-8, or nothing. The library's own package is three modules with the names
of a hundred codecs, and costs a tenth of the plugin's whole time. The interpreter runs in UTF-8 mode, so it
asks for no other.
"""

import codecs

# typing would cost an import; type checkers know this name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


class Encoder(codecs.IncrementalEncoder):
    """What a text stream writes with; each call stands for itself."""

    def encode(self, text: str, final: bool = False) -> bytes:
        """Return text as UTF-8."""
        return codecs.utf_8_encode(text, self.errors)[0]


class Decoder(codecs.BufferedIncrementalDecoder):
    """What a text stream reads with; the base class keeps a character that is cut for the next call."""

    def _buffer_decode(self, text: "Buffer", errors: str, final: bool) -> tuple[str, int]:
        return codecs.utf_8_decode(text, errors, final)


def decode(text: "Buffer", errors: str = "strict") -> tuple[str, int]:
    """Return all of text as a string; a character that is cut at its end is an error."""
    return codecs.utf_8_decode(text, errors, True)


UTF_8 = codecs.CodecInfo(
    encode=codecs.utf_8_encode,
    decode=decode,
    incrementalencoder=Encoder,
    incrementaldecoder=Decoder,
    name="utf-8",
)


def search(name: str) -> codecs.CodecInfo | None:
    """Return the codec of that name, as codecs.register asks for it."""
    return UTF_8 if name in ("utf-8", "utf_8", "utf8") else None


# Imported by its own name, in a test, it changes nothing.
if __name__ == "encodings":
    codecs.register(search)
