"""`mnpctl`: what an operator asks the node's daemon.

In: arguments. Out: tables for people or JSON for programs on stdout, problems on stderr, and an exit code:
0 done; 1 refused, not in force in time, nothing of that name, or the output can't be written; 2 usage; 3 no
answer of a daemon; 130 Ctrl-C. Everything comes from the daemon's socket.
"""

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from cni_plugin import wire
from daemon import terminal
from daemon.spelling import tell_missing

DEFAULT_SOCKET = "/run/multi-networkpolicy/daemon.sock"
DONE, NOT_REACHED, USAGE, UNREACHABLE = range(4)
ANSWER_SECONDS = 30.0
RENDER = (
    "what the daemon has programmed for one attachment, as nft or iptables would list it; from its memory, "
    "so without counters (-o json has `drops`) and without what closes an interface below IP"
)
WAIT = "return when all that the source holds now is in force; waits for a daemon to start, too"
POLL_SECONDS = 0.1


class UnreachableError(Exception):
    """No daemon answers at the socket; the message says what to do."""


class RefusedError(Exception):
    """The daemon answered with an error."""


def main(argv: Sequence[str]) -> int:
    """Run one subcommand. Returns the exit code."""
    with terminal.interruptible(), terminal.writing("mnpctl"):
        return _run(argv)


def _run(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except UnreachableError as error:
        print(f"mnpctl: {error}", file=sys.stderr)
        return UNREACHABLE
    except RefusedError as error:
        print(f"mnpctl: {error}", file=sys.stderr)
        return NOT_REACHED
    return code


# --- asking ----------------------------------------------------------------------------------------------


def ask(path: str, operation: str, timeout: float, **arguments: Any) -> Any:
    """One request, one reply: the reply's `result`. timeout: seconds for the whole exchange.

    Raises UnreachableError, or RefusedError with the daemon's message.
    """
    request = msgpack.packb({"v": wire.WIRE_VERSION, "op": operation, **arguments})
    deadline = time.monotonic() + timeout
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(path)
            client.sendall(len(request).to_bytes(wire.HEADER_BYTES, "big") + request)
            length = int.from_bytes(_receive(client, wire.HEADER_BYTES, deadline), "big")
            if length > wire.MAX_CTL_REPLY:
                raise RefusedError(f"a reply of {length} bytes: {path} is not this daemon's socket")
            reply = msgpack.unpackb(_receive(client, length, deadline))
    except OSError as error:
        raise UnreachableError(_unreachable(path, error)) from error
    except ValueError as error:
        raise RefusedError(f"{path} answered what is no reply of this daemon: {error}") from error
    if not isinstance(reply, dict) or not reply.get("ok"):
        message = reply.get("msg") if isinstance(reply, dict) else None
        raise RefusedError(str(message or "the daemon's reply makes no sense; are both of one version?"))
    return reply.get("result")


def _receive(client: socket.socket, length: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < length:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = client.recv(min(1 << 20, length - len(received)))
        if not chunk:
            raise ConnectionResetError("closed before it answered")
        received += chunk
    return bytes(received)


def _unreachable(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return (
            f"no daemon listens at {path}. Is multi-networkpolicyd running on this node, "
            "and with this socket (--socket, MNP_SOCKET)?"
        )
    if isinstance(error, PermissionError):
        return f"{path}: permission denied; run mnpctl as root"
    if isinstance(error, TimeoutError):
        return f"the daemon at {path} did not answer in time; its log tells what it is doing"
    return f"{path}: {error}"


# --- subcommands -----------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> int:
    result = ask(arguments.socket, wire.OP_STATUS_REPORT, ANSWER_SECONDS)
    _print(arguments, result, _status_table)
    return DONE


def _attachments(arguments: argparse.Namespace) -> int:
    found = ask(arguments.socket, wire.OP_ATTACHMENTS, ANSWER_SECONDS, **_chosen(arguments, "pod"))
    if found or not arguments.pod:
        _print(arguments, found, _attachments_table)
        return DONE
    everything = ask(arguments.socket, wire.OP_ATTACHMENTS, ANSWER_SECONDS)
    known = [item["pod"] for item in everything if item["pod"]]
    return _nothing(arguments, f"no attachment of pod {arguments.pod} on this node", arguments.pod, known)


def _policies(arguments: argparse.Namespace) -> int:
    found = ask(arguments.socket, wire.OP_POLICIES, ANSWER_SECONDS, **_chosen(arguments, "policy"))
    if found or not arguments.policy:
        _print(arguments, found, _policies_table)
        return DONE
    everything = ask(arguments.socket, wire.OP_POLICIES, ANSWER_SECONDS)
    known = [f"{item['namespace']}/{item['name']}" for item in everything]
    return _nothing(arguments, f"no policy {arguments.policy}", arguments.policy, known)


def _nothing(arguments: argparse.Namespace, what: str, wanted: str, known: list[str]) -> int:
    """Nothing fits what was asked for by name: an empty list for programs, and for people what there is."""
    _print(arguments, [], lambda shown: None)
    print(f"mnpctl: {what}{tell_missing(wanted, known)}", file=sys.stderr)
    return NOT_REACHED


def _render(arguments: argparse.Namespace) -> int:
    chosen = _chosen(arguments, "pod", "interface")
    result = ask(arguments.socket, wire.OP_RENDER, ANSWER_SECONDS, **chosen)
    _print(arguments, result, lambda shown: sys.stdout.write(shown["text"]))
    return DONE


def _wait(arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + arguments.timeout
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            result = ask(arguments.socket, wire.OP_WAIT, left + 1.0, timeoutMs=int(left * 1000))
            break
        except UnreachableError:
            # A daemon that was just killed or is about to start: its socket may be absent, stale or closing.
            if time.monotonic() + POLL_SECONDS >= deadline:
                raise
            time.sleep(POLL_SECONDS)
        except RefusedError:
            if time.monotonic() + POLL_SECONDS >= deadline:
                raise
            time.sleep(POLL_SECONDS)
    for note in result["notes"]:
        print(f"mnpctl: {note}", file=sys.stderr)
    if arguments.output == "json":
        print(json.dumps(result))
    if result["synced"]:
        return DONE
    for missing in result["waitingFor"]:
        print(f"mnpctl: not in force after {arguments.timeout:g} s: {missing}", file=sys.stderr)
    return NOT_REACHED


def _chosen(arguments: argparse.Namespace, *names: str) -> dict[str, str]:
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value}


# --- arguments -------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    # Global options may stand before or after the subcommand; the later place must not reset the earlier one.
    after = _global_options(suppressed=True)
    parser = argparse.ArgumentParser(
        prog="mnpctl",
        description="Ask the multi-networkpolicy daemon of this node.",
        parents=[_global_options(suppressed=False)],
    )
    terminal.add_version(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[after], help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    command("status", _status, "the daemon: ready or why not, what it governs, what it reports")
    attachments = command(
        "attachments", _attachments, "the interfaces that it governs, and by which policies"
    )
    attachments.add_argument("pod", nargs="?", type=_name, metavar="[NAMESPACE/]POD")
    policies = command("policies", _policies, "the policies, what each governs here, and its problems")
    policies.add_argument("policy", nargs="?", type=_name, metavar="[NAMESPACE/]POLICY")
    render = command("render", _render, RENDER)
    render.add_argument("pod", type=_name, metavar="[NAMESPACE/]POD")
    render.add_argument("interface", nargs="?", metavar="INTERFACE")
    wait = command("wait", _wait, WAIT)
    wait.add_argument("--synced", action="store_true", required=True, help="what to wait for")
    wait.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="default: 60")
    return parser


def _global_options(*, suppressed: bool) -> argparse.ArgumentParser:
    default_socket = argparse.SUPPRESS if suppressed else os.environ.get("MNP_SOCKET", DEFAULT_SOCKET)
    default_output = argparse.SUPPRESS if suppressed else "table"
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--socket", default=default_socket, metavar="PATH", help="the daemon's socket")
    options.add_argument("-o", "--output", choices=("table", "json"), default=default_output)
    return options


def _name(text: str) -> str:
    """Without a namespace: in whichever there is one."""
    if not all(text.split("/")) or text.count("/") > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a name nor namespace/name")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 86400")
    return seconds


# --- for people ------------------------------------------------------------------------------------------


def _print(arguments: argparse.Namespace, result: Any, show: Callable[[Any], Any]) -> None:
    if arguments.output == "json":
        print(json.dumps(result, indent=2))
    else:
        show(result)


def _status_table(status: dict[str, Any]) -> None:
    print(f"multi-networkpolicyd {status['version']}, {_readiness(status)}")
    print(f"source {status['source']}, up {status['uptimeSeconds']:.0f} s")
    print(f"backend {status['backend']}: {status['backendBecause']}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(status["attachments"].items()))
    waiting = status["waitingAdds"]
    print(f"attachments: {states or 'none'}; policies: {status['policies']}; ADDs waiting: {waiting}")
    if cost := status["sourceCost"]:
        requests = ", ".join(f"{count} {verb}" for verb, count in cost["requests"].items())
        print(
            f"API server: {cost['watches']} watches open, {cost['requestsPerSecond']:.2f} requests/s, "
            f"{cost['errors']} errors; {cost['bytesAtStart'] / 1e6:.1f} MB at the start, "
            f"{cost['bytes'] / 1e6:.1f} MB in all; {requests}"
        )
    if status["behind"]:
        print(f"behind, so nothing relaxes: {status['behind']}")
    for reason in status["refused"]:
        print(f"lacks: {reason}")
    for line in status["setAside"]:
        print(f"set aside: {line}")
    for path in status["pending"]:
        print(f"pending: {path}")
    for problem in status["problems"]:
        print(f"problem: {problem}")


def _readiness(status: dict[str, Any]) -> str:
    """As /readyz has it."""
    if not status["ready"]:
        return f"not ready: {status['notReadyBecause']}"
    if count := len(status["readyz"]):
        below = [name for name, key in (("lacks", "refused"), ("set aside", "setAside")) if status[key]]
        return f"not ready, though ADDs go on: {count} below to be mended ({', '.join(below)})"
    return "ready"


def _attachments_table(attachments: list[dict[str, Any]]) -> None:
    rows = [
        (
            item["pod"] or "(no identity)",
            item["interface"],
            "\n".join(item["addresses"]),
            "\n".join(item["networks"]) or "-",
            item["state"],
            " ".join(item["isolated"]) or "open",
            "\n".join(item["policies"]) or "-",
        )
        for item in attachments
    ]
    _table(("POD", "INTERFACE", "ADDRESSES", "NETWORKS", "STATE", "ISOLATED", "POLICIES"), rows)
    _tell(f"{item['pod']} {item['interface']}: {item['error']}" for item in attachments if item["error"])
    _tell(
        f"note: {item['pod']} {item['interface']}: {note}"
        for item in attachments
        for note in item.get("notes", ())
    )


def _policies_table(policies: list[dict[str, Any]]) -> None:
    rows = [
        (
            f"{item['namespace']}/{item['name']}",
            "\n".join(item["policyFor"]) or "-",
            " ".join(item["policyTypes"]),
            "\n".join(item["governs"]) or "-",
            str(len(item["problems"]) or "-"),
        )
        for item in policies
    ]
    _table(("POLICY", "POLICY-FOR", "TYPES", "GOVERNS HERE", "PROBLEMS"), rows)
    _tell(
        f"{item['namespace']}/{item['name']}: {problem['field']}: {problem['message']}"
        for item in policies
        for problem in item["problems"]
    )
    _tell(
        f"hint: {item['namespace']}/{item['name']}: {hint['field']}: {hint['message']}"
        for item in policies
        for hint in item.get("hints", ())
    )


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # a third of mnpctl's start-up, and only people need it
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 200)
    console.print(table)


def _tell(lines: Any) -> None:
    for line in lines:
        print(line)
