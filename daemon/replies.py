"""What the plugin is told when an operation fails, and what the log is.

In: a request and an error. Out: the reply, one log event.
"""

import traceback

from cni_plugin.errors import INTERNAL, CniError
from daemon.cni import PodIdentity
from daemon.log import get_logger
from daemon.model import Pod
from daemon.server import Request
from daemon.sources.base import Found

log = get_logger(__name__)


def reply_error(request: Request, error: CniError) -> None:
    """Log an error and send it as the reply."""
    log.warning("refused", extra={"op": request.op, "code": error.code, "error": error.msg})
    request.reply({"ok": False, "code": error.code, "msg": error.msg, "details": error.details})


def reply_bug(request: Request, error: Exception) -> None:
    """An exception that nobody foresaw: told to the client, logged with its traceback, and survived.

    The state is as before the request: what changes state undoes it on any exception.
    """
    trace = "".join(traceback.format_exception(error))
    log.critical("unexpected", extra={"op": request.op, "traceback": trace})
    reply_error(
        request, CniError(INTERNAL, f"unexpected {type(error).__name__}: {error}", "see the daemon's log")
    )


def unknown_pod(identity: PodIdentity, pod: Pod | None, answer: Found | None) -> str:
    """Why an ADD's pod is not known: as the store has it, as the source has found it."""
    pod = answer.pod if answer is not None and answer.pod is not None else pod
    if pod is not None:
        return f"pod {identity} is known with UID {pod.uid}, not {identity.uid}: another pod of this name"
    why = answer.message if answer is not None else "is its object there, and does this daemon see it?"
    return f"pod {identity} is not known to the source: {why}"


def rules_of_before(because: str) -> str:
    """Why nothing may be programmed where an earlier run has. because: why the source has not been read."""
    return (
        "what the daemon programmed there before its restart stays until the source has been read, and "
        f"nothing is added to it, not even by onUnready: deny: {because or 'that takes another moment'}"
    )
