"""The last valid version of a policy as bytes that outlive the daemon, and tell of any damage (A4).

In: Versions. Out: bytes, and Versions from them. Pure. The model is kept and not what its author wrote: of a
policy that another version of this daemon read, the meaning of then is what counts.
"""

import contextlib
from hashlib import sha256

import msgspec

from daemon.decode.fields import is_name, is_namespace
from daemon.model import Block, Direction, ObjectKey, Policy, Port, Problem, Rule

FORMAT = 1
"""Written, and the only one that is read: of another one nobody knows here what it means."""

MOST_CUT = 16 << 10
"""Of a version without its rules. There is room for these when others' have taken all the rest."""

_LEAST_BYTES = 16
"""What an element takes at least: enough to tell, before anything is encoded, that it would be too much."""
_CUT = Problem(
    "spec", "more than is kept over a restart: it isolates, and permits nothing until it is mended"
)


class Version(msgspec.Struct, frozen=True):
    """A policy as it was when it could last be read.

    uid: of its object at an API server; "": it came from a file. file: that file's name, as the file system
    has it. cut: its rules were too much to be kept, so it has none.
    """

    policy: Policy
    uid: str = ""
    file: bytes = b""
    cut: bool = False

    @property
    def key(self) -> ObjectKey:
        """The object that this is a version of."""
        return self.policy.key

    @property
    def shown(self) -> Policy:
        """The policy, with what is to be told of it."""
        return msgspec.structs.replace(self.policy, problems=(_CUT,)) if self.cut else self.policy


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    digest: str
    version: msgspec.Raw


def encode(version: Version, most: int, most_cut: int = MOST_CUT) -> bytes | None:
    """At most `most` bytes, or without its rules `most_cut`; None: that is too much as well.

    Without its rules it isolates as it did, which closes and never opens.
    """
    plain = msgspec.structs.replace(version, policy=msgspec.structs.replace(version.policy, problems=()))
    cut = msgspec.structs.replace(plain, policy=_without_rules(plain.policy), cut=True)
    for one, limit in ((plain, most), (cut, most_cut)):
        if _LEAST_BYTES * _elements(one.policy) <= limit:
            with contextlib.suppress(UnicodeEncodeError):  # JSON can say what no text can hold
                encoded = _seal(one)
                if len(encoded) <= limit:
                    return encoded
    return None


def decode(content: bytes) -> Version:
    """What was encoded. ValueError: damaged, of another format, or nothing that encode() could have made."""
    try:
        envelope = msgspec.json.decode(content, type=_Envelope)
        if envelope.format != FORMAT:
            raise ValueError(f"format {envelope.format} is not {FORMAT}")
        body = bytes(envelope.version)
        if envelope.digest != _digest(body):
            raise ValueError("damaged: its digest is another one")
        version = msgspec.json.decode(body, type=Version)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise ValueError(f"damaged: {error}") from error
    _check(version.policy)
    return version


def _seal(version: Version) -> bytes:
    body = msgspec.json.encode(version)
    return msgspec.json.encode(_Envelope(FORMAT, _digest(body), msgspec.Raw(body)))


def _digest(body: bytes) -> str:
    return sha256(body).hexdigest()


def _without_rules(policy: Policy) -> Policy:
    closed = {str(d): () for d in Direction if policy.rules(d) is not None}
    return msgspec.structs.replace(policy, **closed)


def _elements(policy: Policy) -> int:
    """Blocks' spans, selectors' values, ports."""
    found = sum(1 + len(r.values) for r in policy.pod_selector.requirements) if policy.pod_selector else 0
    for rule in _rules(policy):
        found += 1 + len(rule.ports or ())
        for peer in rule.peers or ():
            selectors = () if isinstance(peer, Block) else (peer.pods, peer.namespaces)
            found += len(peer.spans) if isinstance(peer, Block) else 1
            found += sum(1 + len(r.values) for s in selectors if s is not None for r in s.requirements)
    return found


def _rules(policy: Policy) -> tuple[Rule, ...]:
    return (*(policy.ingress or ()), *(policy.egress or ()))


def _check(policy: Policy) -> None:
    """Whether its parts can be what they are said to be, for they go on to the kernel. ValueError: not so."""
    blocks = [peer for rule in _rules(policy) for peer in rule.peers or () if isinstance(peer, Block)]
    ports = [port for rule in _rules(policy) for port in rule.ports or ()]
    bad = [
        name
        for name, good in (
            ("namespace", is_namespace(policy.namespace)),
            ("name", is_name(policy.name)),
            ("networks", all(_is_network(network) for network in policy.networks)),
            ("podSelector", policy.pod_selector is not None),
            ("ipBlock", all(map(_is_block, blocks))),
            ("ports", all(map(_is_port, ports))),
        )
        if not good
    ]
    if bad:
        raise ValueError(f"no version of ours: {', '.join(bad)} can't be such a value")


def _is_network(network: str) -> bool:
    namespace, _, name = network.partition("/")
    return is_namespace(namespace) and is_name(name)


def _is_block(block: Block) -> bool:
    """Spans within their family, in order, and neither touching nor covering each other."""
    if block.family not in (4, 6):
        return False
    before, end = -2, 1 << (32 if block.family == 4 else 128)
    for first, last in block.spans:
        if not before + 1 < first <= last < end:
            return False
        before = last
    return True


def _is_port(port: Port) -> bool:
    if not 0 <= port.protocol <= 255:
        return False
    return port.span is None or 0 <= port.span[0] <= port.span[1] <= 65535
