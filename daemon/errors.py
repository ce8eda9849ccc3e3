"""The daemon's exceptions. Callers decide by type and by the fields, never by a message's text."""


class MultiNetworkPolicyError(Exception):
    """The root of everything that this package raises on purpose."""


class ConfigError(MultiNetworkPolicyError):
    """One or more settings are bad; `problems` has a line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class StopAskedError(MultiNetworkPolicyError):
    """A signal asked for the end before the start was done; the message is its name."""


class SocketTakenError(MultiNetworkPolicyError):
    """The socket's path can't be had; the message says by whom it is taken and what to do."""


class DecodeError(MultiNetworkPolicyError):
    """An object can't be decoded at all. field: the path in it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}" if field else message)
        self.field = field
        self.message = message


class NetnsError(MultiNetworkPolicyError):
    """A network namespace can't be entered, or is not the one expected. path: as the runtime gave it."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class NetnsGoneError(NetnsError):
    """The path no longer leads to that network namespace: deleted, or replaced by another one."""


class NoPodsNetnsError(NetnsError):
    """The path leads to what can't be a pod's network namespace: the host's own, or one of another kind."""


class DataplaneError(MultiNetworkPolicyError):
    """The packet filter could not be read or programmed."""


class TransactionError(DataplaneError):
    """The kernel refused a batch as a whole; nothing of it was applied.

    errno: the kernel's, positive. refused: the object or step it refused, for people. detail: the kernel's
    own extended message, or "".
    """

    def __init__(self, errno: int, message: str, refused: str, detail: str = "") -> None:
        text = f"{refused}: {message} (errno {errno})"
        super().__init__(f"{text}: {detail}" if detail else text)
        self.errno = errno
        self.refused = refused
        self.detail = detail


class OvertakenError(TransactionError):
    """Somebody else has committed since the state that a plan was made for.

    done: how many of the plan's commits were made before that was found out.
    """

    def __init__(self, errno: int, done: int) -> None:
        super().__init__(errno, "somebody else committed", "the batch as a whole")
        self.done = done


class OversizeError(DataplaneError):
    """There is more to be read than anything of ours can need: somebody else's, or put among ours."""


class ForeignChangeError(DataplaneError):
    """What is ours is not as we left it, and nobody but somebody else can have changed it."""


class BackendUnavailableError(DataplaneError):
    """This kernel lacks what a backend needs; the message names the remedy."""
