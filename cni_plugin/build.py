"""Build the plugin: python -m cni_plugin.build [--output DIR].

In: the modules beside this file and the project's version. Out: DIR/.multi-networkpolicy-<version>/ and the
relative symlink DIR/multi-networkpolicy into it, each replaced in one step, so that a runtime finds the old
plugin or the new one. It is never part of the plugin, and may import what it likes.
"""

import argparse
import ast
import ctypes
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cni_plugin.elf import ElfError, drop_needed

NAME = "multi-networkpolicy"
SOURCES = Path(__file__).resolve().parent
# In the order in which they need each other. One code object starts faster: five modules from a zip cost
# 0.8 of 8 ms.
MODULES = ("errors", "wire", "jsontext", "request", "client", "dispatch", "__main__")
# All of these are part of the interpreter or one small extension; anything else would cost milliseconds.
ALLOWED_IMPORTS = {"_json", "_socket", "posix", "sys", "time"}

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class BuildError(Exception):
    """The plugin can't be built; the text says why."""


def join_modules(modules: tuple[str, ...] = MODULES) -> str:
    """Return one module with all of the plugin's code. BuildError: a name or an import is not allowed."""
    owners: dict[str, str] = {}
    body: list[ast.stmt] = []
    for module in modules:
        tree = ast.parse((SOURCES / f"{module}.py").read_text(), filename=f"{module}.py")
        for statement in tree.body:
            if _is_left_out(statement):
                continue
            _check_imports(module, statement)
            for name in _defined_names(statement):
                if owners.setdefault(name, module) != module:
                    raise BuildError(f"{module}.py and {owners[name]}.py both define {name}")
            body.append(_Bare().visit(statement))
    return ast.unparse(ast.Module(body=body, type_ignores=[])) + "\n"


class _Bare(ast.NodeTransformer):
    """Takes annotations away: nobody reads them at run time, and each is evaluated at every start."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        self.generic_visit(node)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if node.value is None:
            return None
        return ast.Assign(targets=[node.target], value=node.value, lineno=node.lineno)


def _is_left_out(statement: ast.stmt) -> bool:
    """Tell whether a statement means nothing in the joined module: docstrings, imports of our own, types."""
    if isinstance(statement, ast.ImportFrom):
        return (statement.module or "").startswith("cni_plugin")
    if isinstance(statement, ast.If):
        return isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _check_imports(module: str, statement: ast.stmt) -> None:
    for node in ast.walk(statement):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "."]
        for name in names:
            if name not in ALLOWED_IMPORTS:
                raise BuildError(f"{module}.py imports {name}: allowed are {sorted(ALLOWED_IMPORTS)}")


def _defined_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]


def build(output: Path) -> Path:
    """Build into output and return the symlink's path. BuildError: PyInstaller failed."""
    version = importlib.metadata.version(NAME)
    output.mkdir(parents=True, exist_ok=True)
    target = output / f".{NAME}-{version}"
    # Beside its target, to be renamed over it. Names that begin with a dot are no plugins'.
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-build-", dir=output) as scratch:
        bundle = run_pyinstaller(Path(scratch))
        replace_directory(bundle, target)
    link = output / NAME
    replace_symlink(Path(target.name) / NAME, link)
    return link


def run_pyinstaller(scratch: Path) -> Path:
    """Run the spec in an empty directory; return the bundle's. BuildError holds PyInstaller's last lines."""
    source = scratch / f"{NAME.replace('-', '_')}.py"
    source.write_text(join_modules())
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    command += ["--distpath", str(scratch / "dist"), "--workpath", str(scratch / "work")]
    command += [str(SOURCES / f"{NAME}.spec")]
    # Its cache and settings stay out of the home directory, which may be read-only in CI.
    env = {**os.environ, "MNP_PLUGIN_SOURCE": str(source), "PYINSTALLER_CONFIG_DIR": str(scratch / "config")}
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, cwd=scratch, timeout=600, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"PyInstaller ended with {done.returncode}:\n{done.stderr[-4000:]}")
    bundle = scratch / "dist" / NAME
    for library in bundle.rglob("libpython*"):
        drop_needed(library, "libexpat.so.1", "XML_")
    for path in (bundle, *bundle.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.name == NAME else 0o644)
    return bundle


def disk_bytes(directory: Path) -> int:
    """Return the size of all files in a directory, links not followed."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_symlink() or path.is_file())


def replace_directory(new: Path, target: Path) -> None:
    """Put new in target's place in one step; what was there is deleted."""
    if not target.exists():
        new.rename(target)
        return
    _exchange(new, target)
    shutil.rmtree(new)


def _exchange(first: Path, second: Path) -> None:
    """Let two paths change places in one step (renameat2(2)), which the os module does not offer."""
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    if failed:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(first), None, str(second))


def replace_symlink(points_to: Path, link: Path) -> None:
    """Make link a symlink to points_to, relative to link's directory, in one step."""
    fresh = link.with_name(f".{link.name}-{os.getpid()}.link")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(points_to)
    fresh.replace(link)


def main() -> int:
    """Build, and say what was made."""
    parser = argparse.ArgumentParser(prog="python -m cni_plugin.build", description="Build the CNI plugin.")
    parser.add_argument("--output", type=Path, default=SOURCES.parent / "dist" / "cni" / "bin", metavar="DIR")
    output = parser.parse_args().output.absolute()
    try:
        link = build(output)
    except (BuildError, ElfError, OSError, subprocess.TimeoutExpired) as exc:
        print(f"the plugin was not built: {exc}", file=sys.stderr)
        return 1
    print(f"{link} -> {os.readlink(link)}, {disk_bytes(link.resolve().parent) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
