"""The house rules that a machine can check: sizes, words, places, and which module may import which."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("cni_plugin", "daemon", "conf", "tests", "docs", ".ci")
TOP_LEVEL_FILES = ("build.sh", "pyproject.toml", "README.md", ".gitignore")
TEXT_SUFFIXES = {".py", ".sh", ".md", ".toml", ".yaml", ".yml", ".json", ".spec", ".txt", ".mod", ""}
MAX_LINE = 110
MAX_MODULE = 400
MAX_FUNCTION = 60

BANNED_WORDS = {"util", "utils", "helper", "helpers", "manager", "info", "data", "process", "handle"}

# Names that somebody else's class calls.
GIVEN_NAMES = {
    ("daemon.log", "process"),  # logging.LoggerAdapter
    ("tests.lab.faults", "handle_error"),  # socketserver.BaseServer
}

# Joined here, so that this file does not name them itself.
BANNED_TEXT = [
    "/" + "work/",
    "/" + "root/",
    "/" + "tmp/bash_jobs",
    "/" + "tmp/brief",
    ".".join(("pypi", "org")),
    ".".join(("files", "pythonhosted", "org")),
    ".".join(("proxy", "golang", "org")),
    ".".join(("sum", "golang", "org")),
    ".".join(("deb", "debian", "org")),
    ".".join(("security", "debian", "org")),
    ".".join(("registry", "npmjs", "org")),
]

PLUGIN_BUILD = {"cni_plugin.build", "cni_plugin.elf"}  # imported by the build, not by what runs in the plugin
# sys, time and codecs are part of the interpreter, or there before our first line.
PLUGIN_STDLIB = {"posix", "_socket", "_json", "sys", "time", "codecs"}

PURE = (
    "daemon.desired",
    "daemon.intervals",
    "daemon.linkkinds",
    "daemon.memo",
    "daemon.model",
    "daemon.netlink",
    "daemon.policy",
    "daemon.planner",
    "daemon.program",
    "daemon.steps",
    "daemon.slices",
    "daemon.spelling",
    "daemon.wording",
)
PURE_THIRD_PARTY = {"msgspec"}
IMPURE_STDLIB = {
    "asyncio",
    "ctypes",
    "fcntl",
    "io",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "queue",
    "random",
    "secrets",
    "select",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}

# Module, and all of ours that it may import. A package stands for what is in it.
MAY_IMPORT = [
    ("cni_plugin", ("cni_plugin",)),
    *((module, PURE) for module in PURE),
    ("daemon.errors", ()),
    ("daemon.kubeyaml", ("daemon.errors",)),
    (
        "daemon.decode",
        (
            "daemon.decode",
            "daemon.intervals",
            "daemon.memo",
            "daemon.model",
            "daemon.spelling",
            "daemon.errors",
        ),
    ),
    (
        "daemon.sources",
        (
            "daemon.sources",
            "daemon.decode",
            "daemon.kubeyaml",
            "daemon.model",
            "daemon.errors",
            "daemon.libc",
            "daemon.log",
            "daemon.config",
        ),
    ),
    ("daemon.libc", ()),
    ("daemon.netns", ("daemon.errors", "daemon.libc", "daemon.log", "daemon.netlink", "daemon.rtnl")),
    ("daemon.rtnl", ("daemon.netlink",)),
    (
        "daemon.backends",
        ("daemon.backends", *PURE, "daemon.netns", "daemon.errors", "daemon.libc", "daemon.log"),
    ),
    ("daemon.store", (*PURE, "daemon.errors", "daemon.log")),
    ("daemon.server", ("cni_plugin.wire", "daemon.errors", "daemon.log")),
    ("daemon.scrapes", ("daemon.log",)),
    ("daemon.metrics", ("daemon.log", "daemon.scrapes")),
    ("tests.prober", ("tests.prober",)),
]
# Nobody but these names the module.
ONLY_IMPORTED_BY = [
    ("daemon.app", {"daemon.cli"}),
    ("daemon.cli", {"daemon.__main__"}),
    # What others know of a source is base.py.
    ("daemon.sources.manifests", {"daemon.app"}),
    # Sources ask a Memory; the dataplane hands over by a callable.
    ("daemon.sources.keeping", {"daemon.app"}),
    ("daemon.sources.kubernetes", {"daemon.app", "daemon.sources.kubernetes"}),
]
# Entering a network namespace moves a thread: one module does it, in the dataplane thread.
ENTERS_NAMESPACES = re.compile(r"\b(setns|pushns|popns)\b")


def text_files() -> list[Path]:
    found = [ROOT / name for name in TOP_LEVEL_FILES if (ROOT / name).exists()]
    for folder in FOLDERS:
        found += [
            path
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix in TEXT_SUFFIXES and "__pycache__" not in path.parts
        ]
    return sorted(found)


def modules(*folders: str) -> dict[str, Path]:
    """Name the Python modules below these folders."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {module_name(path): path for path in paths if "__pycache__" not in path.parts}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, but not what only a type checker reads."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from runtime_nodes(child)


def imports(module: str, source: str, known: set[str], is_package: bool = False) -> Iterator[str]:
    """Name all that a module imports, wherever in it; `from package import module` names the module."""
    package = module if is_package else module.rpartition(".")[0]
    for node in runtime_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0]
                base = f"{above}.{base}".rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
            inner = [name for name in names if name in known]
            yield from inner
            if len(inner) < len(names):
                yield base


ALL = modules("cni_plugin", "daemon", "tests")
SHIPPED = [name for name in ALL if not is_within(name, "tests")]
OURS = ("cni_plugin", "daemon", "tests")


def imports_of(name: str) -> set[str]:
    path = ALL[name]
    return set(imports(name, path.read_text(), set(ALL), path.name == "__init__.py"))


def wrong_imports(name: str, imported: set[str]) -> list[str]:
    """Say which imports of a module break the rules; empty when none does."""
    wrong = []
    ours = {other for other in imported if is_within(other, *OURS)}
    for module, allowed in MAY_IMPORT:
        if is_within(name, module) and name not in PLUGIN_BUILD:
            wrong += [f"{name} must not import {other}" for other in ours if not is_within(other, *allowed)]
    for module, users in ONLY_IMPORTED_BY:
        if any(is_within(other, module) for other in ours) and not is_within(name, *users, "tests"):
            wrong.append(f"{name} must not import {module}")
    others = {other.partition(".")[0] for other in imported - ours}
    if is_within(name, "cni_plugin") and name not in PLUGIN_BUILD:
        ours_of_build = ours & PLUGIN_BUILD
        wrong += [
            f"{name} must not import {other}: start-up" for other in (others - PLUGIN_STDLIB) | ours_of_build
        ]
    if is_within(name, *PURE):
        foreign = {other for other in others if other not in sys.stdlib_module_names}
        impure = (others & IMPURE_STDLIB) | (foreign - PURE_THIRD_PARTY)
        wrong += [f"{name} must stay pure and not import {other}" for other in impure]
    if is_within(name, "tests.prober") and others - set(sys.stdlib_module_names):
        wrong.append(f"{name} runs without site-packages")
    return sorted(wrong)


@pytest.mark.parametrize("name", ALL)
def test_imports(name: str) -> None:
    assert wrong_imports(name, imports_of(name)) == []


BREACHES = [
    ("cni_plugin.client", "import os"),
    ("cni_plugin.client", "def f():\n    from json import loads"),
    ("cni_plugin.client", "from daemon import errors"),
    ("cni_plugin.wire", "from cni_plugin import build"),
    ("cni_plugin.wire", "from .build import main"),
    ("daemon.model", "import time"),
    ("daemon.planner", "from daemon import log"),
    ("daemon.policy.compile", "from os.path import join"),
    ("daemon.policy.compile", "import yaml"),
    ("daemon.policy.compile", "from ..store import Store"),
    ("daemon.decode.policy", "from daemon.store import Store"),
    ("daemon.backends.nftables", "from daemon.reconcile import Reconciler"),
    ("daemon.server", "from daemon.lifecycle import Lifecycle"),
    ("daemon.reconcile", "import daemon.app"),
    ("daemon.store", "from daemon.sources.manifests import ManifestsSource"),
    ("daemon.upkeep", "from daemon.sources.kubernetes.client import Client"),
    ("tests.prober.loop", "import pyroute2"),
]
KEPT = [
    ("cni_plugin.client", "import _socket\nfrom cni_plugin import wire\nfrom .errors import CniError"),
    ("cni_plugin.build", "import os, PyInstaller.__main__"),
    (
        "daemon.policy.compile",
        "from msgspec import Struct\nfrom functools import cache\nfrom daemon import model",
    ),
    ("daemon.server", "import socket\nfrom cni_plugin import wire\nfrom daemon import errors"),
    ("daemon.app", "import os\nfrom daemon import store"),
    ("cni_plugin.client", "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    import typing"),
]


@pytest.mark.parametrize(("name", "source"), BREACHES)
def test_a_wrong_import_is_found(name: str, source: str) -> None:
    assert wrong_imports(name, set(imports(name, source, set(ALL))))


@pytest.mark.parametrize(("name", "source"), KEPT)
def test_a_right_import_is_left_alone(name: str, source: str) -> None:
    assert wrong_imports(name, set(imports(name, source, set(ALL)))) == []


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Return one circle of imports, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := visit(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := visit(name, []))), [])


def test_imports_have_no_circle() -> None:
    # A package's own __init__ may gather what its modules offer.
    graph = {name: {o for o in imports_of(name) if o in ALL and o != name} for name in SHIPPED}
    assert cycle(graph) == []


def test_a_circle_is_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_one_module_enters_namespaces() -> None:
    names = {name for name in SHIPPED if ENTERS_NAMESPACES.search(ALL[name].read_text())}
    assert names <= {"daemon.netns"}


def test_lines_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{number} has {len(line)} characters"
        for path in text_files()
        if path.suffix in {".py", ".sh", ".toml", ""}
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > MAX_LINE
    ]
    assert long == []


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in ALL.items()}
    assert {name: length for name, length in lengths.items() if length > MAX_MODULE} == {}


@pytest.mark.parametrize("name", ALL)
def test_functions_are_short(name: str) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(ALL[name].read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= MAX_FUNCTION]
    assert long == []


def words(name: str) -> set[str]:
    """Split a name in snake or camel case into its words."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def banned_names(name: str, source: str) -> list[str]:
    defined = (
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    )
    return [
        each
        for each in (name.rpartition(".")[2], *defined)
        # A test's name is a sentence, which may need any word.
        if words(each) & BANNED_WORDS and (name, each) not in GIVEN_NAMES and not each.startswith("test_")
    ]


@pytest.mark.parametrize("name", ALL)
def test_names_say_something(name: str) -> None:
    assert banned_names(name, ALL[name].read_text()) == []


@pytest.mark.parametrize("text", ["def handle_add(): ...", "class CleanupManager: ...", "def getInfo(): ..."])
def test_an_empty_name_is_found(text: str) -> None:
    assert len(banned_names("daemon.app", text)) == 1
    assert banned_names("daemon.data", text)[0] == "data"
    assert banned_names("daemon.app", "def metadata(): ...\ndef handles(): ...") == []


def test_nothing_points_outside_the_repository() -> None:
    found = [
        f"{path.relative_to(ROOT)} mentions {text}"
        for path in text_files()
        for text in BANNED_TEXT
        if text in path.read_text()
    ]
    assert found == []


def test_text_files_are_seen() -> None:
    names = {str(path.relative_to(ROOT)) for path in text_files()}
    assert {"build.sh", ".ci/run", "conf/constraints.txt", "tests/tools/cni/go.mod"} <= names


def test_constraints_name_all_that_is_installed() -> None:
    # pip and wheel come with the interpreter's venv; the project itself has no version to choose.
    own = {"pip", "wheel", "multi-networkpolicy"}
    lines = (ROOT / "conf/constraints.txt").read_text().splitlines()
    wanted = {line for line in lines if line and not line.startswith("#")}
    installed = {
        f"{canonical(found.metadata['Name'])}=={found.version}"
        for found in metadata.distributions()
        if canonical(found.metadata["Name"]) not in own
    }
    named = {f"{canonical(name)}=={version}" for name, _, version in (w.partition("==") for w in wanted)}
    assert installed - named == set()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
