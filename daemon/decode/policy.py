"""MultiNetworkPolicy v1beta1 and v1beta2, which mean the same (A10), and the operator's common rules (E6).

In: the raw object. Out: Policy or CommonRules, with problems. A malformed part matches nothing, never
everything (C8), and the types keep "missing: anyone" and "all malformed: nobody" apart.
"""

import re
from difflib import get_close_matches
from itertools import islice

import msgspec

from daemon.decode.blocks import decode_block, plain_block
from daemon.decode.fields import (
    MAX_PROBLEMS,
    POLICY_FOR,
    PROTOCOLS,
    Problems,
    Raw,
    expect_known,
    expect_object,
    find_unknown,
    is_name,
    is_namespace,
    kind_of,
    meant,
    read_annotation,
    report_unknown,
    shown,
)
from daemon.decode.selectors import EVERYTHING, decode_selector, without_unknown
from daemon.errors import DecodeError
from daemon.model import (
    CommonRules,
    Direction,
    Network,
    Peer,
    PodPeer,
    Policy,
    Port,
    Problem,
    Rule,
    Selector,
)

# Far beyond what an object of the API server (1.5 MiB) can hold; a file could hold more.
MAX_RULES = 10_000
MAX_PEERS = 100_000
MAX_PORTS = 10_000
MAX_NETWORKS = 1000

NOTHING = "matches nothing"
GOVERNS_NOTHING = "this policy governs nothing"
PEERS_FIELD = {Direction.INGRESS: "from", Direction.EGRESS: "to"}

_TOP_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SPEC_FIELDS = frozenset({"podSelector", "policyTypes", "ingress", "egress"})
_PEER_FIELDS = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
_PORT_FIELDS = frozenset({"protocol", "port", "endPort"})
_TYPES = {"Ingress": Direction.INGRESS, "Egress": Direction.EGRESS}
_PORT_NAME = re.compile(r"(?=[a-z0-9-]*[a-z])(?!-)(?!.*--)[a-z0-9-]{1,15}(?<!-)")


def decode_policy(namespace: str, name: str, raw: Raw) -> Policy:
    """A policy; problems stand in it. Raises DecodeError only for a spec or annotation of a wrong type."""
    problems = Problems()
    spec = expect_object(raw.get("spec"), "spec")
    # What is missing may be what an unknown key was meant to be (C12). A list, so that both are reported.
    outcome = _tell_doubt(spec)
    doubtful = any(
        [
            report_unknown(raw, _TOP_FIELDS, "", problems, outcome),
            report_unknown(spec, _SPEC_FIELDS, "spec", problems, outcome),
        ]
    )
    networks = _read_networks(expect_object(raw.get("metadata"), "metadata"), namespace, problems)
    selector, understood = _read_subject(spec.get("podSelector"), problems, doubtful=doubtful)
    isolated = _read_directions(spec, problems, doubtful=doubtful)
    rules = {
        direction: _Rules(direction, f"spec.{direction}", problems).decode(spec.get(direction))
        for direction in Direction
        if direction in isolated
    }
    if not understood:
        # It may select more pods than were meant. Those are isolated; nothing is allowed to them (C12).
        rules = dict.fromkeys(rules, ())
    ingress, egress = rules.get(Direction.INGRESS), rules.get(Direction.EGRESS)
    return Policy(namespace, name, networks, selector, ingress, egress, problems.found())


def decode_common_rules(raw: object, field: str) -> tuple[CommonRules, tuple[Problem, ...]]:
    """`commonRules` of the configuration (E6): only `ipBlock` peers; protocol also ICMP, ICMPv6, a number.

    The problems are faults only: a hint keeps no daemon from starting.
    """
    problems = Problems()
    try:
        rules = expect_object(raw, field)
    except DecodeError as error:
        return CommonRules(), (Problem(error.field, error.message),)
    if (found := find_unknown(rules, frozenset({"ingress", "egress"}), field, problems)) is not None:
        problems.add(found.field, found.message)
    ingress, egress = (
        _Rules(direction, f"{field}.{direction}", problems, common=True).decode(rules.get(direction))
        for direction in (Direction.INGRESS, Direction.EGRESS)
    )
    return CommonRules(ingress, egress), problems.faults()


def keep_last_valid(new: Policy, old: Policy | None) -> Policy:
    """The version that counts (A4): one with a malformed podSelector yields to the last valid one.

    It keeps the new version's problems, so that the error stays reported.
    """
    if new.pod_selector is not None or old is None or old.pod_selector is None:
        return new
    stays = "the last valid version of this policy stays in force"
    problems = tuple(
        Problem(found.field, found.message.removesuffix(GOVERNS_NOTHING) + stays)
        if found.field.startswith("spec.podSelector") and found.message.endswith(GOVERNS_NOTHING)
        else found
        for found in new.problems
    )
    return msgspec.structs.replace(old, problems=problems)


def _read_networks(metadata: Raw, namespace: str, problems: Problems) -> tuple[Network, ...]:
    field = f"metadata.annotations[{POLICY_FOR}]"
    if isinstance(expect_object(metadata.get("annotations"), "metadata.annotations").get(POLICY_FOR), list):
        raise DecodeError(field, "expected one string with commas between the names, not a list")
    items = [item.strip() for item in read_annotation(metadata, POLICY_FOR).split(",")]
    items = [item for item in items if item]
    if not items:
        hint = _near_policy_for(metadata)
        problems.add(field, f"missing or empty: {GOVERNS_NOTHING}{hint}")
    if len(items) > MAX_NETWORKS:
        raise DecodeError(field, f"{len(items)} networks; at most {MAX_NETWORKS} are read")
    found = set()
    for item in items:
        network = _read_network(item, namespace)
        if network is None:
            problems.add(field, f"{shown(item)} is no net-attach-def (name or namespace/name), ignored")
        else:
            found.add(network)
    return tuple(sorted(found))


def _near_policy_for(metadata: Raw) -> str:
    """Which annotation, or key of metadata, may have been meant to be policy-for; "": none looks like it."""
    annotations = expect_object(metadata.get("annotations"), "metadata.annotations")
    for found, known in ((annotations, POLICY_FOR), (metadata, "annotations")):
        others = [key[: len(POLICY_FOR) + 10] for key in islice(found, MAX_PROBLEMS) if key != known]
        close = get_close_matches(known, others, 1, 0.8)
        if close:
            return f" (is {shown(close[0])} misspelt? {known} is known)"
    return ""


def _read_network(item: str, namespace: str) -> Network | None:
    parts = [part.strip() for part in item.split("/")]
    if len(parts) == 1:
        parts = [namespace, *parts]
    if len(parts) != 2 or not is_namespace(parts[0]) or not is_name(parts[1]):
        return None
    return "/".join(parts)


def _read_subject(raw: object, problems: Problems, *, doubtful: bool) -> tuple[Selector | None, bool]:
    """(which pods, whether that is all that was meant); None: malformed (A4). doubtful: as below."""
    if raw is None:
        if doubtful:
            problems.add("spec.podSelector", "missing: all pods are isolated, and no rule counts")
        return EVERYTHING, not doubtful
    outcome = "ignored, so that it may select more than was meant; all that is selected is isolated"
    known, strange = without_unknown(raw, "spec.podSelector", problems, f"{outcome}, and no rule counts")
    try:
        return decode_selector(known, "spec.podSelector", problems), not strange
    except DecodeError as error:
        problems.add(error.field, f"{error.message}: {GOVERNS_NOTHING}")
        return None, True


def _tell_doubt(spec: Raw) -> str:
    """What follows from a key that nobody knows, in the spec or beside it (C12)."""
    types = spec.get("policyTypes")
    directed = isinstance(types, list) and any(isinstance(item, str) and item in _TYPES for item in types)
    closed = spec.get("podSelector") is None or not directed
    more = "; what it may have been meant to restrict is closed" if closed else ""
    return f"nothing that stands in it is permitted{more}"


def _read_directions(spec: Raw, problems: Problems, *, doubtful: bool) -> set[Direction]:
    """Which directions are isolated (B1). doubtful: some key is unknown, which may have been meant for it."""
    types = spec.get("policyTypes")
    if types is not None and not isinstance(types, list):
        problems.add("spec.policyTypes", f"expected a list, not {kind_of(types)}; ignored")
        types, doubtful = None, True
    found = set()
    for index, item in enumerate(types or ()):
        direction = _TYPES.get(item) if isinstance(item, str) else None
        if direction is None:
            hint = f"; {meant(item, _TYPES)}" if isinstance(item, str) and not problems.full else ""
            problems.add(
                f"spec.policyTypes[{index}]", f"{shown(item)} is neither Ingress nor Egress{hint}: ignored"
            )
        else:
            found.add(direction)
    if found:
        return found
    if types or doubtful:
        problems.add("spec.policyTypes", "no direction is named that is known: both are isolated")
        return set(Direction)
    # A non-empty egress of a wrong type isolates too: its author meant to restrict.
    return set(Direction) if spec.get("egress") else {Direction.INGRESS}


class _Rules:
    """The rules of one direction. common: the operator's, which know more protocols and fewer peers."""

    def __init__(self, direction: Direction, field: str, problems: Problems, *, common: bool = False) -> None:
        self._direction = direction
        self._peers_field = PEERS_FIELD[direction]
        self._known = frozenset({self._peers_field, "ports"})
        self._field = field
        self._problems = problems
        self._common = common

    def decode(self, raw: object) -> tuple[Rule, ...]:
        """All rules; a malformed one is left out, since it permits nothing (B4)."""
        items = self._read_list(raw, self._field, MAX_RULES) or ()
        rules = (self._decode_rule(item, f"{self._field}[{index}]") for index, item in enumerate(items))
        return tuple(rule for rule in rules if rule is not None)

    def _read_list(self, raw: object, field: str, limit: int) -> list[object] | None:
        """A list; [] when malformed, so that it permits nothing; None when absent."""
        if raw is None:
            return None
        if not isinstance(raw, list):
            self._problems.add(field, f"expected a list, not {kind_of(raw)}: {NOTHING}")
            return []
        if len(raw) > limit:
            self._problems.add(field, f"{len(raw)} items; at most {limit} are read: {NOTHING}")
            return []
        return raw

    def _decode_rule(self, raw: object, field: str) -> Rule | None:
        if not isinstance(raw, dict):
            self._problems.add(field, f"expected a rule, not {kind_of(raw)}: {NOTHING}")
            return None
        if self._has_unknown(raw, field):
            return None
        peers = self._decode_peers(raw.get(self._peers_field), f"{field}.{self._peers_field}")
        return Rule(peers, self._decode_ports(raw.get("ports"), f"{field}.ports"))

    def _has_unknown(self, rule: Raw, field: str) -> bool:
        """Whether a rule has keys that may have narrowed it (C12); reported."""
        other = "to" if self._peers_field == "from" else "from"
        if other in rule:
            right = f"{self._direction} rules have {self._peers_field}"
            self._problems.add(f"{field}.{other}", f"{right}, not {other}: this rule {NOTHING}")
            return True
        return report_unknown(rule, self._known, field, self._problems, f"this rule {NOTHING}")

    def _decode_peers(self, raw: object, field: str) -> tuple[Peer, ...] | None:
        """None: absent or empty, anyone (C1). Empty: all malformed, nobody."""
        items = self._read_list(raw, field, MAX_PEERS)
        if items is None or raw == []:
            return None
        found = []
        for index, item in enumerate(items):
            # Most peers are plain blocks: no path is made for one that has no problem.
            only = item.get("ipBlock") if isinstance(item, dict) and len(item) == 1 else None
            peer = plain_block(only) or self._decode_peer(item, f"{field}[{index}]")
            if peer is not None:
                found.append(peer)
        return tuple(found)

    def _decode_peer(self, raw: object, field: str) -> Peer | None:
        if not isinstance(raw, dict):
            self._problems.add(field, f"expected a peer, not {kind_of(raw)}: {NOTHING}")
            return None
        if len(raw) == 1 and raw.get("ipBlock") is not None:
            return decode_block(raw["ipBlock"], f"{field}.ipBlock", self._problems)
        if report_unknown(raw, _PEER_FIELDS, field, self._problems, f"this peer {NOTHING}"):
            return None
        block, pods, spaces = raw.get("ipBlock"), raw.get("podSelector"), raw.get("namespaceSelector")
        if block is not None:
            if pods is not None or spaces is not None:
                self._problems.add(field, "ipBlock beside a selector: only ipBlock counts")
            return decode_block(block, f"{field}.ipBlock", self._problems)
        if pods is None and spaces is None:
            self._problems.add(field, f"a peer needs podSelector, namespaceSelector or ipBlock: {NOTHING}")
            return None
        return self._decode_pod_peer(pods, spaces, field)

    def _decode_pod_peer(self, pods: object, spaces: object, field: str) -> PodPeer | None:
        if self._common:
            self._problems.add(field, "commonRules take only ipBlock peers")
            return None
        try:
            return PodPeer(
                namespaces=None if spaces is None else self._selector(spaces, f"{field}.namespaceSelector"),
                pods=EVERYTHING if pods is None else self._selector(pods, f"{field}.podSelector"),
            )
        except DecodeError as error:
            self._problems.add(error.field, f"{error.message}: this peer {NOTHING}")
            return None

    def _selector(self, raw: object, field: str) -> Selector:
        return decode_selector(raw, field, self._problems)

    def _decode_ports(self, raw: object, field: str) -> tuple[Port, ...] | None:
        """None: absent or empty, everything (D1). Empty: all malformed, nothing."""
        items = self._read_list(raw, field, MAX_PORTS)
        if items is None or raw == []:
            return None
        found = []
        for index, item in enumerate(items):
            try:
                found.append(self._decode_port(item, f"{field}[{index}]"))
            except DecodeError as error:
                self._problems.add(error.field, f"{error.message}: {NOTHING}")
        return tuple(found)

    def _decode_port(self, raw: object, field: str) -> Port:
        if not isinstance(raw, dict):
            raise DecodeError(field, f"expected a port, not {kind_of(raw)}")
        expect_known(raw, _PORT_FIELDS, field, self._problems)
        protocol = self._read_protocol(raw.get("protocol"), f"{field}.protocol")
        port, end = raw.get("port"), raw.get("endPort")
        if protocol not in PROTOCOLS.values() and not (port is None and end is None):
            raise DecodeError(f"{field}.port", "only TCP, UDP and SCTP have ports")
        if isinstance(port, str):
            return _named_port(protocol, port, end, field)
        if port is None:
            if end is not None:
                raise DecodeError(f"{field}.endPort", "needs a numeric port")
            return Port(protocol)
        first = _port_number(port, f"{field}.port")
        last = first if end is None else _port_number(end, f"{field}.endPort")
        if last < first:
            raise DecodeError(f"{field}.endPort", f"{last} is less than port {first}")
        return Port(protocol, (first, last))

    def _read_protocol(self, value: object, field: str) -> int:
        if value is None:
            return PROTOCOLS["TCP"]
        if isinstance(value, str) and value in PROTOCOLS:
            return PROTOCOLS[value]
        if self._common:
            return _common_protocol(value, field)
        raise DecodeError(field, f"{shown(value)} is none of TCP, UDP, SCTP")


def _named_port(protocol: int, name: str, end: object, field: str) -> Port:
    if _PORT_NAME.fullmatch(name) is None:
        hint = "; write the number without quotes" if name.isdecimal() else ""
        raise DecodeError(f"{field}.port", f"{shown(name)} is no port name{hint}")
    if end is not None:
        raise DecodeError(f"{field}.endPort", "needs a numeric port")
    return Port(protocol, name=name)


def _port_number(value: object, field: str) -> int:
    # bool is an int in Python.
    if type(value) is not int or not 1 <= value <= 65535:
        raise DecodeError(field, f"{shown(value)} is no port from 1 to 65535")
    return value


def _common_protocol(value: object, field: str) -> int:
    names = {"ICMP": 1, "ICMPv6": 58}
    if isinstance(value, str):
        if value in names:
            return names[value]
        if value.isascii() and value.isdecimal() and len(value) <= 3:
            value = int(value)
    # 0 is no protocol that can be told from all of them (IPv6's hop-by-hop options, iptables' "any").
    if type(value) is int and 1 <= value <= 255:
        return value
    raise DecodeError(
        field, f"{shown(value)} is none of TCP, UDP, SCTP, ICMP, ICMPv6, nor a number from 1 to 255"
    )
