"""The top level of a JSON object, with the place of every value in the text.

In: text. Out: values by key, and where each stands, so that one can be printed as it was written: a number
like 1.10 or a duplicate key would not survive decoding. It imports only the json package's C part
(importing json takes longer than all else that the plugin does), and never json itself.
"""

import sys
from _json import make_scanner, scanstring

_SPACE = " \t\n\r"
# int() refuses to convert more digits than 4300, and nothing here needs more than these.
_MAX_INT_DIGITS = 40


class JsonError(ValueError):
    """Text that is no JSON object. Built as the C scanner builds json.JSONDecodeError."""

    def __init__(self, msg: str, _text: str = "", at: int | None = None) -> None:
        ValueError.__init__(self, msg if at is None else f"{msg}: character {at}")


class _DecoderModule:
    """Stands in for the module in which the C scanner looks up its exception."""

    JSONDecodeError = JsonError


def install_error_class() -> None:
    """Let the C scanner say what is wrong and where; without the class it can only raise SystemError.

    Only for a process that never imports json.
    """
    if "json.decoder" not in sys.modules:
        sys.modules["json.decoder"] = _DecoderModule  # type: ignore[assignment]  # one attribute is read


def read_object(text: str) -> tuple[dict[str, object], dict[str, tuple[int, int]]]:
    """Return the values of a JSON object, and start and end of each in text. The last of equal keys counts.

    Errors: JsonError, or RecursionError if it is nested too deep.
    """
    try:
        return _Reader(text).read()
    except StopIteration as stop:
        raise JsonError("a value is missing", text, stop.value) from None
    except (JsonError, RecursionError):
        raise
    except (ValueError, SystemError) as exc:
        raise JsonError(f"{exc}") from None


class _Reader:
    """One pass over the top level. Its class attributes are the options that the C scanner asks for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float

    def __init__(self, text: str) -> None:
        self.text = text
        self.scan = make_scanner(self)  # type: ignore[arg-type]  # it only reads the attributes

    @staticmethod
    def parse_int(digits: str) -> int | float:
        return int(digits) if len(digits) <= _MAX_INT_DIGITS else float(digits)

    @staticmethod
    def parse_constant(name: str) -> object:
        raise JsonError(f"{name} is not JSON")

    def read(self) -> tuple[dict[str, object], dict[str, tuple[int, int]]]:
        values: dict[str, object] = {}
        places: dict[str, tuple[int, int]] = {}
        at = self._expect("{", 0)
        more = not self._peek("}", at)
        while more:
            at = self._expect('"', at)
            key, at = scanstring(self.text, at, True)
            start = self._skip(self._expect(":", at))
            values[key], at = self.scan(self.text, start)
            places[key] = (start, at)
            more = self._peek(",", at)
            if more:
                at = self._expect(",", at)
        at = self._skip(self._expect("}", at))
        if at != len(self.text):
            raise JsonError("more text after the object", self.text, at)
        return values, places

    def _skip(self, at: int) -> int:
        while at < len(self.text) and self.text[at] in _SPACE:
            at += 1
        return at

    def _peek(self, char: str, at: int) -> bool:
        at = self._skip(at)
        return self.text[at : at + 1] == char

    def _expect(self, char: str, at: int) -> int:
        at = self._skip(at)
        if self.text[at : at + 1] != char:
            raise JsonError(f"{char!r} is missing", self.text, at)
        return at + 1
