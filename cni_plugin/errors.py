"""The plugin's one exception, and the codes that the CNI specification and this project give to failures."""

INCOMPATIBLE_VERSION = 1
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODING_FAILURE = 6
INVALID_CONFIG = 7
INVALID_NETNS = 8
TRY_AGAIN_LATER = 11
PLUGIN_NOT_AVAILABLE = 50
# CNI leaves 100 and above to plugins; Go plugins use 999 for what nobody foresaw, and so do we.
INTERNAL = 999


class CniError(Exception):
    """What the runtime is told. code: of the CNI specification. msg: what and where. details: what to do."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        Exception.__init__(self, msg)
        self.code = code
        self.msg = msg
        self.details = details


class OutOfBoundsError(CniError):
    """Input that may be well formed, but is larger than we read. It must not make a DEL fail."""
