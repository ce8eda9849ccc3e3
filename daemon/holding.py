"""To hold what is allowed, in pieces: to know what that is may take long.

In: the store and the attachments in it. Out: the store holds (E8). Only the dataplane thread calls this
module.
"""

from collections.abc import Mapping

from daemon.model import AttachmentKey
from daemon.slices import Pausing
from daemon.store import Store


def holding(store: Store, attached: Mapping[AttachmentKey, object]) -> Pausing[None]:
    """`Store.hold` when all is worked out. attached: those that are there, at any time.

    Meanwhile attachments may come and go; the source's further news have to wait.
    """
    for key in list(attached):
        while key in attached and not store.prepare(key, enough=lambda: True):
            yield
        yield
    store.hold()
