"""What can go wrong between us and an API server, told apart by type and by the fields.

In: an HTTP status, headers and the body of an answer. Out: one of these exceptions. No I/O.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from daemon.errors import MultiNetworkPolicyError

MOST_RETRY_AFTER = 300.0
"""Seconds of a Retry-After that we believe."""
MAX_MESSAGE = 500


class ApiError(MultiNetworkPolicyError):
    """The root: something that was asked of the API server did not come. what: such as `list pods`."""

    def __init__(self, what: str, message: str) -> None:
        super().__init__(f"{what}: {message}")
        self.what = what
        self.message = message


class CredentialsError(ApiError):
    """The kubeconfig, a token file or an exec plugin gives no usable credentials now."""


class UnreachableError(ApiError):
    """No answer, or one that broke off: the network, TLS, a time-out."""


class BadAnswerError(ApiError):
    """An answer that makes no sense: no JSON, an endless line, an object without metadata."""


class TooLongError(BadAnswerError):
    """A body of more bytes than are read."""


class RefusedError(ApiError):
    """The server said no. status: the HTTP code, retry_after: seconds that it asks for, or 0."""

    def __init__(self, what: str, status: int, message: str, retry_after: float = 0.0) -> None:
        super().__init__(what, f"{status} {message}".strip())
        self.status = status
        self.retry_after = retry_after


class InvalidRequestError(RefusedError):
    """400 or 422: the server does not know what we ask for."""


class UnauthorizedError(RefusedError):
    """401: the credentials are not, or no longer, accepted."""


class ForbiddenError(RefusedError):
    """403: a right is missing."""


class NotFoundError(RefusedError):
    """404: no such object, or no such kind."""


class GoneError(RefusedError):
    """410: the history that we wanted to go on from is thrown away."""


_TYPES: Mapping[int, type[RefusedError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    410: GoneError,
    422: InvalidRequestError,
}


class _Status(msgspec.Struct):
    """The parts of a metav1.Status that are looked at."""

    code: int = 0
    message: str = ""
    reason: str = ""
    details: dict[str, Any] | None = None


def makes_no_sense(error: ApiError) -> bool:
    """Whether to ask the same again may never help, so that at last it must be something else."""
    failed_inside = isinstance(error, RefusedError) and error.status == 500
    return failed_inside or isinstance(error, BadAnswerError | InvalidRequestError)


def refusal(what: str, status: int, headers: Mapping[str, str], body: bytes) -> RefusedError:
    """An answer that is no success, as an exception."""
    try:
        message = msgspec.json.decode(body, type=_Status).message
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        message = body.decode(errors="replace").strip()
    return _refuse(what, status, message, _seconds(headers.get("Retry-After", "")))


def refusal_in_stream(what: str, raw: bytes) -> RefusedError:
    """The Status object of an ERROR event, as an exception."""
    try:
        status = msgspec.json.decode(raw, type=_Status)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        status = _Status(code=500, message="an ERROR event without a Status")
    wait = (status.details or {}).get("retryAfterSeconds")
    seconds = float(wait) if isinstance(wait, int) and wait > 0 else 0.0
    # "Expired" is how a 410 is called where the code is left out.
    code = status.code or (410 if status.reason in ("Expired", "Gone") else 500)
    return _refuse(what, code, status.message, min(seconds, MOST_RETRY_AFTER))


def _refuse(what: str, status: int, message: str, retry_after: float) -> RefusedError:
    kind = _TYPES.get(status, RefusedError)
    return kind(what, status, message[:MAX_MESSAGE], retry_after)


def _seconds(text: str) -> float:
    # The form with a date is not what API servers send.
    return min(float(text), MOST_RETRY_AFTER) if text.isascii() and text.isdecimal() else 0.0
