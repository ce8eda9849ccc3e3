"""What the documentation lists is what there is: settings, events of the log, metrics, Events, codes."""

import ast
import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_plugin import errors
from daemon import ctl, report, terminal
from daemon.config import OPTIONS, load_settings
from daemon.decode.entry import KEYS
from daemon.metrics import METRICS
from daemon.sources.base import HINT
from daemon.sources.kubernetes.kubeconfig import read_kubeconfig
from daemon.standing import State
from daemon.states import MISSING

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "conf/daemon.yaml"
LEVELS = {"critical", "error", "warning", "info", "debug"}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def table(name: str, first: str) -> list[list[str]]:
    """The cells of each row of the table whose first column is called so."""
    lines = page(name).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def words(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- settings --------------------------------------------------------------------------------------------


def as_told(value: object) -> str:
    if isinstance(value, list):
        return ",".join(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def test_settings() -> None:
    wanted = []
    for option in OPTIONS:
        default = as_told(option.default)
        named = [f"`{option.flag}`", f"`{option.variable}`"] if option.parse else ["file only", ""]
        key = f"`{option.key}`" if option.key != "config" else "not in the file"
        several = "commas; a list in the file" if isinstance(option.default, list) else ""
        wanted.append([named[0], key, named[1], f"`{default}`" if default else "", several])
    assert [row[:5] for row in table("settings.md", "flag")] == wanted


def test_the_example_file_is_shown_and_loads() -> None:
    content = EXAMPLE.read_text()
    assert content in page("settings.md")
    found = load_settings({"config": str(EXAMPLE)}, {}, lambda path: Path(path).read_bytes())
    assert (found.source, found.node_name, found.log_format) == ("kubernetes", "worker-1", "json")
    assert found.netns_paths == ["auto", "/host/run/netns/*"]
    # Two of commonRules, ICMPv6, the prefixes.
    assert (len(found.common_rules.ingress), len(found.common_rules.egress)) == (4, 3)


def test_every_setting_that_needs_a_word_elsewhere_exists() -> None:
    flags = {option.flag for option in OPTIONS}
    named = {
        flag
        for name in ("operations.md", "kubernetes.md")
        for flag in re.findall(r"`(--[a-z-]+)", page(name))
    }
    assert {flag for flag in named if flag not in {"--version", "--synced", "--timeout", "--help"}} <= flags


# --- the log ---------------------------------------------------------------------------------------------


def events() -> Iterator[tuple[str, str]]:
    """Each event that the daemon's modules log, and its level."""
    for path in (ROOT / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "log":
                yield from ((name, node.func.attr) for name in texts(node.args[0]))
            elif isinstance(node.func, ast.Name) and node.func.id == "Seldom":
                level = ast.unparse(node.args[2]) if len(node.args) > 2 else "logging.WARNING"
                yield from ((name, level.rpartition(".")[2].lower()) for name in texts(node.args[1]))


def texts(node: ast.expr) -> list[str]:
    """What an expression may come to."""
    if isinstance(node, ast.IfExp):
        return [*texts(node.body), *texts(node.orelse)]
    assert isinstance(node, ast.Constant), f"what is logged must be a literal: {ast.unparse(node)}"
    return [str(node.value)]


def test_every_event_of_the_log_is_told_of_with_its_level() -> None:
    logged: dict[str, set[str]] = {}
    for name, level in events():
        assert level in LEVELS, f"{name}: {level}"
        logged.setdefault(name, set()).add(level)
    told: dict[str, set[str]] = {}
    for names, levels, _ in table("monitoring.md", "event"):
        each, given = words(names), levels.split(", ")
        # One level for all, one for each, or several for one.
        for index, name in enumerate(each):
            assert name not in told, name
            told[name] = {given[index]} if len(given) == len(each) else set(given)
    assert told == logged


# --- metrics ---------------------------------------------------------------------------------------------


def test_metrics() -> None:
    told = {words(name)[0]: kind for name, kind, *_ in table("monitoring.md", "metric")}
    assert told == {metric.name: metric.kind for metric in METRICS}


# --- Events, states, exit codes --------------------------------------------------------------------------


def called(module: str, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse((ROOT / "daemon" / module).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def test_reasons_of_events() -> None:
    given = {HINT, *report.REASONS.values()}
    for module in ("report.py", "sources/kubernetes/state.py"):
        reasons = (call.args[0] for call in called(module, "Finding"))
        given |= {str(reason.value) for reason in reasons if isinstance(reason, ast.Constant)}
    assert {words(row[1])[0] for row in table("kubernetes.md", "on")} == given


def test_states_of_attachments() -> None:
    others = {"deleted", "adopted", "guard", "unready", MISSING}
    assert {row[0] for row in table("operations.md", "state")} == {*State, *others}


def test_codes_of_cni() -> None:
    codes = {value for name, value in vars(errors).items() if name.isupper() and isinstance(value, int)}
    assert {int(row[0]) for row in table("cni.md", "code")} == codes


def test_exit_codes_of_mnpctl() -> None:
    codes = {ctl.DONE, ctl.NOT_REACHED, ctl.USAGE, ctl.UNREACHABLE, terminal.INTERRUPTED}
    assert {int(row[0]) for row in table("operations.md", "exit code")} == codes


def test_keys_of_the_plugin() -> None:
    assert {words(row[0])[0] for row in table("cni.md", "key")} == {"type", *KEYS}


def test_the_kubeconfig_that_is_shown_is_one() -> None:
    shown = page("kubernetes.md").split("kubeconfig <<YAML\n")[1].split("\nYAML\n")[0]
    ca = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
    answers = {"server:": "https://10.0.0.1:6443", "certificate-authority-data:": ca, "token:": "t0ken"}
    lines = [
        line if "$(" not in line else f"{line.partition('$(')[0]}{answers[line.split()[0]]}"
        for line in shown.splitlines()
    ]
    found = read_kubeconfig("\n".join(lines).encode(), Path("/etc/kubeconfig"))
    assert found.server == "https://10.0.0.1:6443"
