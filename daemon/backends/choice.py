"""Which backend a daemon uses, and why.

In: what the settings ask for, and the name that an earlier run left in the state directory. Out: a Choice, by
trying on this kernel. It changes nothing outside scratch namespaces, besides that name.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from daemon.backends.base import Backend
from daemon.errors import BackendUnavailableError

AUTO = "auto"


class Choice(msgspec.Struct, frozen=True):
    """rivals: the others, whose rules of an earlier run may be found. because: why it is this one."""

    backend: Backend
    rivals: tuple[Backend, ...]
    because: str


def choose(wanted: str, backends: Sequence[Backend], record: Path) -> Choice:
    """The backend that `wanted` names, or for "auto" the first that works, one used before the others.

    Raises BackendUnavailableError, with what each backend lacks and the remedy.
    """
    choice = _named(wanted, backends) if wanted != AUTO else _first(backends, _recorded(record))
    _write(record, choice.backend.name)
    return choice


def _named(wanted: str, backends: Sequence[Backend]) -> Choice:
    backend = next(backend for backend in backends if backend.name == wanted)
    backend.probe()
    return _choice(backend, backends, f"--backend {wanted}")


def _first(backends: Sequence[Backend], recorded: str) -> Choice:
    failures: list[str] = []
    for backend in sorted(backends, key=lambda backend: backend.name != recorded):
        try:
            backend.probe()
        except BackendUnavailableError as error:
            failures.append(str(error))
            continue
        used = ["it was used before and works"] if backend.name == recorded else []
        because = "; ".join([*failures, *used]) or "it works here, and is preferred"
        return _choice(backend, backends, because)
    raise BackendUnavailableError("no backend works here. " + ". ".join(failures))


def _choice(backend: Backend, backends: Sequence[Backend], because: str) -> Choice:
    return Choice(backend, tuple(other for other in backends if other is not backend), because)


def _recorded(record: Path) -> str:
    try:
        return record.read_text(errors="replace")[:64].strip()
    except OSError:
        return ""


def _write(record: Path, name: str) -> None:
    if _recorded(record) != name:
        part = record.with_name(f".{record.name}.part")
        part.write_text(f"{name}\n")
        part.replace(record)
