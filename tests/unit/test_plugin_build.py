"""How the plugin is put together: one module of all, nothing dear imported, replaced in one step."""

import ast
import codecs
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugin import build, utf8_codec
from cni_plugin.elf import ElfError, drop_needed

RUNTIME = [build.SOURCES / f"{module}.py" for module in build.MODULES]


def imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_every_module_of_the_plugin_is_in_the_build() -> None:
    others = {"__init__", "build", "elf", "utf8_codec"}
    assert {path.stem for path in build.SOURCES.glob("*.py")} == {*build.MODULES, *others}


@pytest.mark.parametrize("path", RUNTIME, ids=lambda path: path.stem)
def test_modules_import_only_what_comes_before_them(path: Path) -> None:
    own = [
        name.removeprefix("cni_plugin.")
        for name in imported(ast.parse(path.read_text()))
        if "cni_plugin" in name
    ]
    before = build.MODULES[: build.MODULES.index(path.stem)]
    assert set(own) <= set(before)


def test_the_joined_module_imports_what_is_allowed() -> None:
    assert imported(ast.parse(build.join_modules())) == build.ALLOWED_IMPORTS


def test_the_joined_module_loads_nothing_else(tmp_path: Path) -> None:
    """Counted in a bare interpreter: each further module would cost start-up time."""
    joined = tmp_path / "joined.py"
    joined.write_text(build.join_modules().replace('if __name__ == "__main__"', "if False"))
    code = (
        "import sys; before = set(sys.modules);"
        f"exec(compile(open({str(joined)!r}).read(), 'joined', 'exec'), {{'__name__': 'joined'}});"
        "print(*sorted(set(sys.modules) - before))"
    )
    # -I -S: nothing of the tests' environment, no site.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"_json", "_socket"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import json", "imports json"),
        ("def f():\n    import re", "imports re"),
        ("from . import wire", r"imports \."),
        ("WIRE_VERSION = 2", "both define WIRE_VERSION"),
        ("def pack(x):\n    pass", "both define pack"),
        ("class WireError:\n    pass", "both define WireError"),
        ("_CONSTANTS: int = 2", "both define _CONSTANTS"),
    ],
)
def test_join_refuses(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(build.SOURCES / "wire.py", tmp_path)
    (tmp_path / "extra.py").write_text(text)
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    with pytest.raises(build.BuildError, match=says):
        build.join_modules(("wire", "extra"))


def test_replaces_directory_and_link(tmp_path: Path) -> None:
    for content in ("old", "new"):
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        (fresh / "plugin").write_text(content)
        build.replace_directory(fresh, tmp_path / ".plugin-1")
        build.replace_symlink(Path(".plugin-1/plugin"), tmp_path / "plugin")
        assert (tmp_path / "plugin").read_text() == content
    assert os.readlink(tmp_path / "plugin") == ".plugin-1/plugin"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".plugin-1", "plugin"]


def test_drop_needed(tmp_path: Path) -> None:
    """A library that needs another, and calls it, loads without it afterwards."""
    other, library = tmp_path / "libother.so", tmp_path / "lib.so"
    for source, target, link in [
        ("int other_call(void) { return 1; }", other, []),
        (
            "int other_call(void); int (*held)(void) = other_call; int used(void) { return 7; }",
            library,
            ["-L", str(tmp_path), "-lother"],
        ),
    ]:
        command = [
            "gcc",
            "-shared",
            "-fPIC",
            "-x",
            "c",
            "-",
            "-o",
            str(target),
            f"-Wl,-soname,{target.name}",
            *link,
        ]
        subprocess.run(command, input=source.encode(), check=True)
    other.unlink()
    load = f"import ctypes; print(ctypes.CDLL({str(library)!r}).used())"
    assert subprocess.run([sys.executable, "-c", load], capture_output=True, check=False).returncode != 0
    assert not drop_needed(library, "libmissing.so", "other_")
    assert drop_needed(library, "libother.so", "other_")
    assert subprocess.run([sys.executable, "-c", load], capture_output=True, check=True).stdout == b"7\n"
    assert not drop_needed(library, "libother.so", "other_")


def test_drop_needed_refuses_other_files(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no library")
    with pytest.raises(ElfError, match="text is no little-endian ELF"):
        drop_needed(tmp_path / "text", "libother.so", "other_")


@given(st.lists(st.binary(max_size=6) | st.text(max_size=3).map(str.encode)))
def test_the_bundled_codec_reads_as_the_librarys(parts: list[bytes]) -> None:
    ours, theirs = utf8_codec.UTF_8.incrementaldecoder(), codecs.getincrementaldecoder("utf-8")()
    for part in [*parts, b""]:
        final = part == b""
        assert outcome(ours.decode, part, final) == outcome(theirs.decode, part, final)
    whole = b"".join(parts)
    assert outcome(utf8_codec.UTF_8.decode, whole) == outcome(codecs.lookup("utf-8").decode, whole)


@given(
    st.text(alphabet=st.characters(categories=None)),
    st.sampled_from(["strict", "replace", "surrogateescape"]),
)
def test_the_bundled_codec_writes_as_the_librarys(text: str, errors: str) -> None:
    ours, theirs = utf8_codec.UTF_8.incrementalencoder(errors), codecs.getincrementalencoder("utf-8")(errors)
    assert outcome(ours.encode, text) == outcome(theirs.encode, text)
    assert outcome(utf8_codec.UTF_8.encode, text, errors) == outcome(
        codecs.lookup("utf-8").encode, text, errors
    )


def outcome(function: Callable[..., object], *args: object) -> object:
    try:
        return function(*args)
    except UnicodeError as exc:
        return str(exc)


@pytest.mark.parametrize(
    ("name", "known"), [("utf-8", True), ("utf_8", True), ("utf8", True), ("latin-1", False)]
)
def test_the_bundled_codec_has_one_name(name: str, known: bool) -> None:
    assert (utf8_codec.search(name) is not None) == known


def test_annotations_are_left_out() -> None:
    for node in ast.walk(ast.parse(build.join_modules())):
        assert not isinstance(node, ast.AnnAssign)
        assert getattr(node, "annotation", None) is None
        assert getattr(node, "returns", None) is None
