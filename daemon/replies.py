"""What the plugin is told when an operation fails, and what the log is.

In: a request and an error. Out: the reply, one log event.
"""

import traceback

from cni_plugin.errors import INTERNAL, CniError
from daemon.log import get_logger
from daemon.server import Request

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
