"""Let a shared library do without another one that it was linked to: part of the build, not of the plugin.

In: an ELF file (64 bit, little-endian) and the library to do without. Out: the same file, changed in place.
Debian links its libpython to libexpat, which only the module pyexpat calls; the plugin never imports it, a
node need not have the library, and bundling it would cost 2 % of the size and of the start-up time.
"""

import struct
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_DT_NEEDED = 1
_STB_WEAK = 2


class ElfError(Exception):
    """The file is not what this module can change; the text says why."""


def drop_needed(path: Path, library: str, prefix: str) -> bool:
    """Remove library from what the file needs; undefined symbols that start with prefix may be absent then.

    Returns False, with the file untouched, if it does not need library. Errors: ElfError, OSError.
    """
    image = bytearray(path.read_bytes())
    if image[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"{path} is no little-endian ELF file of 64 bits")
    sections = _read_sections(image)
    if not _remove_entry(image, sections, library):
        return False
    _weaken(image, sections, prefix)
    path.write_bytes(image)
    return True


def _read_sections(image: bytearray) -> dict[str, tuple[int, int]]:
    """Return offset and size of each section by name."""
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", image, 0x3A)
    headers = [_SECTION.unpack_from(image, table + index * size) for index in range(count)]
    names = headers[names_at][4]
    return {_text(image, names + header[0]): (header[4], header[5]) for header in headers}


def _remove_entry(image: bytearray, sections: dict[str, tuple[int, int]], library: str) -> bool:
    """Close the gap in .dynamic; the entry of nulls that ends it is there once more then."""
    start, size = sections[".dynamic"]
    names = sections[".dynstr"][0]
    for at in range(start, start + size, _DYNAMIC.size):
        tag, value = _DYNAMIC.unpack_from(image, at)
        if tag == _DT_NEEDED and _text(image, names + value) == library:
            rest = image[at + _DYNAMIC.size : start + size]
            image[at : start + size] = rest + bytes(_DYNAMIC.size)
            return True
    return False


def _weaken(image: bytearray, sections: dict[str, tuple[int, int]], prefix: str) -> None:
    """A weak symbol that nobody defines is 0; any other would stop the dynamic linker."""
    start, size = sections[".dynsym"]
    names = sections[".dynstr"][0]
    for at in range(start, start + size, _SYMBOL.size):
        name, kind, other, section, value, length = _SYMBOL.unpack_from(image, at)
        if section == 0 and _text(image, names + name).startswith(prefix):
            weak = (_STB_WEAK << 4) | (kind & 0xF)
            _SYMBOL.pack_into(image, at, name, weak, other, section, value, length)


def _text(image: bytearray, at: int) -> str:
    return image[at : image.index(0, at)].decode()
