"""The netns and the interface that a request of the plugin is about.

In: requests. Out: what is there, or a CniError that says what is wrong with it. It changes nothing.
"""

from collections.abc import Callable

import msgspec

from cni_plugin.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, CniError
from daemon import linkkinds, netns, userspace
from daemon.cni import AddRequest
from daemon.errors import NetnsError
from daemon.linkkinds import Links, Reach
from daemon.netns import Link, NetnsIdentity


class Place(msgspec.Struct, frozen=True):
    """What a request is about. link None: a guard came before its interface. beside: all links there."""

    identity: NetnsIdentity
    link: Link | None
    beside: Links

    @property
    def ifindex(self) -> int:
        """Of the interface; 0: it has not come."""
        return 0 if self.link is None else self.link.ifindex


def token(add: AddRequest) -> int | None:
    """The token of a request's netns; None: it has none."""
    try:
        return netns.identify(add.netns).token
    except NetnsError:
        return None


def inspect(add: AddRequest, read: Callable[[list[int]], Links]) -> Place:
    """The netns and the interface of a request; a guard may come before its interface.

    read: the links of the current netns (Reaching.read).
    Raises CniError (code 4, or 7) for what is not there.
    """
    try:
        with netns.entered(add.netns, None) as identity:
            link = netns.link(add.key.ifname)
            beside = linkkinds.NONE if link is None else read([link.ifindex])
    except NetnsError as error:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS {error}") from error
    if not add.guard and (link is None or userspace.drives(add)):
        raise userspace.missing(add)
    return Place(identity, link, beside)


def require_reach(add: AddRequest, found: Reach) -> None:
    """Refuse an interface on which no policy could be enforced: CniError (code 7) with the remedy."""
    if found.past:
        where = f" (net-attach-def {add.network})" if add.network else ""
        raise CniError(INVALID_CONFIG, f"{add.key}: {found.reason}", f"{found.remedy}{where}")
