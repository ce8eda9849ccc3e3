"""ADD, DEL, CHECK, GC and STATUS as transitions of one attachment's state.

In: requests of the plugin. Out: their replies, and attachments in the registry. Only the dataplane thread
calls this module; a waiting ADD is an entry in a list and holds no thread.

The order inside an ADD is what makes it safe: find out, record the intent, program, and only then reply.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cni_plugin.errors import (
    INTERNAL,
    IO_FAILURE,
    PLUGIN_NOT_AVAILABLE,
    TRY_AGAIN_LATER,
    CniError,
)
from daemon import cni, interface
from daemon.attachments import RECORD_VERSION, Record
from daemon.cni import AddRequest
from daemon.errors import DataplaneError, NetnsError
from daemon.interface import Place
from daemon.linkkinds import Reach
from daemon.log import get_logger
from daemon.model import Pod
from daemon.netns import Link, NetnsIdentity
from daemon.networks import NO_NETWORK, Candidates
from daemon.reconcile import Attachment, Reconciler, Sandbox
from daemon.registry import Registry, identity_of, log_fields, network_fields
from daemon.replies import reply_bug, reply_error, rules_of_before, unknown_pod
from daemon.server import Request
from daemon.sources.base import Found
from daemon.standing import State
from daemon.store import Store
from daemon.upkeep import Upkeep
from daemon.waiting import Begun, Waiting

log = get_logger(__name__)

REPLY_MARGIN_SECONDS = 0.5
"""Left to the plugin of its own timeout, so that our reason reaches the runtime and not a bare timeout."""
MOST_WAIT_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class LifecycleSettings:
    """track: connection tracking, unless the plugin's configuration says otherwise (A6).

    look_up_seconds: how long an ADD waits for the source's look for its pod.
    """

    boot_id: str
    track: bool
    look_up_seconds: float


class Lifecycle:
    """`clock`: monotonic seconds.

    `look_up(namespace, name, uid)` asks the source for a pod that is not known; the answer is a change, or
    comes by `on_found`.
    """

    def __init__(
        self,
        store: Store,
        registry: Registry,
        reconciler: Reconciler,
        upkeep: Upkeep,
        clock: Callable[[], float],
        look_up: Callable[[str, str, str], None],
        settings: LifecycleSettings,
    ) -> None:
        self._store = store
        self._registry = registry
        self._reconciler = reconciler
        self._upkeep = upkeep
        self._clock = clock
        self._look_up = look_up
        self._settings = settings
        self._waiting: list[Waiting] = []

    # --- requests ----------------------------------------------------------------------------------------

    def add(self, request: Request) -> None:
        """ADD: answered now, or when its pod is known, or at its deadline."""
        add = cni.parse_add(request.body)
        left = request.body.get("timeLeftMs")
        seconds = left / 1000 if isinstance(left, int) and left > 0 else 0.0
        deadline = request.received + min(MOST_WAIT_SECONDS, max(0.0, seconds - REPLY_MARGIN_SECONDS))
        # Only before the source is read may its netns have to wait; later there is no time to lose.
        token = None if self._upkeep.ready else interface.token(add)
        waiting = Waiting(add, request, deadline, token, patience=deadline)
        if not self._advance(waiting):
            self._waiting.append(waiting)

    def delete(self, request: Request) -> None:
        """DEL: the addresses leave the peer sets at once; the restrictions stay until the link is gone."""
        key = cni.parse_key(request.body)
        for waiting in [w for w in self._waiting if w.add.key == key]:
            self._waiting.remove(waiting)
            reply_error(waiting.request, CniError(TRY_AGAIN_LATER, "DEL of this attachment came meanwhile"))
        attachment = self._registry.attachments.get(key)
        if attachment is not None and not attachment.record.withdrawn:
            self._registry.withdraw(attachment)
            log.info("deleted", extra=log_fields(attachment.record))
        request.reply({"ok": True})

    def check(self, request: Request) -> None:
        """CHECK: reads and compares, changes nothing. Raises CniError for what differs."""
        add = cni.parse_add(request.body)
        attachment = self._registry.attachments.get(add.key)
        if attachment is None:
            raise CniError(INTERNAL, f"{add.key}: not registered with this daemon: it has had no ADD")
        if attachment.record.withdrawn:
            raise CniError(INTERNAL, f"{add.key}: has had its DEL")
        if attachment.record.unready or attachment.state not in (State.APPLIED, State.NOT_ENFORCED):
            sandbox = self._registry.sandbox(attachment)
            tampering = sandbox.tampering.told(self._clock()) if sandbox.tampering.endless else ""
            because = sandbox.error or tampering or self._upkeep.not_ready_because
            raise CniError(TRY_AGAIN_LATER, f"{add.key}: not in force yet: {because or attachment.state}")
        difference = self._difference(attachment, interface.inspect(add, self._reconciler.reaching.read))
        if difference:
            raise CniError(INTERNAL, f"{add.key}: {difference}")
        request.reply({"ok": True})

    def status(self, request: Request) -> None:
        """STATUS: code 50 when an ADD would fail."""
        if not self._upkeep.ready:
            raise CniError(PLUGIN_NOT_AVAILABLE, f"not ready: {self._upkeep.not_ready_because}")
        request.reply({"ok": True})

    def collect(self, request: Request) -> None:
        """GC: drops bookkeeping whose netns is gone.

        Rules of a live one stay, whatever the list says.
        """
        self._upkeep.sweep(links=True)
        request.reply({"ok": True})

    # --- waiting ADDs ------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many ADDs wait."""
        return len(self._waiting)

    def advance(self) -> None:
        """Look at every waiting ADD again, in order of arrival: the source has news, or time has passed."""
        self._waiting = [waiting for waiting in self._waiting if not self._advance(waiting)]

    def on_found(self, found: Found) -> None:
        """The source has looked for a pod."""
        for waiting in self._waiting:
            pod = waiting.add.pod
            if waiting.asked and pod and (pod.namespace, pod.name) == (found.namespace, found.name):
                waiting.found = found

    def next_deadline(self) -> float | None:
        """When a waiting ADD must be looked at again at the latest."""
        return min((waiting.patience for waiting in self._waiting), default=None)

    def refuse_waiting(self, reason: str) -> None:
        """Answer all that wait with code 11: this daemon stops."""
        for waiting in self._waiting:
            reply_error(waiting.request, CniError(TRY_AGAIN_LATER, reason))
        self._waiting.clear()

    def _advance(self, waiting: Waiting) -> bool:
        """Answer an ADD if that can be done now. True: answered, or nobody waits for it any more."""
        if waiting.request.gone:
            # Its place is another client's already: without this, who comes and goes would leave any number.
            key = waiting.add.key
            log.info("add-abandoned", extra={"container": key.container_id, "interface": key.ifname})
            return True
        try:
            return self._try(waiting)
        except CniError as error:
            reply_error(waiting.request, error)
        except OSError as error:
            details = "free space in the daemon's state directory, or mend it"
            reply_error(waiting.request, CniError(IO_FAILURE, f"{waiting.add.key}: {error}", details))
        except (NetnsError, DataplaneError) as error:
            reply_error(waiting.request, CniError(INTERNAL, f"{waiting.add.key}: {error}"))
        except Exception as error:  # noqa: BLE001 (one ADD that meets a bug of ours must not end the others)
            reply_bug(waiting.request, error)
        return True

    def _try(self, waiting: Waiting) -> bool:
        if waiting.begun is not None:
            return self._is_programmed(waiting, waiting.begun)
        add = waiting.add
        late = self._clock() >= waiting.patience
        if self._held(waiting.token) is not None and not late:
            return False
        if add.guard or add.pod is None:
            # No policy can select it without a pod, but its addresses are taken.
            named = add.network if not add.guard else None
            found = self._upkeep.find_without_pod(add.key, named) if named else NO_NETWORK
            return self._commit(waiting, None, found, unready=False)
        if not self._upkeep.ready:
            return late and self._answer_unready(waiting, self._upkeep.not_ready_because)
        pod = self._known_pod(waiting, add.pod)
        if pod is None:
            return False
        found = self._upkeep.find_networks(add.key, add.network, add.config_name, pod)
        if because := self._lacking(pod, found):
            waiting.patience = waiting.deadline
            late = self._clock() >= waiting.deadline
            return late and self._answer_unready(waiting, because)
        return self._commit(waiting, pod, found, unready=False)

    def _lacking(self, pod: Pod, found: Candidates) -> str:
        """What the source must still tell of the policies for a pod; "": nothing."""
        if self._upkeep.policies_lag:
            return f"there may be newer policies: {self._upkeep.policies_lag}"
        if not self._upkeep.peers_listed and self._store.selects_peers(
            pod.namespace, pod.labels, found.networks
        ):
            return "the pods of other nodes have not been listed yet"
        return ""

    def _known_pod(self, waiting: Waiting, wanted: cni.PodIdentity) -> Pod | None:
        """The pod of an ADD, as the source has it or has found it; None: not known yet.

        Raises CniError (code 11) when there is no more hope.
        """
        pod = self._store.pod(wanted.namespace, wanted.name)
        if pod is not None and pod.local and pod.is_meant_by(wanted.uid):
            return pod
        answer = waiting.found
        if answer is not None and answer.pod is not None and answer.pod.is_meant_by(wanted.uid):
            return answer.pod
        if not waiting.asked:
            waiting.asked = True
            waiting.patience = min(waiting.deadline, self._clock() + self._settings.look_up_seconds)
            self._look_up(wanted.namespace, wanted.name, wanted.uid)
        elif answer is not None or self._clock() >= waiting.patience:
            raise CniError(TRY_AGAIN_LATER, unknown_pod(wanted, pod, answer))
        return None

    def _answer_unready(self, waiting: Waiting, because: str) -> bool:
        """The deadline came before the source: error 11.

        With `onUnready: deny` everything is denied until the source comes.
        """
        if not waiting.add.deny_unready:
            raise CniError(TRY_AGAIN_LATER, f"not ready: {because}")
        return self._commit(waiting, None, NO_NETWORK, unready=True)

    def _held(self, token: int | None) -> Sandbox | None:
        """The sandbox, where it has rules of an earlier run that must not be touched yet; else None."""
        present = None if token is None else self._reconciler.sandboxes.get(token)
        return present if present is not None and present.held else None

    # --- committing an ADD -------------------------------------------------------------------------------

    def _commit(self, waiting: Waiting, pod: Pod | None, found: Candidates, *, unready: bool) -> bool:
        """Record, program, reply; when something fails, things are as they were before this ADD.

        False: there is so much to program that others have their turn between.
        """
        add = waiting.add
        place = interface.inspect(add, self._reconciler.reaching.read)
        identity, link = place.identity, place.link
        if add.guard and self._governed(add, identity, link):
            waiting.request.reply({"ok": True})
            return True
        reach = self._reach(place)
        interface.require_reach(add, reach)
        held = self._held(identity.token)
        if held is not None:
            because = held.error or rules_of_before(self._upkeep.not_ready_because)
            raise CniError(TRY_AGAIN_LATER, f"{add.netns}: {because}")
        attachment = Attachment(self._record(add, identity, link, pod, found, unready), reach=reach)
        fields = log_fields(attachment.record)
        if not waiting.request.alive():
            # Its runtime has given up: the DEL may have come and gone already.
            log.info("add-abandoned", extra=fields)
            return True
        begun = Begun(attachment, self._registry.replace(attachment), found.evidence)
        sandbox = self._registry.sandbox(attachment)
        with self._undoing(begun):
            if begun.replaced is None:
                self._reconciler.apply(sandbox, confirm=True)
            if begun.replaced is None or self._reconciler.advance(sandbox):
                self._succeed(waiting, begun)
                return True
        # Whatever becomes of this ADD, the rest of the work is done in its turns.
        self._reconciler.mark([sandbox])
        waiting.begun = begun
        return False

    def _is_programmed(self, waiting: Waiting, begun: Begun) -> bool:
        """Answer an ADD whose programming takes turns. False: it goes on."""
        key = begun.attachment.key
        with self._undoing(begun):
            if not self._stands(begun):
                raise CniError(TRY_AGAIN_LATER, f"{key}: its network namespace or its link is gone")
            sandbox = self._registry.sandbox(begun.attachment)
            if sandbox.error:
                raise DataplaneError(sandbox.error)
            if sandbox.dirty_since is not None and not sandbox.failures:
                if self._clock() < waiting.deadline:
                    return False
                raise CniError(TRY_AGAIN_LATER, f"{key}: its policies take longer to program")
        self._succeed(waiting, begun)
        return True

    @contextlib.contextmanager
    def _undoing(self, begun: Begun) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            log.error("add-failed", extra={**log_fields(begun.attachment.record), "error": str(error)})
            if begun.replaced is not None and self._stands(begun):
                self._registry.undo(begun.attachment, begun.replaced)
            raise

    def _stands(self, begun: Begun) -> bool:
        """Whether its attachment is still there: its netns may have ended, or another ADD have come."""
        return self._registry.attachments.get(begun.attachment.key) is begun.attachment

    def _succeed(self, waiting: Waiting, begun: Begun) -> None:
        waiting.request.reply({"ok": True})
        log.info("added", extra={**log_fields(begun.attachment.record), "evidence": begun.evidence})
        self._upkeep.doubt(begun.attachment)

    def _governed(self, add: AddRequest, identity: NetnsIdentity, link: Link | None) -> bool:
        """Whether the guard comes again, to an interface that has had its ADD since."""
        present = self._registry.attachments.get(add.key)
        if present is None or present.record.guard or present.record.withdrawn or link is None:
            return False
        return identity.same(identity_of(present.record)) and link.ifindex == present.record.ifindex

    def _record(
        self,
        add: AddRequest,
        identity: NetnsIdentity,
        link: Link | None,
        pod: Pod | None,
        found: Candidates,
        unready: bool,
    ) -> Record:
        given = add.pod.uid if add.pod is not None else ""
        uid = (pod.uid or given) if pod is not None else given
        return Record(
            version=RECORD_VERSION,
            boot_id=self._settings.boot_id,
            container_id=add.key.container_id,
            ifname=add.key.ifname,
            netns=identity.path,
            device=identity.device,
            inode=identity.inode,
            cookie=identity.cookie,
            directory=identity.directory,
            ifindex=0 if add.guard or link is None else link.ifindex,
            mac="" if link is None else link.mac,
            permanent="" if link is None else link.permanent,
            lower="" if link is None else link.lower,
            addresses=add.addresses,
            pod_namespace="" if add.pod is None else add.pod.namespace,
            pod_name="" if add.pod is None else add.pod.name,
            pod_uid=uid,
            labels={} if pod is None else dict(pod.labels),
            ports=() if pod is None else pod.ports,
            **network_fields(found),
            configured=add.network or "",
            config_name=add.config_name,
            guard=add.guard,
            withdrawn=False,
            track=self._settings.track if add.track is None else add.track,
            unready=unready,
            serial=time.time_ns(),
        )

    def _reach(self, place: Place) -> Reach:
        """How rules reach an interface's packets, as things are now."""
        sandbox = self._reconciler.sandboxes.get(place.identity.token)
        enrolled = [a.record.ifindex for a in sandbox.attachments.values()] if sandbox is not None else []
        return self._reconciler.reaching.reach(place.beside, place.ifindex, enrolled)

    def _difference(self, attachment: Attachment, place: Place) -> str:
        record, identity, link = attachment.record, place.identity, place.link
        if not identity.same(identity_of(record)):
            return f"{identity.path} is not the netns that its ADD was for"
        if record.guard:
            return "only the guard has had its ADD"
        if link is None or link.ifindex != record.ifindex:
            return f"{record.ifname} is not the interface that its ADD was for"
        reach = self._reach(place)
        if reach.past:
            return reach.reason
        try:
            return self._reconciler.verify(self._registry.sandbox(attachment))
        except (NetnsError, DataplaneError) as error:
            return str(error)
