"""The netns and the interface that a request of the plugin is about.

In: requests. Out: what is there, or a CniError that says what is wrong with it. It changes nothing.
"""

from cni_plugin.errors import INVALID_CONFIG, INVALID_ENVIRONMENT, CniError
from daemon import netns, userspace
from daemon.cni import AddRequest
from daemon.errors import NetnsError
from daemon.netns import Link, NetnsIdentity


def token(add: AddRequest) -> int | None:
    """The token of a request's netns; None: it has none."""
    try:
        return netns.identify(add.netns).token
    except NetnsError:
        return None


def inspect(add: AddRequest) -> tuple[NetnsIdentity, Link | None]:
    """The netns and the interface of a request; a guard may come before its interface.

    Raises CniError (code 4, or 7) for what is not there.
    """
    try:
        with netns.entered(add.netns, None) as identity:
            link = netns.link(add.key.ifname)
    except NetnsError as error:
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS {error}") from error
    if not add.guard and (link is None or userspace.drives(add)):
        raise userspace.missing(add)
    return identity, link


def require_hooks(add: AddRequest, link: Link | None) -> None:
    """Refuse an interface on which no policy could be enforced: CniError (code 7) with the remedy."""
    if link is not None and link.past_hooks:
        where = f" of net-attach-def {add.network}" if add.network else ""
        raise CniError(
            INVALID_CONFIG,
            f"{add.key}: {past_hooks_message(add.key.ifname)}",
            f'set "mode": "l2" or "l3" in the ipvlan entry{where}, and in all others with the same master',
        )


def past_hooks_message(ifname: str) -> str:
    """Why an interface in that mode is none that can be governed."""
    return (
        f"{ifname} is an ipvlan in mode l3s, and the kernel delivers what comes in by that past the packet "
        "filter of the pod: no policy can be enforced there; use mode l2 or l3"
    )
